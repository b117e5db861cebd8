"""What schemas say about the types of parameters, wherever in a schema they are declared."""

from __future__ import annotations

import pytest

from a3b.json_schema.pattern_search import Finder
from a3b.json_schema.types import Parameters, kinds_of_schema
from tests.support.constraints import shape

N, S, A = {"type": "integer"}, {"type": "string"}, {"type": "array"}
BRANCH = shape({"kind": {"const": "a"}, "n": N, "ids": A})


@pytest.mark.parametrize(
    "root",
    [
        BRANCH,
        {"$ref": "#/$defs/A", "$defs": {"A": BRANCH}},
        {"$ref": "#/$defs/B", "$defs": {"A": BRANCH, "B": {"allOf": [{"$ref": "#/$defs/A"}]}}},
        {"type": "object", "oneOf": [BRANCH, shape({"kind": {"const": "b"}})]},
        {"anyOf": [{"anyOf": [shape({"x": S}), BRANCH]}]},
        {"allOf": [BRANCH, shape({"kind": S})]},
        {
            "allOf": [shape({"kind": S, "n": {"type": "number"}}), {"properties": {"n": N, "ids": {}}}],
            "properties": {"ids": A},
        },
        {"anyOf": [{"$ref": "#/anyOf/1"}, BRANCH]},
    ],
)
def test_a_parameter_has_its_type_wherever_the_root_declares_it(root):
    parameters = Parameters(root)
    assert (parameters.kinds("n"), parameters.kinds("ids"), parameters.kinds("kind")) == (
        {"integer"},
        {"array"},
        {"string"},
    )
    assert parameters.may_have("n") and not parameters.may_have("other") and parameters.kinds("other") == set()


def test_undeclared_parameters_have_the_type_of_their_pattern_or_of_all_others():
    patterns = {"^n_": N, "_s$": S}
    parameters = Parameters(
        {"properties": {"n_a": S}, "patternProperties": patterns, "additionalProperties": {"type": "boolean"}}
    )
    expected = {"n_b": {"integer"}, "x_s": {"string"}, "other": {"boolean"}, "n_": {"integer"}}
    assert {key: parameters.kinds(key) for key in expected} == expected
    assert all(map(parameters.may_have, expected))


def test_branches_of_a_union_join_their_types():
    parameters = Parameters(
        {"anyOf": [shape({"v": S}), shape({"v": N}), {"additionalProperties": {"type": "null"}}, shape({}, [])]}
    )
    assert parameters.kinds("v") == {"string", "integer", "null"}


@pytest.mark.parametrize(
    ("schema", "kinds"),
    [
        ({"allOf": [{"type": ["string", "integer"]}, {"type": ["integer", "null"]}]}, {"integer"}),
        ({"allOf": [{"type": "number"}, {"type": "integer"}]}, {"integer"}),
        ({"type": "number", "enum": [1, 2.5]}, {"number"}),
        ({"type": ["string", "integer", "null"], "anyOf": [{"type": "string"}, {"type": "null"}]}, {"string", "null"}),
        ({"type": "string", "enum": [1]}, {"nothing"}),
        ({"anyOf": [{"type": "string", "enum": [1]}, N]}, {"integer"}),
        ({"$ref": "#/anyOf/0", "anyOf": [N]}, {"integer"}),
        ({"$ref": "$defs/a", "$defs": {"a": N}}, set()),
        ({"$ref": "#/anyOf/1", "anyOf": [N]}, {"integer"}),  # of two branches, of which there is one
        ({"$ref": "#/$defs/a~1b~01", "$defs": {"a/b~1": N, "a/b/": S, "a~1b~01": A}}, {"integer"}),
    ],
)
def test_keywords_that_all_must_hold_leave_the_types_they_have_in_common(schema, kinds):
    assert kinds_of_schema(schema, schema) == kinds


def test_unions_that_refer_to_themselves_many_times_are_read_once():
    branches = [{"$ref": "#"}, {"$ref": "#/$defs/a"}] * 60
    parameters = Parameters({"anyOf": [*branches, BRANCH], "$defs": {"a": {"oneOf": branches, "allOf": branches}}})
    assert parameters.kinds("n") == {"integer"} and parameters.names == {"kind", "n", "ids"}


@pytest.mark.parametrize(
    "root",
    [
        None,
        5,
        [],
        {"properties": 5},
        {"anyOf": 3, "allOf": [5, True], "$ref": 7, "patternProperties": []},
        {"$ref": "#/nowhere"},
        {"patternProperties": {"(": N, "^(?=a)": N, "a" * 2000: N}},
    ],
)
def test_a_schema_that_makes_no_sense_says_nothing(root):
    parameters = Parameters(root)
    assert parameters.kinds("a") == set() and parameters.member("a") is None


def test_patterns_that_make_pythons_re_hang_are_looked_for_in_no_time():
    finder = Finder()
    for pattern in ("^(a+)+$", "(a|a)*b$", "^(.*a){20}$"):
        assert not finder.found(pattern, "a" * 199 + "!")
    assert finder.found("^(a+)+$", "a" * 199) and finder.found("b", "abc") and not finder.found("^b", "abc")
