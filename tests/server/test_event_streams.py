"""A stream of the engine is closed however its reading ends."""

from __future__ import annotations

import asyncio

import pytest

from a3b.errors import OverloadedError
from a3b.interface.events import Finished, TextDelta
from a3b.server import event_streams
from tests.support.scripted_service import STARTED, USAGE, ScriptedService
from tests.support.served import Endless


async def stays():
    await asyncio.Event().wait()


async def leaves():
    return {"type": "http.disconnect"}


def test_closing_a_primed_stream_closes_the_engines_stream():
    async def run():
        service = Endless(STARTED, TextDelta("x"))
        items = await event_streams.prime_stream(stays, service.stream(None))
        begun = not service.was_closed.is_set()
        await items.aclose()
        return begun, service.was_closed.is_set()

    assert asyncio.run(run()) == (True, True)


def test_an_answer_that_never_began_closes_its_source():
    async def chunks():
        yield b"never read"

    async def send(message):
        await asyncio.Event().wait()  # takes nothing

    async def run():
        service = Endless(STARTED, TextDelta("x"))
        response = event_streams.EventStream(
            chunks(), source=await event_streams.prime_stream(stays, service.stream(None))
        )
        with pytest.raises(event_streams.ClientDisconnect):
            await response({"type": "http"}, leaves, send)
        return service.was_closed.is_set()

    assert asyncio.run(run())


def test_every_event_comes_once_and_in_order_between_silences(monkeypatch):
    events = [STARTED, TextDelta("a"), Finished("stop", USAGE)]

    async def slow():
        for event in events:
            await asyncio.sleep(0.02)
            yield event

    async def run():
        return [item async for item in await event_streams.prime_stream(stays, slow())]

    assert asyncio.run(run()) == events
    monkeypatch.setattr(event_streams, "KEEP_ALIVE_S", 0.001)
    told = asyncio.run(run())
    assert [item for item in told if item] == events and None in told


def test_a_refusal_comes_before_the_first_event_is_read():
    with pytest.raises(OverloadedError):
        asyncio.run(event_streams.prime_stream(stays, ScriptedService(OverloadedError("full")).stream(None)))
