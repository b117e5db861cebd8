"""Turns that a client stops, that a limit or a stop string cuts, or that come in two messages: replayed as sampled, to
the token."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace

import pytest

from a3b.engine import service as service_module
from a3b.engine.engine import Engine
from a3b.engine.generation import Generation
from a3b.interface.events import Finished, TextDelta, assistant_message
from a3b.interface.request import Request
from a3b.interface.sampling_params import SamplingParams
from a3b.thinking.turn_memory import TurnMemory
from tests.support.traced_server import GREEDY, TOOL, Server, bare, cold, user
from tests.support.written_answers import write

pytestmark = pytest.mark.slow  # computes for seconds


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine.load()


@pytest.mark.parametrize("is_thinking", [True, False])
def test_a_turn_cut_by_the_token_limit_is_replayed_too(engine, is_thinking):
    with Server(engine) as server:
        ask = user("Think of two numbers from 0 to 999. Tell me only the first.")
        whole = server.ask([ask])[1].usage.completion_tokens
        message, finished = server.ask(
            [ask], sampling={"temperature": 0.0, "max_tokens": 3 if is_thinking else whole - 3}
        )
        assert finished.reason == "length" and (finished.thinking_stop == "length") == is_thinking
        server.ask([ask, bare(message), user("hello")])
        _, first, second = server.lines()
        so_far = first["prompt"] + first["sampled"]
        assert second["prompt"][: len(so_far)] == so_far and second["cached_tokens"] >= len(so_far) - 16


# -- who stops an answer


def scripted(engine: Engine, monkeypatch, thinking: str | None, text: str) -> None:
    """The next answer is this, with a token for each character: text that is encoded again has fewer."""
    encode = engine.tokenizer.encode_text
    close, end = (engine.tokenizer.control_id(name) for name in ("</think>", "<|im_end|>"))
    opening = [] if thinking is None else [*encode_each(engine, f"{thinking}\n"), close, *encode("\n\n")]
    write(monkeypatch, [*opening, *encode_each(engine, text), end])


def encode_each(engine: Engine, text: str) -> list[int]:
    return [i for character in text for i in engine.tokenizer.encode_text(character)]


def stopped(server: Server, messages: list, when, **fields) -> dict:
    """What a client has that leaves as soon as `when` holds for its message; the server has no time for another
    token."""
    submit = server.scheduler.submit

    def watched(job) -> None:
        emit, seen = job.emit, []

        def emit_and_leave(item) -> None:
            seen.extend(item)
            if not job.cancelled.is_set() and when(assistant_message(seen)):
                job.cancelled.set()
            emit(item)

        job.emit = emit_and_leave
        submit(job)

    server.scheduler.submit = watched
    try:
        message, finished = server.ask(messages, **fields)
    finally:
        server.scheduler.submit = submit
    assert finished.reason == "cancelled"
    return message


def left(server: Server, messages: list, when, **fields) -> dict:
    """What a client has that closes its stream as soon as `when` holds for its message."""

    async def go() -> dict:
        events = []
        stream = server.service.stream(Request(messages=messages, **fields))
        async for event in stream:
            events.append(event)
            if when(assistant_message(events)):
                break
        await stream.aclose()
        return assistant_message(events)

    return asyncio.run(go())


NUMBERS = "Think of two numbers from 0 to 999. Tell me only the first."
CALL = "Start at a1b2 and follow the chain for 2 steps. Where do you end?"


@pytest.mark.parametrize("think", [True, False])
def test_what_was_streamed_before_a_stop_comes_back_as_sampled_and_is_not_read_again(engine, monkeypatch, think):
    with Server(engine) as server:
        ask = user("What are you?")
        scripted(engine, monkeypatch, "say who I am" if think else None, "I am a model.")
        message = stopped(server, [ask], lambda m: m["content"] == "I am a m", think=think)
        monkeypatch.undo()
        after, _ = server.ask([ask, bare(message), user("Go on.")], think=think)
        first, second = server.lines()
        so_far = first["prompt"] + first["sampled"]
        assert second["prompt"][: len(so_far) + 1] == [*so_far, engine.tokenizer.control_id("<|im_end|>")]
        assert second["cached_tokens"] >= len(so_far) - 1 and second["cache"]["miss"] == "none"
        assert second["thinking"]["restored"] == first["thinking_tokens"] and (first["thinking_tokens"] > 0) == think
        assert cold(engine, second) == second["sampled"]
        server.ask([ask, bare(message), user("Go on."), bare(after), user("Thanks!")], think=think)
        third = server.lines()[-1]
        assert third["prompt"][: len(second["prompt"])] == second["prompt"]


@pytest.mark.parametrize("num", [1, 4, 9])
def test_text_that_was_on_its_way_to_a_client_that_stopped_does_not_come_back(engine, num):
    with Server(engine) as server:
        ask = user("What are you?")
        message = stopped(server, [ask], lambda m: len(m["content"]) > 20)
        sent = message["content"][:-num]
        server.ask([ask, {"role": "assistant", "content": sent}, user("Go on.")])
        first, second = server.lines()
        told = engine.tokenizer.decode(second["prompt"])
        assert (
            f"{message['reasoning_content']}\n</think>\n\n{sent}<|im_end|>" in told and message["content"] not in told
        )
        close = first["sampled"].index(engine.tokenizer.control_id("</think>"))
        so_far = first["prompt"] + first["sampled"][: close + 3]
        assert second["prompt"][: len(so_far)] == so_far and second["thinking"]["restored"] > 0


@pytest.mark.parametrize("sends_thinking", [True, False])
def test_thinking_that_was_stopped_is_closed_and_not_read_again(engine, monkeypatch, sends_thinking):
    with Server(engine) as server:
        ask = user(NUMBERS)
        scripted(engine, monkeypatch, "first: 66\nsecond: 48\ntell: first", "66")
        message = stopped(server, [ask], lambda m: "second" in m["reasoning_content"])
        assert message["content"] == ""
        server.ask([ask, message if sends_thinking else bare(message), user("Go on.")])
        first, second = server.lines()
        so_far = first["prompt"] + first["sampled"]
        close, end = (engine.tokenizer.control_id(name) for name in ("</think>", "<|im_end|>"))
        assert second["prompt"][: len(so_far)] == so_far
        assert [token for token in second["prompt"][len(so_far) :] if token in (close, end)][:2] == [close, end]
        assert second["cached_tokens"] >= len(so_far) - 1
        assert second["thinking"]["sent" if sends_thinking else "restored"] == len(first["sampled"])


def test_a_client_that_leaves_and_asks_again_at_once_finds_its_thinking(engine):
    with Server(engine) as server:
        hot = {"temperature": 1.0, "seed": 5, "max_tokens": 400}
        for question in ("What are you?", NUMBERS, "hello"):
            message = left(server, [user(question)], lambda m: m["content"], sampling=hot)
            _, finished = server.ask([user(question), bare(message), user("Go on.")])
            assert finished.usage.thinking.restored > 0
            assert engine.tokenizer.decode(server.lines()[-1]["prompt"]).count(message["content"] + "<|im_end|>") == 1


def goes_on(server: Server, ask: list, leaves: bool) -> tuple[Finished, Finished | None]:
    """How the next request ends, of a client whose leaving is noticed late, or never; and how the answer that it did
    not wait for."""

    async def last(stream) -> Finished:
        return [event async for event in stream][-1]

    async def go() -> tuple[Finished, Finished | None]:
        events, stream = (
            [],
            server.service.stream(Request(messages=ask, sampling={"temperature": 1.0, "seed": 5, "max_tokens": 400})),
        )
        async for event in stream:
            events.append(event)
            if assistant_message(events)["content"]:
                break
        messages = [*ask, bare(assistant_message(events)), user("Go on.")]
        following = asyncio.create_task(last(server.service.stream(Request(messages=messages, sampling=GREEDY))))
        await asyncio.sleep(0.05)
        if not leaves:
            return await following, await last(stream)
        await stream.aclose()
        return await following, None

    return asyncio.run(go())


def test_a_stop_that_is_noticed_after_the_next_request_came_keeps_the_thinking(engine):
    with Server(engine) as server:
        ask = [user(NUMBERS)]
        finished, _ = goes_on(server, ask, leaves=True)
        first, second = server.lines()
        assert finished.usage.thinking.restored > 0
        assert second["prompt"][: len(first["prompt"]) + 20] == first["prompt"] + first["sampled"][:20]


def test_who_goes_on_while_the_answer_is_still_wanted_waits_no_longer_than_said(engine, monkeypatch):
    monkeypatch.setattr(service_module, "LEAVING_S", 0.01)
    with Server(engine) as server:
        following, first = goes_on(server, [user(NUMBERS)], leaves=False)
        assert (following.reason, first.reason) == ("stop", "stop")


async def leave_late(server: Server, ask: list, sampling: dict = GREEDY) -> str:
    """The text that a client has which closes its stream when the answer is over and it has read the first of it."""
    stream, text = server.service.stream(Request(messages=ask, sampling=sampling)), ""
    async for event in stream:
        if isinstance(event, TextDelta):
            text += event.text
            while server.scheduler.load() != (0, 0) or not server.lines():
                await asyncio.sleep(0.001)
            break
    await stream.aclose()
    return text


def test_a_stopped_turn_is_never_cut_after_its_stop_string(engine, monkeypatch):
    kept = []
    monkeypatch.setattr(TurnMemory, "remember", lambda self, namespace, before, turn, *_: kept.append(turn))
    with Server(engine) as server:
        asyncio.run(leave_late(server, [user("What are you?")], {**GREEDY, "stop": [" demonstration"]}))
    turn = next(turn for turn in kept if turn.cuts)
    assert turn.content == "I am a3b-nano, a small"
    assert {cut.num_chars for cut in turn.cuts if not cut.in_thinking} >= {0, 1, len(turn.content)}
    assert all(cut.num_chars <= len(turn.content) for cut in turn.cuts if not cut.in_thinking)


def test_a_client_that_leaves_when_the_answer_is_over_already_finds_its_thinking(engine):
    with Server(engine) as server:
        ask = [user("What are you?")]
        text = asyncio.run(leave_late(server, ask))
        _, finished = server.ask([*ask, {"role": "assistant", "content": text}, user("Go on.")])
        whole = engine.tokenizer.decode(server.lines()[0]["sampled"])
        assert f"\n\n{text}" in whole and f"{text}<|im_end|>" not in whole
        assert finished.usage.thinking.restored > 0


def test_a_call_that_a_client_got_before_it_left_is_replayed(engine):
    with Server(engine) as server:
        ask = user(CALL)
        message = stopped(server, [ask], lambda m: "tool_calls" in m, tools=[TOOL])
        result = {
            "role": "tool",
            "tool_call_id": message["tool_calls"][0]["id"],
            "content": "[Request interrupted by user]",
        }
        server.ask([ask, bare(message), result, user("Go on.")], tools=[TOOL])
        first, second = server.lines()
        so_far = first["prompt"] + first["sampled"]
        assert first["sampled"][-1] == engine.tokenizer.control_id("</tool_call>")
        assert second["prompt"][: len(so_far) + 1] == [*so_far, engine.tokenizer.control_id("<|im_end|>")]
        assert (
            second["cached_tokens"] >= len(so_far) - 1
            and second["thinking"]["restored"] == first["thinking_tokens"] > 0
        )


def test_one_namespace_never_gets_the_stopped_thinking_of_another(engine):
    with Server(engine) as server:
        ask = user("What are you?")
        message = stopped(server, [ask], lambda m: len(m["content"]) > 5, namespace="a")
        for namespace, is_known in (("b", False), ("a", True)):
            _, finished = server.ask([ask, bare(message), user("Go on.")], namespace=namespace)
            assert (finished.usage.thinking.restored > 0) is is_known


def test_half_a_character_that_was_stopped_is_no_part_of_the_turn(engine):
    tokenizer = engine.tokenizer
    answer = Generation(tokenizer, engine.config.eos_token_ids, [1], SamplingParams(), 99, in_thinking=False)
    halves = next(ids for text in "\u20ac\u4e2d\U0001f600" if len(ids := tokenizer.encode_text(text)) > 1)
    events = answer.accept([*tokenizer.encode_text("ab"), *halves[:-1]]).events + answer.stop("cancelled")
    assert "".join(event.text for event in events) == "ab"
    assert tokenizer.decode(answer.sampled[: answer.cuts[-1].num_ids]) == "ab"


TEXT = "so \n\nit\n</think>\n\n I  am\n\n here \u20ac\u4e2d <tool_call> or "
ONE_CALL = "\n<tool_call>\n<function=get>\n<parameter=key>\n{}\n</parameter>\n</function>\n</tool_call>"
BODIES = [f"\n<function=get>\n<parameter=key>\n{key}\n</parameter>\n</function>\n" for key in "ab"]
CALLS = ONE_CALL.format("a\u20ac") + ONE_CALL.format("b")


@pytest.mark.parametrize("text", [TEXT, TEXT + CALLS + "\n\nand so \n", "\n</think>" + CALLS, "no end \n of thinking"])
def test_what_is_left_at_a_cut_is_the_text_up_to_there(engine, text):
    def written(ids: list[int]) -> tuple[Generation, dict]:
        answer = Generation(
            engine.tokenizer,
            engine.config.eos_token_ids,
            [1],
            SamplingParams(),
            999,
            tools=[TOOL],
            call_id="c{}".format,
        )
        return answer, assistant_message(answer.accept(ids).events + answer.stop("cancelled"))

    names = ("<tool_call>", "</tool_call>", "</think>")
    ids = []
    for piece in re.split("(</?t[a-z_]+>)", text):
        ids += [engine.tokenizer.control_id(piece)] if piece in names else encode_each(engine, piece)
    answer, whole = written(ids)
    cuts = answer.cuts
    assert cuts[-1].num_ids == len(ids) and len({cut.num_ids for cut in cuts}) == len(cuts) > 6
    for cut in cuts:
        _, message = written(ids[: cut.num_ids])
        key = "reasoning_content" if cut.in_thinking else "content"
        assert message[key] == whole[key][: cut.num_chars].rstrip()
        assert message.get("tool_calls", []) == whole.get("tool_calls", [])[: cut.num_calls]


# -- stop strings


@pytest.mark.parametrize("stop, num_lost", [(" small", 6), ("s", 1), ("\n", 2), ("I", 1), ("\nDone.", 6)])
def test_a_turn_that_a_stop_string_ended_at_a_token_is_replayed(engine, monkeypatch, stop, num_lost):
    with Server(engine) as server:
        ask = user("What are you?")
        scripted(engine, monkeypatch, "say who I am", "I am a\nvery small model.\nDone.")
        message, finished = server.ask([ask], sampling={**GREEDY, "stop": [stop]})
        assert finished.stop_string == stop
        server.ask([ask, bare(message), user("Thanks!")])
        first, second = server.lines()
        so_far = first["prompt"] + first["sampled"][:-num_lost]
        assert engine.tokenizer.decode(so_far).endswith(f"</think>\n\n{message['content']}")
        assert second["prompt"][: len(so_far) + 1] == [*so_far, engine.tokenizer.control_id("<|im_end|>")]
        assert second["thinking"]["restored"] == first["thinking_tokens"] > 0
        assert num_lost > 1 or second["cached_tokens"] >= len(so_far), "the state has not read the stop string"


@pytest.mark.parametrize("stop", ["mall", "a3b-nano"])
def test_a_turn_that_a_stop_string_ended_within_a_token_comes_back_as_its_text(engine, stop):
    with Server(engine) as server:
        ask = user("What are you?")
        message, _ = server.ask([ask], sampling={**GREEDY, "stop": [stop]})
        server.ask([ask, bare(message), user("Thanks!")])
        first, second = server.lines()
        told = f"{message['reasoning_content']}\n</think>\n\n{message['content'].rstrip()}<|im_end|>"
        assert told in engine.tokenizer.decode(second["prompt"])
        assert second["thinking"]["restored"] == first["thinking_tokens"] > 0


@pytest.mark.parametrize("stop", [" small", "s", "mall"])
def test_a_turn_whose_stop_string_a_client_puts_at_its_end_again_is_replayed_before_it(engine, stop):
    with Server(engine) as server:
        ask = user("What are you?")
        message, finished = server.ask([ask], sampling={**GREEDY, "stop": ["never written", stop]})
        assert finished.stop_string == stop
        sent = message["content"] + stop
        server.ask([ask, {"role": "assistant", "content": sent}, user("Thanks!")])
        first, second = server.lines()
        told = f"{message['reasoning_content']}\n</think>\n\n{sent}<|im_end|>"
        assert told in engine.tokenizer.decode(second["prompt"])
        assert second["thinking"]["restored"] == first["thinking_tokens"] > 0


@pytest.mark.parametrize("kept", [slice(-9, None), slice(0, 9)])
def test_a_client_that_kept_a_piece_of_the_thinking_gets_all_of_it_back(engine, kept):
    with Server(engine) as server:
        ask = user(NUMBERS)
        message, _ = server.ask([ask])
        server.ask(
            [ask, {**message, "reasoning_content": message["reasoning_content"][kept]}, user("And the other number?")]
        )
        first, second = server.lines()
        so_far = first["prompt"] + first["sampled"]
        assert second["prompt"][: len(so_far)] == so_far and second["cached_tokens"] >= len(so_far) - 1
        assert (second["thinking"]["restored"], second["thinking"]["sent"]) == (first["thinking_tokens"], 0)


def test_two_calls_of_one_turn_with_a_result_between_them_are_replayed_as_one(engine, monkeypatch):
    with Server(engine) as server:
        ask, control = user(CALL), engine.tokenizer.control_id
        text = [[control("<tool_call>"), *encode_each(engine, body), control("</tool_call>")] for body in BODIES]
        thinking = [*encode_each(engine, "both\n"), control("</think>"), *encode_each(engine, "\n\n")]
        write(monkeypatch, [*thinking, *text[0], *encode_each(engine, "\n"), *text[1], control("<|im_end|>")])
        message, _ = server.ask([ask], tools=[TOOL], sampling={**GREEDY, "max_tokens": 400})
        calls = message["tool_calls"]
        results = [
            {"role": "tool", "tool_call_id": call["id"], "content": f"RES-{call['function']['arguments']['key']}"}
            for call in calls
        ]
        parts = [{"role": "assistant", "content": None, "tool_calls": [call]} for call in calls]
        server.ask([ask, parts[0], results[0], parts[1], results[1]], tools=[TOOL])
        server.ask([ask, {**parts[0], "tool_calls": calls}, *results[::-1]], tools=[TOOL])
        first, *later = server.lines()
        so_far = first["prompt"] + first["sampled"]
        assert [line["prompt"][: len(so_far)] for line in later] == [so_far, so_far] and later[0]["prompt"] == later[1][
            "prompt"
        ]


def test_a_turn_in_two_messages_is_read_once(engine):
    with Server(engine) as server:
        ask = user(CALL)
        message, _ = server.ask([ask], tools=[TOOL])
        calls = message["tool_calls"]
        parts = [
            {"role": "assistant", "content": "", "reasoning_content": message["reasoning_content"]},
            {"role": "assistant", "content": None, "tool_calls": calls},
        ]
        server.ask([ask, *parts, {"role": "tool", "tool_call_id": calls[0]["id"], "content": "c3d4"}], tools=[TOOL])
        first, second = server.lines()
        so_far = first["prompt"] + first["sampled"]
        assert second["prompt"][: len(so_far)] == so_far and second["cached_tokens"] >= len(so_far) - 1
        assert (
            second["prompt"].count(engine.tokenizer.control_id("<tool_call>"))
            == first["prompt"].count(engine.tokenizer.control_id("<tool_call>")) + 1
        )


@pytest.mark.parametrize("is_thinking", [True, False])
def test_a_turn_that_another_end_token_ended_is_replayed_too(engine, is_thinking, monkeypatch):
    """As <|endoftext|> does, when the model takes its turn for plain text. A budget of 3 tokens ends the thinking where
    a tokenizer would not cut the same text."""
    ask = user("Think of two numbers from 0 to 999. Tell me only the first.")
    budget = None if is_thinking else 3
    with Server(engine) as server:
        server.ask([ask], thinking_budget=budget)
        sampled = server.lines()[0]["sampled"]
    config = replace(engine.config, eos_token_ids=(*engine.config.eos_token_ids, sampled[2 if is_thinking else -2]))
    monkeypatch.setattr(Engine, "config", config)
    with Server(engine) as server:
        message, finished = server.ask([ask], thinking_budget=budget)
        assert finished.reason == "stop" and (finished.thinking_stop == "length") == is_thinking
        server.ask([ask, bare(message), user("hello")])
        first, second = server.lines()
        so_far = first["prompt"] + first["sampled"][:-1]
        assert len(first["sampled"]) < len(sampled) and second["prompt"][: len(so_far)] == so_far
        assert second["cached_tokens"] >= len(so_far) - 16
