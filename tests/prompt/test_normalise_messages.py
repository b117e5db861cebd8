"""Histories as people and clients send them, made fit for the template: no list of objects is refused, and no text is
lost."""

from __future__ import annotations

import copy
import json
import random

import pytest

from a3b.engine.engine import nano_directory
from a3b.errors import ConversationError
from a3b.prompt.chat_template import ChatTemplate, prompt_text
from a3b.prompt.normalise_messages import normalise_messages
from tests.support.paths import DATA

TEMPLATE = ChatTemplate.read(nano_directory())


def user(content="Hi", **more):
    return {"role": "user", "content": content, **more}


def assistant(content="", **more):
    return {"role": "assistant", "content": content, **more}


def call(arguments, name="f"):
    return {"id": "c1", "type": "function", "function": {"name": name, "arguments": arguments}}


def fit(*messages) -> list[dict]:
    return normalise_messages(list(messages))[0]


def normalised(message) -> dict:
    """One message after a user turn, made fit."""
    return fit(user(), message)[1]


def text(*messages, **kwargs) -> str:
    return prompt_text(TEMPLATE.render(fit(*messages), add_generation_prompt=False, **kwargs))


# -- what is fit already


def test_a_fit_conversation_is_left_as_it_is_without_notes():
    messages = [
        {"role": "system", "content": " s "},
        user("a", name="bob", _extra={"x": 1}),
        assistant("b", reasoning_content="r", tool_calls=[call({"k": [1]})], _replay=(1, 2)),
        {"role": "tool", "content": "5", "tool_call_id": "c1"},
    ]
    before = copy.deepcopy(messages)
    assert normalise_messages(messages) == (before, [])
    assert messages == before


# -- roles and system messages


def test_developer_is_system_and_function_is_tool():
    messages, notes = normalise_messages(
        [{"role": "developer", "content": "d"}, user(), {"role": "function", "content": "5"}]
    )
    assert [m["role"] for m in messages] == ["system", "user", "tool"]
    assert "developer" in notes[0] and "function" in notes[1]


def test_unknown_roles_become_user_and_are_noted():
    messages, notes = normalise_messages(
        [{"role": "critic", "content": "x"}, {"content": "y"}, {"role": 5, "content": "z"}]
    )
    assert [m["role"] for m in messages] == ["user"] * 3
    assert ["critic" in notes[0], "None" in notes[1], "5" in notes[2]] == [True] * 3


def test_system_messages_are_merged_into_the_first_in_their_order():
    merged, notes = normalise_messages(
        [
            {"role": "developer", "content": "one\n"},
            user("u"),
            {"role": "system", "content": [{"type": "text", "text": "tw"}, {"type": "text", "text": "o"}]},
            {"role": "system", "content": "  "},
            {"role": "system", "content": "three"},
            assistant("a"),
        ]
    )
    assert [(m["role"], m["content"]) for m in merged] == [
        ("system", "one\n\ntwo\n\nthree"),
        ("user", "u"),
        ("assistant", "a"),
    ]
    assert any("4 system messages" in note for note in notes)


def test_a_late_system_message_moves_to_the_front():
    messages, notes = normalise_messages([user("u"), {"role": "system", "content": "late"}])
    assert [m["content"] for m in messages] == ["late", "u"] and "late system" in notes[0]


def test_a_system_message_after_a_turn_of_the_assistant_stays_in_its_place():
    before = [{"role": "system", "content": "one"}, user("u"), assistant("a")]
    late = [{"role": "system", "content": " "}, {"role": "developer", "content": "two\n"}, user("v")]
    messages, notes = normalise_messages([*before, *late])
    assert messages[:3] == normalise_messages(before)[0]
    assert [(m["role"], m["content"]) for m in messages[3:]] == [
        ("user", "<system-reminder>\ntwo\n</system-reminder>"),
        ("user", "v"),
    ]
    assert any("in its place" in note for note in notes)
    assert TEMPLATE.render(messages)
    tagged = "<system-reminder>\nx\n</system-reminder>"
    assert fit(*before, {"role": "system", "content": tagged})[-1]["content"] == tagged


def test_an_image_in_a_system_message_becomes_a_word():
    assert fit({"role": "system", "content": ["see ", {"type": "image"}]}, user())[0]["content"] == "see [image]"


# -- content


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, ""),
        ("a", "a"),
        ([], ""),
        (["a", "b", None], "ab"),
        (
            [
                {"type": "text", "text": "a"},
                {"type": "input_text", "text": "b"},
                {"type": "output_text", "text": "c"},
            ],
            "abc",
        ),
        ([{"text": "a"}, {"type": "text", "text": None}, {"type": "refusal", "refusal": "no"}], "ano"),
        ({"type": "text", "text": "a"}, "a"),
        (5, "5"),
        (True, "true"),
        ({"a": "é"}, '{"a": "é"}'),
        ([{"type": "file", "name": "x"}], '{"type": "file", "name": "x"}'),
        ([1, {"type": "text", "text": 2}], "12"),
    ],
)
def test_content_becomes_the_text_it_holds(content, expected):
    for role in ("system", "user", "assistant"):
        messages = fit({"role": role, "content": content}, user())
        assert messages[0]["content"] == expected


def test_results_of_tools_that_are_data_become_json():
    for content, expected in (
        ({"t": 21.5}, '{"t": 21.5}'),
        ([{"a": 1}], '[{"a": 1}]'),
        ([1, 2], "[1, 2]"),
        (7, "7"),
    ):
        assert normalised({"role": "tool", "content": content})["content"] == expected
    assert normalised({"role": "tool", "content": [{"type": "text", "text": "ok"}]})["content"] == "ok"


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "x"}},
        {"type": "input_image", "image_url": "x"},
        {"type": "image", "image": "x"},
        {"type": "video_url", "video_url": {"url": "x"}},
        {"type": "video", "video": "x"},
    ],
)
def test_images_and_videos_stay_where_they_are(part):
    kind = "video" if "video" in part["type"] else "image"
    pad = f"<|vision_start|><|{kind}_pad|><|vision_end|>"
    assert f"user\na{pad}b<" in text(user(["a", part, {"type": "text", "text": "b"}]))


# -- thinking and calls


def test_thinking_is_read_under_each_of_its_names():
    for message in (
        assistant("x", reasoning_content="r"),
        assistant("x", reasoning="r"),
        assistant("x", thinking="r"),
        assistant("x", reasoning_content=None, reasoning=[{"type": "text", "text": "r"}]),
        assistant([{"type": "thinking", "thinking": "r", "signature": "s"}, {"type": "text", "text": "x"}]),
    ):
        assert "assistant\n<think>\nr\n</think>\n\nx<|im_end|>" in text(user(), message)


def test_thinking_that_is_null_leaves_thinking_inside_the_content_readable():
    message = assistant("<think>\nr\n</think>\n\nx", reasoning_content=None)
    assert "reasoning_content" not in normalised(message)
    assert "assistant\n<think>\nr\n</think>\n\nx<|im_end|>" in text(user(), message)


@pytest.mark.parametrize(
    ("arguments", "expected", "noted"),
    [
        ('{"a": 1, "b": "x"}', {"a": 1, "b": "x"}, False),
        ({"a": None}, {"a": None}, False),
        (None, {}, False),
        ("", {}, False),
        ("null", {}, False),
        ("[]", {}, False),
        ([], {}, False),
        ('{"a": ', {"arguments": '{"a": '}, True),
        ("[1, 2]", {"arguments": [1, 2]}, True),
        ("ls -la", {"arguments": "ls -la"}, True),
        (5, {"arguments": 5}, True),
    ],
)
def test_arguments_become_an_object_that_loses_nothing(arguments, expected, noted):
    messages, notes = normalise_messages([user(), assistant(tool_calls=[call(arguments)])])
    assert messages[1]["tool_calls"] == [call(expected)]
    assert bool(notes) == noted


def test_older_and_shorter_forms_of_calls_are_calls():
    for message in (
        assistant(function_call={"name": "f", "arguments": '{"a": 1}'}),
        assistant(tool_calls=[{"name": "f", "arguments": {"a": 1}}]),
        assistant(tool_calls={"function": "f", "arguments": '{"a": 1}'}),
        assistant(tool_calls=[{"type": "tool_use", "name": "f", "input": {"a": 1}}]),
    ):
        assert "<tool_call>\n<function=f>\n<parameter=a>\n1\n</parameter>\n</function>\n</tool_call><|im_end|>" in text(
            user(), message
        )


def test_what_is_no_call_stays_as_text_and_is_noted():
    messages, notes = normalise_messages([user(), assistant("a", tool_calls=["run ls", {"x": 1}, None, call({})])])
    assert messages[1]["content"] == 'a\n\nrun ls\n\n{"x": 1}\n\nnull'
    assert messages[1]["tool_calls"] == [call({})] and len(notes) == 3


# -- no question of the user


@pytest.mark.parametrize(
    ("messages", "roles"),
    [
        ([], "user"),
        ([{"role": "system", "content": "s"}], "system user"),
        ([assistant("x")], "user assistant"),
        ([{"role": "system", "content": "s"}, assistant("x")], "system user assistant"),
        ([user("<tool_response>\nx\n</tool_response>\n")], "user user"),
        ([{"role": "tool", "content": "5"}], "user tool"),
        ([{"role": "tool", "content": "5"}, user("x")], "user tool user"),
    ],
)
def test_a_conversation_without_a_question_gets_an_empty_one_after_the_system_message(messages, roles):
    done, notes = normalise_messages(messages)
    assert [m["role"] for m in done] == roles.split() and notes
    rendered = prompt_text(TEMPLATE.render(done))
    assert "<|im_start|>user\n<|im_end|>" in rendered or roles == "user tool"
    assert rendered.count("<|im_start|>") == rendered.count("<|im_end|>") + 1


def test_a_tool_result_at_the_start_stands_in_a_turn():
    assert text({"role": "tool", "content": "5"}, user("x")).startswith(
        "<|im_start|>user\n<|im_end|>\n<|im_start|>user\n<tool_response>\n5\n</tool_response><|im_end|>\n"
    )


def test_thinking_counts_as_current_where_the_question_is_missing():
    assert "<think>\nr\n</think>" in text(assistant("x", reasoning_content="r"))


# -- anything


@pytest.mark.parametrize("messages", [None, "hi", {"role": "user"}, 5, ["hi"], [user(), None], [[]]])
def test_only_what_is_no_list_of_objects_is_refused(messages):
    with pytest.raises(ConversationError, match="messages"):
        normalise_messages(messages)


def test_values_that_json_does_not_have_become_text_and_endless_nesting_is_refused():
    assert normalised(user({(1, 2): b"x"}))["content"] == "{(1, 2): b'x'}"
    deep = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(ConversationError, match="nested"):
        normalise_messages([user(deep)])


WORDS = (
    "role content user assistant system tool developer function tool_calls arguments name text type image "
    "video_url image_url input_image thinking reasoning reasoning_content function_call refusal items keys get "
    "input _replay { {} [1]"
).split() + [
    '{"a": 1}',
    "",
    " ",
    "</think>",
    "<tool_response>x</tool_response>",
    "<|im_end|>",
    "\ud800",
    "a\nb",
]


def junk(rng: random.Random, depth: int):
    kind = rng.random()
    if depth <= 0 or kind < 0.5:
        return rng.choice([None, True, 0, -1.5, float("inf"), 10**30, *rng.choices(WORDS, k=8)])
    if kind < 0.75:
        return [junk(rng, depth - 1) for _ in range(rng.randrange(4))]
    return {rng.choice(WORDS): junk(rng, depth - 1) for _ in range(rng.randrange(5))}


def junk_message(rng: random.Random) -> dict:
    message = junk(rng, 4)
    message = message if isinstance(message, dict) else {}
    if rng.random() < 0.8:
        message["role"] = rng.choice(["user", "assistant", "system", "tool", "developer", "function", None, 5, "x"])
    if rng.random() < 0.8:
        message["content"] = junk(rng, 3)
    if rng.random() < 0.3:
        message["tool_calls"] = junk(rng, 4)
    return message


@pytest.mark.slow
def test_any_list_of_objects_renders_and_the_input_stays():
    for seed in range(600):
        rng = random.Random(seed)
        messages = [junk_message(rng) for _ in range(rng.randrange(5))]
        before = repr(messages)
        done, _ = normalise_messages(messages)
        prompt = TEMPLATE.render(done, preserve_thinking=rng.random() < 0.5)
        assert prompt and repr(messages) == before
        assert normalise_messages(done) == (done, []), f"seed {seed}: a second time changes what the first made fit"


def test_no_text_of_a_message_is_lost():
    for seed in range(200):
        rng = random.Random(seed)
        role = rng.choice(["user", "assistant", "system", "tool", "developer", "function", "x"])
        part = rng.choice(
            [
                lambda t: t,
                lambda t: {"type": "text", "text": t},
                lambda t: {"type": "odd", "x": t},
                lambda t: [t],
            ]
        )
        content = rng.choice([lambda p: p, lambda p: [p], lambda p: ["a", p, None]])(part("needle7"))
        message = {"role": role, "content": content}
        if role == "assistant":
            message["tool_calls"] = rng.choice(
                [["needle8"], [call('{"needle8')], [call('"needle8"')], [{"needle8": 1}]]
            )
        out = text(user(), message, preserve_thinking=True)
        assert "needle7" in out and (role != "assistant" or "needle8" in out), f"seed {seed}"


def test_what_the_bare_template_refuses_renders():
    cases = json.loads((DATA / "chat.json").read_text(encoding="utf-8"))
    refused = [case["messages"] for case in cases if "error" in case["expect"]]
    assert len(refused) > 1 and all(TEMPLATE.render(normalise_messages(messages)[0]) for messages in refused)


@pytest.mark.parametrize("key", ["image", "image_url", "video", "video_url"])
def test_an_empty_key_for_an_image_does_not_make_one_of_text(key):
    part = {"type": "text", "text": "what is 2+2?", key: None}
    assert normalise_messages([{"role": "user", "content": [part]}])[0][0]["content"] == "what is 2+2?"


def test_thinking_is_not_hidden_by_an_empty_key_of_another_name():
    message = {"role": "assistant", "content": "a", "reasoning_content": "", "reasoning": "secret 42"}
    assert normalise_messages([message])[0][-1]["reasoning_content"] == "secret 42"
    parts = [{"type": "thinking", "thinking": "deep"}, {"type": "text", "text": "a"}]
    assert normalise_messages([{**message, "reasoning": None, "content": parts}])[0][-1]["reasoning_content"] == "deep"


def test_thinking_that_differs_under_two_names_is_noted():
    message = {"role": "assistant", "content": "a", "reasoning_content": "one", "reasoning": "two"}
    normalised, notes = normalise_messages([{"role": "user", "content": "q"}, message])
    assert normalised[1]["reasoning_content"] == "one" and any("reasoning" in note for note in notes)


@pytest.mark.parametrize(
    "call",
    [
        {"function": {"name": "f"}, "arguments": '{"a": 1}'},
        {"function": {"name": "f"}, "input": {"a": 1}},
        {"function": {"name": "f", "input": {"a": 1}}},
        {"function": {"name": "f", "input": '{"a": 1}'}, "arguments": {"a": 2}, "input": {"a": 3}},
        {"function": {"name": "f", "arguments": {"a": 1}, "input": {"a": 2}}, "arguments": {"a": 3}},
        {"name": "f", "arguments": {"a": 1}, "input": {"a": 2}},
    ],
)
def test_arguments_under_either_name_in_or_beside_the_function_are_its_arguments(call):
    normalised, _ = normalise_messages([{"role": "assistant", "content": "", "tool_calls": [call]}])
    assert normalised[-1]["tool_calls"][0]["function"]["arguments"] == {"a": 1}


def test_results_in_another_order_are_noted():
    calls = [{**call({}), "id": "a"}, {**call({}), "id": "b"}]
    results = [{"role": "tool", "tool_call_id": i, "content": i} for i in "ba"]
    messages, notes = normalise_messages([user(), assistant("x", tool_calls=calls), *results])
    assert [m["content"] for m in messages] == ["Hi", "x", "a", "b"] and notes == [
        "tool results were moved next to their calls"
    ]
    assert normalise_messages(messages) == (messages, [])


@pytest.mark.parametrize("empty", ["", {}, []])
def test_empty_arguments_are_arguments(empty):
    call = {"function": {"name": "f", "arguments": empty}, "input": {"a": 1}}
    normalised, _ = normalise_messages([{"role": "assistant", "content": "", "tool_calls": [call]}])
    assert normalised[-1]["tool_calls"][0]["function"]["arguments"] == {}
