"""Results of tools and the calls they answer, through every API: the order of the calls, and what is odd about
results."""

from __future__ import annotations

import asyncio
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from a3b.engine.engine import nano_directory
from a3b.interface.events import Finished, TextDelta
from a3b.prompt.chat_template import ChatTemplate, prompt_text
from a3b.prompt.normalise_messages import normalise_messages
from a3b.prompt.tool_results import MAX_WARNINGS, NO_RESULT, pair_results
from a3b.server.app import create_app
from tests.support.scripted_service import STARTED, USAGE, ScriptedService
from tests.support.serving import ask

TEMPLATE = ChatTemplate.read(nano_directory())
ANSWER = [STARTED, TextDelta("ok"), Finished("stop", USAGE)]
APIS = ("chat", "messages", "responses")
PATHS = dict(zip(APIS, ("/v1/chat/completions", "/v1/messages", "/v1/responses"), strict=True))

# A history here is a list of steps: ("user", text), ("calls", ids), ("result", id, text), ("text", text) of the
# assistant.


def body_of(api: str, steps: list[tuple], is_split: bool = False) -> dict:
    """The history as a client of this API sends it. is_split: each result in a message of its own, where one could hold
    several."""
    if api == "chat":
        return {"messages": [_chat(step) for step in steps]}
    if api == "responses":
        return {"input": [item for step in steps for item in _items(step)]}
    messages: list[dict] = []
    for step in steps:
        role, blocks = _blocks(step)
        if messages and messages[-1]["role"] == role and not (is_split and role == "user"):
            messages[-1]["content"] += blocks
        else:
            messages.append({"role": role, "content": blocks})
    return {"max_tokens": 9, "messages": messages}


def _chat(step: tuple) -> dict:
    match step:
        case ("user", text):
            return {"role": "user", "content": text}
        case ("text", text):
            return {"role": "assistant", "content": text}
        case ("calls", ids):
            calls = [{"id": i, "type": "function", "function": {"name": f"f_{i}", "arguments": "{}"}} for i in ids]
            return {"role": "assistant", "content": None, "tool_calls": calls}
        case ("result", call_id, text):
            return {"role": "tool", "tool_call_id": call_id, "content": text}
    raise AssertionError(step)


def _blocks(step: tuple) -> tuple[str, list[dict]]:
    match step:
        case ("user", text):
            return "user", [{"type": "text", "text": text}]
        case ("text", text):
            return "assistant", [{"type": "text", "text": text}]
        case ("calls", ids):
            return "assistant", [{"type": "tool_use", "id": i, "name": f"f_{i}", "input": {}} for i in ids]
        case ("result", call_id, text):
            return "user", [{"type": "tool_result", "tool_use_id": call_id, "content": text}]
    raise AssertionError(step)


def _items(step: tuple) -> list[dict]:
    match step:
        case ("user", text):
            return [{"role": "user", "content": text}]
        case ("text", text):
            return [{"role": "assistant", "content": text}]
        case ("calls", ids):
            return [{"type": "function_call", "call_id": i, "name": f"f_{i}", "arguments": "{}"} for i in ids]
        case ("result", call_id, text):
            return [{"type": "function_call_output", "call_id": call_id, "output": text}]
    raise AssertionError(step)


def told(path: str, body: dict) -> tuple[str, list[str]]:
    """(the prompt, warnings). The header has them, too."""
    service = ScriptedService(ANSWER)
    reply = asyncio.run(ask(create_app(service), path, body))
    assert reply.status == 200, reply.body
    warnings = reply.json()["a3b"]["warnings"]
    assert ("x-a3b-warnings" in reply.headers) == bool(warnings)
    return prompt_text(TEMPLATE.render(normalise_messages(service.requests[0].messages)[0])), warnings


def marks(prompt: str) -> list[str]:
    """What the history holds of RES-..., CALL and SAY-..., in the order of the prompt."""
    return [
        found.replace("<function=f_", "CALL-").rstrip(">")
        for found in re.findall(r"RES-\w+|SAY-\w+|<function=f_\w+>", prompt)
    ]


def seen(api: str, steps: list[tuple], **how) -> list[str]:
    return marks(told(PATHS[api], body_of(api, steps, **how))[0])


ASKED = ("user", "SAY-q")


@pytest.mark.parametrize("api", APIS)
@settings(max_examples=12, deadline=None)
@given(order=st.permutations("abcd"), texts=st.lists(st.integers(0, 4), max_size=2), is_split=st.booleans())
def test_results_stand_in_the_order_of_their_calls_whatever_the_order_in_which_they_come(api, order, texts, is_split):
    steps = [("result", i, f"RES-{i}") for i in order]
    for at in texts:  # between them, before and after them
        steps.insert(at, ("user", "SAY-more."))
    found = seen(api, [ASKED, ("calls", "abcd"), *steps], is_split=is_split)
    calls, results = [f"CALL-{i}" for i in "abcd"], [f"RES-{i}" for i in "abcd"]
    assert found == ["SAY-q", *calls, *results, *["SAY-more"] * len(texts)]


@pytest.mark.parametrize("api", APIS)
def test_what_an_earlier_answer_has_read_stays_in_its_place_when_a_result_comes_late(api):
    first = [ASKED, ("calls", "ab"), ("result", "a", "RES-a"), ("user", "SAY-go")]
    late = [*first, ("text", "SAY-well"), ("result", "b", "RES-b"), ("user", "SAY-on")]
    before, after = (told(PATHS[api], body_of(api, steps))[0] for steps in (first, late))
    assert after.startswith(before.removesuffix("<|im_start|>assistant\n<think>\n"))
    assert marks(after) == ["SAY-q", "CALL-a", "CALL-b", "RES-a", "SAY-go", "SAY-well", "RES-b", "SAY-on"]


@pytest.mark.parametrize("api", APIS)
def test_a_result_that_follows_in_a_later_request_is_appended(api):
    first = [ASKED, ("calls", "ab"), ("result", "a", "RES-a")]
    before, after = (told(PATHS[api], body_of(api, steps))[0] for steps in (first, [*first, ("result", "b", "RES-b")]))
    assert after.startswith(before[: before.index("RES-a") + len("RES-a\n</tool_response>")])


@pytest.mark.parametrize("api", APIS)
def test_ids_that_are_used_again_mean_the_calls_of_the_turn_before(api):
    steps = [
        ASKED,
        ("calls", ["call_0", "call_1"]),
        ("result", "call_1", "RES-2"),
        ("result", "call_0", "RES-1"),
        ("text", "SAY-x"),
        ("user", "SAY-y"),
        ("calls", ["call_0", "call_1"]),
        ("result", "call_1", "RES-4"),
        ("result", "call_0", "RES-3"),
    ]
    assert [mark for mark in seen(api, steps) if mark.startswith("RES")] == ["RES-1", "RES-2", "RES-3", "RES-4"]


@pytest.mark.parametrize("api", APIS)
def test_a_call_that_stays_open_takes_no_result_of_a_later_turn(api):
    steps = [
        ASKED,
        ("calls", ["call_0"]),
        ("user", "SAY-stop"),
        ("text", "SAY-x"),
        ("calls", ["call_0"]),
        ("result", "call_0", "RES-1"),
    ]
    assert seen(api, steps) == ["SAY-q", "CALL-call_0", "SAY-stop", "SAY-x", "CALL-call_0", "RES-1"]


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize(
    ("results", "expected", "warned"),
    [
        ("b", [NO_RESULT, "RES-0"], 'call "a" of "f_a": no result was sent; the model is told'),
        ("a", ["RES-0"], 'call "b" of "f_b": no result was sent'),
        ("", [], 'call "a" of "f_a": no result was sent'),
        (
            "xba",
            ["RES-2", "RES-1", "RES-0"],
            'result of call "x": the turn of the assistant before it has no such call; kept after the others',
        ),
        (
            "aba",
            ["RES-0", "RES-1", "RES-2"],
            'result of call "a": differs from an earlier result of that call; kept after the others',
        ),
    ],
)
def test_results_that_are_missing_unasked_or_second_have_one_rule_in_every_api(api, results, expected, warned):
    steps = [
        ASKED,
        ("calls", "ab"),
        *(("result", i, f"RES-{num}") for num, i in enumerate(results)),
        ("user", "SAY-go"),
    ]
    prompt, warnings = told(PATHS[api], body_of(api, steps))
    assert re.findall(r"<tool_response>\n(.*)\n</tool_response>", prompt) == expected
    assert warned in warnings and marks(prompt)[-1] == "SAY-go"


@pytest.mark.parametrize("api", APIS)
def test_a_result_that_comes_twice_in_the_same_words_is_read_once(api):
    steps = [ASKED, ("calls", "ab"), ("result", "a", "RES-a"), ("result", "b", "RES-b"), ("result", "a", "RES-a")]
    prompt, warnings = told(PATHS[api], body_of(api, steps))
    assert marks(prompt)[-2:] == ["RES-a", "RES-b"] and warnings == [
        'result of call "a": sent twice; the second is left out'
    ]


@pytest.mark.parametrize("api", APIS)
def test_a_history_in_order_gives_no_warning(api):
    steps = [
        ASKED,
        ("calls", "ab"),
        ("result", "a", "RES-a"),
        ("result", "b", "RES-b"),
        ("text", "SAY-x"),
        ("user", "SAY-y"),
    ]
    assert told(PATHS[api], body_of(api, steps))[1] == []
    assert told(PATHS[api], body_of(api, [*steps, ("calls", "c"), ("result", "c", "RES-c")]))[1] == []


# -- forms that only a chat has


def paired(calls: list[dict], *results: dict) -> list:
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "", "tool_calls": calls}, *results]
    return [message["content"] for message in pair_results(messages)[0][2:]]


def call(name: str, call_id: object = None) -> dict:
    return {"type": "function", "function": {"name": name, "arguments": "{}"}} | (
        {} if call_id is None else {"id": call_id}
    )


@pytest.mark.parametrize(
    ("calls", "results", "expected"),
    [
        ([call("f"), call("g")], [{"name": "g", "content": "G"}, {"name": "f", "content": "F"}], ["F", "G"]),
        ([call("f"), call("f")], [{"name": "f", "content": "1"}, {"name": "f", "content": "2"}], ["1", "2"]),
        ([call("f", "a"), call("g", "b")], [{"content": "1"}, {"content": "2"}], ["1", "2"]),
        ([call("f", "a"), call("g", "b")], [{"content": "1"}, {"tool_call_id": "a", "content": "A"}], ["A", "1"]),
        (
            [call("f", "a"), call("g")],
            [{"tool_call_id": "x", "content": "X"}, {"tool_call_id": "a", "content": "A"}],
            ["A", "X"],
        ),
        (
            [call("f", 1), call("g", 2)],
            [{"tool_call_id": 2, "content": "2"}, {"tool_call_id": 1, "content": "1"}],
            ["1", "2"],
        ),
        (
            [call("f", "a"), call("f", "a")],
            [{"tool_call_id": "a", "content": "1"}, {"tool_call_id": "a", "content": "2"}],
            ["1", "2"],
        ),
    ],
)
def test_results_without_ids_go_by_name_and_then_by_order(calls, results, expected):
    assert paired(calls, *({"role": "tool", **result} for result in results)) == expected


def test_the_older_form_of_calls_pairs_by_name():
    asked = {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}}
    result = {"role": "Function", "name": "f", "content": "F"}
    messages = [{"role": "user", "content": "q"}, asked, {"role": "user", "content": "and?"}, result]
    assert [message["content"] for message in pair_results(messages)[0]] == ["q", None, "F", "and?"]


def test_calls_in_two_messages_in_a_row_are_those_of_one_turn():
    results = [{"role": "tool", "tool_call_id": i, "content": i} for i in "ba"]
    messages = [{"role": "assistant", "tool_calls": [call("f", i)]} for i in "ab"] + results
    assert [message.get("content") for message in pair_results(messages)[0]] == [None, None, "a", "b"]


def test_thousands_of_results_without_calls_make_few_warnings():
    messages, warnings = pair_results([{"role": "tool", "tool_call_id": str(i), "content": ""} for i in range(5000)])
    assert len(messages) == 5000 and len(warnings) == MAX_WARNINGS + 1 and "4984 more" in warnings[-1]


JUNK = st.sampled_from(
    [
        None,
        True,
        0,
        1,
        "a",
        "b",
        "tool",
        "",
        [],
        ["a"],
        {},
        {"id": "a"},
        {"name": "f"},
        {"function": {"name": "g"}, "id": 1},
        [{"name": "f", "id": "a"}, "b", None],
        {"function": "f"},
        {"name": []},
        [[{}]],
    ]
)
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "tool", "function", 5])},
    optional={
        "tool_calls": JUNK
        | st.lists(st.builds(call, st.sampled_from("fg"), st.sampled_from(["a", "b", None])), max_size=3),
        "tool_call_id": JUNK,
        "name": JUNK,
        "function_call": JUNK,
        "content": st.sampled_from("xyz"),
    },
)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(st.lists(MESSAGE, max_size=9))
def test_pairing_loses_nothing_but_repeated_results_and_a_second_time_changes_nothing(messages):
    done, _ = pair_results(messages)
    ours = [message for message in done if "_no_result" not in message]
    gone = [message for message in messages if id(message) not in set(map(id, ours))]
    assert len(ours) + len(gone) == len(messages)
    assert all(message["role"] in ("tool", "function") for message in gone)
    assert [m for m in done if m["role"] == "assistant"] == [m for m in messages if m["role"] == "assistant"]
    assert pair_results(done)[0] == done


# -- what no model of text can read

IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
NOTE = "[image left out: this model reads text only]"
CHAT_MEDIA = [
    ([{"type": "text", "text": "a.png"}, IMAGE], f"a.png\n{NOTE}"),
    ([IMAGE], NOTE),
    (IMAGE, NOTE),
    ([{"type": "image", "data": "iVBOR", "mimeType": "image/png"}, {"type": "text", "text": "seen"}], f"{NOTE}\nseen"),
    ([{"type": "input_audio", "input_audio": {"data": "UklGR"}}], NOTE.replace("image", "audio")),
    ([{"type": "video_url", "video_url": {"url": "v"}}], NOTE.replace("image", "video")),
    ([{"type": "file", "file": {"file_data": "JVBER"}}], NOTE.replace("image", "file")),
    ([{"type": "resource", "resource": {"uri": "f", "blob": "JVBER"}}], NOTE.replace("image", "file")),
    ([{"type": "document", "source": {"type": "base64", "data": "JVBER"}}], NOTE.replace("image", "document")),
    ([{"type": "media", "data": "iVBOR", "mediaType": "image/png"}], NOTE),
    ({"image": "data:image/png;base64,iVBOR"}, NOTE),
    ({"image_url": {"url": "data:image/png;base64,iVBOR"}}, NOTE),
    ({"image_url": "data:image/png;base64,iVBOR", "detail": "low"}, NOTE),
]


def chat_result(content: object, role: str = "tool") -> dict:
    return {
        "messages": [
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": "", "tool_calls": [call("f", "c")]},
            {"role": role, "tool_call_id": "c", "content": content},
        ]
    }


@pytest.mark.parametrize(("content", "expected"), CHAT_MEDIA, ids=[str(i) for i in range(len(CHAT_MEDIA))])
def test_an_image_or_a_file_in_a_result_of_a_chat_is_left_out_and_said_so(content, expected):
    prompt, warnings = told(PATHS["chat"], chat_result(content))
    assert f"<tool_response>\n{expected}\n</tool_response>" in prompt
    assert (
        len(warnings) == 1
        and warnings[0].startswith("messages[2].content")
        and "left out: this model reads text only" in warnings[0]
    )


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (
            [{"type": "file", "name": "x"}, {"type": "file", "name": "y"}],
            '{"type": "file", "name": "x"}{"type": "file", "name": "y"}',
        ),
        ({"image": "cat.png", "count": 2}, '{"image": "cat.png", "count": 2}'),
        ({"file": "a.py", "line": 3}, '{"file": "a.py", "line": 3}'),
        ({"title": "A cat", "image_url": "https://a/cat.png"}, '{"title": "A cat", "image_url": "https://a/cat.png"}'),
    ],
)
def test_data_about_images_and_files_is_no_image_and_no_file(content, expected):
    prompt, warnings = told(PATHS["chat"], chat_result(content))
    assert f"<tool_response>\n{expected}\n</tool_response>" in prompt and not warnings


RESPONSES_MEDIA = [
    ("input_image", "image_url", "image"),
    ("input_file", "file_data", "file"),
    ("input_audio", "data", "audio"),
    ("input_video", "video_url", "video"),
]


@pytest.mark.parametrize(("kind", "key", "name"), RESPONSES_MEDIA)
def test_an_image_or_a_file_in_an_output_of_responses_is_left_out_and_said_so(kind, key, name):
    for item in ({"type": "function_call", "arguments": "{}"}, {"type": "custom_tool_call", "input": "x"}):
        output = [{"type": "input_text", "text": "a"}, {"type": kind, key: "x"}]
        result = {"type": f"{item['type']}_output", "call_id": "c", "output": output}
        items = [{"role": "user", "content": "q"}, {**item, "call_id": "c", "name": "f"}, result]
        prompt, warnings = told(PATHS["responses"], {"input": items})
        assert f"<tool_response>\na\n{NOTE.replace('image', name)}\n</tool_response>" in prompt
        assert warnings == [f"input[2].output[1]: {name} left out: this model reads text only"]


@pytest.mark.parametrize(
    ("kind", "name"), [("image", "image"), ("document", "document"), ("audio", "audio"), ("video", "video")]
)
def test_an_image_or_a_file_in_a_result_of_messages_is_left_out_and_said_so(kind, name):
    part = {"type": kind, "source": {"type": "base64", "media_type": "x/y", "data": "AA=="}}
    blocks = [{"type": "tool_result", "tool_use_id": "c", "content": [{"type": "text", "text": "a"}, part]}]
    body = body_of("messages", [ASKED, ("calls", "c")])
    prompt, warnings = told(
        PATHS["messages"], {**body, "messages": [*body["messages"], {"role": "user", "content": blocks}]}
    )
    assert f"<tool_response>\na\n{NOTE.replace('image', name)}\n</tool_response>" in prompt
    assert warnings == [f"messages[2].content[0].content[1]: {name} left out: this model reads text only"]


def test_a_session_goes_on_after_an_image_in_a_stream_too():
    service = ScriptedService(ANSWER)
    reply = asyncio.run(ask(create_app(service), PATHS["chat"], {**chat_result([IMAGE]), "stream": True}))
    assert reply.status == 200 and "image left out" in reply.headers["x-a3b-warnings"]


@pytest.mark.parametrize(
    ("api", "body"),
    [
        ("chat", {"messages": [{"role": "user", "content": [IMAGE]}]}),
        (
            "messages",
            {
                "max_tokens": 9,
                "messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": "x"}}]}],
            },
        ),
        ("responses", {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}),
    ],
)
def test_an_image_of_the_user_is_refused_by_name_in_every_api(api, body):
    reply = asyncio.run(ask(create_app(ScriptedService(ANSWER)), PATHS[api], body))
    assert (
        reply.status == 400
        and "content[0]" in reply.json()["error"]["message"]
        and "image" in reply.json()["error"]["message"]
    )
