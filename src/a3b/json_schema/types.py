"""What a JSON schema says about the types of one value, and of each parameter of a tool.

Owns the reading of `$ref`, `anyOf`, `oneOf`, `allOf`, `properties`, `patternProperties` and `additionalProperties`, for
the parser of outputs and for the grammars: both ask `Parameters`. Knows neither syntax nor values. Enter at
`kinds_of_schema` and `Parameters`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from a3b.json_schema.pattern_search import Finder

Kinds = frozenset[str]
"""JSON schema type names a value may have; empty means that the schema does not say."""

STRING: Kinds = frozenset({"string"})
NOTHING: Kinds = frozenset({"nothing"})  # of a schema that contradicts itself
MAX_JOINED = 16  # references and branches followed in a row: a "$ref" may point at itself
_TYPE_NAMES = {
    **dict.fromkeys(("string", "str", "text", "enum"), "string"),
    **dict.fromkeys(
        "integer int long short unsigned uint int8 int16 int32 int64 uint8 uint16 uint32 uint64".split(), "integer"
    ),
    **dict.fromkeys("number num float float32 float64 double decimal".split(), "number"),
    **dict.fromkeys(("boolean", "bool"), "boolean"),
    **dict.fromkeys(("object", "dict"), "object"),
    **dict.fromkeys(("array", "arr", "list", "tuple", "set"), "array"),
    **dict.fromkeys(("null", "none"), "null"),
}


def kinds_of_value(value: Any) -> Kinds:
    """The JSON schema types that `value` satisfies; 3.0 is an integer too, as in the JSON schema standard."""
    if value is None:
        return frozenset({"null"})
    if isinstance(value, bool):
        return frozenset({"boolean"})
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return frozenset({"integer", "number"})
    if isinstance(value, float):
        return frozenset({"number"})
    if isinstance(value, str):
        return STRING
    return frozenset({"object" if isinstance(value, Mapping) else "array"})


def kinds_of_names(declared: Any) -> Kinds:
    """The types that the value of "type" names, one or a list."""
    names = declared if isinstance(declared, list) else [declared]
    return frozenset(_TYPE_NAMES[n.lower()] for n in names if isinstance(n, str) and n.lower() in _TYPE_NAMES)


def values_of(schema: Mapping[str, Any]) -> Any:
    """The values that `const` or `enum` lists, None without either."""
    return [schema["const"]] if "const" in schema else schema.get("enum")


def kinds_of_schema(schema: Any, root: Any, depth: int = 0, known: dict[int, Kinds] | None = None) -> Kinds:
    """The types a JSON schema allows, by all of its keywords that say so: type, enum, const, anyOf, oneOf, allOf, a
    local $ref.

    `root` is the schema that a `$ref` of the form "#/a/b" starts from. Unknown keywords add nothing.
    `known` holds the schemas visited so far by identity: each is read once, however often it is referenced.
    """
    known = {} if known is None else known
    if not isinstance(schema, Mapping) or depth > MAX_JOINED:
        return frozenset()
    if id(schema) not in known:
        known[id(schema)] = frozenset()  # while it is being read: a schema that refers to itself adds nothing
        known[id(schema)] = _kinds(schema, root, depth, known)
    return known[id(schema)]


def _kinds(schema: Mapping[str, Any], root: Any, depth: int, known: dict[int, Kinds]) -> Kinds:
    def of(branch: Any) -> Kinds:
        return kinds_of_schema(branch, root, depth + 1, known)

    found = [kinds_of_names(schema.get("type"))]
    values = values_of(schema)
    if isinstance(values, list):
        found.append(frozenset().union(*map(kinds_of_value, values)))
    for key in ("anyOf", "oneOf"):
        if isinstance(schema.get(key), list):
            kinds = frozenset().union(*map(of, schema[key]))
            found.append(kinds - NOTHING or kinds)
    if isinstance(schema.get("allOf"), list):
        found += map(of, schema["allOf"])
    if isinstance(schema.get("$ref"), str):
        found.append(of(follow(schema["$ref"], root)))
    if kinds := _common(found):
        return kinds
    if "properties" in schema:
        return frozenset({"object"})
    return frozenset({"array"}) if "items" in schema else kinds


def _common(found: Iterable[Kinds]) -> Kinds:
    """Types that all of these allow, leaving out those that say nothing; NOTHING if there are none."""
    common: Kinds = frozenset()
    for kinds in found:
        if not kinds or not common:
            common = common or kinds
            continue
        both = _widened(common) & _widened(kinds)
        if "number" in both and "integer" not in common & kinds:
            both -= {"integer"}
        common = both or NOTHING
    return common


def _widened(kinds: Kinds) -> Kinds:
    return kinds | {"integer"} if "number" in kinds else kinds


def follow(reference: str, root: Any) -> Any:
    """What a local "#/..." reference points at, or None."""
    node = root
    for step in reference.removeprefix("#").strip("/").split("/") if reference.strip("#/") else ():
        step = step.replace("~1", "/").replace("~0", "~")
        if isinstance(node, list) and step.isascii() and step.isdecimal() and int(step[:9]) < len(node):
            node = node[int(step[:9])]
        else:
            node = node.get(step) if isinstance(node, Mapping) else None
    return node if reference[:1] == "#" else None


class Parameters:
    """The parameters of one tool by the schema of all of them, wherever in it they are declared."""

    def __init__(self, root: Any):
        self.root = root if isinstance(root, Mapping) else {}
        self.names = frozenset(self._names(self.root, 0, set()))
        self._finder = Finder()
        self._members: dict[str, Any] = {}
        self._kinds: dict[str, Kinds] = {}

    def kinds(self, key: str) -> Kinds:
        """Allowed types of a parameter; empty for one that is not declared, or whose schema names no types."""
        if key not in self._kinds:
            self._kinds[key] = kinds_of_schema(self.member(key), self.root)
        return self._kinds[key]

    def member(self, key: str) -> Any:
        """The schema of a parameter, None if there is none. Branches of a union are joined by anyOf, all else by
        allOf."""
        if key not in self._members:
            self._members[key] = self._member(self.root, key, 0, set())
        return self._members[key]

    def may_have(self, key: str) -> bool:
        """Whether `key` can be a parameter; always for a tool that declares none."""
        return not self.names or key in self.names or (self.member(key) is not None and self.member(key) is not False)

    def own(self, schema: Mapping[str, Any], key: str) -> list[Any]:
        """The schemas that `schema` itself has for a parameter, not those that it joins."""
        properties, patterns, extra = (
            schema.get(name) for name in ("properties", "patternProperties", "additionalProperties")
        )
        found = [properties[key]] if isinstance(properties, Mapping) and key in properties else []
        if isinstance(patterns, Mapping):
            found += [value for pattern, value in patterns.items() if self._finder.found(pattern, key)]
        return found or ([extra] if isinstance(extra, Mapping) or extra is False else [])

    def _member(self, schema: Any, key: str, depth: int, seen: set[int]) -> Any:
        if not isinstance(schema, Mapping) or depth > MAX_JOINED or id(schema) in seen:
            return None
        seen.add(id(schema))
        found = self.own(schema, key)
        found += [self._member(branch, key, depth + 1, seen) for branch in _joined(schema, self.root)]
        found = [one for one in found if one is not None]
        for name in ("anyOf", "oneOf"):
            if isinstance(schema.get(name), list):
                options = [self._member(branch, key, depth + 1, seen) for branch in schema[name]]
                if found and None in options:
                    continue  # a branch that says nothing leaves the type as it is outside
                options = [option for option in options if option is not None and option is not False]
                found += [options[0] if len(options) == 1 else {"anyOf": options}] if options else []
        # a parameter that is forbidden in one place has its type in others
        some = [one for one in found if one is not False] or found[:1]
        return some[0] if len(some) == 1 else {"allOf": some} if some else None

    def _names(self, schema: Any, depth: int, seen: set[int]) -> Iterable[str]:
        if not isinstance(schema, Mapping) or depth > MAX_JOINED or id(schema) in seen:
            return
        seen.add(id(schema))
        if isinstance(schema.get("properties"), Mapping):
            yield from schema["properties"]
        branches = [branch for key in ("anyOf", "oneOf") if isinstance(schema.get(key), list) for branch in schema[key]]
        for branch in [*_joined(schema, self.root), *branches]:
            yield from self._names(branch, depth + 1, seen)


def _joined(schema: Mapping[str, Any], root: Any) -> list[Any]:
    """Schemas that must hold in addition to this one: those of $ref and allOf."""
    found = [follow(schema["$ref"], root)] if isinstance(schema.get("$ref"), str) else []
    return found + (schema["allOf"] if isinstance(schema.get("allOf"), list) else [])
