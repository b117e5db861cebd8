"""What all APIs share: a stream of the engine is kept alive, and closed however its reading ends."""

from __future__ import annotations

import asyncio

import pytest
from scripted_service import STARTED, USAGE, ScriptedService
from served import Endless

from a3b.errors import OverloadedError
from a3b.events import Finished, TextDelta
from a3b.server import wire


def test_closing_what_was_opened_closes_the_engines_stream():
    async def run():
        service = Endless(STARTED, TextDelta("x"))
        items = await wire.opened(service.stream(None))
        begun = not service.was_closed.is_set()
        await items.aclose()
        return begun, service.was_closed.is_set()

    assert asyncio.run(run()) == (True, True)


def test_an_answer_that_never_began_closes_its_source():
    async def chunks():
        yield b"never read"

    async def receive():
        return {"type": "http.disconnect"}

    async def send(message):
        await asyncio.Event().wait()  # takes nothing

    async def run():
        service = Endless(STARTED, TextDelta("x"))
        items = await wire.opened(service.stream(None))
        await wire.event_stream(chunks(), source=items)({"type": "http", "asgi": {"spec_version": "2.3"}}, receive, send)
        return service.was_closed.is_set()

    assert asyncio.run(run())


def test_every_event_comes_once_and_in_order_between_silences():
    async def slow():
        for event in (STARTED, TextDelta("a"), Finished("stop", USAGE)):
            await asyncio.sleep(0.02)
            yield event

    async def run(silence_s):
        return [item async for item in await wire.opened(slow(), silence_s)]

    assert asyncio.run(run(5)) == [STARTED, TextDelta("a"), Finished("stop", USAGE)]
    told = asyncio.run(run(0.001))
    assert [item for item in told if item] == [STARTED, TextDelta("a"), Finished("stop", USAGE)] and told[0] is None


def test_a_refusal_comes_before_the_first_event_is_read():
    async def run():
        await wire.opened(ScriptedService(OverloadedError("full")).stream(None))

    with pytest.raises(OverloadedError):
        asyncio.run(run())
