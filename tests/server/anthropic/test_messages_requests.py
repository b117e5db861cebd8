"""What requests of Anthropic's Messages API mean, and which are refused."""

from __future__ import annotations

import pytest

from a3b.server import fields
from tests.support.messages_server import ASK, DONE, TOOL, post, refused, understood


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, {"max_tokens": 100}),
        ({"temperature": 0, "top_p": 0.5, "top_k": 7}, {"max_tokens": 100, "temperature": 0, "top_p": 0.5, "top_k": 7}),
        ({"stop_sequences": ["a", "b"]}, {"max_tokens": 100, "stop": ("a", "b")}),
    ],
)
def test_sampling_is_what_was_given_and_no_more(body, expected):
    assert dict(understood(body).sampling) == expected


@pytest.mark.parametrize(
    ("body", "think", "budget"),
    [
        ({}, None, None),
        ({"thinking": {"type": "disabled"}}, False, None),
        ({"thinking": {"type": "adaptive"}}, True, None),
        ({"thinking": {"type": "enabled", "budget_tokens": 2000}}, True, 2000),
        ({"output_config": {"effort": "low"}}, True, fields.EFFORTS["low"]),
        ({"output_config": {"effort": "low"}, "thinking": {"type": "adaptive"}}, True, fields.EFFORTS["low"]),
        ({"output_config": {"effort": "low"}, "thinking": {"type": "enabled", "budget_tokens": 9}}, True, 9),
    ],
)
def test_thinking_and_its_budget(body, think, budget):
    request = understood(body)
    assert (request.think, request.thinking_budget) == (think, budget)


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (None, ("auto", None, True)),
        ({"type": "auto"}, ("auto", None, True)),
        ({"type": "any", "disable_parallel_tool_use": True}, ("required", None, False)),
        ({"type": "none"}, ("none", None, True)),
        ({"type": "tool", "name": "add"}, ("named", "add", True)),
    ],
)
def test_tools_and_the_choice_among_them(choice, expected):
    request = understood(
        {"tools": [TOOL, {"type": "custom", "name": "noop", "input_schema": {}}], "tool_choice": choice}
    )
    assert (request.tool_choice, request.tool_name, request.parallel_tool_calls) == expected
    schema = TOOL["input_schema"]
    assert request.tools[0] == {
        "type": "function",
        "function": {"name": "add", "description": "adds", "parameters": schema},
    }
    assert request.tools[1]["function"]["name"] == "noop"


@pytest.mark.parametrize(
    "where",
    [lambda form: {"output_format": form}, lambda form: {"output_config": {"format": form}}],
    ids=["old", "new"],
)
def test_a_schema_of_the_answer(where):
    assert understood(where({"type": "json_schema", "schema": {"type": "array"}})).schema == {"type": "array"}
    assert refused(where({"type": "text"}))[0] == 400


@pytest.mark.parametrize(
    ("system", "expected"),
    [
        ("Be kind.\n", "Be kind.\n"),
        ("x-anthropic-billing-header: cch=1;\nBe kind.", "Be kind."),
        ([{"type": "text", "text": text} for text in ("x-anthropic-billing-header: a", "A", "B")], "A\n\nB"),
        ([{"type": "text", "text": "A", "cache_control": {"type": "ephemeral"}}], "A"),
    ],
)
def test_the_system_prompt_loses_only_its_billing_lines(system, expected):
    assert understood({"system": system}).messages[0] == {"role": "system", "content": expected}


@pytest.mark.parametrize("system", [None, "", [], "x-anthropic-billing-header: cch=1;"])
def test_an_empty_system_prompt_is_none(system):
    assert [message["role"] for message in understood({"system": system}).messages] == ["user"]


def test_results_come_before_the_text_of_their_turn_and_errors_say_so():
    results = [
        {"type": "text", "text": "by the way"},
        {
            "type": "tool_result",
            "tool_use_id": "1",
            "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
        },
        {"type": "tool_result", "tool_use_id": "2", "content": "no such file", "is_error": True},
        {"type": "tool_result", "tool_use_id": "3", "is_error": True},
        {"type": "tool_result", "tool_use_id": "4", "content": "Error 7", "is_error": True},
        {"type": "tool_result", "tool_use_id": "5"},
        {"type": "text", "text": "go on"},
    ]
    call = {"type": "tool_use", "id": "1", "name": "f", "input": {}}
    turns = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": [call]},
        {"role": "user", "content": results},
    ]
    found = understood({"messages": turns}).messages[2:]
    assert [(m["role"], m.get("tool_call_id"), m["content"]) for m in found[:5]] == [
        ("tool", "1", "a\nb"),
        ("tool", "2", "Error: no such file"),
        ("tool", "3", "Error:"),
        ("tool", "4", "Error 7"),
        ("tool", "5", ""),
    ]
    assert found[5:] == [
        {"role": "user", "content": [{"type": "text", "text": "by the way"}, {"type": "text", "text": "go on"}]}
    ]


def test_neighbouring_assistant_messages_are_one_turn():
    turns = [
        {"role": "user", "content": "a"},
        {"role": "user", "content": "b"},
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "t"}]},
        {"role": "assistant", "content": "c"},
        {"role": "user", "content": "d"},
    ]
    assert understood({"messages": turns}).messages == [
        {"role": "user", "content": "a"},
        {"role": "user", "content": "b"},
        {"role": "assistant", "content": "c", "reasoning_content": "t"},
        {"role": "user", "content": "d"},
    ]


IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA=="}}
REFUSED = [
    ({"max_tokens": None}, "max_tokens: missing"),
    ({"max_tokens": -1}, "max_tokens: -1"),
    ({"max_tokens": 1.5}, "max_tokens: 1.5"),
    ({"messages": []}, "messages: empty"),
    (
        {"messages": [*ASK["messages"], {"role": "assistant", "content": "The answer is ("}]},
        "end with a message of the user",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}, IMAGE]}]},
        "messages[0].content[1]: content of type image",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "document"}]}]},
        "messages[0].content[0]: content of type document",
    ),
    (
        {
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "tool_result", "tool_use_id": "1", "content": [{"type": "hologram"}]}],
                }
            ]
        },
        "messages[0].content[0].content[0]: content of type hologram",
    ),
    ({"messages": [{"role": "tool", "content": "x"}]}, 'messages[0].role: "tool"'),
    ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0]: web_search_20250305"),
    ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools[0]: bash_20250124"),
    ({"tools": [TOOL, TOOL]}, "tools[1].name"),
    ({"tool_choice": {"type": "any"}}, "tool_choice: any needs tools"),
    ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "sub"}}, "tool_choice.name"),
    ({"thinking": {"type": "sometimes"}}, "thinking.type"),
    ({"thinking": {}}, "thinking.type"),
    ({"mcp_servers": [{"type": "url"}]}, "mcp_servers: not supported"),
    ({"container": "c1"}, "container: not supported"),
    ({"stop_sequences": [""]}, "stop_sequences"),
    ({"stop_sequences": ["a"] * 17}, "stop_sequences: 17 texts; expected at most 16"),
    ({"stop_sequences": ["a" * 1001]}, "stop_sequences: a text of 1,001 characters; expected at most 1,000"),
    ({"temperature": "hot"}, 'temperature: "hot"'),
    ({"temperature": 10**400}, "temperature: 1000"),
]


@pytest.mark.parametrize(("body", "named"), REFUSED, ids=[named for _, named in REFUSED])
def test_what_would_change_the_answer_is_refused_by_name(body, named):
    status, message = refused(body)
    assert status == 400 and named in message


def test_an_image_in_a_tool_result_is_left_out_and_said_so():
    """Refused, it would end the conversation of an agent: the image stays in all that follows."""
    result = {"type": "tool_result", "tool_use_id": "1", "content": [{"type": "text", "text": "a.png"}, IMAGE]}
    status, headers, _, service = post(
        DONE, {**ASK, "messages": [*ASK["messages"], {"role": "user", "content": [result]}]}
    )
    assert status == 200 and "messages[1].content[0].content[1]: image left out" in headers["x-a3b-warnings"]
    assert service.requests[0].messages[1]["content"] == "a.png\n[image left out: this model reads text only]"


def test_fields_that_do_no_harm_are_ignored():
    harmless = {
        "metadata": {"user_id": "u"},
        "service_tier": "auto",
        "betas": ["x"],
        "context_management": {"edits": []},
        "mcp_servers": [],
        "container": None,
        "cache_control": {"type": "ephemeral"},
        "future": 1,
    }
    assert understood(harmless) == understood({})
