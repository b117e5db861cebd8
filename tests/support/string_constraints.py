"""Calls of a tool whose one parameter has a restricted string."""

from __future__ import annotations

from a3b.interface.request import Request
from tests.support.constraints import (
    GRAMMARS,
    shape,
    tool,
)

TEXT = {"type": "string"}
NULL = {"type": "null"}


def constraint_of(schema, strict=False, **root):
    """The constraint on a call of a tool whose parameter has this schema, and the tool."""
    one = tool("a", {**shape({"q": schema}, ["q"], additionalProperties=False), **root})
    one["function"]["strict"] = strict
    return GRAMMARS.of(Request(tools=[one], tool_choice="required")), [one]
