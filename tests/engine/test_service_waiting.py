"""Who waits for whom: places, pieces of prompts, answers that are not over, clients that leave."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace

import pytest

from a3b.engine import service as service_module
from a3b.engine.engine import Engine
from a3b.errors import OverloadedError
from a3b.interface.events import ThinkingDelta
from a3b.interface.request import Request
from tests.support.traced_server import GREEDY, Server, bare, user


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine.load()


def test_a_key_that_sends_prompt_after_prompt_does_not_cost_another_its_cached_conversation(engine):
    with Server(engine) as server:
        ask = [user("What is 17 plus 25?")]
        message, _ = server.ask(ask, namespace="quiet")
        server.cache.ram_bytes = 3 * server.cache.stats().ram_bytes
        for i in range(12):
            server.ask([user(f"Tell me about the number {i}.")], namespace="flood", sampling=GREEDY | {"max_tokens": 2})
        assert server.cache.stats().evictions > 5
        _, finished = server.ask([*ask, bare(message), user("Thanks!")], namespace="quiet")
        assert finished.usage.cache.miss == "none" and finished.usage.cached_tokens > 20


def test_who_leaves_frees_the_place_within_a_token(engine):
    async def leave(server: Server):
        stream = server.service.stream(
            Request(messages=[user("What is 1 plus 1?")], sampling={"max_tokens": 4000, "temperature": 2.0})
        )
        async for event in stream:
            if isinstance(event, ThinkingDelta):
                break
        await stream.aclose()
        for _ in range(200):
            if server.scheduler.load() == (0, 0):
                return True
            await asyncio.sleep(0.01)
        return False

    with Server(engine, max_active=1) as server:
        assert asyncio.run(leave(server))
        assert server.ask([user("hello")])[1].reason == "stop"


def test_who_leaves_while_a_prompt_is_read_alone_stops_it_between_two_layers(engine, monkeypatch):
    model, asked = engine.model, []
    slow = type(model._layers[0])
    real = slow.__call__

    def counted(layer, *args):
        asked.append(1)
        if len(asked) == 3:
            job.cancelled.set()
        return real(layer, *args)

    with Server(engine) as server:
        jobs = []
        submit = server.scheduler.submit
        monkeypatch.setattr(server.scheduler, "submit", lambda job: (jobs.append(job), submit(job)))
        monkeypatch.setattr(slow, "__call__", counted)
        job = type("Later", (), {"cancelled": property(lambda self: jobs[0].cancelled)})()
        _, finished = server.ask([user("x " * 300)])
        assert finished.reason == "cancelled" and len(asked) == 3
        monkeypatch.undo()
        assert server.ask([user("hello")])[1].reason == "stop"


@pytest.mark.parametrize("after", [None, 512])  # tokens of a prompt that was read alone before
@pytest.mark.parametrize(("fixed_s", "token_s"), [(0.4, 0.042), (0.1, 0.05), (0.001, 0.0001), (0.2, 0.01)])
def test_pieces_of_a_prompt_keep_others_waiting_for_less_than_two_seconds(engine, after, fixed_s, token_s):
    with Server(engine) as server:
        scheduler, times, sizes = server.scheduler, [], []
        if after:
            scheduler._adapt(fixed_s + after * token_s, after, False)
        for i in range(40):
            # once another process gets in the way
            seconds = (fixed_s + scheduler._chunk * token_s) * (1.3 if i == 20 else 1)
            times.append(seconds)
            sizes.append(scheduler._chunk)
            scheduler._adapt(seconds, scheduler._chunk, True)
    assert max(times) < 2
    best = min((1.3 - fixed_s) / token_s, 512)
    assert 0.7 * best < sizes[-1] <= best


def test_more_requests_than_places_are_refused_at_once_and_the_others_are_answered(engine):
    async def crowd(server: Server):
        return await asyncio.gather(*(server.answer([user(f"hello {i}")]) for i in range(9)), return_exceptions=True)

    with Server(engine, max_active=1, max_waiting=2) as server:
        found = asyncio.run(crowd(server))
        refused = [error for error in found if isinstance(error, Exception)]
        assert refused and all(isinstance(error, OverloadedError) for error in refused)
        assert len(found) - len(refused) >= 3
        assert server.ask([user("hello")])[1].reason == "stop"


ASK, PART = [user("What are you?")], {"role": "assistant", "content": "I"}


@pytest.mark.parametrize(
    ("namespace", "messages"),
    [
        ("b", [*ASK, PART, user("Go on.")]),
        ("a", [user("Who are you?"), PART, user("Go on.")]),
        ("a", [*ASK, user("Go on.")]),
        ("a", ASK),
    ],
    ids=["another key", "another question", "no turn of the model", "the same again"],
)
def test_only_who_goes_on_from_an_answer_waits_for_its_end(engine, monkeypatch, namespace, messages):
    monkeypatch.setattr(service_module, "LEAVING_S", 60)

    async def both(server: Server):
        stream = server.service.stream(Request(messages=ASK, namespace="a", sampling=GREEDY))
        async for _ in stream:  # an answer that is on its way until its stream is closed
            break
        try:
            return await asyncio.wait_for(server.answer(messages, namespace=namespace), 20)
        finally:
            await stream.aclose()

    with Server(engine) as server:
        assert asyncio.run(both(server))[1].reason == "stop"


def test_nobody_goes_on_from_a_text(engine, monkeypatch):
    monkeypatch.setattr(service_module, "LEAVING_S", 60)

    async def both(server: Server):
        stream = server.service.stream(Request(prompt="Once", namespace="a", sampling={"max_tokens": 500}))
        async for _ in stream:
            break
        try:
            asked = Request(messages=[PART, user("Go on.")], namespace="a")
            return await asyncio.wait_for(server.service.render(asked), 20)
        finally:
            await stream.aclose()

    with Server(engine) as server:
        assert asyncio.run(both(server))


def test_who_goes_on_from_an_answer_waits_until_its_client_has_left(engine, monkeypatch):
    monkeypatch.setattr(service_module, "LEAVING_S", 60)

    async def both(server: Server):
        stream = server.service.stream(Request(messages=ASK, namespace="a", sampling=GREEDY))
        async for event in stream:
            if isinstance(event, ThinkingDelta):
                break
        next_turn = Request(messages=[*ASK, PART, user("Go on.")], namespace="a")
        going_on = asyncio.ensure_future(server.service.render(next_turn))
        await asyncio.wait_for(server.service.render(replace(next_turn, namespace="b")), 20)
        was_done = going_on.done()
        await stream.aclose()
        await asyncio.wait_for(going_on, 20)
        return was_done

    with Server(engine) as server:
        assert asyncio.run(both(server)) is False


def test_a_turn_that_is_still_being_saved_is_waited_for_by_its_own_key_only(engine, monkeypatch):
    may_save, ask = threading.Event(), Request(messages=ASK, namespace="a", sampling=GREEDY)

    async def both(server: Server):
        save = server.service.renderer.turns.remember
        monkeypatch.setattr(server.service.renderer.turns, "remember", lambda *args: may_save.wait(60) and save(*args))
        stream = server.service.stream(ask)
        async for event in stream:
            if isinstance(event, ThinkingDelta):
                break
        await stream.aclose()
        own = asyncio.ensure_future(server.service.render(ask))
        await asyncio.wait_for(server.service.render(replace(ask, namespace="b")), 20)
        was_done = own.done()
        may_save.set()
        await asyncio.wait_for(own, 20)
        return was_done

    with Server(engine) as server:
        try:
            assert asyncio.run(both(server)) is False
        finally:
            may_save.set()
