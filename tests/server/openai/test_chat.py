"""OpenAI's completions: what clients send becomes a Request, what the service gives becomes what clients read."""

from __future__ import annotations

import asyncio
import json
import math

import openai
import pytest

from a3b.errors import ContextError, OverloadedError, StoreError
from a3b.interface.events import (
    Finished,
    PromptLogprobs,
    Reading,
    Started,
    TextDelta,
    ThinkingDelta,
    TokenLogprobs,
    ToolCallDelta,
    ToolCallEnd,
    ToolCallStart,
    Usage,
)
from a3b.server import event_streams
from a3b.server.app import create_app
from a3b.server.errors import ApiError
from a3b.server.event_streams import interleave, prime
from a3b.server.openai import completion_base as call
from a3b.server.openai.completions import read_completion
from tests.support.scripted_service import SPECULATED, STARTED, USAGE, ScriptedService
from tests.support.serving import ask, served

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
USER = [{"role": "user", "content": "hello"}]
TOOL = {
    "type": "function",
    "function": {"name": "look", "description": "d", "parameters": {"type": "object", "properties": {}}},
}
FINISHED = Finished("stop", USAGE, None, "closed")
ANSWER = [
    STARTED,
    Reading(9, 40),
    Reading(40, 40),
    ThinkingDelta("I "),
    ThinkingDelta("see"),
    TextDelta("hi"),
    TextDelta(" you"),
    FINISHED,
]
CALLS = [
    STARTED,
    ThinkingDelta("call"),
    ToolCallStart(0, "call_a", "look"),
    ToolCallDelta(0, '{"x": '),
    ToolCallDelta(0, "1}"),
    ToolCallEnd(0, "call_a", "look", {"x": 1}),
    ToolCallStart(1, "call_b", "look"),
    ToolCallDelta(1, "{}"),
    ToolCallEnd(1, "call_b", "look", {}),
    Finished("tool_calls", USAGE),
]
LOGPROBS = [
    STARTED,
    TokenLogprobs(5, b"h", -0.25, ((5, b"h", -0.25), (6, b"\xff", -math.inf))),
    TokenLogprobs(7, b"i", -0.5, ()),
    TextDelta("hi"),
    TokenLogprobs(9, b"!", -1.0, ()),
    Finished("length", USAGE),
]


@pytest.fixture(scope="module")
def server():
    service = ScriptedService(ANSWER)
    with served(create_app(service)) as port:
        with openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="any", max_retries=0) as client:
            yield service, client


@pytest.fixture
def service(server):
    server[0].requests.clear()
    return server[0]


@pytest.fixture
def client(server):
    return server[1]


def create(client, **given):
    return client.chat.completions.create(model="any", messages=USER, **given)


def events_of(body: bytes) -> list:
    """JSON of a stream of server-sent events; the end as text, comments without their colon."""
    lines = body.decode().split("\n\n")
    assert lines.pop() == ""
    return [
        line[2:] if line[0] == ":" else line[6:] if line == "data: [DONE]" else json.loads(line[6:]) for line in lines
    ]


def streamed(service, path=CHAT, **given):
    body = {"messages": USER, "stream": True, **given} if path == CHAT else {"prompt": "x", "stream": True, **given}
    reply = asyncio.run(ask(create_app(service), path, body))
    assert reply.status == 200 and reply.headers["content-type"].startswith("text/event-stream")
    return events_of(reply.body)


# -- whole answers, read by OpenAI's own client


def test_an_answer_has_text_thinking_usage_and_our_report(service, client):
    service.events = ANSWER
    answer = create(client)
    choice = answer.choices[0]
    assert (choice.message.role, choice.message.content, choice.finish_reason) == ("assistant", "hi you", "stop")
    assert choice.message.reasoning_content == choice.message.reasoning == "I see"
    assert choice.message.tool_calls is None and choice.logprobs is None
    usage = answer.usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (100, 20, 120)
    assert usage.prompt_tokens_details.cached_tokens == 60 and usage.completion_tokens_details.reasoning_tokens == 8
    assert answer.model == "any" and answer.id.startswith("chatcmpl-")
    assert answer.a3b == {
        "cache": {"reused": 60, "miss": "none", "position": 0, "expected": "", "found": "", "kept_dates": 0},
        "thinking_in_context": {"sent": 5, "restored": 7, "dropped": 9},
        "thinking_stop_reason": "closed",
        "prefill_s": 0.5,
        "decode_s": 1.0,
        "speculation": SPECULATED,
        "warnings": [],
    }
    assert choice.thinking_stop_reason == "closed"


def test_calls_of_tools_have_their_ids_and_the_arguments_as_they_were_written(service, client):
    service.events = CALLS
    choice = create(client, tools=[TOOL]).choices[0]
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    found = [(c.id, c.type, c.function.name, c.function.arguments) for c in choice.message.tool_calls]
    assert found == [("call_a", "function", "look", '{"x": 1}'), ("call_b", "function", "look", "{}")]


def test_text_beside_calls_is_kept(service, client):
    service.events = [STARTED, TextDelta("so"), *CALLS[2:]]
    assert create(client, tools=[TOOL]).choices[0].message.content == "so"


def test_choices_are_requests_of_their_own_with_seeds_that_follow_each_other(service, client):
    service.events = ANSWER
    answer = create(client, n=3, seed=7)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert sorted(request.sampling["seed"] for request in service.requests) == [7, 8, 9]
    assert len({request.request_id for request in service.requests}) == 3
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (100, 60)


def test_logprobs_are_those_of_the_text(service, client):
    service.events = LOGPROBS
    tokens = create(client, logprobs=True, top_logprobs=2).choices[0].logprobs.content
    assert service.requests[0].top_logprobs == 2
    assert [(t.token, t.logprob, t.bytes) for t in tokens] == [
        ("h", -0.25, [104]),
        ("i", -0.5, [105]),
        ("!", -1.0, [33]),
    ]
    assert [(t.token, t.logprob, t.bytes) for t in tokens[0].top_logprobs] == [
        ("h", -0.25, [104]),
        ("\ufffd", -9999.0, [255]),
    ]
    assert create(client).choices[0].logprobs is None


def test_thinking_can_be_left_out_of_the_answer(service, client):
    service.events = ANSWER
    for extra in ({"reasoning": {"exclude": True}}, {"include_reasoning": False}):
        message = create(client, extra_body=extra).choices[0].message
        assert (message.reasoning, message.reasoning_content, message.content) == (None, None, "hi you")
        deltas = [c.choices[0].delta for c in create(client, stream=True, extra_body=extra)]
        assert "".join(delta.content or "" for delta in deltas) == "hi you"
        assert not any("reasoning" in delta.model_extra or "reasoning_content" in delta.model_extra for delta in deltas)


def test_old_functions_are_called_in_the_old_way(service, client):
    service.events = CALLS
    choice = create(client, functions=[TOOL["function"]], function_call={"name": "look"}).choices[0]
    request = service.requests[0]
    assert (request.tools, request.tool_choice, request.tool_name, request.parallel_tool_calls) == (
        [TOOL],
        "named",
        "look",
        False,
    )
    assert choice.finish_reason == "function_call" and choice.message.tool_calls is None
    assert (choice.message.function_call.name, choice.message.function_call.arguments) == ("look", '{"x": 1}')
    deltas = [c.choices[0].delta for c in create(client, functions=[TOOL["function"]], stream=True)]
    assert [d.function_call.name for d in deltas if d.function_call and d.function_call.name] == ["look"]
    assert "".join(d.function_call.arguments for d in deltas if d.function_call) == '{"x": 1}'


# -- streams


def test_a_stream_begins_with_the_role_and_ends_with_the_reason(service, client):
    service.events = ANSWER
    chunks = list(create(client, stream=True))
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert deltas[0].role == "assistant" and all(delta.role is None for delta in deltas[1:])
    assert [delta.content for delta in deltas if delta.content] == ["hi", " you"]
    assert [delta.reasoning_content for delta in deltas if hasattr(delta, "reasoning_content")] == ["I ", "see"]
    assert [delta.reasoning for delta in deltas if hasattr(delta, "reasoning")] == ["I ", "see"]
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * 5 + ["stop"]
    assert chunks[-1].choices[0].thinking_stop_reason == "closed"
    assert len({chunk.id for chunk in chunks}) == 1 and all("usage" not in chunk.model_fields_set for chunk in chunks)


def test_the_usage_of_a_stream_comes_last_if_it_is_asked_for(service, client):
    service.events = ANSWER
    chunks = list(create(client, stream=True, stream_options={"include_usage": True}))
    assert chunks[-1].choices == [] and chunks[-1].usage.total_tokens == 120
    assert chunks[-1].a3b["thinking_in_context"] == {"sent": 5, "restored": 7, "dropped": 9}
    assert chunks[-1].a3b["speculation"] == SPECULATED
    assert len(chunks) > 5 and all("usage" in chunk.model_fields_set and chunk.usage is None for chunk in chunks[:-1])
    assert all(len(chunk.choices) == 1 for chunk in chunks[:-1])


def test_calls_are_streamed_piece_by_piece(service, client):
    service.events = CALLS
    chunks = list(create(client, stream=True, tools=[TOOL]))
    pieces = [c for chunk in chunks for c in chunk.choices[0].delta.tool_calls or []]
    assert [(p.index, p.id, p.function.name, p.function.arguments) for p in pieces] == [
        (0, "call_a", "look", ""),
        (0, None, None, '{"x": '),
        (0, None, None, "1}"),
        (1, "call_b", "look", ""),
        (1, None, None, "{}"),
    ]
    assert [p.type for p in pieces] == ["function", None, None, "function", None]
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def test_openai_s_own_accumulator_understands_the_stream(service, client):
    service.events = CALLS
    with client.chat.completions.stream(model="any", messages=USER, tools=[TOOL]) as stream:
        message = stream.get_final_completion().choices[0].message
    assert [c.function.arguments for c in message.tool_calls] == ['{"x": 1}', "{}"]


def test_logprobs_of_a_stream_come_with_their_text(service, client):
    service.events = LOGPROBS
    found = [
        (chunk.choices[0].delta.content, [t.token for t in chunk.choices[0].logprobs.content])
        for chunk in create(client, stream=True, logprobs=True)
        if chunk.choices[0].logprobs
    ]
    assert found == [("hi", ["h", "i"]), ("", ["!"])]


def test_the_choices_of_a_stream_run_concurrently():
    class Meeting(ScriptedService):
        """Each stream waits in its middle until the other is there too."""

        def __init__(self):
            super().__init__([])
            self.barrier = asyncio.Barrier(2)

        async def stream(self, request):
            seed = request.sampling["seed"]
            yield STARTED
            yield TextDelta(f"{seed} before ")
            async with asyncio.timeout(5):
                await self.barrier.wait()
            yield TextDelta("and after")
            yield FINISHED

    chunks = streamed(Meeting(), n=2, seed=1, stream_options={"include_usage": True})
    assert chunks.pop() == "[DONE]" and chunks.pop()["usage"]["completion_tokens"] == 40
    texts = {0: "", 1: ""}
    for chunk in chunks:
        choice = chunk["choices"][0]
        texts[choice["index"]] += choice["delta"].get("content", "")
    assert texts == {0: "1 before and after", 1: "2 before and after"}
    assert [c["choices"][0]["finish_reason"] for c in chunks].count("stop") == 2


def test_reading_of_the_prompt_is_reported_in_comments_but_not_too_often():
    found = streamed(ScriptedService([STARTED, *(Reading(i, 4096) for i in range(50)), TextDelta("x"), FINISHED]))
    assert [line for line in found if isinstance(line, str)] == ["reading 0/4096", "[DONE]"]


def test_reading_is_reported_again_after_a_while(monkeypatch):
    monkeypatch.setattr(call, "READING_S", 0.0)
    found = streamed(ScriptedService([STARTED, Reading(1, 3), Reading(2, 3), FINISHED]))
    assert [line for line in found if isinstance(line, str)] == ["reading 1/3", "reading 2/3", "[DONE]"]


def test_reading_is_reported_in_chunks_of_llama_cpps_form_if_asked_for(monkeypatch):
    monkeypatch.setattr(call, "READING_S", 0.0)
    begun = Started(Usage(prompt_tokens=47, cached_tokens=7))
    service = ScriptedService([begun, Reading(9, 40), Reading(40, 40), TextDelta("x"), FINISHED])
    found = [chunk for chunk in streamed(service, return_progress=True) if "prompt_progress" in chunk]
    told = [{key: chunk["prompt_progress"][key] for key in ("total", "cache", "processed")} for chunk in found]
    assert told == [{"total": 47, "cache": 7, "processed": 16}, {"total": 47, "cache": 7, "processed": 47}]
    assert all(chunk["choices"][0]["delta"] == {} and chunk["prompt_progress"]["time_ms"] >= 0 for chunk in found)


class Slow(ScriptedService):
    """Silent before each event."""

    async def stream(self, request):
        for event in self.events:
            await asyncio.sleep(0.05)
            if isinstance(event, Exception):
                raise event
            yield event


def test_a_silence_is_filled_with_comments_and_nothing_is_lost(monkeypatch):
    monkeypatch.setattr(event_streams, "KEEP_ALIVE_S", 0.01)
    found = streamed(Slow(ANSWER))
    assert found.count("waiting") >= 8
    texts = [line["choices"][0]["delta"].get("content", "") for line in found if not isinstance(line, str)]
    assert "".join(texts) == "hi you"


def test_a_refusal_after_a_long_silence_comes_in_the_stream(monkeypatch):
    monkeypatch.setattr(event_streams, "KEEP_ALIVE_S", 0.01)
    found = [line for line in streamed(Slow([OverloadedError("no place")])) if line != "waiting"]
    assert [line if isinstance(line, str) else line["error"]["message"] for line in found] == ["no place", "[DONE]"]


def test_an_error_after_a_stream_began_is_its_last_event_but_one(service, client):
    class Breaking(ScriptedService):
        async def stream(self, request):
            yield STARTED
            yield TextDelta("hi")
            raise ContextError("no room for more")

    found = streamed(Breaking([]))
    assert found[-2:] == [
        {
            "error": {
                "message": "no room for more",
                "type": "invalid_request_error",
                "param": None,
                "code": "context_length_exceeded",
            }
        },
        "[DONE]",
    ]


def test_an_error_of_ours_within_a_stream_tells_nothing_but_its_id(caplog):
    words = "the secret prompt"

    class Breaking(ScriptedService):
        async def stream(self, request):
            yield STARTED
            raise StoreError(words)

    found = streamed(Breaking([]))
    assert found[-1] == "[DONE]" and found[-2]["error"]["type"] == "server_error" and words not in json.dumps(found)
    assert "StoreError" in caplog.text and words not in caplog.text


def test_one_failing_choice_closes_the_others():
    class Unequal(ScriptedService):
        closed_others = 0

        async def stream(self, request):
            if request.request_id.endswith(".1"):
                await asyncio.sleep(0)
                raise OverloadedError("no second place")
            try:
                yield STARTED
                await asyncio.Event().wait()
            finally:
                self.closed_others += 1

    service = Unequal([])
    for stream in (False, True):
        assert asyncio.run(ask(create_app(service), CHAT, {"messages": USER, "n": 2, "stream": stream})).status == 429
    assert service.closed_others == 2


def test_a_stream_that_nobody_waits_on_is_closed_with_the_others():
    async def leave_in_the_middle():
        service = ScriptedService(ANSWER)
        streams = [service.stream(request) for request in read_completion({"prompt": ["a", "b"]}).requests]
        events = interleave(streams)
        await anext(events)
        await events.aclose()
        return service.closed

    assert asyncio.run(leave_in_the_middle()) == 2


# -- errors, as OpenAI's client sees them


def test_a_wrong_field_raises_bad_request_with_its_name(service, client):
    with pytest.raises(openai.BadRequestError) as caught:
        create(client, temperature=-1)
    assert caught.value.param == "temperature" and "expected" in str(caught.value)
    assert caught.value.request_id.startswith("req_") and service.requests == []


def test_overload_raises_a_rate_limit_error_with_the_time_to_wait(service, client):
    service.events = OverloadedError("no place")
    with pytest.raises(openai.RateLimitError) as caught:
        create(client)
    assert int(caught.value.response.headers["retry-after"]) > 0


# -- the older completions


def test_text_is_continued(service, client):
    service.events = ANSWER
    answer = client.completions.create(model="any", prompt="once", temperature=0)
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == ("hi you", "stop")
    assert service.requests[0].prompt == "once" and service.requests[0].sampling == {"temperature": 0, "max_tokens": 16}
    assert answer.usage.total_tokens == 120 and answer.id.startswith("cmpl-")


def test_text_is_streamed(service, client):
    service.events = ANSWER
    chunks = list(
        client.completions.create(model="any", prompt="once", stream=True, stream_options={"include_usage": True})
    )
    assert [c.choices[0].text for c in chunks[:-1]] == ["hi", " you", ""]
    assert [c.choices[0].finish_reason for c in chunks[:-1]] == [None, None, "stop"]
    assert chunks[-1].choices == [] and chunks[-1].usage.total_tokens == 120
    assert all("usage" in chunk.model_fields_set and chunk.usage is None for chunk in chunks[:-1])


def test_several_prompts_are_several_choices(service, client):
    service.events = ANSWER
    answer = client.completions.create(model="any", prompt=["a", "b"], n=2, seed=5)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    asked = sorted((r.request_id[-1], r.prompt, r.sampling["seed"]) for r in service.requests)
    assert asked == [("0", "a", 5), ("1", "a", 6), ("2", "b", 5), ("3", "b", 6)]
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (200, 80)


@pytest.mark.parametrize("stream", [False, True])
def test_of_many_prompts_some_are_answered_at_a_time_and_all_in_the_end(stream):
    class Crowd(ScriptedService):
        running = most = 0

        async def stream(self, request):
            self.running += 1
            self.most = max(self.most, self.running)
            for event in (STARTED, TextDelta(request.prompt), FINISHED):
                await asyncio.sleep(0)
                yield event
            self.running -= 1

    service = Crowd([])
    prompts = [f"p{i}" for i in range(30)]
    if stream:
        chunks = streamed(service, TEXT, prompt=prompts)[:-1]
        found = {
            chunk["choices"][0]["index"]: chunk["choices"][0]["text"] for chunk in chunks if chunk["choices"][0]["text"]
        }
    else:
        reply = asyncio.run(ask(create_app(service), TEXT, {"prompt": prompts})).json()
        found = {choice["index"]: choice["text"] for choice in reply["choices"]}
    assert found == dict(enumerate(prompts)) and service.most == call.MAX_TOGETHER


def test_a_stream_of_many_prompts_begins_with_the_first_of_them(monkeypatch):
    waited = []
    monkeypatch.setattr(call, "prime", lambda events, num, *more: waited.append(num) or prime(events, num, *more))
    streamed(ScriptedService(ANSWER), TEXT, prompt=["a"] * 20)
    streamed(ScriptedService(ANSWER), TEXT, prompt=["a"] * 3)
    assert waited == [call.MAX_TOGETHER, 3]


@pytest.mark.parametrize("stream", [False, True])
def test_an_echo_comes_before_the_text_and_its_logprobs_before_those_of_the_text(service, client, stream):
    service.events = [
        STARTED,
        PromptLogprobs(1, b"on", None),
        Reading(1, 2),
        PromptLogprobs(2, b"ce", -2.0, ((3, b"e", -1.0), (2, b"ce", -2.0))),
        TokenLogprobs(5, b"hi", -0.5, ((5, b"hi", -0.5), (7, b"hi", -3.0))),
        TextDelta("hi"),
        Finished("length", USAGE),
    ]
    asked = {"model": "any", "prompt": ["once", "once"], "echo": True, "logprobs": 2, "max_tokens": 1}
    if stream:
        pieces = [c.choices[0] for c in client.completions.create(**asked, stream=True) if c.choices[0].index == 1]
    else:
        pieces = [client.completions.create(**asked).choices[1]]
    assert "".join(piece.text for piece in pieces) == "oncehi"
    joined = {
        name: [x for piece in pieces for x in getattr(piece.logprobs, name)]
        for name in ("tokens", "token_logprobs", "text_offset")
    }
    assert joined == {"tokens": ["on", "ce", "hi"], "token_logprobs": [None, -2.0, -0.5], "text_offset": [0, 2, 4]}
    assert [x for piece in pieces for x in piece.logprobs.top_logprobs] == [None, {"e": -1.0, "ce": -2.0}, {"hi": -0.5}]
    assert all(
        (r.prompt, r.top_logprobs, r.scores_prompt, r.only_reads) == ("once", 2, True, False) for r in service.requests
    )


def test_an_echo_without_logprobs_reads_nothing_twice_and_ids_are_given_back_as_text(service, client):
    service.events = [STARTED, Finished("length", USAGE)]
    answer = client.completions.create(model="any", prompt=[104, 105], echo=True, max_tokens=0)
    assert (answer.choices[0].text, answer.choices[0].logprobs, answer.choices[0].finish_reason) == (
        "hi",
        None,
        "length",
    )
    assert [(r.prompt, r.scores_prompt, r.only_reads) for r in service.requests] == [([104, 105], False, True)]
    with pytest.raises(openai.BadRequestError):
        client.completions.create(model="any", prompt=[104, 999], echo=True)


def test_logprobs_have_the_older_form(service, client):
    service.events = LOGPROBS
    found = client.completions.create(model="any", prompt="a", logprobs=2).choices[0].logprobs
    assert (found.tokens, found.token_logprobs, found.text_offset) == (["h", "i", "!"], [-0.25, -0.5, -1.0], [0, 1, 2])
    assert found.top_logprobs == [{"h": -0.25, "\ufffd": -9999.0}, {}, {}]
    parts = [c.choices[0].logprobs for c in client.completions.create(model="any", prompt="a", logprobs=2, stream=True)]
    assert [(part.tokens, part.text_offset) for part in parts] == [(["h", "i"], [0, 1]), (["!"], [2])]


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [1, -2]}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": [1, "a"]}, "prompt"),
        ({"prompt": [[1], [True]]}, "prompt"),
        ({"prompt": [1.0]}, "prompt"),
        ({"prompt": ["a", ""]}, "prompt"),
        ({"prompt": ["a"] * 65, "n": 2}, "prompt"),
        ({"suffix": "x"}, "suffix"),
        ({"echo": 1}, "echo"),
        ({"best_of": 2}, "best_of"),
        ({"logprobs": True}, "logprobs"),
        ({"logprobs": 21}, "logprobs"),
        ({"logit_bias": {"1": 1e9}}, "logit_bias"),
        ({"max_tokens": -2}, "max_tokens"),
        ({"prompt": "x" * (1 << 18), "echo": True, "logprobs": 4}, "logprobs"),
        ({"prompt": [[5] * (1 << 16)] * 2, "n": 4, "echo": True, "logprobs": 2}, "logprobs"),
    ],
)
def test_what_the_older_completions_cannot_do_is_refused(given, field):
    with pytest.raises(ApiError) as caught:
        read_completion({"prompt": "x", **given})
    assert caught.value.field == field


@pytest.mark.parametrize(("given", "expected"), [({}, 16), ({"max_tokens": 5}, 5), ({"max_tokens": -1}, None)])
def test_the_older_completions_are_short_unless_told_otherwise(given, expected):
    assert read_completion({"prompt": "x", **given}).requests[0].sampling.get("max_tokens") == expected


@pytest.mark.parametrize("key", ["_reminder", "_replay"])
def test_marks_that_only_this_server_sets_are_not_taken_from_a_client(key, service):
    """One would hide a question from what tells conversations apart, one holds token ids."""
    body = {"messages": [{"role": "user", "content": "hello", key: True}]}
    assert asyncio.run(ask(create_app(service), CHAT, body)).status == 200
    assert service.requests[-1].messages == USER
