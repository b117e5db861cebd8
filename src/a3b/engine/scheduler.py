"""Who computes next: several answers advance together in one thread that owns the model, the cache and every state.

Each step takes the next tokens of all answers being written, with what was drafted behind them, and one piece of one
prompt being read. Pieces are cut where snapshots are due (`snapshot_points`). While others wait for their next token
they are so small that a step stays below a time; alone, a prompt goes in large pieces. What the cache has on disk is
read in another thread meanwhile.
Knows no text and no HTTP. Enter at `Scheduler.submit`; events come through the job's `emit`, in this thread."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Literal

import numpy as np

from a3b.cache.prefix_cache import Match, OnDisk, PrefixCache
from a3b.engine.backend import Job
from a3b.engine.draft_prices import Effort, Prices, StepCosts
from a3b.engine.drafts import Answer, Draft, Drafter, Rows, most_drafts, proposed
from a3b.engine.snapshot_points import LEAST_CHUNK, SnapshotKind, snapshot_points
from a3b.errors import Interrupted, OverloadedError
from a3b.interface.events import Event, Reading, Reason
from a3b.model.forward import Model
from a3b.model.state import State

CHUNK = 512  # most tokens of a prompt in a step
STEP_S = 1.3  # target time of a step while other streams decode
SCORED_ROWS = 16  # of logits that are in memory at once where a prompt's own tokens are scored
HELD_S = 0.02  # waited for a constraint while there is nothing else to do ...
DRAFT_HELD_S = 0.002  # ... and while logits of drafts are there that it may need
SHARED = 64  # tokens of a prompt worth waiting for, if another is about to read them

log = logging.getLogger("a3b")


@dataclass(eq=False)
class _Run:
    """A job on its way through the scheduler."""

    job: Job
    match: Match | None = None  # None: not yet begun
    state: State = field(init=False)  # from then on
    read: int = 0  # tokens of the prompt that `state` holds
    feed: list[int] = field(default_factory=list)  # tokens of the answer that the model has to read next
    drafter: Drafter | None = None
    drafts_nothing: bool = False
    effort: Effort = field(default_factory=Effort)
    held: Rows | None = None  # while the constraint still computes what may follow
    snapshot_points: deque[tuple[int, SnapshotKind]] = field(default_factory=deque)  # where snapshots are due

    @property
    def is_reading(self) -> bool:
        return self.read < len(self.job.ids)

    @property
    def reused(self) -> int:
        return self.match.reused if self.match else 0


class Scheduler:
    def __init__(
        self,
        model: Model,
        cache: PrefixCache,
        *,
        max_active: int = 4,
        max_waiting: int = 32,
        verify_every: int = 0,
        drafter: Callable[[Job], Drafter] | None = None,
        costs: StepCosts | None = None,
    ):
        """verify_every: one of so many cache hits is recomputed from nothing and compared bit for bit; 0 is never.
        drafter: makes what drafts the tokens of a job; None drafts nothing. costs: where times of steps are noted."""
        self.model, self.cache = model, cache
        self.max_active, self.max_waiting, self.verify_every = max_active, max_waiting, verify_every
        self._new_drafter, self.costs = drafter, costs or StepCosts()
        self.num_verified = self.num_wrong = self.num_hits = 0
        self._waiting: deque[_Run] = deque()
        self._restoring: list[_Run] = []  # whose beginning is being read from disk
        self._active: list[_Run] = []
        self._calls: deque[Callable[[], None]] = deque()
        self._wake = threading.Condition()
        self._quit = False
        self._may_admit = False  # something has changed since the waiting jobs were last considered
        self._chunk = LEAST_CHUNK  # while others wait
        self._reader = ThreadPoolExecutor(1, "restore")
        self._thread = threading.Thread(target=self._run, name="scheduler", daemon=True)
        self._thread.start()

    # -- from any thread

    def submit(self, job: Job) -> None:
        """Raises OverloadedError when every place is taken, including those to wait in."""
        with self._wake:
            if self._quit:
                raise OverloadedError("the engine is shutting down; try another server, or wait until it is back")
            running = self.load()[0]
            if len(self._waiting) >= self.max_waiting + self.max_active - running:
                raise OverloadedError(
                    f"{running} answers are being written, {len(self._waiting)} requests wait; try again later"
                )
            self._waiting.append(_Run(job))
            self._may_admit = True
            self._wake.notify()

    def call(self, fn: Callable[[], None]) -> None:
        """Run fn between two steps, where the cache may be touched."""
        with self._wake:
            self._calls.append(fn)
            self._wake.notify()

    def cancel(self, job: Job) -> None:
        """End a job whose client has left: its place is free within a token."""
        job.cancelled.set()
        with self._wake:
            self._may_admit = True
            self._wake.notify()

    def load(self) -> tuple[int, int]:
        """(answers in work, requests that wait)."""
        return len(self._active) + len(self._restoring), len(self._waiting)

    @property
    def drafts(self) -> bool:
        """Whether tokens are read ahead."""
        return self._new_drafter is not None

    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def metrics(self) -> dict[str, float]:
        """Of the cache: its checks, its store and its counts."""
        store = self.cache.store
        found = {
            "store_trouble": float(bool(store and store.trouble)),
            **({"store_pending": float(store.num_pending)} if store else {}),
            "cache_verified_total": float(self.num_verified),
            "cache_wrong_total": float(self.num_wrong),
        }
        return found | {f"cache_{name}": float(value) for name, value in asdict(self.cache.stats()).items()}

    def close(self) -> None:
        """End what runs, with an error to everyone who waits."""
        with self._wake:
            self._quit = True
            self._wake.notify()
        self._thread.join()
        self._reader.shutdown(cancel_futures=True)  # the store may be closed after that

    # -- in the scheduler's thread

    def _run(self) -> None:
        error = OverloadedError("the engine is shutting down")
        try:
            self._loop()
        except Exception:  # between two steps: not the fault of one answer
            log.exception("the scheduler has stopped")
            error = OverloadedError("the scheduler has stopped after an error; restart the server, its log says why")
        with self._wake:
            self._quit = True  # later requests are refused
            left = [*self._active, *self._restoring, *self._waiting]
        for run in left:
            run.job.emit(error)

    def _loop(self) -> None:
        while True:
            with self._wake:
                while not (self._quit or self._may_admit or self._active or self._calls):
                    self._wake.wait()
                if self._quit:
                    break
                calls = list(self._calls)
                self._calls.clear()
                self._may_admit = False
            for fn in calls:
                self._guard(fn)
            self._admit()
            running = self.load()[0]
            self._drop_cancelled()
            self._take_held()
            if any(run.held is None for run in self._active):
                self._guarded_step()
            elif self._active:
                self._wait_for_a_constraint()
            if self.load()[0] < running:
                with self._wake:
                    self._may_admit = True

    def _guard(self, fn: Callable[[], None]) -> None:
        try:
            fn()
        except Exception:
            log.exception("a call between steps failed")

    def _admit(self) -> None:
        """Give waiting jobs the free places. One whose prompt begins like one being read waits for the cache."""
        with self._wake:
            waiting, held = list(self._waiting), []
            self._waiting.clear()
        for run in waiting:
            if run.job.cancelled.is_set():
                self._end(run, "cancelled")
                continue
            reading = [
                other for other in (*self._restoring, *self._active) if other.is_reading and other.job.score is None
            ]
            if self.load()[0] >= self.max_active or (
                run.job.score is None and any(_shares_prefix(run, other) for other in reading)
            ):
                held.append(run)
            else:
                self._start(run)
        with self._wake:
            self._waiting.extendleft(reversed(held))

    def _start(self, run: _Run) -> None:
        """Begin once what the cache has on disk for the run has been read."""
        if run.job.score is not None:  # the cache has states, no logits: all is read again
            self._begin(run)
            return
        try:
            on_disk = self.cache.on_disk(run.job.namespace, run.job.ids)
        except Exception as error:
            run.job.emit(error)
            return
        if on_disk is None:
            self._begin(run)
        else:
            self._restoring.append(run)
            self._reader.submit(self._restore, run, on_disk)

    def _restore(self, run: _Run, on_disk: OnDisk) -> None:
        """In the reader's thread."""
        try:
            on_disk.read()
        except Exception:  # such as no memory: then without
            log.exception("a session could not be read from disk")
        self.call(lambda: self._restored(run, on_disk))

    def _restored(self, run: _Run, on_disk: OnDisk) -> None:
        if run in self._restoring:  # or its client has left
            self._restoring.remove(run)
            self._begin(run, on_disk)

    def _begin(self, run: _Run, on_disk: OnDisk | None = None) -> None:
        try:
            if run.job.score is not None:
                run.match = Match(self.model.new_state(), 0, "new", 0)
            else:
                run.match = self.cache.sync(run.job.namespace, run.job.ids, on_disk)
                run.snapshot_points = deque(
                    snapshot_points(run.job.turn_starts, run.reused, len(run.job.ids), run.job.has_system)
                )
            run.state, run.read = run.match.state, run.reused
            run.job.reuse = run.match
            run.job.emit([run.job.started(run.job)])
        except Exception as error:
            run.job.emit(error)
            return
        self._active.append(run)

    def _drop_cancelled(self) -> None:
        for jobs in (self._active, self._restoring):
            for run in [run for run in jobs if run.job.cancelled.is_set()]:
                jobs.remove(run)
                self._end(run, "cancelled")

    def _guarded_step(self) -> None:
        writing = [run for run in self._active if not run.is_reading and run.held is None]
        reading = next((run for run in self._active if run.is_reading), None)
        before = reading.state.snapshot() if reading and not writing else None
        try:
            self._step(writing, reading)
        except Interrupted:  # alone, and its client is gone; it will ask again, and must then get further
            if reading is not None and before is not None:
                self._active.remove(reading)
                reading.state.restore(before)
                self._end(reading, "cancelled")
        except Exception as error:  # states are torn: these jobs cannot go on, others can
            log.exception("a step failed")
            for run in [*writing, *([reading] if reading else [])]:
                if run in self._active:
                    self._active.remove(run)
                    run.job.emit(error)

    def _step(self, writing: list[_Run], reading: _Run | None) -> None:
        start = time.perf_counter()
        drafts: list[list[Draft]] = [[] for _ in writing]
        looking = [(i, run) for i, run in enumerate(writing) if not (run.drafts_nothing or run.effort.is_spent)]
        if looking and self.drafts:
            self.costs.expect(len(writing), sum(run.state.num_tokens for run in writing), start)
            prices = self.costs.prices(len(writing))
            for i, run in looking:
                drafts[i] = self._drafts(run, prices, len(writing))
        drafting_s = time.perf_counter() - start
        pieces = [
            (np.array([*run.feed, *(draft.token for draft in drafted)], np.int64), run.state, len(drafted))
            for run, drafted in zip(writing, drafts, strict=True)
        ]
        if reading is None:
            logits = self.model.forward_drafted(pieces)
        else:
            others_wait = any(not run.is_reading for run in self._active)  # also for their constraints
            num_read = self._chunk_len(reading, others_wait)
            ids = np.array(reading.job.ids[reading.read : reading.read + num_read], np.int64)
            if reading.job.score is not None:
                logits = self.model.forward_drafted(pieces)
                last: np.ndarray | None = self._scored(reading, ids, bool(writing))
            elif writing:
                *logits, (last,) = self.model.forward_drafted([*pieces, (ids, reading.state, 0)])
            else:
                kind: Literal["last", "none"] = "last" if reading.read + num_read == len(reading.job.ids) else "none"
                logits = []
                last = self.model.forward(ids, reading.state, logits=kind, cancel=reading.job.cancelled.is_set)
        seconds = time.perf_counter() - start
        if reading is not None:
            self._adapt(seconds, num_read, others_wait)
            step_s, plain_s = seconds - drafting_s, self.costs.skip(len(writing)) or seconds - drafting_s
        else:
            step_s = plain_s = self.costs.note(len(writing), sum(map(len, drafts)), seconds, drafting_s)
        for run, rows, drafted in zip(writing, logits, drafts, strict=True):
            run.job.decode_s += seconds
            run.job.drafting.step((draft.source for draft in drafted), step_s, plain_s)
            self._advance(run, Rows(rows, drafted))
        if reading is not None:
            reading.job.prefill_s += seconds
            self._has_read(reading, num_read, last)

    def _drafts(self, run: _Run, prices: Prices, num_answers: int) -> list[Draft]:
        """Tokens to read behind the run's own, in case that they come next. What fails here costs the answer its
        drafts and nothing else."""
        if self._new_drafter is None or not (most := most_drafts(run.job.generation)):
            return []
        start, guessing_s, plain_s = time.perf_counter(), self.costs.guessing_s, self.costs.plain(num_answers)
        try:
            run.drafter = run.drafter or self._new_drafter(run.job)
            return proposed(run.drafter, Answer(run.job.generation, run.state, run.feed), most, prices)
        except Exception:
            log.exception("tokens could not be drafted; the answer goes on without")
            run.drafts_nothing = True
            return []
        finally:
            if plain_s:
                looking_s = time.perf_counter() - start - (self.costs.guessing_s - guessing_s)
                run.effort.pay(num_answers * looking_s / plain_s)

    def _scored(self, run: _Run, ids: np.ndarray, others_wait: bool) -> np.ndarray:
        """Read a piece of a prompt and score its tokens; the logits of the last one."""
        cancel = None if others_wait else run.job.cancelled.is_set
        place = run.read
        for logits in self.model.forward_chunks(ids, run.state, SCORED_ROWS, cancel):
            if run.job.score is not None:
                run.job.emit(run.job.score(place, logits))
            place += len(logits)
        last: np.ndarray = logits[-1]
        return last

    def _chunk_len(self, run: _Run, others_wait: bool) -> int:
        end = run.snapshot_points[0][0] if run.snapshot_points else len(run.job.ids)
        return min(end - run.read, self._chunk if others_wait else CHUNK)

    def _adapt(self, seconds: float, num: int, others_wait: bool) -> None:
        """Pieces with which a step takes STEP_S while others wait: guessed from steps alone (a small piece costs more a
        token, as it reads most experts for itself), then followed."""
        if not others_wait:
            wanted = num / seconds * STEP_S / 2 if num > LEAST_CHUNK else self._chunk
        elif num == self._chunk or seconds > STEP_S:
            wanted = num * min(max(STEP_S / seconds, 0.5), 1.5)
        else:
            return
        self._chunk = max(LEAST_CHUNK, min(CHUNK, int(wanted)))

    def _has_read(self, run: _Run, num: int, logits: np.ndarray | None) -> None:
        """A piece of a prompt is read: snapshot, turn to the next in line, or begin to write."""
        run.read += num
        if run.snapshot_points and run.snapshot_points[0][0] == run.read:
            self._remember(run, run.read, run.snapshot_points.popleft()[1])
        run.job.emit([Reading(run.read - run.reused, len(run.job.ids) - run.reused)])
        if run.is_reading or logits is None:
            self._active.remove(run)  # prompts take turns, piece by piece
            self._active.append(run)
            return
        if run.reused:
            self.num_hits += 1
            if self.verify_every and self.num_hits % self.verify_every == 0:
                logits = self._verified(run, logits)
        if run.job.only_reads:
            self._active.remove(run)
            self._end(run, "length")
            return
        forced = run.job.generation.start()
        if forced or run.job.generation.feed:
            run.feed = run.job.generation.feed
            run.job.emit(forced)
            if run.job.generation.reason is None:
                return
        self._advance(run, Rows(logits[None]))

    def _wait_for_a_constraint(self) -> None:
        if (constraint := self._active[0].job.generation.computing) is not None:
            constraint.wait(HELD_S)

    def _take_held(self) -> None:
        """Continue answers whose constraints are ready now."""
        for run in list(self._active):
            if run.held is not None:
                self._advance(run, run.held)

    def _advance(self, run: _Run, rows: Rows) -> None:
        """Choose the next token, and those after it while they are what was drafted; or wait for the constraint without
        keeping others waiting."""
        generation, first, was_held = run.job.generation, rows, run.held
        events: list[Event] = []
        failure, run.held = None, None
        try:
            while generation.reason is None:
                if (constraint := generation.computing) is not None and rows is not first:
                    constraint.wait(DRAFT_HELD_S)
                if generation.computing is not None:
                    run.held = rows if rows is was_held else rows.kept()
                    break
                token, logprobs = generation.choose(rows.logits[0])
                events += generation.accept((token,), (logprobs,)).events
                num = rows.num_right(generation.feed)
                run.job.drafting.choose(draft.source for draft in rows.drafts[:num])
                run.effort.note(num)
                run.feed = generation.feed[num:]
                if num:
                    run.state.keep(num)
                if run.feed or not num:
                    break
                rows = rows.after(num)
        except Exception as error:
            failure = error
        if events:
            run.job.emit(events)
        if failure is not None:
            self._active.remove(run)
            run.job.emit(failure)
        elif generation.reason is not None:
            self._active.remove(run)
            self._end(run, generation.reason)

    def _end(self, run: _Run, reason: Reason) -> None:
        try:
            if run.job.generation.reason is None:
                run.job.emit(run.job.generation.stop(reason))
            if run.match is not None and run.state.num_tokens > run.reused and run.job.score is None:
                is_beginning = run.job.begins_many and not run.is_reading
                self._remember(run, run.state.num_tokens, "system" if is_beginning else "end")
        except Exception:  # such as no memory for a snapshot: the answer is complete anyway
            log.exception("the end of an answer could not be kept")
        run.match = None  # the state is let go
        try:
            run.job.emit([run.job.finished(run.job)])
        except Exception as error:
            run.job.emit(error)

    def _remember(self, run: _Run, num: int, kind: SnapshotKind) -> None:
        self.model.settle(run.state)
        ids = [*run.job.ids, *run.job.generation.sampled][:num]
        label = "" if kind == "system" else run.job.label  # many conversations share a system turn
        run.job.end_node = self.cache.add(
            run.job.namespace, ids, run.state.snapshot(), kind, persist=run.job.persist(num), label=label
        )

    def _verified(self, run: _Run, logits: np.ndarray) -> np.ndarray:
        """The same prompt computed from nothing; if the cache gave anything else, it is emptied and the new result
        counts."""
        state = self.model.new_state()
        try:
            cold = self.model.forward(np.array(run.job.ids, np.int64), state, cancel=run.job.cancelled.is_set)
        except Interrupted:  # its client is gone
            return logits
        self.num_verified += 1
        if cold is None or np.array_equal(cold.view(np.uint32), logits.view(np.uint32)):
            return logits
        self.num_wrong += 1
        log.error(
            "a cached state gave other logits than a cold one after %d of %d tokens; the cache is emptied",
            run.reused,
            len(run.job.ids),
        )
        self.cache.clear()
        run.state = state
        return cold


def _shares_prefix(run: _Run, other: _Run) -> bool:
    """Whether `other` is about to read a beginning of the run's prompt that is worth waiting for."""
    if run.job.namespace != other.job.namespace:
        return False
    end = other.read + SHARED
    return len(run.job.ids) >= end and run.job.ids[:end] == other.job.ids[:end]
