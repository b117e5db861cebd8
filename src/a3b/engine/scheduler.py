"""Who computes next: several answers advance together in one thread that owns the model, the cache and every state.

Each step takes the next tokens of all answers being written and one piece of one prompt being read. Pieces are cut
where snapshots are due (`boundaries`), and so small, while others wait for their next token, that a step stays below a
time; alone, a prompt goes in large pieces. What the cache has on disk is read in another thread meanwhile. Knows no
text and no HTTP. Enter at `Scheduler.submit`; events come through the job's `emit`, in this thread."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from a3b.cache.prefix_cache import Match, OnDisk, PrefixCache
from a3b.engine.generation import Generation
from a3b.errors import Interrupted, OverloadedError
from a3b.interface.events import Event, Reading, Reason
from a3b.model.forward import Model
from a3b.model.state import State

CHUNK = 512  # most tokens of a prompt in a step
LEAST_CHUNK = 16  # also the first, before anything is known of the machine
STEP_S = 1.3  # what a step takes while somebody waits for a token; nobody shall wait for two seconds
SCORED_ROWS = 16  # of logits that are in memory at once where a prompt's own tokens are scored
HELD_S = 0.02  # waited for a constraint while there is nothing else to do
SHARED = 64  # tokens of a prompt worth waiting for, if another is about to read them
MAX_BOUNDARIES = 16  # snapshots taken while one prompt is read
BOUNDARY_GAP = 192  # tokens between two of them, but for the first and the last two

log = logging.getLogger("a3b")


@dataclass
class Job:
    """One answer to be computed."""

    namespace: str
    ids: Sequence[int]  # the prompt
    generation: Generation
    started: Callable[[Match], Event]  # makes the first event
    finished: Callable[[Job], Event]  # makes the last one
    emit: Callable[[list[Event] | Exception], None]
    turn_starts: Sequence[int] = ()  # where turns begin in the prompt, ascending
    has_system: bool = False  # the first of them is the system's
    label: str = ""  # by which people know the conversation
    persist: Callable[[int], bool] = lambda num_tokens: True  # whether so many tokens may go to the disk
    # (place of the first, logits [n, V]) of the prompt's tokens -> events
    score: Callable[[int, np.ndarray], list[Event]] | None = None
    only_reads: bool = False  # ends when the prompt is read
    cancelled: threading.Event = field(default_factory=threading.Event)
    # filled while it runs
    match: Match | None = None
    state: State | None = None
    read: int = 0  # tokens of the prompt that `state` holds
    prefill_s: float = 0.0
    decode_s: float = 0.0
    end_node: bytes | None = None  # of the cache, at the end of the answer
    held: np.ndarray | None = None  # logits, while the constraint still computes what may follow
    _stops: deque[tuple[int, str]] = field(default_factory=deque)  # where snapshots are due, and their kind

    @property
    def is_reading(self) -> bool:
        return self.read < len(self.ids)


class Scheduler:
    def __init__(
        self, model: Model, cache: PrefixCache, *, max_active: int = 4, max_waiting: int = 32, verify_every: int = 0
    ):
        """verify_every: every so many cache hits one is computed again from nothing and compared bit for bit; 0 is
        never."""
        self.model, self.cache = model, cache
        self.max_active, self.max_waiting, self.verify_every = max_active, max_waiting, verify_every
        self.num_verified = self.num_wrong = self.num_hits = 0
        self._waiting: deque[Job] = deque()
        self._restoring: list[Job] = []  # whose beginning is being read from disk
        self._active: list[Job] = []
        self._calls: deque[Callable[[], None]] = deque()
        self._wake = threading.Condition()
        self._quit = False
        self._may_admit = False  # something changed since waiting jobs were looked at
        self._chunk = LEAST_CHUNK  # while others wait
        self._reader = ThreadPoolExecutor(1, "restore")
        self._thread = threading.Thread(target=self._run, name="scheduler", daemon=True)
        self._thread.start()

    # -- from any thread

    def submit(self, job: Job) -> None:
        """Raises OverloadedError when all places, those to wait in too, are taken."""
        with self._wake:
            if self._quit:
                raise OverloadedError("the server is shutting down; try another or wait for it to be back")
            running = self.load()[0]
            if len(self._waiting) >= self.max_waiting + self.max_active - running:
                raise OverloadedError(
                    f"{running} answers are being written, {len(self._waiting)} requests wait; try again later"
                )
            self._waiting.append(job)
            self._may_admit = True
            self._wake.notify()

    def call(self, fn: Callable[[], None]) -> None:
        """Run fn between two steps, where the cache may be touched."""
        with self._wake:
            self._calls.append(fn)
            self._wake.notify()

    def cancel(self, job: Job) -> None:
        """Nobody waits for the answer any more: its place is free within a token."""
        job.cancelled.set()
        with self._wake:
            self._may_admit = True
            self._wake.notify()

    def load(self) -> tuple[int, int]:
        """(answers in work, requests that wait)."""
        return len(self._active) + len(self._restoring), len(self._waiting)

    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def close(self) -> None:
        """Break off what runs, with an error to everybody who waits."""
        with self._wake:
            self._quit = True
            self._wake.notify()
        self._thread.join()
        self._reader.shutdown(cancel_futures=True)  # the store may be closed after that

    # -- in the scheduler's thread

    def _run(self) -> None:
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
            if any(job.held is None for job in self._active):
                self._guarded_step()
            elif self._active:
                self._wait_for_a_constraint()
            if self.load()[0] < running:
                with self._wake:
                    self._may_admit = True
        for job in [*self._active, *self._restoring, *self._waiting]:
            job.emit(OverloadedError("the server is shutting down"))

    def _guard(self, fn: Callable[[], None]) -> None:
        try:
            fn()
        except Exception:
            log.exception("a call between steps failed")

    def _admit(self) -> None:
        """Waiting jobs take free places; who shares a prompt with one being read waits to find it in the cache."""
        with self._wake:
            waiting, held = list(self._waiting), []
            self._waiting.clear()
        for job in waiting:
            if job.cancelled.is_set():
                self._end(job, "cancelled")
                continue
            reading = [other for other in (*self._restoring, *self._active) if other.is_reading and other.score is None]
            if self.load()[0] >= self.max_active or (
                job.score is None and any(_shares(job, other) for other in reading)
            ):
                held.append(job)
            else:
                self._start(job)
        with self._wake:
            self._waiting.extendleft(reversed(held))

    def _start(self, job: Job) -> None:
        """Begin, when what the cache has on disk for the job has been read."""
        if job.score is not None:  # the cache has states, no logits: all is read again
            self._begin(job)
            return
        try:
            on_disk = self.cache.on_disk(job.namespace, job.ids)
        except Exception as error:
            job.emit(error)
            return
        if on_disk is None:
            self._begin(job)
        else:
            self._restoring.append(job)
            self._reader.submit(self._restore, job, on_disk)

    def _restore(self, job: Job, on_disk: OnDisk) -> None:
        """In the reader's thread."""
        try:
            on_disk.read()
        except Exception:  # no memory, say: then without
            log.exception("a session could not be read from disk")
        self.call(lambda: self._restored(job, on_disk))

    def _restored(self, job: Job, on_disk: OnDisk) -> None:
        if job in self._restoring:  # or its client has left
            self._restoring.remove(job)
            self._begin(job, on_disk)

    def _begin(self, job: Job, on_disk: OnDisk | None = None) -> None:
        try:
            if job.score is not None:
                job.match = Match(self.model.new_state(), 0, "new", 0)
            else:
                job.match = self.cache.sync(job.namespace, job.ids, on_disk)
                job._stops = deque(boundaries(job.turn_starts, job.match.reused, len(job.ids), job.has_system))
            job.state, job.read = job.match.state, job.match.reused
            job.emit([job.started(job.match)])
        except Exception as error:
            job.emit(error)
            return
        self._active.append(job)

    def _drop_cancelled(self) -> None:
        for jobs in (self._active, self._restoring):
            for job in [job for job in jobs if job.cancelled.is_set()]:
                jobs.remove(job)
                self._end(job, "cancelled")

    def _guarded_step(self) -> None:
        writing = [job for job in self._active if not job.is_reading and job.held is None]
        reading = next((job for job in self._active if job.is_reading), None)
        before = reading.state.snapshot() if reading and not writing else None
        try:
            self._step(writing, reading)
        except Interrupted:  # alone, and its client is gone; it will ask again, and must then get further
            self._active.remove(reading)
            reading.state.restore(before)
            self._end(reading, "cancelled")
        except Exception as error:  # states are torn: these jobs cannot go on, others can
            log.exception("a step failed")
            for job in [*writing, *([reading] if reading else [])]:
                if job in self._active:
                    self._active.remove(job)
                    job.emit(error)

    def _step(self, writing: list[Job], reading: Job | None) -> None:
        start = time.perf_counter()
        pieces = [(np.array(job.generation.feed, np.int64), job.state) for job in writing]
        num_read, needs_logits = 0, True
        if reading is not None:
            num_read = self._piece(reading, bool(writing))
            needs_logits = reading.read + num_read == len(reading.ids)
            pieces.append((np.array(reading.ids[reading.read : reading.read + num_read], np.int64), reading.state))
        if reading is not None and reading.score is not None:
            logits = [*self.model.forward_batch(pieces[:-1]), self._scored(reading, pieces[-1][0], bool(writing))]
        elif writing:
            logits = self.model.forward_batch(pieces)
        else:
            logits = [
                self.model.forward(
                    *pieces[0], logits="last" if needs_logits else "none", cancel=reading.cancelled.is_set
                )
            ]
        seconds = time.perf_counter() - start
        if reading is not None:
            self._adapt(seconds, num_read, bool(writing))
        for job, row in zip(writing, logits, strict=False):
            job.decode_s += seconds
            self._advance(job, row)
        if reading is not None:
            reading.prefill_s += seconds
            self._has_read(reading, num_read, logits[-1])

    def _scored(self, job: Job, ids: np.ndarray, others_wait: bool) -> np.ndarray:
        """Read a piece of a prompt and tell of each token how likely it was; the logits of the last one."""
        cancel = None if others_wait else job.cancelled.is_set
        place = job.read
        for logits in self.model.forward_chunks(ids, job.state, SCORED_ROWS, cancel):
            job.emit(job.score(place, logits))
            place += len(logits)
        return logits[-1]

    def _piece(self, job: Job, others_wait: bool) -> int:
        end = job._stops[0][0] if job._stops else len(job.ids)
        return min(end - job.read, self._chunk if others_wait else CHUNK)

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

    def _has_read(self, job: Job, num: int, logits: np.ndarray | None) -> None:
        """A piece of a prompt is read: snapshot, turn to the next in line, or begin to write."""
        job.read += num
        if job._stops and job._stops[0][0] == job.read:
            self._remember(job, job.read, job._stops.popleft()[1])
        job.emit([Reading(job.read - job.match.reused, len(job.ids) - job.match.reused)])
        if job.is_reading:
            self._active.remove(job)  # prompts take turns, piece by piece
            self._active.append(job)
            return
        if job.match.reused:
            self.num_hits += 1
            if self.verify_every and self.num_hits % self.verify_every == 0:
                logits = self._verified(job, logits)
        if job.only_reads:
            self._active.remove(job)
            self._end(job, "length")
            return
        forced = job.generation.start()
        if forced or job.generation.feed:
            job.emit(forced)
            if job.generation.reason is None:
                return
        self._advance(job, logits)

    def _wait_for_a_constraint(self) -> None:
        if (constraint := self._active[0].generation.computing) is not None:
            constraint.wait(HELD_S)

    def _take_held(self) -> None:
        """Answers whose constraints are ready now go on."""
        for job in [job for job in self._active if job.held is not None]:
            self._advance(job, job.held)

    def _advance(self, job: Job, logits: np.ndarray) -> None:
        """Logits of the last token read: choose the next, or wait for the constraint without keeping others waiting."""
        if job.generation.computing is not None:
            job.held = logits if job.held is logits else logits.copy()
            return
        job.held = None
        try:
            events = self._chosen(job.generation, logits) if job.generation.reason is None else []
        except Exception as error:
            self._active.remove(job)
            job.emit(error)
            return
        if events:
            job.emit(events)
        if job.generation.reason is not None:
            self._active.remove(job)
            self._end(job, job.generation.reason)

    @staticmethod
    def _chosen(generation: Generation, logits: np.ndarray) -> list[Event]:
        token, logprobs = generation.choose(logits)
        return generation.accept((token,), (logprobs,)).events

    def _end(self, job: Job, reason: Reason) -> None:
        try:
            if job.generation.reason is None:
                job.emit(job.generation.stop(reason))
            if job.state is not None and job.state.num_tokens > job.match.reused and job.score is None:
                self._remember(job, job.state.num_tokens, "end")
        except Exception:  # no memory for a snapshot, say: the answer is whole all the same
            log.exception("the end of an answer could not be kept")
        job.state = None
        try:
            job.emit([job.finished(job)])
        except Exception as error:
            job.emit(error)

    def _remember(self, job: Job, num: int, kind: str) -> None:
        ids = [*job.ids, *job.generation.sampled][:num]
        label = "" if kind == "system" else job.label  # a system turn is nobody's
        job.end_node = self.cache.add(
            job.namespace, ids, job.state.snapshot(), kind, persist=job.persist(num), label=label
        )

    def _verified(self, job: Job, logits: np.ndarray) -> np.ndarray:
        """The same prompt computed from nothing; if the cache gave anything else, it is emptied and the new result
        counts."""
        state = self.model.new_state()
        try:
            cold = self.model.forward(np.array(job.ids, np.int64), state, cancel=job.cancelled.is_set)
        except Interrupted:  # its client is gone
            return logits
        self.num_verified += 1
        if np.array_equal(cold.view(np.uint32), logits.view(np.uint32)):
            return logits
        self.num_wrong += 1
        log.error(
            "a cached state gave other logits than a cold one after %d of %d tokens; the cache is emptied",
            job.match.reused,
            len(job.ids),
        )
        self.cache.clear()
        job.state = state
        return cold


def boundaries(turn_starts: Sequence[int], reused: int, num_ids: int, has_system: bool = True) -> list[tuple[int, str]]:
    """Where snapshots are due while tokens [reused, num_ids) are read: (tokens, kind), ascending.

    The end of the system turn, the starts of the last two turns, and of others with some distance; none within
    LEAST_CHUNK tokens of what is there already. A prompt without turns is remembered all but its last token."""
    first = turn_starts[1] if has_system and len(turn_starts) > 1 else None
    last = num_ids - 1 if not turn_starts else turn_starts[-1]
    kept: list[tuple[int, str]] = []
    at = reused
    for position in sorted({*turn_starts[1:], last}):
        if position - reused < (LEAST_CHUNK if reused else 1) or position >= num_ids:
            continue
        is_last = position >= last or position in turn_starts[-2:]
        if position == first or is_last or position - at >= BOUNDARY_GAP:
            kept.append((position, "system" if position == first else "turn"))
            at = position
    return kept if len(kept) <= MAX_BOUNDARIES else [kept[0], *kept[-MAX_BOUNDARIES + 1 :]]


def _shares(job: Job, other: Job) -> bool:
    """Whether `other` is about to read a beginning of the job's prompt that is worth waiting for."""
    if job.namespace != other.namespace:
        return False
    end = other.read + SHARED
    return len(job.ids) >= end and job.ids[:end] == other.ids[:end]
