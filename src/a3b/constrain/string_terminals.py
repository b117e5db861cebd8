"""Which texts a schema allows for a string that is raw in a call, as terminals of llguidance's Lark.

Owns the keywords of JSON schema that restrict strings and join schemas. Knows nothing of calls or other types.
Enter at `StringTerminals.of`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from a3b.constrain.enforceable import Report, are_disjoint
from a3b.errors import UsageError
from a3b.json_schema.regex_terminals import FORMATS, search_terminal
from a3b.json_schema.types import follow, kinds_of_names
from a3b.json_schema.validity import ANNOTATIONS, DEFINITIONS

MAX_DEPTH = 64  # of schemas joined in schemas
# lengths: compile time grows with the minimum, and no answer is longer than the maximum
MAX_LEAST, MAX_MOST = 1000, 1_000_000
MAX_BESIDE = 320  # a length combined with joined or negated patterns, for the same reason
_RESTRICTING = frozenset("pattern minLength maxLength format not".split())
_JOINING = frozenset("$ref allOf anyOf oneOf".split())
_UNKNOWN = frozenset("if then else $dynamicRef $recursiveRef".split())
_OF_OTHERS = (
    ANNOTATIONS
    | DEFINITIONS
    | frozenset(  # they restrict other types, or nothing
        "type const enum minimum maximum exclusiveMinimum exclusiveMaximum multipleOf "
        "items prefixItems additionalItems minItems maxItems "
        "uniqueItems contains minContains maxContains properties patternProperties "
        "additionalProperties required minProperties maxProperties "
        "propertyNames dependentRequired dependentSchemas unevaluatedItems "
        "unevaluatedProperties contentMediaType contentEncoding".split()
    )
)


class StringTerminals:
    """The terminals of one value. `lines` are their definitions."""

    def __init__(self, prefix: str, root: Any, report: Report):
        """prefix: of the terminals' names. root: what a $ref starts from. report: of keywords that are not known or
        cannot be enforced."""
        self._prefix, self._root, self._report = prefix, root, report
        self._known: dict[int, str | None] = {}
        self._open: set[int] = set()
        self.lines: list[str] = []
        self._lengths: dict[str, int] = {}  # the longest of each keyword
        self._num_joined = 0  # patterns, and negations of them
        self._most_beside = MAX_BESIDE

    def of(self, schema: Any) -> str | None:
        """A terminal for the strings that `schema` allows: "" for all, None for none. Raises UsageError for what cannot
        be enforced."""
        found = self._of(schema, 0)
        for key, length in self._lengths.items():
            if self._num_joined > 1 and length > self._most_beside:
                self._report.at(
                    "", key, f": {length}, more than {MAX_BESIDE} together with several patterns, or a negated one"
                )
                self._most_beside, self._lengths, self._num_joined = 0, {}, 0
                self._known.clear()
                return self.of(schema)  # again, without lengths
        return found

    def _of(self, schema: Any, depth: int) -> str | None:
        if not isinstance(schema, Mapping):
            return None if schema is False else ""
        if id(schema) in self._open or depth > MAX_DEPTH:
            raise self._refusal(
                "$ref", f" that leads back to itself or through more than {MAX_DEPTH} schemas; expected a flatter one"
            )
        if id(schema) not in self._known:
            self._open.add(id(schema))
            self._known[id(schema)] = self._all(self._parts(schema, depth + 1))
            self._open.remove(id(schema))
        return self._known[id(schema)]

    def _parts(self, schema: Mapping[str, Any], depth: int) -> Iterator[str | None]:
        """Terminals that must all match."""
        kinds = kinds_of_names(schema.get("type"))
        if kinds and "string" not in kinds:
            yield None
            return
        for key in sorted(schema.keys() - _RESTRICTING - _JOINING - _OF_OTHERS):
            if (self._report.strict and key[:2] != "x-") or key in _UNKNOWN:
                self._report.at("", key, "")
        for values in ([schema["const"]] if "const" in schema else None, schema.get("enum")):
            if isinstance(values, list):
                strings = [json.dumps(value, ensure_ascii=False) for value in values if isinstance(value, str)]
                yield f"({' | '.join(strings)})" if strings else None
        if "pattern" in schema:
            yield self._pattern(schema["pattern"])
        if self._most_beside and ("minLength" in schema or "maxLength" in schema):
            yield self._length(schema)
        if isinstance(name := schema.get("format"), str) and name in FORMATS:  # others are annotations
            yield f"/{FORMATS[name]}/"
        if isinstance(schema.get("$ref"), str):
            if not schema["$ref"].startswith("#"):
                self._report.at("", "$ref", f": {schema['$ref'][:100]!r}")
            yield self._of(follow(schema["$ref"], self._root), depth)
        for key in ("allOf", "anyOf", "oneOf"):
            if isinstance(branches := schema.get(key), list):
                found = [self._of(branch, depth) for branch in branches]
                if key == "allOf":
                    yield from found
                else:
                    yield self._any(found) if key == "anyOf" or are_disjoint(branches, self._root) else self._one(found)
        if "not" in schema:
            denied = self._of(schema["not"], depth)
            self._num_joined += 2
            yield None if denied == "" else "" if denied is None else f"~{denied}"

    def _pattern(self, pattern: str) -> str:
        try:
            terminal = search_terminal(pattern)
        except UsageError as error:
            self._report.at("", "pattern", f" {pattern[:100]!r}: {error}")
            return ""
        self._num_joined += 1 + terminal.count(" & ") + terminal.count("~")
        return terminal

    def _length(self, schema: Mapping[str, Any]) -> str | None:
        least, most = int(schema.get("minLength", 0)), int(min(schema.get("maxLength", MAX_MOST + 1), MAX_MOST + 1))
        if least > MAX_LEAST:
            self._report.at("", "minLength", f": {least}, more than {MAX_LEAST}")
            least = MAX_LEAST
        for key, limit in (("minLength", least), ("maxLength", most)):
            if key in schema and limit <= MAX_MOST:
                self._lengths[key] = max(limit, self._lengths.get(key, 0))
        if most > MAX_MOST:
            return f"/(?s:.{{{least},}})/"
        return f"/(?s:.{{{least},{most}}})/" if schema.get("minLength", 0) <= most else None

    def _all(self, parts: Iterator[str | None]) -> str | None:
        found = []
        for part in dict.fromkeys(parts):
            if part is None:
                return None
            found += [part] if part else []
        return self._named(" & ".join(found)) if found else ""

    def _any(self, parts: list[str | None]) -> str | None:
        if "" in parts:
            return ""
        found = list(dict.fromkeys(part for part in parts if part is not None))
        return f"({' | '.join(found)})" if found else None

    def _one(self, parts: list[str | None]) -> str | None:
        """Texts that exactly one of the terminals matches."""
        once: str | None = None
        twice: str | None = None
        self._num_joined += 2
        for part in parts:
            if part is not None:
                part = part or "/(?s:.*)/"
                both = once and self._named(f"{once} & {part}")
                twice = self._named(f"{twice} | {both}") if twice else both
                once = self._named(f"{once} | {part}") if once else part
        return self._named(f"{once} & ~{twice}") if twice else once

    def _named(self, terminal: str) -> str:
        self.lines.append(f"{self._prefix}{len(self.lines)}: {terminal}")
        return f"{self._prefix}{len(self.lines) - 1}"

    def _refusal(self, key: str, text: str) -> UsageError:
        return UsageError(f"{self._report.where}: {key}{text}")
