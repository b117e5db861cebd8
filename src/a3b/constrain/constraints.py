"""Which tokens an answer may go on with, so that it is the JSON or the calls that were asked for.

Owns the masks of answers by the grammars of `constrain/grammar.py`, which `matcher` follows, and the check of finished
documents. Knows neither logits nor thinking: a constraint begins after the thinking. Enter at `Grammars.of`."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any, Protocol

import numpy as np

from a3b.constrain.grammar import Grammar, answer_grammar, call_grammar, declared_tools, document_grammar
from a3b.constrain.matchers import STEP_WALL_S, GrammarSource, Matchers, compiled
from a3b.errors import UsageError
from a3b.interface.request import Request
from a3b.isolation.host import Task, TaskKilled
from a3b.json_schema.pattern_search import byte_vocabulary
from a3b.output.parser import Place
from a3b.prompt.segments import END_OF_TURN
from a3b.prompt.tokenizer import Tokenizer

# tools whose grammars are kept as text: clients send the same ones with each request
MAX_TOOL_SETS, MAX_TOOLS_CHARS = 32, 400_000
_CALL, _CALL_END = "<tool_call>", "</tool_call>"


class Constraint(Protocol):
    """What one answer may still become. It sees every token after the thinking, sampled or forced, in order."""

    thinking: np.ndarray | None
    """bool [num_tokens]: the tokens allowed while the model thinks, None for all."""
    knows_end: bool
    """Whether the end of the turn is allowed only after a complete answer."""
    sees_thinking: bool
    """Whether it sees the tokens of the thinking too."""
    notes: tuple[str, ...]
    """What was asked for and is not enforced."""
    ready: bool
    """Whether `mask` answers at once; if not, it has a method `wait`, too."""

    def mask(self) -> np.ndarray | None:
        """bool [num_tokens]: the tokens allowed next, None for all."""

    def accept(self, token_id: int) -> None:
        """Take the next token. Raises UsageError for one that is not allowed."""

    def at(self, place: Place, tool: str, num_calls: int) -> None:
        """Where the parser of the answer is after that token, the tool of the call begun last, and how many were
        begun."""

    def forced(self) -> list[int]:
        """The tokens of the only text that can follow, as far as it is certain; often none."""

    def close(self) -> None:
        """End the processes that it has; nothing else may be asked of it then."""

    @property
    def complete(self) -> bool:
        """Whether the answer may end here."""

    @property
    def done(self) -> bool:
        """Whether nothing but the end of the turn can follow."""


class Grammars:
    """Constraints for the requests of one vocabulary. The tables are built when the first grammar is needed. Used by
    any thread."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._matchers = Matchers(tokenizer)

    def close(self) -> None:
        self._matchers.close()

    def of(self, request: Request) -> Constraint | None:
        """What the request's schema and tool_choice allow; None if that is everything.

        Raises UsageError, naming the field, for a schema or a tool that cannot be enforced."""
        if request.prompt is not None:
            return None
        choice, schema = request.tool_choice, request.schema
        if request.tools:
            _kept(_strict_tools, _json(request.tools))  # which refuses what no tool can be
        if choice in ("required", "named"):
            tools = request.tools if choice == "required" else _named(request)
            return self._by_grammar(answer_grammar(None, tools, request.parallel_tool_calls), {}, request.namespace)
        if schema is not None:
            tools = request.tools if request.tools and choice == "auto" else None
            documents = {"schema": document_grammar(schema)}  # alone, so that it alone must be satisfiable
            return self._by_grammar(
                answer_grammar(schema, tools, request.parallel_tool_calls), documents, request.namespace
            )
        if choice == "none" or not request.tools:
            return NoCalls(self.all_but(_CALL))
        return self._calls(request)

    def prepare(self) -> None:
        """Have the tables built now; it takes seconds for a large vocabulary."""
        self._matchers.prepare()

    def all_but(self, *names: str) -> np.ndarray:
        """bool [num_tokens], not to be written to: every token there is, but the control tokens of these names."""
        allowed = np.ones(self._tokenizer.num_tokens, bool)
        allowed[self._missing] = False
        allowed[[self._tokenizer.control_id(name) for name in names]] = False
        allowed.flags.writeable = False
        return allowed

    def _by_grammar(self, grammar: Grammar, documents: Mapping[str, str], namespace: str) -> ByGrammar:
        task = self._matchers.open(GrammarSource(grammar.text, grammar.fields, grammar.parts, documents), namespace)
        end = self._tokenizer.control_id(END_OF_TURN)
        return ByGrammar(task, end, self._tokenizer.num_tokens, self.all_but(_CALL, END_OF_TURN), grammar.notes)

    def _calls(self, request: Request) -> Calls:
        tools = _json(request.tools)
        start = self._by_grammar(_kept(_call_grammar, tools), {}, request.namespace)
        end = self._only(self._tokenizer.control_id(END_OF_TURN))
        closing = self._only(self._tokenizer.control_id(_CALL_END), *self._tokenizer.encode_text("\n"))
        return Calls(start, _kept(_strict_tools, tools), end, closing, request.parallel_tool_calls)

    def _only(self, *ids: int) -> np.ndarray:
        allowed = np.zeros(self._tokenizer.num_tokens, bool)
        allowed[list(ids)] = True
        return allowed

    @cached_property
    def _missing(self) -> list[int]:
        return [token_id for token_id, data in enumerate(self._tokenizer.vocabulary()) if data is None]


class NoCalls:
    """Everything but a call."""

    complete, done, knows_end, ready, sees_thinking, notes = True, False, False, True, False, ()

    def __init__(self, allowed: np.ndarray):
        self._allowed = self.thinking = allowed

    def mask(self) -> np.ndarray:
        return self._allowed

    def accept(self, token_id: int) -> None:
        pass

    def at(self, place: Place, tool: str, num_calls: int) -> None:
        pass

    def forced(self) -> list[int]:
        return []

    def close(self) -> None:
        pass


class Calls:
    """Any text, until a call begins; then that of a declared tool, by its schema if it is strict, and any text again.

    Free text needs no mask. After a `<tool_call>` the grammar also allows text that is not a call: an answer may speak
    of the tag. The arguments of a tool that is not strict are free, since they may hold anything, calls and their tags
    among it: the parser finds their end, and what follows them in the envelope is its end. Without parallel calls the
    turn ends after the first."""

    knows_end, sees_thinking, notes = False, True, ()

    def __init__(self, start: ByGrammar, strict: frozenset[str], end: np.ndarray, closing: np.ndarray, parallel: bool):
        """start: what may follow a `<tool_call>`. end, closing: bool [num_tokens], the end of the turn, and what ends
        an envelope."""
        self._start, self._strict, self._end, self._closing, self._parallel = start, strict, end, closing, parallel
        self._call: ByGrammar | None = None  # the one that is held to its grammar
        self._place: Place = "text"
        self.done = False

    @property
    def complete(self) -> bool:
        return self._place == "text"

    @property
    def thinking(self) -> np.ndarray | None:
        return self.mask()

    @property
    def ready(self) -> bool:
        return self.done or self._call is None or self._call.ready

    def wait(self, seconds: float) -> None:
        if self._call is not None:
            self._call.wait(seconds)

    def mask(self) -> np.ndarray | None:
        if self.done:
            return self._end
        if self._call is not None:
            return self._call.mask()
        return self._closing if self._place == "closing" else None

    def accept(self, token_id: int) -> None:
        if self.done and not self._end[token_id]:
            raise UsageError("parallel_tool_calls: a second call; expected the end of the turn after the first")
        if self._call is not None:
            if self._call.mask()[token_id]:
                self._call.accept(token_id)
            else:
                self._free()  # the token was put in from outside, as the end of the thinking is

    def at(self, place: Place, tool: str, num_calls: int) -> None:
        if num_calls and place in ("text", "opening"):
            self.done = not self._parallel
        if place == "opening" and self._place != "opening":
            self._free()
            self._call = self._start.copy()
        elif place == "text" or (place == "call" and tool not in self._strict):
            self._free()
        self._place = place

    def _free(self) -> None:
        if self._call is not None:
            self._call.close()
            self._call = None

    def forced(self) -> list[int]:
        return np.flatnonzero(self._end).tolist() if self.done else []

    def close(self) -> None:
        self._free()
        self._start.close()


class ByGrammar:
    """What a grammar allows. While thinking, the turn cannot end and no call can begin: both would pass the grammar by.

    The process of the grammar computes the mask after a token while the model computes its logits."""

    knows_end, sees_thinking = True, False

    def __init__(self, task: Task, end: int, num_tokens: int, thinking: np.ndarray, notes: tuple[str, ...] = ()):
        """task: as `Matchers.open` has it."""
        self._task, self._end, self._num_tokens, self.thinking, self.notes = task, end, num_tokens, thinking, notes
        self._mask: np.ndarray | None = None  # None: on its way
        self._is_complete = self._is_done = self._ended = False
        self._until = time.monotonic() + STEP_WALL_S  # when the mask must be here
        self._error = ""

    def copy(self) -> ByGrammar:
        """A copy at the same place, with its own process. Raises UsageError."""
        try:
            return ByGrammar(self._task.start_from(), self._end, self._num_tokens, self.thinking, self.notes)
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
            if self._error:  # an answer that the library can no longer follow is not valid
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

    def at(self, place: Place, tool: str, num_calls: int) -> None:
        pass

    def forced(self) -> list[int]:
        if self.done:
            return [] if self._ended else [self._end]
        self._tell("forced")
        return self._told()

    def close(self) -> None:
        self._task.close()

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
    matcher = compiled(byte_vocabulary(), document_grammar(schema), {2: "schema"})
    data = text.encode("utf-8", "replace")
    num_taken = matcher.try_consume_tokens(list(data))
    if num_taken < len(data):
        return (
            f"not a document of the schema: does not match after {data[:num_taken][-40:].decode('utf-8', 'replace')!r}"
        )
    return None if matcher.is_accepting() else "not a document of the schema: it ends too early"


def _named(request: Request) -> list[Mapping[str, Any]]:
    found = [tool for tool in request.tools if isinstance(tool, Mapping) and _name_of(tool) == request.tool_name]
    if not found:
        raise UsageError(f"tool_choice: {request.tool_name!r}; expected the name of one of the tools")
    return found


def _name_of(tool: Mapping[str, Any]) -> Any:
    function = tool.get("function", tool)
    return function.get("name") if isinstance(function, Mapping) else None


def _json(tools: Sequence[Mapping[str, Any]]) -> str:
    try:
        return json.dumps(tools)
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"tools: {error}; expected JSON") from None


def _kept(function: Any, tools: str) -> Any:
    """What a function with a cache gives; without the cache for tools that are too many to be kept."""
    return (function if len(tools) <= MAX_TOOLS_CHARS else function.__wrapped__)(tools)


@lru_cache(MAX_TOOL_SETS)
def _strict_tools(tools: str) -> frozenset[str]:
    return frozenset(name for name, (_, is_strict) in declared_tools(json.loads(tools)).items() if is_strict)


@lru_cache(MAX_TOOL_SETS)
def _call_grammar(tools: str) -> Grammar:
    return call_grammar(json.loads(tools))
