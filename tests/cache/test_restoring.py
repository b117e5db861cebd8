"""Sessions read from disk while others write: only the request that needs the disk waits for it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from a3b.cache.disk_store import Store
from a3b.cache.prefix_cache import PrefixCache
from a3b.engine.engine import Engine
from a3b.engine.request_renderer import ServiceSettings
from a3b.engine.scheduler import Scheduler
from a3b.engine.service import Service
from a3b.errors import OverloadedError
from a3b.interface.request import Request
from a3b.thinking.turn_memory import TurnMemory
from tests.support.traced_server import GREEDY, Server, user

pytestmark = pytest.mark.slow  # starts servers or commands, or computes for seconds

QUESTION = [user("What is 17 plus 25? " + "Take your time, please. " * 12)]


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine.load()


class SlowDisk:
    """A store whose reads wait until they are released."""

    def __init__(self, store: Store):
        self.asked, self.go, self._load = threading.Event(), threading.Event(), store.load
        store.load = self.load

    def load(self, *args):
        self.asked.set()
        assert self.go.wait(30)
        return self._load(*args)

    async def was_asked(self) -> None:
        assert await asyncio.to_thread(self.asked.wait, 30)


@contextmanager
def restarted(engine: Engine, directory, **scheduler) -> Iterator[tuple[Server, Store, list]]:
    """A server whose first answer is on disk only, and the conversation that continues it."""
    with Store(directory) as store, Server(engine) as server:
        server.cache.store = store
        message, _ = server.ask(QUESTION)
        assert store.flush()
    with Store(directory) as store:
        server = Server(engine)
        server.scheduler.close()
        server.cache = PrefixCache(b"test", engine.model.new_state, 1 << 30, store)
        server.scheduler = Scheduler(engine.model, server.cache, **scheduler)
        server.service = Service(engine, server.scheduler, TurnMemory(), ServiceSettings(), server.trace)
        with server:
            yield server, store, [*QUESTION, message, user("And that plus 1?")]


def test_others_write_while_a_session_is_read_from_disk(engine, tmp_path):
    async def both(server: Server, disk: SlowDisk, history: list):
        late = asyncio.create_task(server.answer(history))
        await disk.was_asked()
        other = await asyncio.wait_for(server.answer([user("hello")]), 30)
        assert not late.done(), "the disk has not been let go"
        assert server.scheduler.load() == (1, 0)
        disk.go.set()
        return other, await asyncio.wait_for(late, 30)

    with restarted(engine, tmp_path) as (server, store, history):
        (_, other), (_, late) = asyncio.run(both(server, SlowDisk(store), history))
        assert other.reason == "stop"
        assert late.usage.cached_tokens > 64 and late.usage.cache.miss == "none"
        with Server(engine) as fresh:
            line = server.lines()[-1]
            fresh.ask(history)
            assert fresh.lines()[-1]["sampled"] == line["sampled"] and fresh.lines()[-1]["prompt"] == line["prompt"]


def test_who_leaves_while_the_disk_is_read_frees_the_place_at_once(engine, tmp_path):
    async def leave(server: Server, disk: SlowDisk, history: list):
        task = asyncio.create_task(server.answer(history))
        await disk.was_asked()
        task.cancel()
        for _ in range(500):
            if server.scheduler.load() == (0, 0):
                break
            await asyncio.sleep(0.01)
        assert server.scheduler.load() == (0, 0)
        assert (await asyncio.wait_for(server.answer([user("hello")]), 30))[1].reason == "stop"
        disk.go.set()
        return await asyncio.wait_for(server.answer(history), 30)

    with restarted(engine, tmp_path, max_active=1) as (server, store, history):
        assert asyncio.run(leave(server, SlowDisk(store), history))[1].usage.cached_tokens > 64


def test_a_second_request_of_a_session_waits_for_the_first_one_s_read_and_shares_it(engine, tmp_path):
    async def twice(server: Server, disk: SlowDisk, history: list):
        tasks = [asyncio.create_task(server.answer([*history, user(text)])) for text in ("One?", "Two?")]
        await disk.was_asked()
        async with asyncio.timeout(30):
            while server.scheduler.load() != (1, 1):
                await asyncio.sleep(0.01)
        disk.go.set()
        return await asyncio.wait_for(asyncio.gather(*tasks), 60)

    with restarted(engine, tmp_path) as (server, store, history):
        answers = asyncio.run(twice(server, SlowDisk(store), history))
        assert all(finished.usage.cached_tokens > 64 for _, finished in answers)


def test_a_waiting_request_takes_the_place_of_one_that_ends_while_the_disk_is_read(engine, tmp_path):
    async def three(server: Server, disk: SlowDisk, history: list):
        late = asyncio.create_task(server.answer(history))
        await disk.was_asked()
        others = [asyncio.create_task(server.answer([user(text)])) for text in ("hello", "What are you?")]
        await asyncio.wait_for(asyncio.gather(*others), 60)  # one place for both
        assert not late.done()
        disk.go.set()
        return await asyncio.wait_for(late, 30)

    with restarted(engine, tmp_path, max_active=2) as (server, store, history):
        assert asyncio.run(three(server, SlowDisk(store), history))[1].reason == "stop"


def test_a_session_there_is_no_memory_for_costs_the_cache_not_the_answer(engine, tmp_path, monkeypatch):
    def full(*_):
        raise MemoryError

    with restarted(engine, tmp_path) as (server, store, history):
        monkeypatch.setattr("a3b.cache.node_files.read_state", full)
        _, finished = server.ask(history)
        assert (
            finished.reason == "stop" and finished.usage.cached_tokens == 0 and finished.usage.cache.miss == "evicted"
        )
        assert "no memory" in store.notices[-1]
        monkeypatch.undo()
        assert store.flush()
        assert server.ask(history)[1].usage.cached_tokens > 64


def test_a_server_that_stops_while_the_disk_is_read_tells_who_waits(engine, tmp_path):
    async def stop(server: Server, disk: SlowDisk, history: list):
        async def answer():
            with pytest.raises(OverloadedError, match="shutting down"):
                await server.events(Request(messages=history, sampling=GREEDY))

        task = asyncio.create_task(answer())
        await disk.was_asked()
        closing = asyncio.create_task(asyncio.to_thread(server.scheduler.close))
        await asyncio.wait_for(task, 30)
        disk.go.set()
        await asyncio.wait_for(closing, 30)

    with restarted(engine, tmp_path) as (server, store, history):
        asyncio.run(stop(server, SlowDisk(store), history))


def test_a_cache_that_cannot_say_what_is_on_disk_costs_one_answer_not_the_server(engine, monkeypatch):
    def broken(*_):
        raise RuntimeError("the cache is broken")

    async def ask(server: Server):
        with pytest.raises(RuntimeError, match="the cache is broken"):
            await asyncio.wait_for(server.events(Request(messages=QUESTION, sampling=GREEDY)), 10)

    with Server(engine) as server:
        monkeypatch.setattr(server.cache, "on_disk", broken)
        asyncio.run(ask(server))
        monkeypatch.undo()
        assert server.scheduler.is_alive() and server.ask(QUESTION)[1].reason == "stop"
