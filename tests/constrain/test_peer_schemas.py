"""Schemas as other servers test them and as libraries write them: what an answer may be, for a document and for the
arguments of a tool.

Documents are written as the suites write them. What Zod and pydantic declare is answered by random walks, whose values
must satisfy the schema itself, by the word of `jsonschema`."""

from __future__ import annotations

import json
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal

import jsonschema
import pytest
from openai.lib._pydantic import to_strict_json_schema
from pydantic import BaseModel, ConfigDict, Field, RootModel

from a3b.errors import UsageError
from a3b.interface.request import Request
from tests.support.constraints import GRAMMARS, TOKENIZER, calls_of, events_of, validate, walk
from tests.support.paths import DATA

pytestmark = pytest.mark.slow  # starts servers or commands, or computes for seconds

PEERS = json.loads((DATA / "peer_schemas.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "case", PEERS["documents"], ids=[f"{case['suite']}: {case['situation']}" for case in PEERS["documents"]]
)
def test_documents_are_what_the_peer_expects(case):
    if "good" not in case:
        with pytest.raises(UsageError):
            validate(case["schema"], "{}")
        return
    assert {text: validate(case["schema"], text) for text in case["good"]} == dict.fromkeys(case["good"])
    assert [text for text in case["bad"] if validate(case["schema"], text) is None] == []


def answers(schema: dict[str, Any], how: str) -> list[Any]:
    """Values of random answers. how: "document", "tool" or "strict tool"."""
    tool = {"type": "function", "function": {"name": "f", "parameters": schema, "strict": how == "strict tool"}}
    asked = {"schema": schema} if how == "document" else {"tools": [tool], "tool_choice": "required"}
    found = []
    for seed in (1, 2):
        constraint = GRAMMARS.of(Request(messages=[], **asked))
        ids = walk(constraint, seed, limit=250)
        constraint.close()
        if ids is not None:
            found.append(
                json.loads(TOKENIZER.decode(ids))
                if how == "document"
                else calls_of(events_of(ids, [tool]))[0].arguments
            )
    return found


WAYS = ("tool", "strict tool", "document")
REFUSED = {  # a strict tool and a document must be held to all; what cannot be is refused by its path
    ("z.string().min(2000)", "strict tool"): "minLength",
    ("z.set-like", "strict tool"): "uniqueItems",
    ("z.set-like", "document"): "uniqueItems",
}


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("name", PEERS["zod"])
def test_what_zod_declares_is_answered(name, how):
    schema = PEERS["zod"][name]
    if keyword := REFUSED.get((name, how)):
        with pytest.raises(UsageError, match=keyword):
            answers(schema, how)
        return
    is_noted = (name, "strict tool") in REFUSED and how == "tool"
    for value in answers(schema, how):
        if not is_noted:
            jsonschema.validate(value, schema)


class Colour(Enum):
    RED, BLUE = "red", "blue"


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int = Field(ge=0, le=9)


class Dog(BaseModel):
    kind: Literal["dog"]
    good: bool = True


class Node(BaseModel):
    value: int
    children: list[Node] = []


Pet = Annotated[Cat | Dog, Field(discriminator="kind")]


class Order(BaseModel):
    price: Decimal
    mode: Literal["a", 1, True, None]
    at: datetime
    day: date | None = None
    pair: tuple[int, str] = (1, "")


class Owner(BaseModel):
    pet: Pet
    others: list[Pet] = []
    counts: dict[str, int] = {}
    colours: dict[Colour, list[Colour]] = {}


class Nested(BaseModel):
    deep: list[dict[str, int | None] | None] | None = None
    root: Node
    union: int | str | float | bool | None = None


class Limited(BaseModel):
    model_config = ConfigDict(extra="forbid")
    number: Annotated[int, Field(gt=0, lt=100, multiple_of=5)]
    text: Annotated[str, Field(min_length=2, max_length=4000, alias="theText")]
    some: Annotated[list[int], Field(min_length=1, max_length=3)]


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    anything: Any
    name: str = ""


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize(
    "model", [Order, Owner, Nested, Limited, Open, Node, RootModel[dict[str, Cat]], RootModel[Cat | Dog]]
)
def test_what_pydantic_declares_is_answered(model, how):
    for schema in (model.model_json_schema(), to_strict_json_schema(model)):
        for value in answers(schema, how):
            jsonschema.validate(value, schema)


@pytest.mark.parametrize("how", WAYS[1:])
def test_a_set_of_pydantic_is_refused_where_all_must_hold(how):
    class Tagged(BaseModel):
        tags: set[str]

    with pytest.raises(UsageError, match=r"tags.*uniqueItems"):
        answers(Tagged.model_json_schema(), how)
    assert answers(Tagged.model_json_schema(), "tool")
