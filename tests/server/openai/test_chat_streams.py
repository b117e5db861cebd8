"""OpenAI's streams of events: their order, errors within them, silences, choices beside each other."""

from __future__ import annotations

import asyncio
import json

from a3b.errors import ContextError, OverloadedError, StoreError
from a3b.interface.events import (
    Reading,
    Started,
    TextDelta,
    Usage,
)
from a3b.server import event_streams
from a3b.server.app import create_app
from a3b.server.event_streams import interleave
from a3b.server.openai import completion_base as call
from a3b.server.openai.completions import read_completion
from tests.support.openai_answers import (
    ANSWER,
    CALLS,
    CHAT,
    FINISHED,
    LOGPROBS,
    TOOL,
    USER,
    create,
    streamed,
)
from tests.support.scripted_service import SPECULATED, STARTED, ScriptedService
from tests.support.serving import ask


def test_a_stream_begins_with_the_role_and_ends_with_the_reason(service, sdk):
    service.events = ANSWER
    chunks = list(create(sdk, stream=True))
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert deltas[0].role == "assistant" and all(delta.role is None for delta in deltas[1:])
    assert [delta.content for delta in deltas if delta.content] == ["hi", " you"]
    assert [delta.reasoning_content for delta in deltas if hasattr(delta, "reasoning_content")] == ["I ", "see"]
    assert [delta.reasoning for delta in deltas if hasattr(delta, "reasoning")] == ["I ", "see"]
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * 5 + ["stop"]
    assert chunks[-1].choices[0].thinking_stop_reason == "closed"
    assert len({chunk.id for chunk in chunks}) == 1 and all("usage" not in chunk.model_fields_set for chunk in chunks)


def test_the_usage_of_a_stream_comes_last_if_it_is_asked_for(service, sdk):
    service.events = ANSWER
    chunks = list(create(sdk, stream=True, stream_options={"include_usage": True}))
    assert chunks[-1].choices == [] and chunks[-1].usage.total_tokens == 120
    assert chunks[-1].a3b["thinking_in_context"] == {"sent": 5, "restored": 7, "dropped": 9}
    assert chunks[-1].a3b["speculation"] == SPECULATED
    assert len(chunks) > 5 and all("usage" in chunk.model_fields_set and chunk.usage is None for chunk in chunks[:-1])
    assert all(len(chunk.choices) == 1 for chunk in chunks[:-1])


def test_calls_are_streamed_piece_by_piece(service, sdk):
    service.events = CALLS
    chunks = list(create(sdk, stream=True, tools=[TOOL]))
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


def test_openai_s_own_accumulator_understands_the_stream(service, sdk):
    service.events = CALLS
    with sdk.chat.completions.stream(model="any", messages=USER, tools=[TOOL]) as stream:
        message = stream.get_final_completion().choices[0].message
    assert [c.function.arguments for c in message.tool_calls] == ['{"x": 1}', "{}"]


def test_logprobs_of_a_stream_come_with_their_text(service, sdk):
    service.events = LOGPROBS
    found = [
        (chunk.choices[0].delta.content, [t.token for t in chunk.choices[0].logprobs.content])
        for chunk in create(sdk, stream=True, logprobs=True)
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


def test_an_error_after_a_stream_began_is_its_last_event_but_one(service, sdk):
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
