"""Who computes next, step by step: a model that only counts, so that each step is known."""

from __future__ import annotations

import itertools
import queue
import threading
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from a3b.cache.prefix_cache import Match
from a3b.engine import scheduler as scheduler_module
from a3b.engine.backend import Job
from a3b.engine.generation import Accepted, Sampled
from a3b.engine.scheduler import CHUNK, Scheduler
from a3b.engine.snapshot_points import LEAST_CHUNK, MAX_SNAPSHOTS, SNAPSHOT_GAP, snapshot_points
from a3b.errors import Interrupted, OverloadedError
from a3b.interface.events import Reading

WRITTEN = 40  # tokens of an answer


class State:
    def __init__(self, num_tokens: int = 0, is_wrong: bool = False):
        self.num_tokens, self.is_wrong = num_tokens, is_wrong

    def snapshot(self) -> State:
        return State(self.num_tokens, self.is_wrong)

    def restore(self, other: State) -> None:
        self.num_tokens = other.num_tokens


class Model:
    """Notes of each step which tokens it was given; its logits say whether the state was right."""

    def __init__(self):
        self.steps: list[list[tuple[int, int]]] = []  # (first token, how many) of each piece

    def new_state(self) -> State:
        return State()

    def forward(self, ids, state, logits="last", cancel=None):
        return self.forward_drafted([(ids, state, 0)])[0][0]

    def forward_drafted(self, pieces):
        self.steps.append([(int(ids[0]), len(ids)) for ids, _, _ in pieces])
        for ids, state, _ in pieces:
            state.num_tokens += len(ids)
        return [np.array([[0, 0, 1] if state.is_wrong else [0, 1, 0]], np.float32) for _, state, _ in pieces]

    def settle(self, state):
        pass


class Cache:
    def __init__(self, reused: int = 0, is_wrong: bool = False):
        self.match = Match(State(reused, is_wrong), reused, "none", reused)
        self.num_clears = 0

    def on_disk(self, namespace, ids):
        return None

    def sync(self, namespace, ids, on_disk=None):
        return replace(self.match, state=self.match.state.snapshot())

    def add(self, *args, **kwargs):
        return b""

    def clear(self):
        self.num_clears += 1


class Counting:
    """Stands in for a Generation: writes `num` tokens."""

    computing = None

    def __init__(self, num: int):
        self.num, self.feed, self.sampled, self.reason = num, [], [], None

    def start(self):
        return []

    def choose(self, logits):
        return Sampled(int(logits.argmax()), None)

    def accept(self, ids, logprobs):
        self.sampled += ids
        self.feed = list(ids)
        self.reason = "stop" if len(self.sampled) == self.num else None
        return Accepted([], len(ids))

    def stop(self, reason):
        self.reason = reason
        return []


def prompt(first: int, num: int) -> list[int]:
    return list(range(first, first + num))


def run(cache: Cache, *asked: tuple[list[int], int], **options) -> tuple[Model, list[list], list[Job]]:
    """All prompts at once, with how many tokens to write: (model, events of each, jobs)."""
    model = Model()
    scheduler = Scheduler(model, cache, **options)
    may_begin, events, jobs, done = threading.Event(), [], [], []
    try:
        scheduler.call(lambda: may_begin.wait(30) and None)
        for ids, num in asked:
            told, end = [], threading.Event()
            jobs.append(
                Job(
                    "n",
                    ids,
                    Counting(num),
                    lambda job: "started",
                    lambda job, end=end: (end.set(), "finished")[1],
                    told.extend,
                )
            )
            events.append(told)
            done.append(end)
            scheduler.submit(jobs[-1])
        may_begin.set()
        assert all(end.wait(30) for end in done)
    finally:
        may_begin.set()
        scheduler.close()
    return model, events, jobs


def test_a_scheduler_that_fails_between_steps_leaves_nobody_waiting(monkeypatch, caplog):
    def fail(self):
        raise ValueError("planted")

    monkeypatch.setattr(Scheduler, "_drop_cancelled", fail)
    scheduler, emitted = Scheduler(Model(), Cache()), queue.Queue()
    try:
        scheduler.submit(Job("n", [1, 2], Counting(3), lambda job: "started", lambda job: "finished", emitted.put))
        while not isinstance(found := emitted.get(timeout=30), Exception):
            pass
        assert isinstance(found, OverloadedError) and "stopped after an error" in str(found)
        with pytest.raises(OverloadedError):
            scheduler.submit(Job("n", [1], Counting(1), lambda job: "", lambda job: "", emitted.put))
        assert "planted" in caplog.text
    finally:
        scheduler.close()


def test_a_prompt_alone_is_read_in_large_pieces():
    model, _, _ = run(Cache(), (prompt(0, 2 * CHUNK + 1), 1))
    assert [num for ((_, num),) in model.steps] == [CHUNK, CHUNK, 1]


@pytest.mark.parametrize("fails", [False, True])
def test_what_was_read_from_disk_in_another_thread_is_what_the_prompt_goes_on_from(fails, caplog):
    class OnDisk:
        thread = None

        def read(self):
            self.thread = threading.current_thread()
            if fails:
                raise MemoryError

    class CacheWithDisk(Cache):
        given = None

        def on_disk(self, namespace, ids):
            return on_disk

        def sync(self, namespace, ids, on_disk=None):
            self.given = (on_disk, threading.current_thread())
            return super().sync(namespace, ids)

    on_disk, cache = OnDisk(), CacheWithDisk()
    _, _, (job,) = run(cache, (prompt(0, 3), 2))
    found, computing = cache.given
    assert found is on_disk and computing is not on_disk.thread is not None
    assert job.generation.sampled == [1, 1] and ("could not be read from disk" in caplog.text) is fails


def test_while_another_answer_is_written_a_prompt_is_read_in_small_pieces():
    model, events, _ = run(Cache(), (prompt(0, 1), WRITTEN), (prompt(5000, 2 * CHUNK), 1))
    pieces = [num for step in model.steps if len(step) == 2 for first, num in step if first >= 5000]
    assert pieces[0] == LEAST_CHUNK and sum(pieces) == 2 * CHUNK
    assert all(after <= 1.5 * before for before, after in itertools.pairwise(pieces))
    assert [event.done for event in events[1] if isinstance(event, Reading)] == list(itertools.accumulate(pieces))


def test_while_another_answer_waits_for_its_constraint_a_prompt_is_read_in_small_pieces(monkeypatch):
    late, asked = SimpleNamespace(wait=lambda seconds: None), itertools.count()
    computing = property(lambda self: late if self.num == WRITTEN and next(asked) < 60 else None)
    monkeypatch.setattr(Counting, "computing", computing)
    model, _, _ = run(Cache(), (prompt(0, 1), WRITTEN), (prompt(5000, 2 * CHUNK), 1))
    pieces = [num for ((first, num),) in (step for step in model.steps if len(step) == 1) if first >= 5000]
    assert pieces[0] == LEAST_CHUNK and all(after <= 1.5 * before for before, after in itertools.pairwise(pieces))


def test_pieces_have_a_least_size_however_slow_the_steps_are(monkeypatch):
    seconds = itertools.count(step=100)
    monkeypatch.setattr(scheduler_module, "time", SimpleNamespace(perf_counter=lambda: next(seconds)))
    model, _, _ = run(Cache(), (prompt(0, 1), WRITTEN), (prompt(5000, 6 * LEAST_CHUNK), 1))
    pieces = [num for step in model.steps if len(step) == 2 for first, num in step if first >= 5000]
    assert sum(pieces) == 6 * LEAST_CHUNK and set(pieces[:5]) == {LEAST_CHUNK}


def test_long_prompts_take_turns_piece_by_piece():
    model, _, _ = run(Cache(), (prompt(0, 2 * CHUNK), 1), (prompt(5000, 2 * CHUNK), 1))
    assert [first for ((first, _),) in model.steps] == [0, 5000, 512, 5512, 1023, 6023]  # the last token is read alone


@pytest.mark.parametrize("is_wrong", [False, True])
def test_an_answer_goes_on_from_the_cold_state_if_the_cached_one_was_wrong(is_wrong):
    cache = Cache(reused=20, is_wrong=is_wrong)
    model, _, (job,) = run(cache, (prompt(0, 30), 3), verify_every=1)
    assert job.generation.sampled == [1, 1, 1]
    assert model.steps[:2] == [[(20, 10)], [(0, 30)]]
    assert cache.num_clears == is_wrong


def test_a_verification_ends_with_its_client(monkeypatch):
    cancels, forward = [], Model.forward

    def leaves(self, ids, state, logits="last", cancel=None):
        if len(ids) < 30:
            return forward(self, ids, state, logits, cancel)
        cancels.append(cancel)  # all of the prompt: the verification
        raise Interrupted("its client is gone")

    monkeypatch.setattr(Model, "forward", leaves)
    _, _, (job,) = run(Cache(reused=29), (prompt(0, 30), 2), verify_every=1)
    assert cancels == [job.cancelled.is_set] and job.generation.sampled == [1, 1]


def test_one_in_so_many_hits_is_verified():
    model, _, _ = run(Cache(reused=20), *[(prompt(100 * i, 30), 1) for i in range(5)], verify_every=2)
    assert [step[0][0] for step in model.steps if step[0][1] == 30] == [100, 300]


def test_the_starts_of_the_last_two_turns_are_remembered_however_close():
    assert snapshot_points([0, 100, 300, 340, 380], 0, 400) == [
        (100, "system"),
        (300, "turn"),
        (340, "turn"),
        (380, "turn"),
    ]
    assert snapshot_points([0, 100, 250, 340, 380], 0, 400) == [(100, "system"), (340, "turn"), (380, "turn")]


def test_a_prompt_without_turns_is_remembered_all_but_its_last_token():
    assert snapshot_points([], 0, 100) == [(99, "turn")]
    assert snapshot_points([0], 0, 100) == [] == snapshot_points([], 95, 100)


def test_turns_between_are_remembered_from_a_certain_distance_on():
    far = 100 + SNAPSHOT_GAP
    tail = [(2000, "turn"), (2100, "turn")]
    assert snapshot_points([0, 100, far, 2000, 2100], 0, 2200) == [(100, "system"), (far, "turn"), *tail]
    assert snapshot_points([0, 100, far - 1, 2000, 2100], 0, 2200) == [(100, "system"), *tail]


def test_of_too_many_turns_the_first_and_the_last_are_remembered():
    starts = list(range(0, 300 * 2 * MAX_SNAPSHOTS, 300))
    found = snapshot_points(starts, 0, starts[-1] + 10)
    assert found == [(300, "system"), *((start, "turn") for start in starts[1 - MAX_SNAPSHOTS :])]


@pytest.mark.parametrize(("start", "is_due"), [(100 + LEAST_CHUNK, True), (100 + LEAST_CHUNK - 1, False), (200, False)])
def test_nothing_is_remembered_just_after_what_is_there_nor_at_the_end(start, is_due):
    assert snapshot_points([0, 50, start], 100, 200) == ([(start, "turn")] if is_due else [])
