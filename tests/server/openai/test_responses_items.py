"""Items as lists show them, however the client spelled them."""

from __future__ import annotations

import pytest

from a3b.server.openai.responses_items import listed, new_id


@pytest.mark.parametrize(
    ("item", "shown"),
    [
        (
            {"type": "message", "role": "user", "content": "hi"},
            {"content": [{"type": "input_text", "text": "hi"}]},
        ),
        (
            {"type": "message", "role": "assistant", "content": [{"type": "text", "text": "hi"}, {"type": "refusal"}]},
            {
                "content": [
                    {"annotations": [], "logprobs": [], "type": "output_text", "text": "hi"},
                    {"type": "refusal"},
                ]
            },
        ),
        ({"type": "message", "role": "user", "content": None}, {"content": []}),
        ({"type": "message", "role": "user", "content": "x", "status": "incomplete"}, {"status": "incomplete"}),
        (
            {"type": "function_call_output", "output": {"name": "Zo\u00eb"}},
            {"output": '{"name": "Zo\u00eb"}'},
        ),
        (
            {"type": "custom_tool_call_output", "output": [{"text": "a"}, {"type": "input_image"}]},
            {"output": [{"type": "input_text", "text": "a"}, {"type": "input_image"}]},
        ),
        ({"type": "function_call_output", "output": "a"}, {"output": "a"}),
        ({"type": "function_call", "name": "f"}, {"name": "f"}),
    ],
)
def test_an_item_is_shown_with_a_status_and_its_content_in_parts(item, shown):
    found = listed(item)
    assert found["status"] == item.get("status", "completed")
    assert {key: found[key] for key in shown} == shown


def test_reasoning_has_a_summary_and_no_status():
    assert listed({"type": "reasoning", "id": "rs_1"}) == {"type": "reasoning", "id": "rs_1", "summary": []}


@pytest.mark.parametrize(
    ("kind", "start"), [("message", "msg_"), ("function_call", "fc_"), ("compaction", "cmp_"), ("other", "item_")]
)
def test_ids_begin_with_the_kind_and_differ(kind, start):
    one, other = new_id(kind), new_id(kind)
    assert one.startswith(start) and other.startswith(start) and one != other
