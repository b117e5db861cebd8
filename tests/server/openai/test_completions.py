"""OpenAI's older completions: text that is continued, many prompts, echo, logprobs."""

from __future__ import annotations

import asyncio

import openai
import pytest

from a3b.interface.events import (
    Finished,
    PromptLogprobs,
    Reading,
    TextDelta,
    TokenLogprobs,
)
from a3b.server.app import create_app
from a3b.server.errors import ApiError
from a3b.server.event_streams import prime
from a3b.server.openai import completion_base as call
from a3b.server.openai.completions import read_completion
from tests.support.openai_answers import (
    ANSWER,
    FINISHED,
    LOGPROBS,
    TEXT,
    streamed,
)
from tests.support.scripted_service import STARTED, USAGE, ScriptedService
from tests.support.serving import ask


def test_text_is_continued(service, sdk):
    service.events = ANSWER
    answer = sdk.completions.create(model="any", prompt="once", temperature=0)
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == ("hi you", "stop")
    assert service.requests[0].prompt == "once" and service.requests[0].sampling == {"temperature": 0, "max_tokens": 16}
    assert answer.usage.total_tokens == 120 and answer.id.startswith("cmpl-")


def test_text_is_streamed(service, sdk):
    service.events = ANSWER
    chunks = list(
        sdk.completions.create(model="any", prompt="once", stream=True, stream_options={"include_usage": True})
    )
    assert [c.choices[0].text for c in chunks[:-1]] == ["hi", " you", ""]
    assert [c.choices[0].finish_reason for c in chunks[:-1]] == [None, None, "stop"]
    assert chunks[-1].choices == [] and chunks[-1].usage.total_tokens == 120
    assert all("usage" in chunk.model_fields_set and chunk.usage is None for chunk in chunks[:-1])


def test_several_prompts_are_several_choices(service, sdk):
    service.events = ANSWER
    answer = sdk.completions.create(model="any", prompt=["a", "b"], n=2, seed=5)
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
def test_an_echo_comes_before_the_text_and_its_logprobs_before_those_of_the_text(service, sdk, stream):
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
        pieces = [c.choices[0] for c in sdk.completions.create(**asked, stream=True) if c.choices[0].index == 1]
    else:
        pieces = [sdk.completions.create(**asked).choices[1]]
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


def test_an_echo_without_logprobs_reads_nothing_twice_and_ids_are_given_back_as_text(service, sdk):
    service.events = [STARTED, Finished("length", USAGE)]
    answer = sdk.completions.create(model="any", prompt=[104, 105], echo=True, max_tokens=0)
    assert (answer.choices[0].text, answer.choices[0].logprobs, answer.choices[0].finish_reason) == (
        "hi",
        None,
        "length",
    )
    assert [(r.prompt, r.scores_prompt, r.only_reads) for r in service.requests] == [([104, 105], False, True)]
    with pytest.raises(openai.BadRequestError):
        sdk.completions.create(model="any", prompt=[104, 999], echo=True)


def test_logprobs_have_the_older_form(service, sdk):
    service.events = LOGPROBS
    found = sdk.completions.create(model="any", prompt="a", logprobs=2).choices[0].logprobs
    assert (found.tokens, found.token_logprobs, found.text_offset) == (["h", "i", "!"], [-0.25, -0.5, -1.0], [0, 1, 2])
    assert found.top_logprobs == [{"h": -0.25, "\ufffd": -9999.0}, {}, {}]
    parts = [c.choices[0].logprobs for c in sdk.completions.create(model="any", prompt="a", logprobs=2, stream=True)]
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
