"""Which tokens an answer may go on with, so that it is the JSON or the calls that were asked for.

Owns the masks of answers by the grammars of `tokens/grammar.py`, which `matcher` follows, and the check of finished documents. Knows
neither logits nor thinking: a constraint begins behind the thinking. Enter at `Grammars.of`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from a3b.errors import UsageError
from a3b.isolation.host import Task, TaskKilled
from a3b.matcher import STEP_WALL_S, Matchers, Source, bytes_vocabulary, compiled
from a3b.requests import Request
from a3b.tokens.grammar import Grammar, answer_grammar, document_grammar
from a3b.tokens.segments import END_OF_TURN
from a3b.tokens.tokenizer import Tokenizer

_CALL, _CALL_END = "<tool_call>", "</tool_call>"


class Constraint(Protocol):
    """What one answer may still become. It sees every token behind the thinking, sampled or forced, in order."""

    thinking: np.ndarray | None
    """bool [num_tokens]: the tokens allowed while the model thinks, None for all."""
    knows_end: bool
    """Whether the end of the turn is allowed only behind a complete answer."""
    ready: bool
    """Whether `mask` answers at once; if not, it has a method `wait`, too."""

    def mask(self) -> np.ndarray | None:
        """bool [num_tokens]: the tokens allowed next, None for all."""

    def accept(self, token_id: int) -> None:
        """Take the next token. Raises UsageError for one that is not allowed."""

    def forced(self) -> list[int]:
        """The tokens of the only text that can follow, as far as it is certain; often none."""

    @property
    def complete(self) -> bool:
        """Whether the answer may end here."""

    @property
    def done(self) -> bool:
        """Whether nothing but the end of the turn can follow."""


class Grammars:
    """Constraints for the requests of one vocabulary. The tables are built when the first grammar is needed. Used by any thread."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._matchers = Matchers(tokenizer)

    def close(self) -> None:
        self._matchers.close()

    def of(self, request: Request) -> Constraint | None:
        """What the request's schema and tool_choice allow; None if that is everything.

        Raises UsageError, naming the field, for a schema or a tool that cannot be enforced."""
        choice, schema = request.tool_choice, request.schema
        if choice in ("required", "named"):
            tools = request.tools if choice == "required" else _named(request)
            return self._by_grammar(answer_grammar(None, tools, request.parallel_tool_calls), {}, request.namespace)
        if schema is not None:
            tools = request.tools if request.tools and choice == "auto" else None
            documents = {"schema": document_grammar(schema)}  # alone, so that it alone must be satisfiable
            return self._by_grammar(answer_grammar(schema, tools, request.parallel_tool_calls), documents, request.namespace)
        if choice == "none":
            return NoCalls(self.all_but(_CALL))
        if request.tools and not request.parallel_tool_calls:
            return OneCall(*map(self._tokenizer.control_id, (_CALL, _CALL_END, END_OF_TURN)), self._tokenizer.num_tokens)
        return None

    def all_but(self, *names: str) -> np.ndarray:
        """bool [num_tokens], not to be written to: every token there is, but the control tokens of these names."""
        allowed = np.ones(self._tokenizer.num_tokens, bool)
        allowed[self._missing] = False
        allowed[[self._tokenizer.control_id(name) for name in names]] = False
        allowed.flags.writeable = False
        return allowed

    def _by_grammar(self, grammar: Grammar, documents: Mapping[str, str], namespace: str) -> ByGrammar:
        task = self._matchers.open(Source(grammar.text, grammar.fields, grammar.parts, documents), namespace)
        end = self._tokenizer.control_id(END_OF_TURN)
        return ByGrammar(task, end, self._tokenizer.num_tokens, self.all_but(_CALL, END_OF_TURN))

    @cached_property
    def _missing(self) -> list[int]:
        return [token_id for token_id, data in enumerate(self._tokenizer.vocabulary()) if data is None]


class NoCalls:
    """Everything but a call."""

    complete, done, knows_end, ready = True, False, False, True

    def __init__(self, allowed: np.ndarray):
        self._allowed = self.thinking = allowed

    def mask(self) -> np.ndarray:
        return self._allowed

    def accept(self, token_id: int) -> None:
        pass

    def forced(self) -> list[int]:
        return []


class OneCall:
    """Everything, until a call has ended; then the end of the turn."""

    thinking, knows_end, ready = None, False, True

    def __init__(self, call: int, call_end: int, end: int, num_tokens: int):
        self._call, self._call_end, self._end = call, call_end, end
        self._only_end = np.zeros(num_tokens, bool)
        self._only_end[end] = True
        self._depth = 0  # a value may hold calls itself
        self.done = False

    @property
    def complete(self) -> bool:
        return self._depth == 0

    def mask(self) -> np.ndarray | None:
        return self._only_end if self.done else None

    def accept(self, token_id: int) -> None:
        if self.done and token_id != self._end:
            raise UsageError("parallel_tool_calls: a second call; expected the end of the turn behind the first")
        self._depth += token_id == self._call
        if token_id == self._call_end:
            self._depth = max(0, self._depth - 1)
            self.done = self._depth == 0

    def forced(self) -> list[int]:
        return [self._end] if self.done else []


class ByGrammar:
    """What a grammar allows. While thinking, the turn cannot end and no call can begin: both would pass the grammar by.

    The process of the grammar computes the mask behind a token while the model computes its logits."""

    knows_end = True

    def __init__(self, task: Task, end: int, num_tokens: int, thinking: np.ndarray):
        """task: as `Matchers.open` has it."""
        self._task, self._end, self._num_tokens, self.thinking = task, end, num_tokens, thinking
        self._mask: np.ndarray | None = None  # None: on its way
        self._is_complete = self._is_done = self._ended = False
        self._until = time.monotonic() + STEP_WALL_S  # when the mask must be here
        self._error = ""

    def copy(self) -> ByGrammar:
        """One of its own, at the same place. Raises UsageError."""
        try:
            return ByGrammar(self._task.start_from(), self._end, self._num_tokens, self.thinking)
        except TaskKilled:
            raise _too_slow() from None

    @property
    def ready(self) -> bool:
        return self._mask is not None or bool(self._error) or self._task.is_ready() or time.monotonic() > self._until

    def wait(self, seconds: float) -> None:
        """Until `ready`, but no longer than that."""
        if not self.ready:
            self._task.is_ready(seconds)

    @property
    def complete(self) -> bool:
        return not self._error and self.mask() is not None and self._is_complete

    @property
    def done(self) -> bool:
        return not self._error and self.mask() is not None and self._is_done

    def mask(self) -> np.ndarray:
        if self._mask is None:
            if not self._error:
                packed, self._is_complete, self._is_done, self._error = self._told()
            if self._error:  # an answer that the library cannot follow any more is no valid answer
                raise UsageError(f"the answer's grammar: {self._error}; use a simpler schema")
            if self._is_done:
                self._mask = np.zeros(self._num_tokens, bool)
                self._mask[self._end] = not self._ended
            else:
                bits = np.frombuffer(packed, np.uint8)
                self._mask = np.unpackbits(bits, bitorder="little", count=self._num_tokens).view(bool)
        return self._mask

    def accept(self, token_id: int) -> None:
        if self._ended or not self.mask()[token_id]:
            self._task.close()
            self._mask, self._error = None, "it has no place for a token that was taken"
            raise UsageError(f"token {token_id}: the answer's grammar has no place for it")
        if token_id == self._end:
            self._ended = self._is_done = True
            self._mask = np.zeros(self._num_tokens, bool)
        else:
            self._mask = None
            self._tell(token_id)

    def forced(self) -> list[int]:
        if self.done:
            return [] if self._ended else [self._end]
        self._tell("forced")
        return self._told()

    def _tell(self, message: Any) -> None:
        self._until = time.monotonic() + STEP_WALL_S
        try:
            self._task.send(message)
        except TaskKilled:
            raise _too_slow() from None

    def _told(self) -> Any:
        try:
            return self._task.receive(max(self._until - time.monotonic(), 0))
        except TaskKilled:
            raise _too_slow() from None


def _too_slow() -> UsageError:
    return UsageError("the answer's grammar: a token takes too much time or memory; use a simpler schema")


def validate(schema: Mapping[str, Any], text: str) -> str | None:
    """Why `text` is not one whole document of `schema`, None if it is.

    Keys of objects are expected in the schema's order, as constrained answers have them."""
    text = text.strip(" \t\r\n")
    try:
        json.loads(text)
    except (ValueError, RecursionError) as error:
        return f"not JSON: {error}"
    matcher = compiled(bytes_vocabulary(), document_grammar(schema), {2: "schema"})
    data = text.encode("utf-8", "replace")
    num_taken = matcher.try_consume_tokens(list(data))
    if num_taken < len(data):
        return f"not a document of the schema: does not match behind {data[:num_taken][-40:].decode('utf-8', 'replace')!r}"
    return None if matcher.is_accepting() else "not a document of the schema: it ends too early"


def _named(request: Request) -> list[Mapping[str, Any]]:
    found = [tool for tool in request.tools if isinstance(tool, Mapping) and _name_of(tool) == request.tool_name]
    if not found:
        raise UsageError(f"tool_choice: {request.tool_name!r}; expected the name of one of the tools")
    return found


def _name_of(tool: Mapping[str, Any]) -> Any:
    function = tool.get("function", tool)
    return function.get("name") if isinstance(function, Mapping) else None
