"""A server in trouble: caches that fail, clients that give up, prompts of megabytes, conversations of hundreds of
turns."""

from __future__ import annotations

import asyncio
import threading
import time

import numpy as np
import pytest

from a3b.cache.disk_store import Store
from a3b.cache.prefix_cache import PrefixCache
from a3b.constrain.constraints import Grammars
from a3b.engine.engine import Engine
from a3b.engine.generation import Generation
from a3b.engine.request_renderer import ServiceSettings
from a3b.engine.scheduler import Scheduler
from a3b.engine.service import Service
from a3b.interface.events import TextDelta, ThinkingDelta
from a3b.interface.request import Request
from a3b.interface.sampling_params import SamplingParams
from a3b.thinking.budget import ThinkingControl, ThinkingTokens
from a3b.thinking.turn import Turn
from a3b.thinking.turn_memory import TurnMemory
from tests.support.session_stores import forget
from tests.support.traced_server import GREEDY, Server, cold, user

pytestmark = pytest.mark.slow  # starts servers or commands, or computes for seconds

SECRET = "Think of two numbers from 0 to 999. Tell me only the first."
FREE = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "max_tokens": 120}


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine.load()


# -- API


def test_a_completion_is_the_text_of_its_tokens(engine):
    with Server(engine) as server:
        for prompt in ("def add(a, b):\n", "hello", "for i in range(3):\n"):
            events = asyncio.run(server.events(Request(prompt=prompt, sampling={"temperature": 0.0, "max_tokens": 12})))
            text = "".join(e.text for e in events if isinstance(e, TextDelta))
            ids = [i for i in server.lines()[-1]["sampled"] if i not in engine.config.eos_token_ids]
            assert text == engine.tokenizer.decode(ids)


# -- turns


def test_of_two_answers_with_the_same_text_the_one_whose_thinking_comes_back_is_replayed(engine):
    """n=2, or a regeneration: the client goes on with the first and sends its thinking, too."""
    turns, ask = TurnMemory(), [user("Yes or no?")]
    for number in (1, 2):
        message = {"role": "assistant", "content": "Yes.", "reasoning_content": f"thought {number}"}
        turns.remember("", ask, Turn.of(message, [number, 99], False, 2))
    for number in (1, 2):
        sent = {"role": "assistant", "content": "Yes.", "reasoning_content": f"thought {number}"}
        out, _ = turns.recall("", [*ask, sent], len, lambda *_: ())
        assert out[-1].get("_replay") == (number, 99), f"the sampled tokens of answer {number} are known"


def test_an_edited_turn_gets_no_thinking_of_another_conversation():
    turns = TurnMemory()
    first = [user("My PIN is 4711."), {"role": "assistant", "content": "Noted."}, user("ok?")]
    turns.remember("", first, Turn.of({"content": "Yes.", "reasoning_content": "the PIN is 4711"}, [1, 99], False, 2))
    other = [
        user("Hi"),
        {"role": "assistant", "content": "Hello!"},
        user("ok?"),
        {"role": "assistant", "content": "Yes."},
    ]
    out, blocks = turns.recall("", other, len, lambda *_: ())
    assert not blocks and not out[-1].get("reasoning_content")


def test_recalling_a_long_conversation_costs_time_in_proportion():
    def seconds(num: int) -> float:
        turns = TurnMemory()
        messages = []
        for i in range(num):
            messages += [
                user(f"question {i} " + "word " * 200),
                {"role": "assistant", "content": f"answer {i} " + "text " * 200},
            ]
        begin = time.thread_time()
        turns.recall("", messages, len, lambda *_: ())
        return time.thread_time() - begin

    seconds(10)
    short, long = seconds(50), seconds(400)
    assert long < 8 * short * 3, f"{short:.3f} s for 50 turns, {long:.3f} s for 400"


# -- budget


class _Logits:
    def __init__(self, engine):
        self.engine = engine

    def __call__(self, token_id: int) -> np.ndarray:
        out = np.zeros(self.engine.tokenizer.num_tokens, np.float32)
        out[token_id] = 50
        return out


def _answer(engine, request: Request, budget: int | None = None) -> Generation:
    tokenizer = engine.tokenizer
    control = ThinkingControl(ThinkingTokens.of(tokenizer), tokenizer.token_bytes, in_thinking=True, budget=budget)
    return Generation(
        tokenizer,
        engine.config.eos_token_ids,
        [1, 2, 3],
        SamplingParams(temperature=0.0, top_p=1.0, top_k=0),
        200,
        tools=request.tools,
        in_thinking=True,
        constraint=Grammars(tokenizer).of(request),
        control=control,
    )


@pytest.mark.parametrize("choice", ["auto", "none"])
def test_no_answer_is_empty_behind_a_budget(engine, choice):
    answer, logits = _answer(engine, Request(tool_choice=choice), budget=0), _Logits(engine)
    answer.start()
    answer.accept([answer.choose(logits(engine.tokenizer.control_id("<|im_end|>"))).token_id])
    assert answer.reason is None, "the turn must not end before anything was written"


@pytest.mark.parametrize("name", ["<|im_end|>", "<|endoftext|>"])
def test_an_answer_of_a_schema_does_not_end_while_thinking(engine, name):
    answer, logits = _answer(engine, Request(schema={"type": "object"})), _Logits(engine)
    if engine.tokenizer.control_id(name) not in engine.config.eos_token_ids:
        pytest.skip("no end of this model")
    answer.accept([answer.choose(logits(engine.tokenizer.encode_text("a")[0])).token_id])
    answer.accept([answer.choose(logits(engine.tokenizer.control_id(name))).token_id])
    assert answer.reason is None


# -- scheduler


def test_a_cache_that_fails_at_the_end_of_an_answer_leaves_nobody_waiting(engine, monkeypatch):
    with Server(engine) as server:
        real = server.cache.add

        def broken(namespace, ids, snapshot, kind, **rest):
            if kind == "end":  # as where 63 MiB more are not to be had
                raise MemoryError
            return real(namespace, ids, snapshot, kind, **rest)

        monkeypatch.setattr(server.cache, "add", broken)

        async def ask():
            return await asyncio.wait_for(server.answer([user("hello")]), 20)

        for _ in range(2):  # the answer is whole, and so is the next
            message, finished = asyncio.run(ask())
            assert finished.reason == "stop" and message["content"]
            assert cold(engine, server.lines()[-1]) == server.lines()[-1]["sampled"]


def test_a_cache_that_fails_for_who_leaves_stops_nobody_else(engine, monkeypatch):
    with Server(engine) as server:
        real = server.cache.add

        async def leave():
            stream = server.service.stream(
                Request(messages=[user("What is 1 plus 1?")], sampling={"max_tokens": 3000, "temperature": 2.0})
            )
            async for event in stream:
                if isinstance(event, ThinkingDelta):
                    break

            def broken(*_, **__):
                raise MemoryError

            server.cache.add = broken
            await stream.aclose()
            await asyncio.sleep(1)
            server.cache.add = real
            assert server.scheduler._thread.is_alive(), "the scheduler is dead; every request from now on hangs"

        asyncio.run(leave())


def test_a_prompt_whose_client_gave_up_is_not_read_from_the_beginning_again(engine, monkeypatch):
    """A client with a timeout shorter than the prefill, which tries again: it must get further each time."""
    text = " ".join(f"item {i}" for i in range(550))
    real = type(engine.model).forward

    with Server(engine) as server:

        def leaving(model, ids, state, logits="last", cancel=None):
            if state.num_tokens >= 1000:
                for run in server.scheduler._active:
                    run.job.cancelled.set()
            return real(model, ids, state, logits, cancel)

        monkeypatch.setattr(type(engine.model), "forward", leaving)
        server.ask([user(text)])
        monkeypatch.setattr(type(engine.model), "forward", real)
        _, finished = server.ask([user(text)])
        assert finished.usage.cached_tokens >= 1000, f"{finished.usage.cached_tokens} of {finished.usage.prompt_tokens}"


def test_metrics_can_be_read_while_the_cache_changes(engine):
    with Server(engine) as server:
        for i in range(400):  # nodes, as a day of use leaves them
            ids = np.random.default_rng(i).integers(0, 4000, 3)
            state = engine.model.new_state()
            engine.model.forward(ids, state)
            server.cache.add("", ids, state.snapshot(), "turn")
        errors, stop = [], threading.Event()

        def read():
            while not stop.is_set():
                try:
                    server.service.metrics()
                except RuntimeError as error:
                    errors.append(error)
                    return

        thread = threading.Thread(target=read)
        thread.start()
        snapshot = engine.model.new_state()
        engine.model.forward(np.array([1, 2, 3]), snapshot)
        snapshot = snapshot.snapshot()
        try:
            for i in range(3000):
                rng = np.random.default_rng(10_000 + i)
                server.scheduler.call(lambda rng=rng: server.cache.add("", rng.integers(0, 4000, 3), snapshot, "turn"))
                if errors:
                    break
                if i % 100 == 0:
                    time.sleep(0.02)
        finally:
            stop.set()
            thread.join()
        assert not errors


def test_a_failure_to_remember_a_turn_does_not_take_the_answer_back(engine):
    class Full:
        def write(self, _):
            raise OSError(28, "No space left on device")

        flush = write

    with Server(engine) as server:
        server.service._trace = Full()
        message, finished = server.ask([user("hello")])
        assert finished.reason == "stop" and message["content"]


def test_a_large_prompt_of_one_client_does_not_make_the_others_wait(engine):
    """What cannot fit the context must be refused without minutes of tokenizing in the one helper thread."""

    async def both(server):
        big = asyncio.ensure_future(server.answer([user("lorem ipsum dolor sit amet, " * 40_000)]))
        await asyncio.sleep(0.1)
        begin = time.perf_counter()
        await server.answer([user("hello")])
        seconds = time.perf_counter() - begin
        await asyncio.gather(big, return_exceptions=True)
        return seconds

    with Server(engine) as server:
        server.ask([user("hello")])
        assert asyncio.run(both(server)) < 2


def test_the_first_question_is_no_system_prompt(engine):
    """A node of kind "system" is never evicted before others and never forgotten; a user's text must not be one."""
    with Server(engine) as server:
        server.ask([user("My secret is that I robbed the bank.")])
        assert [node.kind for node in server.cache._tree.nodes.values() if node.kind == "system"] == []
        server.ask([{"role": "system", "content": "You help."}, user("hello")])
        assert [node.kind for node in server.cache._tree.nodes.values() if node.kind == "system"] == ["system"]


def test_forgetting_a_conversation_forgets_the_first_question(engine, tmp_path):
    with Store(tmp_path) as store:
        cache = PrefixCache(b"test", engine.model.new_state, 1 << 30, store)
        service = Service(engine, Scheduler(engine.model, cache), TurnMemory(store), ServiceSettings())

        async def ask():
            return [
                e
                async for e in service.stream(
                    Request(messages=[user("My secret is that I robbed the bank.")], sampling=GREEDY)
                )
            ]

        asyncio.run(ask())
        store.flush()
        leaf = max(store._index.rows()[0], key=lambda row: row.num_tokens)
        service.close()
        forget(tmp_path, leaf.id)
        assert store._index.rows()[0] == []


def test_what_other_threads_ask_does_not_wait_for_the_disk(engine, tmp_path):
    """/metrics is answered on the event loop: while the index is locked, by a write or a slow disk, no stream may
    stall."""
    with Store(tmp_path) as store:
        cache = PrefixCache(b"test", engine.model.new_state, 1 << 30, store)
        service = Service(engine, Scheduler(engine.model, cache), TurnMemory(store), ServiceSettings())
        held, done = threading.Event(), threading.Event()

        def hold():
            with store._index.lock:
                held.set()
                done.wait(3)

        thread = threading.Thread(target=hold)
        thread.start()
        held.wait()
        begin = time.perf_counter()
        service.metrics()
        seconds = time.perf_counter() - begin
        done.set()
        thread.join()
        service.close()
        assert seconds < 0.5


# -- store


def test_a_wrong_state_does_not_cost_the_thinking_of_all_conversations(engine, tmp_path):
    with Store(tmp_path) as store:
        cache = PrefixCache(b"test", engine.model.new_state, 1 << 30, store)
        scheduler = Scheduler(engine.model, cache, verify_every=1)
        service = Service(engine, scheduler, TurnMemory(store), ServiceSettings())

        async def ask(messages, namespace=""):
            return [e async for e in service.stream(Request(messages=messages, sampling=GREEDY, namespace=namespace))]

        asyncio.run(ask([user("hello")], "other"))
        asyncio.run(ask([user("hello")]))
        assert store.records("other")
        real = cache.sync

        def wrong(*args):
            match = real(*args)
            match.state.delta[...] *= 1.5
            return match

        cache.sync = wrong
        asyncio.run(ask([user("hello")]))
        cache.sync = real
        assert scheduler.num_wrong == 1
        assert store.records("other"), "another key's remembered thinking is gone from the disk"
        service.close()
