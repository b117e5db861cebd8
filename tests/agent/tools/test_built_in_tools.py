"""All built-in tools together: what they are told to the model as, and what they bear."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from a3b.agent.tools.built_in import BuiltInTools
from a3b.agent.tools.schemas import BASH, EDIT, PLAN, READ, SEARCH, WRITE
from a3b.agent.tools.tool import function_schema
from tests.support.bare_sandbox import BareSandbox
from tests.support.tool_calls import text_of, texts_of, with_tools

pytestmark = pytest.mark.slow
SCHEMAS = READ, WRITE, EDIT, BASH, SEARCH, PLAN
STRINGS = st.one_of(
    st.sampled_from(
        ["", ".", "..", "a.py", "/", "/proc/version", "pipe", "\0", "~", "-rf", "[", "(?P<", "*", "jobs", "kill %1"]
    ),
    st.text(max_size=20),
)
VALUES = {"string": STRINGS, "integer": st.integers() | st.integers(-2, 3), "boolean": st.booleans()}


def test_the_schemas_are_what_nano_was_trained_on():
    assert [function_schema(tool)["function"] for tool in (READ, EDIT, BASH)] == [
        {
            "name": "read",
            "description": "Read a text file.",
            "parameters": {
                "type": "object",
                "properties": {
                    "path": {"type": "string"},
                    "offset": {"type": "integer", "description": "first line"},
                    "limit": {"type": "integer", "description": "number of lines"},
                },
                "required": ["path"],
            },
        },
        {
            "name": "edit",
            "description": "Replace text that occurs exactly once in a file.",
            "parameters": {
                "type": "object",
                "properties": {"path": {"type": "string"}, "old": {"type": "string"}, "new": {"type": "string"}},
                "required": ["path", "old", "new"],
            },
        },
        {
            "name": "bash",
            "description": "Run a command in bash.",
            "parameters": {
                "type": "object",
                "properties": {
                    "command": {"type": "string"},
                    "timeout": {"type": "integer", "description": "seconds"},
                    "background": {"type": "boolean"},
                },
                "required": ["command"],
            },
        },
    ]


def test_each_tool_is_told_by_its_schema(tmp_path):
    async def use(tools, sandbox):
        return [function_schema(tool) for tool in tools.all]

    assert with_tools(tmp_path, use) == [function_schema(schema) for schema in SCHEMAS]


def test_a_bug_is_read_repaired_and_tested(tmp_path):
    (tmp_path / "calc.py").write_text("def add(a, b):\n    return a - b\n")
    (tmp_path / "test_calc.py").write_text("from calc import add\nassert add(1, 2) == 3\n")
    assert texts_of(
        tmp_path,
        ("bash", {"command": "python3 test_calc.py 2>&1 | tail -1"}),
        ("edit", {"path": "calc.py", "old": "a - b", "new": "a + b"}),
        ("bash", {"command": "python3 test_calc.py"}),
        ("plan", {"text": "all done"}),
    ) == [
        "AssertionError",
        "Edited calc.py, line 2. Syntax is fine.\nNow run the tests: python3 test_calc.py 2>&1 | tail -1",
        "[no output]",
        "Noted.",
    ]


def test_agents_md_names_the_tests_to_run(tmp_path):
    (text,) = texts_of(tmp_path, ("write", {"path": "a", "content": "1\n"}), agents_md="test: make check\n")
    assert text == "Wrote a, 1 line.\nNow run the tests: make check"


def test_what_was_written_or_edited_counts_as_read(tmp_path):
    assert texts_of(
        tmp_path,
        ("write", {"path": "a", "content": "1\n"}),
        ("edit", {"path": "./a", "old": "1", "new": "2"}),
        ("bash", {"command": "echo 3 > a"}),
        ("edit", {"path": "a", "old": "2", "new": "3"}),
    )[1::2] == [
        "Edited ./a, line 1.",
        "Error: a has changed since you read it: read it again. old is not in a. Nothing in the file is close to it.",
    ]


def test_notes_are_replaced_whole_and_bounded(tmp_path):
    async def use(tools, sandbox):
        await text_of(tools, "plan", text=" first ")
        kept = tools.plan.text
        await text_of(tools, "plan", text="second")
        return kept, await text_of(tools, "plan", text="x" * 10_000), tools.plan.text

    kept, refused, after = with_tools(tmp_path, use)
    assert (kept, after) == ("first", "second")
    assert refused == "Error: the notes have 10,000 characters; expected at most 8,000"


def arguments_of(schema):
    """Arguments that fit a schema."""
    properties = {name: VALUES[part["type"]] for name, part in schema.parameters["properties"].items()}
    required = schema.parameters["required"]
    return st.fixed_dictionaries(
        {name: properties[name] for name in required},
        optional={name: values for name, values in properties.items() if name not in required},
    )


CALLS = st.sampled_from([READ, WRITE, EDIT, SEARCH, PLAN]).flatmap(
    lambda schema: st.tuples(st.just(schema.name), arguments_of(schema))
)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    path = tmp_path_factory.mktemp("workspace")
    (path / "a.py").write_text("x = 1\n")
    os.mkfifo(path / "pipe")
    return path


@given(st.lists(CALLS, min_size=1, max_size=6))
@settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_arguments_that_fit_a_schema_break_a_file_tool(workspace, calls):
    for text in texts_of(workspace, *((name, harmless(arguments)) for name, arguments in calls)):
        assert text and "gave no answer" not in text
        json.dumps(text).encode()
        text.encode()


def harmless(arguments):
    """Without a sandbox, no path of a test may lead out of its directory."""
    path = arguments.get("path", "")
    return {**arguments, "path": "x"} if ".." in path or path.startswith("/") else arguments


@given(arguments_of(BASH).filter(lambda arguments: arguments["command"] not in ("/", "*")))
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_arguments_that_fit_its_schema_break_bash(workspace, arguments):
    text = arguments["command"]
    command = "jobs" if text.strip() in ("jobs", "kill %1") else f": {shlex.quote(text)}"  # nothing of it is run
    (text,) = texts_of(workspace, ("bash", {**arguments, "command": command}))
    assert text
    text.encode()


ANYTHING = st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists, max_leaves=5)


@given(st.dictionaries(st.sampled_from(["command", "path", "pattern", "text"]), ANYTHING | st.text(min_size=300)))
def test_a_call_is_told_to_people_in_one_line_whatever_its_arguments(arguments):
    for tool in BuiltInTools(BareSandbox(Path("/")), None).all:
        summary = tool.summary(arguments)
        assert len(summary) <= 200 and "\n" not in summary
