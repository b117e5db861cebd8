"""The constraint of each request: which tokens may come next, so that the answer is the JSON or the calls asked for.

Owns the choice of a constraint by the request's schema, tools and tool_choice. Knows neither logits nor thinking: a
constraint begins after the thinking. Enter at `Grammars.of`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import _lru_cache_wrapper, cached_property, lru_cache
from typing import Any, TypeVar

import numpy as np

from a3b.constrain.call_constraints import FreeCallConstraint, FreeCallMasks, NoCallConstraint
from a3b.constrain.constraint import Constraint, Mask
from a3b.constrain.grammar import Grammar, answer_grammar, call_grammar, document_grammar
from a3b.constrain.grammar_constraint import GrammarConstraint
from a3b.constrain.matchers import GrammarSource, Matchers
from a3b.constrain.tool_rules import declared_tools
from a3b.errors import UsageError
from a3b.interface.request import Request
from a3b.output.dialects import DIALECTS
from a3b.output.dialects.dialect import Dialect
from a3b.prompt.segments import END_OF_TURN
from a3b.prompt.tokenizer import Tokenizer

# tools whose grammars are kept as text, because clients send the same ones with each request
MAX_TOOL_SETS, MAX_TOOLS_CHARS = 32, 400_000
Result = TypeVar("Result")


class Grammars:
    """Constraints for the requests of one vocabulary. The tables are built when the first grammar is needed. Used by
    any thread."""

    def __init__(self, tokenizer: Tokenizer, dialects: Sequence[Dialect] = DIALECTS):
        """dialects: how calls may be written; a constrained answer uses the first."""
        self._tokenizer, self._dialects, self._dialect = tokenizer, tuple(dialects), dialects[0]
        known = set(tokenizer.control_names)
        others = {one.opener for one in dialects if one.opener in known} - {self._dialect.opener}
        self._other_openers = tuple(sorted(others))
        self._matchers = Matchers(tokenizer)

    def close(self) -> None:
        self._matchers.close()

    def of(self, request: Request) -> Constraint | None:
        """What the request's schema and tool_choice allow; None if that is everything.

        Raises UsageError, naming the field, for a schema or a tool that cannot be enforced."""
        if request.prompt is not None:
            return None
        choice, schema = request.tool_choice, request.schema
        parallel, namespace = request.parallel_tool_calls, request.namespace
        if request.tools:
            self._strict_tools(_json(request.tools))  # which refuses anything that cannot be a tool
        if choice in ("required", "named"):
            called = request.tools if choice == "required" else _named(request)
            return self._by_grammar(answer_grammar(None, called, parallel, self._dialect), {}, namespace)
        if schema is not None:
            tools = request.tools if request.tools and choice == "auto" else None
            documents = {"schema": document_grammar(schema)}  # alone, so that it alone must be satisfiable
            return self._by_grammar(answer_grammar(schema, tools, parallel, self._dialect), documents, namespace)
        if choice == "none" or not request.tools:
            return NoCallConstraint(self._without_calls())
        return self._free_calls(request, _json(request.tools))

    def prepare(self) -> None:
        """Build the tables now; it takes seconds for a large vocabulary."""
        self._matchers.prepare()

    def all_but(self, *names: str) -> Mask:
        """bool [num_tokens], read-only: every token that exists except the control tokens of these names."""
        allowed = np.ones(self._tokenizer.num_tokens, bool)
        allowed[self._missing] = False
        allowed[[self._tokenizer.control_id(name) for name in names]] = False
        allowed.flags.writeable = False
        return allowed

    def _without_calls(self, *names: str) -> Mask:
        return self.all_but(self._dialect.opener, *self._other_openers, *names)

    def _by_grammar(self, grammar: Grammar, documents: Mapping[str, str], namespace: str) -> GrammarConstraint:
        task = self._matchers.open(GrammarSource(grammar.text, grammar.fields, grammar.parts, documents), namespace)
        end, num_tokens = self._tokenizer.control_id(END_OF_TURN), self._tokenizer.num_tokens
        return GrammarConstraint(task, end, num_tokens, self._without_calls(END_OF_TURN), grammar.notes)

    def _free_calls(self, request: Request, tools: str) -> FreeCallConstraint:
        grammar = _kept(_call_grammar, tools, self._dialects)
        start = self._by_grammar(grammar, {}, request.namespace)
        end = self._tokenizer.control_id(END_OF_TURN)
        closers = [self._tokenizer.control_id(self._dialect.closer)] if self._dialect.closer else [end]
        masks = FreeCallMasks(
            self.all_but(*self._other_openers) if self._other_openers else None,
            self._only(*closers, *self._tokenizer.encode_text("\n")),
            self._only(end),
        )
        return FreeCallConstraint(start, self._strict_tools(tools), masks, request.parallel_tool_calls)

    def _strict_tools(self, tools: str) -> frozenset[str]:
        return _kept(_strict_tools, tools, self._dialect)

    def _only(self, *ids: int) -> Mask:
        allowed = np.zeros(self._tokenizer.num_tokens, bool)
        allowed[list(ids)] = True
        return allowed

    @cached_property
    def _missing(self) -> list[int]:
        return [token_id for token_id, data in enumerate(self._tokenizer.vocabulary()) if data is None]


def _named(request: Request) -> list[dict[str, Any]]:
    """The one tool that tool_choice names. Raises UsageError."""
    found = [tool for tool in request.tools or () if _name_of(tool) == request.tool_name]
    if not found:
        raise UsageError(f"tool_choice: {request.tool_name!r}; expected the name of one of the tools")
    return found


def _name_of(tool: Any) -> Any:
    function = tool.get("function", tool) if isinstance(tool, Mapping) else None
    return function.get("name") if isinstance(function, Mapping) else None


def _json(tools: Sequence[Mapping[str, Any]]) -> str:
    try:
        return json.dumps(tools)
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"tools: {error}; expected JSON") from None


def _kept(function: _lru_cache_wrapper[Result], tools: str, dialects: Dialect | Sequence[Dialect]) -> Result:
    """Call a function that has a cache; bypass the cache for tools too large to keep."""
    call: Callable[..., Result] = function if len(tools) <= MAX_TOOLS_CHARS else function.__wrapped__
    return call(tools, dialects)


@lru_cache(MAX_TOOL_SETS)
def _strict_tools(tools: str, dialect: Dialect) -> frozenset[str]:
    return frozenset(tool.name for tool in declared_tools(json.loads(tools), dialect) if tool.strict)


@lru_cache(MAX_TOOL_SETS)
def _call_grammar(tools: str, dialects: Sequence[Dialect]) -> Grammar:
    return call_grammar(json.loads(tools), dialects)
