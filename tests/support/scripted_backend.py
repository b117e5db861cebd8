"""A backend without a model: it replays given ids, so that a service can be tested for what it makes of them."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

from a3b.engine.backend import Job
from a3b.errors import OverloadedError
from a3b.interface.events import Reading
from a3b.prompt.chat_template import ChatTemplate
from a3b.prompt.tokenizer import Tokenizer
from tests.support.paths import ROOT

NANO = ROOT / "src" / "a3b" / "nano_model"


@dataclass(frozen=True)
class FilesOfModel:
    """What a service needs of a model: tokenizer and template, no weights."""

    tokenizer: Tokenizer
    template: ChatTemplate
    eos_token_ids: tuple[int, ...]
    name: str = "scripted"
    is_nano: bool = True
    context: int = 4096
    positions: str = "native positions"

    @classmethod
    def of_nano(cls) -> FilesOfModel:
        tokenizer = Tokenizer.read(NANO)
        return cls(tokenizer, ChatTemplate.read(NANO), (tokenizer.control_id("<|im_end|>"),))


@dataclass(frozen=True)
class Reused:
    reused: int = 0
    miss: str = "new"
    position: int = 0
    expected_ids: tuple[int, ...] = ()
    found_ids: tuple[int, ...] = ()


class ScriptedBackend:
    """Writes `script` for every job, `per_step` ids at a time, or raises it if it is an error.

    `may_write` holds it up before the first id while it is cleared."""

    max_active, max_waiting = 4, 4

    def __init__(self, script: Sequence[int] | Exception, per_step: int = 1, reuse: Reused | None = None):
        self.script, self.per_step, self.reuse = script, per_step, reuse or Reused()
        self.jobs: list[Job] = []
        self.num_kept: list[int] = []  # of each step
        self.may_write, self.is_closed = threading.Event(), False
        self.may_write.set()
        self._threads: list[threading.Thread] = []

    def submit(self, job: Job) -> None:
        if self.is_closed:
            raise OverloadedError("closed")
        self.jobs.append(job)
        self._threads.append(threading.Thread(target=self._run, args=(job,)))
        self._threads[-1].start()

    def cancel(self, job: Job) -> None:
        job.cancelled.set()
        self.may_write.set()

    def load(self) -> tuple[int, int]:
        return sum(thread.is_alive() for thread in self._threads), 0

    def is_alive(self) -> bool:
        return not self.is_closed

    def metrics(self) -> dict[str, float]:
        return {"scripted": 1.0}

    def close(self) -> None:
        self.is_closed = True
        self.may_write.set()
        for thread in self._threads:
            thread.join()

    def _run(self, job: Job) -> None:
        job.reuse = self.reuse
        job.emit([job.started(job)])
        job.emit([Reading(len(job.ids), len(job.ids))])
        self.may_write.wait()
        if isinstance(self.script, Exception):
            job.emit(self.script)
            return
        generation = job.generation
        job.emit(generation.start())
        while generation.reason is None:
            at = len(generation.sampled)
            run = self.script[at : at + self.per_step]
            if job.cancelled.is_set() or not run:
                job.emit(generation.stop("cancelled"))
                break
            events, num_kept = generation.accept(run)
            self.num_kept.append(num_kept)
            job.emit(events)
        job.emit([job.finished(job)])
