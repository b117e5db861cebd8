"""How far a run of `a3b eval` is, and how long it may take. Enter at `RunProgress`, `expected`.

At a terminal it is a line that is drawn anew each second. A log gets lines instead: one for a try that ended, not more
often than each `LOG_S`, and one after `SILENT_S` in any case, so that a run of days shows that it lives."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from a3b.commands.progress import Progress
from a3b.commands.server_answers import Asker
from a3b.errors import A3BError
from a3b.evals.benchmark import Benchmark
from a3b.evals.options import EvalOptions
from a3b.evals.records import CaseRecord, elapsed, total_cost
from a3b.printable import printable, say
from a3b.units import counted, span

LOOK_S, LOG_S, SILENT_S = 1.0, 10.0, 600.0


class RunProgress:
    """`with RunProgress("lookup", total, done) as p: p.tell(record)`. total: tries of the run; done: what an earlier
    process recorded; clock: in seconds."""

    def __init__(
        self, name: str, total: int, done: Mapping[Any, CaseRecord], clock: Callable[[], float] = time.monotonic
    ):
        finished = [record for record in done.values() if record.score is not None]
        self._name, self._total, self._clock = name, total, clock
        self._scores = [record.score for record in finished if record.score is not None]
        self._cost, self._before, self._errors = total_cost(finished), len(finished), 0
        self._earlier = elapsed(done.values())
        self._to, self._bar = sys.stderr, Progress(name, total)  # while tries run, sys.stderr is another one
        self._begun = self._ended_at = clock()
        self._told_at, self._is_new, self._said_untold = self._begun - LOG_S, False, False
        self._lock, self._closed = threading.Lock(), threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="a3b-eval-progress", daemon=True)

    def __enter__(self) -> RunProgress:
        self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._watcher.join()
        self._bar.close()

    def tell(self, record: CaseRecord) -> None:
        """A try has ended."""
        with self._lock:
            if not record.cost.is_told and not self._said_untold:
                self._said_untold = True
                self._say("the server tells no usage, so how many tokens it computes stays unknown")
            if record.score is None:
                self._errors += 1
                self._say(f"{printable(record.case)}: {printable(record.error)[:300]}")
            else:
                self._scores.append(record.score)
                self._cost += record.cost
            self._ended_at, self._is_new = self._clock(), True
            self._show()

    def look(self) -> None:
        """Shows how far it is, where that is due."""
        with self._lock:
            self._show()

    def _watch(self) -> None:
        with suppress(OSError):  # stderr is gone; `tell` meets that too, and ends the run
            while not self._closed.wait(LOOK_S):
                self.look()

    def _show(self) -> None:
        now = self._clock()
        left, state = self._left(now), self._state(now)
        if self._to.isatty():
            self._bar.draw(f"{self._name}: {state}", self._ended() / max(self._total, 1), left)
        elif now - self._told_at >= (LOG_S if self._is_new else SILENT_S):
            self._told_at, self._is_new = now, False
            tokens = f"; {self._tokens()}" if self._cost.requests and self._cost.is_told else ""
            still = "" if left is None else f", {span(left)} left"
            self._say(f"{state}{still}{tokens}")

    def _say(self, text: str) -> None:
        self._bar.close()
        say(f"a3b eval {self._name}: {text}", self._to)

    def _state(self, now: float) -> str:
        took = span(self._earlier + now - self._begun)
        score = f", score {sum(self._scores) / len(self._scores):.0%} so far" if self._scores else ""
        failed = f", {counted(self._errors, 'error')}" if self._errors else ""
        return f"{self._ended():,} of {self._total:,} tries in {took}{score}{failed}"

    def _tokens(self) -> str:
        read, cached, written = (self._cost.tokens(name) for name in ("computed", "cached", "written"))
        return f"tokens: {read} computed, {cached} cached, {written} written"

    def _ended(self) -> int:
        """Tries that this process has not before it."""
        return len(self._scores) + self._errors

    def _left(self, now: float) -> float | None:
        """Seconds, by the mean of the tries that ended here; None while nobody knows. While a try takes longer than
        that, they are those that were left if it ended now."""
        here, left = self._ended() - self._before, self._total - self._ended()
        if not here or not left:
            return None
        by_mean = (self._ended_at - self._begun) * left / here - (now - self._ended_at)
        least = (now - self._begun) * (left - 1) / (here + 1)
        return max(by_mean, least) or None


def expected(chosen: Benchmark, options: EvalOptions, tries: int) -> str:
    """How long these tries take, as `a3b eval plan` reckons, at the speed that the server has had so far; "" where the
    tokens of a case or the speed are not known."""
    tokens = chosen.tokens_with(options.extra)
    rates: tuple[float, float] | None = None
    if tokens and tries and options.base_url:
        with suppress(A3BError):  # only servers of a3b tell
            rates = Asker(options.base_url, options.api_key).rates()
    if rates is None:
        return ""
    read, write = rates
    seconds = tries * sum(one.prompt / read + one.written / write for one in tokens) / len(tokens)
    what = "the try takes" if tries == 1 else f"the {tries:,} tries take"
    return (
        f"{what} about {span(seconds)}, one at a time: this server has read {read:,.0f} and written {write:,.1f} "
        f"tokens a second so far; a3b eval plan {chosen.name} says what a try is taken for"
    )
