"""What a backend is: the place where tokens are computed. Knows no model, no requests, no HTTP. Enter at `Backend`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from a3b.engine.generation import Generation
from a3b.interface.events import DraftCount, DraftSource, Event, MissReason, Speculation
from a3b.prompt.chat_template import ChatTemplate
from a3b.prompt.tokenizer import Tokenizer


class ModelInfo(Protocol):
    """What a service has to know of the model that its backend runs: how text becomes tokens, but no weights."""

    @property
    def name(self) -> str: ...
    @property
    def is_nano(self) -> bool:
        """Whether it is the embedded model, which has presets of its own."""

    @property
    def context(self) -> int:
        """Tokens, prompt and answer together."""

    @property
    def positions(self) -> str:
        """How positions are read, in words: native, or scaled."""

    @property
    def eos_token_ids(self) -> tuple[int, ...]: ...
    @property
    def tokenizer(self) -> Tokenizer: ...
    @property
    def template(self) -> ChatTemplate: ...


class Reuse(Protocol):
    """How many tokens of a prompt were not computed again, and why not more; see CacheReport."""

    @property
    def reused(self) -> int: ...
    @property
    def miss(self) -> MissReason: ...
    @property
    def position(self) -> int: ...
    @property
    def expected_ids(self) -> tuple[int, ...]: ...
    @property
    def found_ids(self) -> tuple[int, ...]: ...


class DraftLog:
    """What drafting did for one answer so far."""

    def __init__(self) -> None:
        self._steps, self._plain_s = 0, 0.0
        self._step_s = self._next_s = 0.0  # without drafts: of the last step, and of each that they saved
        self._counts: dict[DraftSource, DraftCount] = {}

    def step(self, sources: Iterable[DraftSource], step_s: float, next_s: float) -> None:
        """A step that read drafts from these sources. step_s: seconds that it would have taken without; next_s:
        those of each step that an accepted draft saves."""
        self._steps, self._step_s, self._next_s = self._steps + 1, step_s, next_s
        self._add(sources, drafted=1)

    def choose(self, accepted: Iterable[DraftSource]) -> None:
        """A token was chosen; with it drafts from these sources were accepted."""
        self._plain_s += self._step_s
        self._step_s = self._next_s
        self._add(accepted, accepted=1)

    def _add(self, sources: Iterable[DraftSource], drafted: int = 0, accepted: int = 0) -> None:
        for source in sources:
            count = self._counts.get(source, DraftCount())
            self._counts[source] = DraftCount(count.drafted + drafted, count.accepted + accepted)

    def report(self) -> Speculation:
        return Speculation(self._steps, self._plain_s if self._steps else None, dict(self._counts))


@dataclass(eq=False)
class Job:
    """One answer to compute: a prompt, the generation that continues it, and where events go.

    started and finished make the first and the last event. emit takes events, or the error that ends the answer; it is
    called in a thread of the backend's, one call at a time. The backend fills the fields at the end."""

    namespace: str
    ids: Sequence[int]  # the prompt
    generation: Generation
    started: Callable[[Job], Event]
    finished: Callable[[Job], Event]
    emit: Callable[[list[Event] | Exception], None]
    turn_starts: Sequence[int] = ()  # where turns begin in the prompt, ascending
    has_system: bool = False  # the first of them is the system's
    label: str = ""  # by which people know the conversation
    persist: Callable[[int], bool] = lambda num_tokens: True  # whether so many tokens may go to the disk
    # (place of the first, logits [n, V]) of the prompt's tokens -> events
    score: Callable[[int, np.ndarray], list[Event]] | None = None
    only_reads: bool = False  # ends when the prompt is read
    begins_many: bool = False  # the state at its end is kept like that at the end of a system turn
    cancelled: threading.Event = field(default_factory=threading.Event)
    # filled by the backend
    reuse: Reuse | None = None  # from `started` on
    prefill_s: float = 0.0
    decode_s: float = 0.0
    drafting: DraftLog = field(default_factory=DraftLog)
    end_node: bytes | None = None  # of the prefix cache, at the end of the answer


class Backend(Protocol):
    """Prompt ids in, sampled ids out. The scheduler is the backend of this process.

    For each job a backend emits `started`, Reading while it reads the prompt, what the generation gives for the tokens,
    and `finished`; or an error, and then nothing more. Tokens become part of the answer through `Generation.accept`
    alone, one or several at a time. Who chooses them is the backend's affair: the scheduler calls `Generation.choose`
    with its logits. A backend elsewhere would choose by itself, from `Generation.params`; `accept` then says how many
    of its tokens are kept, and it would continue from prompt and `Generation.sampled` after a refusal. What is missing
    for that: constraints and the tokens barred by a thinking budget reach it only as refusals, a token each; `score`
    takes logits, so prompts cannot be scored there; `end_node` names a node of a cache on this machine's disk."""

    @property
    def max_active(self) -> int:
        """Answers that are computed at a time."""

    @property
    def max_waiting(self) -> int:
        """Jobs that may wait for a place."""

    def submit(self, job: Job) -> None:
        """Take a job. Raises OverloadedError if there is no place."""

    def cancel(self, job: Job) -> None:
        """End a job soon, with `finished`; does nothing for one that is over."""

    def load(self) -> tuple[int, int]:
        """(answers in work, jobs that wait)."""

    def is_alive(self) -> bool: ...

    def metrics(self) -> Mapping[str, float]:
        """Numbers of its own by name, without the load."""

    def close(self) -> None:
        """End all jobs with an error."""
