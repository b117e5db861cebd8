"""Which tokens an answer may go on with, so that it is the JSON or the calls that were asked for.

Owns the translation between our vocabulary and llguidance, which reads the grammars of `tokens/grammar.py`, and the check
of finished documents. Knows neither logits nor thinking: a constraint begins behind the thinking. Enter at `Grammars.of`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any, Protocol

import llguidance
import numpy as np

from a3b.errors import UsageError
from a3b.requests import Request
from a3b.tokens.grammar import Grammar, answer_grammar, call_grammar, declared_tools, document_grammar
from a3b.tokens.matching import byte_vocabulary
from a3b.tokens.segments import END_OF_TURN
from a3b.tokens.stream import Place
from a3b.tokens.tokenizer import Tokenizer

MAX_TOOL_SETS, MAX_TOOLS_CHARS = 32, 400_000  # whose grammars are kept as text: clients send the same tools with each request
_CALL, _CALL_END = "<tool_call>", "</tool_call>"
_LIMITS = llguidance.LLParserLimits(max_grammar_size=100_000, max_items_in_row=50_000, step_lexer_fuel=1_000_000, verbose_errors=False)
_PLACE = re.compile(r"at (\d+)\(\d+\): ")
_QUOTE = re.compile(r"\n\s*\d+ \| .*", re.DOTALL)  # the lines of the grammar around an error


class Constraint(Protocol):
    """What one answer may still become. It sees every token behind the thinking, sampled or forced, in order."""

    thinking: np.ndarray | None
    """bool [num_tokens]: the tokens allowed while the model thinks, None for all."""
    knows_end: bool
    """Whether the end of the turn is allowed only behind a complete answer."""
    sees_thinking: bool
    """Whether it sees the tokens of the thinking too."""
    notes: tuple[str, ...]
    """What was asked for and is not enforced."""

    def mask(self) -> np.ndarray | None:
        """bool [num_tokens]: the tokens allowed next, None for all."""

    def accept(self, token_id: int) -> None:
        """Take the next token. Raises UsageError for one that is not allowed."""

    def at(self, place: Place, tool: str, num_calls: int) -> None:
        """Where the parser of the answer is after that token, the tool of the call begun last, and how many were begun."""

    def forced(self) -> list[int]:
        """The tokens of the only text that can follow, as far as it is certain; often none."""

    @property
    def complete(self) -> bool:
        """Whether the answer may end here."""

    @property
    def done(self) -> bool:
        """Whether nothing but the end of the turn can follow."""


class Grammars:
    """Constraints for the requests of one vocabulary. The tables are built when the first grammar is needed."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer

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
            return self._by_grammar(answer_grammar(None, tools, request.parallel_tool_calls))
        if schema is not None:
            _compiled(byte_vocabulary(), document_grammar(schema), {2: "schema"})  # alone, so that it alone must be satisfiable
            tools = request.tools if request.tools and choice == "auto" else None
            return self._by_grammar(answer_grammar(schema, tools, request.parallel_tool_calls))
        if choice == "none" or not request.tools:
            return NoCalls(self.all_but(_CALL))
        return self._calls(request)

    def prepare(self) -> None:
        """Build the tables now; it takes seconds for a large vocabulary."""
        _ = self._vocabulary

    def all_but(self, *names: str) -> np.ndarray:
        """bool [num_tokens], not to be written to: every token there is, but the control tokens of these names."""
        allowed = np.ones(self._tokenizer.num_tokens, bool)
        allowed[self._missing] = False
        allowed[[self._tokenizer.control_id(name) for name in names]] = False
        allowed.flags.writeable = False
        return allowed

    def _by_grammar(self, grammar: Grammar) -> ByGrammar:
        for field, text in grammar.parts.items():
            _compiled(self._vocabulary, text, {}, field)
        matcher = _compiled(self._vocabulary, grammar.text, grammar.fields)
        end = self._tokenizer.control_id(END_OF_TURN)
        return ByGrammar(matcher, end, self._tokenizer.num_tokens, self.all_but(_CALL, END_OF_TURN), grammar.notes)

    def _calls(self, request: Request) -> Calls:
        tools = _json(request.tools)
        grammar = _kept(_call_grammar, tools)
        start = self._by_grammar(grammar)
        end = self._only(self._tokenizer.control_id(END_OF_TURN))
        closing = self._only(self._tokenizer.control_id(_CALL_END), *self._tokenizer.encode_text("\n"))
        return Calls(start.copy, _kept(_strict_tools, tools), end, closing, request.parallel_tool_calls)

    def _only(self, *ids: int) -> np.ndarray:
        allowed = np.zeros(self._tokenizer.num_tokens, bool)
        allowed[list(ids)] = True
        return allowed

    @cached_property
    def _missing(self) -> list[int]:
        return [token_id for token_id, data in enumerate(self._tokenizer.vocabulary()) if data is None]

    @cached_property
    def _vocabulary(self) -> llguidance.LLTokenizer:
        return llguidance.LLTokenizer(llguidance.TokenizerWrapper(_Vocabulary(self._tokenizer)), n_vocab=self._tokenizer.num_tokens)


class NoCalls:
    """Everything but a call."""

    complete, done, knows_end, sees_thinking, notes = True, False, False, False, ()

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


class Calls:
    """Any text, until a call begins; then that of a declared tool, by its schema if it is strict, and any text again.

    Free text needs no mask. After a `<tool_call>` the grammar also knows text that is no call: an answer may speak of the tag. The
    arguments of a tool that is not strict are free, since they may hold anything, calls and their tags among it: the parser finds
    their end, and what follows them in the envelope is its end. Without parallel calls the turn ends after the first."""

    knows_end, sees_thinking, notes = False, True, ()

    def __init__(self, begin: Callable[[], ByGrammar], strict: frozenset[str], end: np.ndarray, closing: np.ndarray, parallel: bool):
        """begin: what may follow a `<tool_call>`. end, closing: bool [num_tokens], the end of the turn, and what ends an envelope."""
        self._begin, self._strict, self._end, self._closing, self._parallel = begin, strict, end, closing, parallel
        self._call: ByGrammar | None = None  # the one that is held to its grammar
        self._place: Place = "text"
        self.done = False

    @property
    def complete(self) -> bool:
        return self._place == "text"

    @property
    def thinking(self) -> np.ndarray | None:
        return self.mask()

    def mask(self) -> np.ndarray | None:
        if self.done:
            return self._end
        if self._call is not None:
            return self._call.mask()
        return self._closing if self._place == "closing" else None

    def accept(self, token_id: int) -> None:
        if self.done and not self._end[token_id]:
            raise UsageError("parallel_tool_calls: a second call; expected the end of the turn behind the first")
        if self._call is not None:
            try:
                self._call.accept(token_id)
            except UsageError:
                self._call = None  # the token was put in from outside, as the end of the thinking is

    def at(self, place: Place, tool: str, num_calls: int) -> None:
        if num_calls and place in ("text", "opening"):
            self.done = not self._parallel
        if place == "opening" and self._place != "opening":
            self._call = self._begin()
        elif place == "text" or (place == "call" and tool not in self._strict):
            self._call = None
        self._place = place

    def forced(self) -> list[int]:
        return np.flatnonzero(self._end).tolist() if self.done else []


class ByGrammar:
    """What a grammar allows. While thinking, the turn cannot end and no call can begin: both would pass the grammar by."""

    knows_end, sees_thinking = True, False

    def __init__(self, matcher: llguidance.LLMatcher, end: int, num_tokens: int, thinking: np.ndarray, notes: tuple[str, ...] = ()):
        self._matcher, self._end, self._num_tokens, self.thinking, self.notes = matcher, end, num_tokens, thinking, notes
        self._ended = False

    def copy(self) -> ByGrammar:
        """One of its own, at the same place."""
        return ByGrammar(self._matcher.deep_copy(), self._end, self._num_tokens, self.thinking, self.notes)

    @property
    def complete(self) -> bool:
        return self._matcher.is_accepting()

    @property
    def done(self) -> bool:
        return self._matcher.is_stopped() and not self._matcher.is_error()

    def mask(self) -> np.ndarray:
        packed = self._matcher.compute_bitmask()
        self._check()
        return np.unpackbits(np.frombuffer(packed, np.uint8), bitorder="little", count=self._num_tokens).view(bool)

    def accept(self, token_id: int) -> None:
        if self._ended or not self._matcher.consume_token(token_id):
            self._check()
            raise UsageError(f"token {token_id}: the answer's grammar has no place for it")
        self._ended = token_id == self._end

    def at(self, place: Place, tool: str, num_calls: int) -> None:
        pass

    def forced(self) -> list[int]:
        if self.done:
            return [] if self._ended else [self._end]
        return self._matcher.compute_ff_tokens()

    def _check(self) -> None:
        """An answer that the library cannot follow any more is no valid answer."""
        if self._matcher.is_error():
            raise UsageError(f"the answer's grammar: {_reason(self._matcher.get_error())}; use a simpler schema")


def validate(schema: Mapping[str, Any], text: str) -> str | None:
    """Why `text` is not one whole document of `schema`, None if it is.

    Keys of objects are expected in the schema's order, as constrained answers have them."""
    text = text.strip(" \t\r\n")
    try:
        json.loads(text)
    except (ValueError, RecursionError) as error:
        return f"not JSON: {error}"
    matcher = _compiled(byte_vocabulary(), document_grammar(schema), {2: "schema"})
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


def _compiled(vocabulary: llguidance.LLTokenizer, text: str, fields: Mapping[int, str], field: str = "") -> llguidance.LLMatcher:
    """A matcher at its start. Raises UsageError naming the field at fault, also if no text at all satisfies the grammar.

    field: at fault where `fields` does not know."""
    matcher = llguidance.LLMatcher(vocabulary, text, log_level=0, limits=_LIMITS)
    if not matcher.is_error():
        matcher.compute_bitmask()
    if matcher.is_error():
        error = matcher.get_error()
        place = _PLACE.match(error)
        field = (fields.get(int(place[1])) if place else None) or field
        field = field or " or ".join(dict.fromkeys(field.split(": parameter")[0] for field in fields.values()))
        raise UsageError(f"{field}: {_reason(error)}; expected a schema that can be enforced")
    return matcher


def _reason(error: str) -> str:
    error = _QUOTE.sub("", _PLACE.sub("", error)).replace("<non-verbose/>", "").removeprefix("failed to compile JSON schema: ")
    error = " ".join(error.split())
    return "no answer can satisfy it" if error.startswith("NoExtension") else error[:300]


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
