"""One table of error types and codes: every code that the server raises is in it, with its status."""

from __future__ import annotations

import ast

import pytest

from a3b.server.error_types import CODES, DEFAULT_CODE, TYPES, types_of
from a3b.server.errors import ApiError, error_body
from tests.support.paths import ROOT


def raised() -> dict[str, set[int]]:
    """The codes and statuses that the sources of the server pass to ApiError as literals."""
    found: dict[str, set[int]] = {}
    for path in (ROOT / "src" / "a3b" / "server").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "ApiError":
                status, *_ = node.args
                given = node.args[2] if len(node.args) > 2 else ast.Constant(DEFAULT_CODE)
                codes = [given.body, given.orelse] if isinstance(given, ast.IfExp) else [given]
                statuses = {status.value} if isinstance(status, ast.Constant) else set()
                for code in codes:
                    found.setdefault(code.value, set()).update(statuses)
    return found


def test_the_table_has_exactly_the_codes_that_are_raised():
    found = raised()
    assert found.keys() == CODES.keys()
    for code, statuses in found.items():
        assert statuses <= set(CODES[code]), code


@pytest.mark.parametrize("code", CODES)
def test_each_code_comes_in_the_form_of_both_apis(code):
    for status in CODES[code]:
        error = ApiError(status, "why", code, "field")
        openai = error_body(error, "/v1/chat/completions", "req_1")["error"]
        assert openai == {
            "message": "why",
            "type": types_of(status).openai,
            "param": "field",
            "code": None if code == DEFAULT_CODE else code,
        }
        anthropic = error_body(error, "/v1/messages", "req_1")
        assert anthropic["error"]["type"] == types_of(status).anthropic and anthropic["request_id"] == "req_1"
        assert anthropic["error"]["message"].endswith("why")
        assert ("details" in anthropic["error"]) == code.startswith("thread_")


@pytest.mark.parametrize(("status", "like"), [(405, 400), (408, 400), (418, 400), (431, 400), (501, 500)])
def test_a_status_without_types_of_its_own_has_those_of_its_class(status, like):
    assert status not in TYPES and types_of(status) == TYPES[like]
