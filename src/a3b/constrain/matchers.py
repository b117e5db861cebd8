"""Grammars compiled by llguidance, and followed token by token, in separate processes.

The library does not bound the time and memory of a grammar that a client wrote, neither to compile it nor per token;
its own limits are not checked everywhere. So each grammar is compiled in a process with limits, which is kept for a
while, and each answer gets a copy of that process. Enter at `Matchers.open`."""

from __future__ import annotations

import os
import re
import signal
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from typing import NamedTuple

import llguidance

from a3b.errors import OverloadedError, UsageError
from a3b.isolation.host import Host, Task, TaskKilled, TaskNotStarted
from a3b.isolation.slots import Slots
from a3b.isolation.worker import Channel, fork, memory_used, processor_limit
from a3b.json_schema.pattern_search import byte_vocabulary
from a3b.prompt.segments import END_OF_TURN
from a3b.prompt.tokenizer import Tokenizer

COMPILE_S, COMPILE_BYTES = 10, 192 << 20  # CPU time and memory of one grammar
COMPILE_WALL_S = 60  # on a busy machine
STEP_S = 2  # CPU time of one token
STEP_WALL_S = 20
MAX_AHEAD = 64  # tokens that follow with certainty, taken before they are asked for
MAX_KEPT, MAX_KEPT_BYTES = 16, 512 << 20  # unused grammars that are kept, and their memory
# grammars known to be too large, and for how long: the machine may have been too busy
MAX_REFUSED, REFUSED_S = 256, 600
MAX_COMPILING, MAX_COMPILING_EACH = 4, 2  # at the same time: in total, and per namespace
LIMITS = llguidance.LLParserLimits(
    max_grammar_size=100_000,
    max_items_in_row=50_000,
    initial_lexer_fuel=30_000_000,
    step_lexer_fuel=30_000_000,
    max_lexer_states=50_000,
    verbose_errors=False,
)
_PLACE = re.compile(r"at (\d+)\(\d+\): ")
_QUOTE = re.compile(r"\n\s*\d+ \| .*", re.DOTALL)  # the lines of the grammar around an error


@dataclass(frozen=True)
class GrammarSource:
    """A grammar in Lark. fields: by line, what of the request it was made of. parts: by field, grammars that must be
    satisfiable alone; those of `documents` are followed by bytes."""

    text: str
    fields: Mapping[int, str]
    parts: Mapping[str, str]
    documents: Mapping[str, str]

    @property
    def key(self) -> bytes:
        return blake2b(repr((self.text, self.parts, self.documents)).encode("utf-8", "replace")).digest()

    @property
    def name(self) -> str:
        """All that it was made of, for errors that concern the whole grammar."""
        return " or ".join(dict.fromkeys(field.split(": parameter")[0] for field in self.fields.values()))[:300]


class MatcherState(NamedTuple):
    """Where a grammar is. only: the one token that can follow, whose own state comes next, unasked; -1: none, or more
    than one."""

    mask: bytes  # in bits; b"" where `only` or `is_done` says it all
    is_done: bool  # nothing but the end of the turn can follow
    error: str
    only: int


class Matchers:
    """Grammars for one vocabulary. Used by any thread."""

    def __init__(self, tokenizer: Tokenizer):
        self._host = Host(COMPILE_BYTES, vocabulary_of, tokenizer)
        self._lock = threading.Lock()
        self._kept: OrderedDict[bytes, tuple[Task, int]] = OrderedDict()  # by grammar: its process, bytes
        self._refused: OrderedDict[bytes, tuple[str, float]] = OrderedDict()  # why, and until when
        self._slots = Slots(MAX_COMPILING, MAX_COMPILING_EACH)

    def prepare(self) -> None:
        """Start the first process, which builds the tables of the vocabulary: seconds for a large one. Does not wait
        for them."""
        with suppress(TaskKilled):
            self._host.start(prototype, GrammarSource('%llguidance {}\nstart: "a"\n', {}, {}, {})).release()

    def open(self, source: GrammarSource, namespace: str = "") -> Task:
        """A task at the beginning of an answer, which runs `_follow`. Raises UsageError naming the field at fault."""
        key = source.key
        if (task := self._copy(key)) is None:
            with self._slots.one(namespace):
                if (task := self._copy(key)) is None:  # another request may have compiled it meanwhile
                    self._compile(key, source)
                    task = self._copy(key)
        if task is None:
            raise UsageError(f"{source.name}: the process that holds its grammar has ended; try again")
        return task

    def _copy(self, key: bytes) -> Task | None:
        """A task from the kept grammar, None if it is not kept."""
        with self._lock:
            reason, until = self._refused.get(key, ("", 0.0))
            if time.monotonic() < until:
                raise UsageError(reason)
            if (kept := self._kept.get(key)) is None:
                return None
            self._kept.move_to_end(key)
            try:
                return kept[0].start_from()
            except TaskKilled:
                self._kept.pop(key)[0].close()
                return None

    def close(self) -> None:
        with self._lock:
            for task, _ in self._kept.values():
                task.close()
            self._kept.clear()
        self._host.close()

    def _compile(self, key: bytes, source: GrammarSource) -> None:
        task, place, is_compiled = None, source.name, False
        try:
            task = self._host.start(prototype, source)
            while True:  # which part is being compiled, then the result
                kind, value = task.receive(COMPILE_WALL_S)
                if kind == "part":
                    place = value
                elif kind == "error":
                    raise UsageError(value)
                else:
                    is_compiled = True
                    break
        except TaskNotStarted:
            raise OverloadedError("cannot start a process for grammars; try again later") from None
        except TaskKilled:
            reason = (
                f"{place}: takes more than {COMPILE_S} s or {COMPILE_BYTES >> 20} "
                "MiB to compile; expected simpler patterns, "
                "fewer references and smaller bounds"
            )
            with self._lock:
                self._refused[key] = reason, time.monotonic() + REFUSED_S
                while len(self._refused) > MAX_REFUSED:
                    self._refused.popitem(last=False)
            raise UsageError(reason) from None
        finally:
            if task is not None and not is_compiled:
                task.close()
        with self._lock:
            # two requests compiled it; the other may still have to make copies
            if (other := self._kept.pop(key, None)) is not None:
                other[0].release()
            self._kept[key] = task, value
            while len(self._kept) > MAX_KEPT or (
                sum(num for _, num in self._kept.values()) > MAX_KEPT_BYTES and len(self._kept) > 1
            ):
                self._kept.popitem(last=False)[1][0].release()


# -- in the processes


def vocabulary_of(tokenizer: Tokenizer) -> llguidance.LLTokenizer:
    byte_vocabulary()
    return llguidance.LLTokenizer(llguidance.TokenizerWrapper(_Vocabulary(tokenizer)), n_vocab=tokenizer.num_tokens)


def prototype(conversation: Channel, vocabulary: llguidance.LLTokenizer, source: GrammarSource) -> None:
    """Compile, then give a copy of this process to each answer that asks for one."""
    before = memory_used()
    try:
        with processor_limit(COMPILE_S):
            for field, text in source.documents.items():
                conversation.send(("part", field))
                compiled(byte_vocabulary(), text, {2: field}, field)
            for field, text in source.parts.items():
                conversation.send(("part", field))
                compiled(vocabulary, text, {}, field)
            conversation.send(("part", source.name))
            matcher = compiled(vocabulary, source.text, source.fields)
    except UsageError as error:
        conversation.send(("error", str(error)))
        return
    conversation.send(("done", memory_used() - before))
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # copies are never waited for
    with suppress(EOFError):
        while conversation.receive() == "fork":
            _copy(conversation, matcher, [])
    with suppress(ChildProcessError):  # they are children of this process while they run
        os.wait()


def _copy(conversation: Channel, matcher: llguidance.LLMatcher, sent: Sequence[MatcherState]) -> None:
    """Give a copy of this process to any caller that sends "fork" with a socket. sent: as for `_follow`."""
    _, fds, _, _ = socket.recv_fds(conversation.socket, 1, 1)
    fork(_follow, socket.socket(fileno=fds[0]), conversation, matcher, list(sent))


def _follow(conversation: Channel, parent: Channel, matcher: llguidance.LLMatcher, sent: list[MatcherState]) -> None:
    """Receive tokens; send the state at the start and after each, and those after tokens that follow with certainty.

    sent: the states since the last token that was received, if the matcher has them behind it."""
    parent.socket.close()
    with suppress(EOFError, ConnectionError):
        for state in sent:
            conversation.send(state)
        if not sent:
            _send_states(conversation, matcher, sent)
        while True:
            asked = conversation.receive()
            if asked == "fork":
                _copy(conversation, matcher, sent)
            else:
                _consume(matcher, asked)
                sent.clear()
                _send_states(conversation, matcher, sent)
    with suppress(ChildProcessError):
        os.wait()


def _send_states(conversation: Channel, matcher: llguidance.LLMatcher, sent: list[MatcherState]) -> None:
    """Send the state, and while only one token can follow, take it."""
    while True:
        sent.append(_state(matcher, len(sent) < MAX_AHEAD))
        conversation.send(sent[-1])
        if sent[-1].only < 0:
            break
        _consume(matcher, sent[-1].only)


def _consume(matcher: llguidance.LLMatcher, token: int) -> None:
    with processor_limit(STEP_S):
        matcher.consume_token(token)


def _state(matcher: llguidance.LLMatcher, goes_ahead: bool) -> MatcherState:
    """goes_ahead: whether `only` may be told."""
    with processor_limit(STEP_S):
        is_done = matcher.is_stopped() and not matcher.is_error()
        mask = b"" if is_done or matcher.is_error() else matcher.compute_bitmask()
        error = reason_of(matcher.get_error()) if matcher.is_error() else ""
    bits = int.from_bytes(mask, "little") if goes_ahead else 0
    if bits.bit_count() == 1:
        return MatcherState(b"", is_done, error, bits.bit_length() - 1)
    return MatcherState(mask, is_done, error, -1)


def compiled(
    vocabulary: llguidance.LLTokenizer, text: str, fields: Mapping[int, str], field: str = ""
) -> llguidance.LLMatcher:
    """A matcher at its start. Raises UsageError naming the field at fault, also if no text at all satisfies the
    grammar.

    field: at fault where `fields` does not know."""
    matcher = llguidance.LLMatcher(vocabulary, text, log_level=0, limits=LIMITS)
    if not matcher.is_error():
        matcher.compute_bitmask()
    if matcher.is_error():
        error = matcher.get_error()
        place = _PLACE.match(error)
        field = (fields.get(int(place[1])) if place else None) or field
        field = field or " or ".join(dict.fromkeys(field.split(": parameter")[0] for field in fields.values()))
        raise UsageError(f"{field}: {reason_of(error)}; expected a schema that can be enforced")
    return matcher


def reason_of(error: str) -> str:
    error = (
        _QUOTE.sub("", _PLACE.sub("", error))
        .replace("<non-verbose/>", "")
        .removeprefix("failed to compile JSON schema: ")
    )
    error = " ".join(error.split())
    return "no answer can satisfy it" if error.startswith("NoExtension") else error[:300]


class _Vocabulary:
    """A tokenizer in the form that llguidance asks for."""

    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self.tokens = [data or b"" for data in tokenizer.vocabulary()]
        self.special_token_ids = sorted(tokenizer.control_ids)
        self.eos_token_id = tokenizer.control_id(END_OF_TURN)
        self._of_byte = {data: token_id for token_id, data in enumerate(self.tokens) if len(data) == 1}

    def __call__(self, text: str) -> Sequence[int]:
        ids = self._tokenizer.encode_text(text)
        data = text.encode()
        if b"".join(self.tokens[token_id] for token_id in ids) != data:  # it was normalised
            return [self._of_byte[bytes([byte])] for byte in data]
        return ids
