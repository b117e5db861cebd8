"""What drafting costs where it cannot gain, and what it gains where an answer copies.

    python -m bench.drafts [--model MODEL] [--tokens 256] [--pairs 10] [--batches 1,4,8] [--depth 64] [--busy]
                           [--only PART,...] [--json]

In one process, in interleaved pairs, with drafts and without, where the model has no MTP module either. Answers are
dictated: every token is computed and chosen as always, and another one taken. `lies`: all text that repeats is wrong,
and looks as if it were right. `mtp`: the MTP module is asked, and says what is wrong as if it were certain. `edit`: a
file of Python is written again with small changes. --busy: beside a process that computes.

Cost by steps: seconds that steps took longer than those without drafts, and for finding drafts, over all, once each
answer has 64 tokens. Cost by the clock: seconds a token with drafts over seconds without, all of the answer; `spread`:
the middle half of the pairs. MODEL: a3b-nano; random, which reads some 50 million numbers a token; or a directory. Both
of the first if none is given."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import queue
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from copy import copy
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from a3b.cache.prefix_cache import PrefixCache
from a3b.engine import draft_sources
from a3b.engine.backend import Job
from a3b.engine.draft_prices import Balance, Odds, StepCosts
from a3b.engine.draft_sources import LONG_MEMORY, MAX_MATCH, ContextDrafter, Repeat, Repeats, drafters
from a3b.engine.drafts import Drafter
from a3b.engine.engine import Engine
from a3b.engine.generation import Generation, Sampled
from a3b.engine.mtp_guesses import BUCKETS, Guess, MtpGuesses, MtpOdds
from a3b.engine.scheduler import Scheduler
from a3b.formats.checkpoint import Checkpoint
from a3b.interface.events import Event, Finished, Started
from a3b.interface.sampling_params import SamplingParams
from a3b.kernels import open_kernels
from a3b.machine import Machine
from a3b.model.config_reader import config_from_dict, read_config
from a3b.model.forward import Model
from a3b.model.loader import load_weights
from a3b.model.mtp import MtpModule
from a3b.prompt.tokenizer import Tokenizer
from tests.support.random_model import AXES, config_dict, model_weights, random_tensors

MIDDLE = dict(zip(AXES, (4122, 768, 8, 4, 12, 2, 64, 16, 6, 12, 64, 64, 48, 8, 256, 256), strict=True))
NANO, RANDOM = "a3b-nano", "random"
CACHE_BYTES = 1 << 30
UNCOUNTED = 64  # tokens of each answer before its steps are counted
MakeDrafters = Callable[[StepCosts], Callable[[Job], Drafter]]
Measure = Callable[["Subject", argparse.Namespace, int], dict[str, object]]


class Dictated(Generation):
    """An answer whose tokens were decided before."""

    dictated: Sequence[int] = ()

    def choose(self, logits: np.ndarray) -> Sampled:
        super().choose(logits)
        token = self.dictated[len(self.sampled)]
        self._chosen = (len(self.sampled), token)
        return Sampled(token, None)


class Lies(Repeats):
    """Finds what never comes, as if all of it had stood there before."""

    num_asked, first_wrong = 0, 0

    def find(self, ahead: Sequence[int], most: int) -> Repeat:
        super().find(ahead, most)
        self.num_asked += 1
        return Repeat([self.first_wrong + i for i in range(most)], 1 + self.num_asked % MAX_MATCH)


class CertainGuesses(MtpGuesses):
    """Asks the module, and says what never comes, as if it were certain."""

    first_wrong = 0

    def guess(self) -> Guess:
        super().guess()
        token, bucket = self.first_wrong + self._asked[-1].place, len(BUCKETS) - 1
        self._asked[-1] = self._asked[-1]._replace(token=token, bucket=bucket)
        return Guess(token, self._odds.by_probability.of(bucket), "mtp")


def lying_text(first_wrong: int, costs: StepCosts) -> Callable[[Job], Drafter]:
    """Drafters of ids from `first_wrong` on, for answers that have none of them."""
    known, gained = Odds(memory=LONG_MEMORY), Balance(tokens=0.0)

    def make(job: Job) -> Drafter:
        made = ContextDrafter(job.ids, known, gained=gained)
        made._repeats = Lies(job.ids)
        made._repeats.first_wrong = first_wrong
        return made

    return make


def lying_module(module: MtpModule, first_wrong: int, costs: StepCosts) -> Callable[[Job], Drafter]:
    known, known_mtp, gained = Odds(memory=LONG_MEMORY), MtpOdds.new(memory=LONG_MEMORY), Balance(tokens=0.0)

    def make(job: Job) -> Drafter:
        mtp = CertainGuesses(module, job.ids, known_mtp, costs.note_guess)
        mtp.first_wrong = first_wrong
        return ContextDrafter(job.ids, known, mtp, gained)

    return make


@dataclass(frozen=True)
class Step:
    at: float
    num_answers: int
    num_drafted: int
    seconds: float
    drafting_s: float
    plain_s: float
    tokens: tuple[int, ...]  # of each answer


class Logged(StepCosts):
    """Keeps what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[Step] = []
        self.answers: list[Generation] = []

    def note(self, num_answers: int, num_drafted: int, seconds: float, drafting_s: float = 0.0) -> float:
        plain_s = super().note(num_answers, num_drafted, seconds, drafting_s)
        tokens = tuple(len(one.sampled) for one in self.answers)
        at = time.perf_counter()
        self.steps.append(Step(at, num_answers, num_drafted, seconds, drafting_s, plain_s, tokens))
        return plain_s


@dataclass(frozen=True)
class Run:
    """What answers that were written together cost."""

    token_s: float  # of each answer
    extra: float  # share of the time
    drafted: int
    tokens_per_step: float


class Subject:
    """A model with a scheduler with drafts and one without."""

    def __init__(self, name: str, model: Model, tokenizer: Tokenizer):
        self.name, self.model, self.tokenizer = name, model, tokenizer
        self.plain = plain = copy(model)  # the very same weights: others may lie in slower memory
        plain.mtp = None  # which also reads what was written
        # which keep prompts: a long one is read once
        self._caches = {id(one): PrefixCache(b"", one.new_state, CACHE_BYTES) for one in (model, plain)}

    def run(self, prompt: Sequence[int], answers: Sequence[Sequence[int]], make: MakeDrafters | None) -> Run:
        model, log = self.plain if make is None else self.model, Logged()
        drafter = make(log) if make is not None else None
        scheduler = Scheduler(model, self._caches[id(model)], max_active=len(answers), drafter=drafter, costs=log)
        told: queue.SimpleQueue[list[Event] | Exception] = queue.SimpleQueue()
        try:
            for num, ids in enumerate((answers[0][:1], *answers)):  # the first one reads the prompt
                generation = Dictated(
                    self.tokenizer, [], prompt, SamplingParams(seed=num, temperature=1.0), len(ids), is_raw=True
                )
                generation.dictated = ids
                if num:
                    log.answers.append(generation)
                scheduler.submit(Job("", prompt, generation, _started, _finished, told.put))
                if not num:
                    _wait(told, 1)
            _wait(told, len(answers))
        finally:
            scheduler.close()
        return measured(log.steps, len(answers))


def measured(steps: Sequence[Step], num_answers: int) -> Run:
    """Of steps in which all answers were written."""
    whole = [step for step in steps if step.num_answers == num_answers]
    tokens = sum(whole[-1].tokens) - sum(whole[0].tokens)
    counted = [step for step in whole if min(step.tokens) >= UNCOUNTED]
    extra = sum(step.seconds - step.plain_s if step.num_drafted else step.drafting_s for step in counted)
    return Run(
        (whole[-1].at - whole[0].at) / tokens * num_answers,
        extra / sum(step.seconds for step in counted),
        sum(step.num_drafted for step in whole),
        tokens / num_answers / (len(whole) - 1),
    )


def _started(job: Job) -> Event:
    return Started(_finished(job).usage)


def _finished(job: Job) -> Finished:
    return Finished(job.generation.reason or "cancelled")


def _wait(told: queue.SimpleQueue[list[Event] | Exception], num: int) -> None:
    """Until so many answers have ended."""
    while num:
        item = told.get(timeout=600)
        if isinstance(item, Exception):
            raise item
        num -= any(isinstance(event, Finished) for event in item)


def compared(
    subject: Subject,
    prompt: Sequence[int],
    answers: Sequence[Sequence[int]],
    make: MakeDrafters,
    pairs: int,
) -> dict[str, object]:
    ratios, extras, steps, drafted = [], [], [], []
    for pair in range(-1, pairs):  # the first is a warming up
        runs = {}
        for drafts in (True, False) if pair % 2 else (False, True):
            runs[drafts] = subject.run(prompt, answers, make if drafts else None)
        if pair >= 0:
            ratios.append(runs[True].token_s / runs[False].token_s)
            extras.append(runs[True].extra)
            steps.append(runs[True].tokens_per_step)
            drafted.append(runs[True].drafted)
    return {
        "model": subject.name,
        "batch": len(answers),
        "tokens": len(answers[0]),
        "depth": len(prompt),
        "extra_by_steps": [statistics.median(extras), min(extras), max(extras)],
        "by_the_clock": [statistics.median(ratios), min(ratios), max(ratios)],
        "spread": statistics.quantiles(ratios, method="inclusive")[::2] if pairs > 1 else [],
        "tokens_per_step": statistics.median(steps),
        "drafted": statistics.median(drafted),
    }


def wrong(
    make: Callable[[int, StepCosts], Callable[[Job], Drafter]], subject: Subject, args: argparse.Namespace, batch: int
) -> dict[str, object]:
    """Of drafts that `make` makes of ids that neither prompt nor answers have."""
    half, of = subject.tokenizer.num_tokens // 2, subject.tokenizer
    usable = [i for i in range(half) if of.control_name(i) is None and of.token_bytes(i)]
    rng = np.random.default_rng(batch)
    prompt = np.random.default_rng(0).choice(usable, args.depth).tolist()  # the same each time, as it is kept
    answers = [rng.choice(usable, args.tokens).tolist() for _ in range(batch)]
    return compared(subject, prompt, answers, partial(make, half), args.pairs)


def lies(subject: Subject, args: argparse.Namespace, batch: int) -> dict[str, object]:
    return wrong(lying_text, subject, args, batch)


def mtp(subject: Subject, args: argparse.Namespace, batch: int) -> dict[str, object]:
    return wrong(partial(lying_module, subject.model.mtp), subject, args, batch)


def edit(subject: Subject, args: argparse.Namespace, batch: int) -> dict[str, object]:
    text = Path(draft_sources.__file__).read_text(encoding="utf-8")
    lines = text.replace("Repeats", "Occurrences").replace("find(", "search(").splitlines(keepends=True)
    changed = "".join(line if i % 15 else f"    # line {i} is new\n{line}" for i, line in enumerate(lines))
    prompt = subject.tokenizer.encode_text(text + "\n\nThe same with other names:\n\n")
    answer = subject.tokenizer.encode_text(changed)[: 2 * args.tokens]
    return compared(subject, prompt, [answer] * batch, partial(drafters, subject.model.mtp), args.pairs)


PARTS: dict[str, Measure] = {"lies": lies, "mtp": mtp, "edit": edit}


@contextmanager
def neighbour() -> Iterator[None]:
    """A process that computes on one core."""
    process = multiprocessing.get_context("spawn").Process(target=_compute, daemon=True)
    process.start()
    time.sleep(2)
    try:
        yield
    finally:
        process.terminate()
        process.join()


def _compute() -> None:
    numbers = np.random.default_rng(0).random(1 << 22)
    while True:
        np.sort(numbers)


def subjects(wanted: str | None) -> Iterator[Subject]:
    nano = Engine.load()
    kernels = open_kernels(None, Machine.read().num_threads)
    if wanted not in (None, NANO, RANDOM):
        config = read_config(wanted)
        weights = load_weights(Checkpoint.open(wanted), config, mtp=True)
        yield Subject(Path(wanted).name, Model(config, weights, kernels), nano.tokenizer)
        return
    if wanted != RANDOM:
        yield Subject(NANO, nano.model, nano.tokenizer)
    if wanted != NANO:
        config = config_from_dict({**config_dict(MIDDLE), "max_position_embeddings": 32768}, where="middle")
        weights = model_weights(config, random_tensors(MIDDLE, seed=1, mtp=True))
        yield Subject(RANDOM, Model(config, weights, kernels), nano.tokenizer)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help=f"{NANO}, {RANDOM}, or a checkpoint directory")
    parser.add_argument("--tokens", type=int, default=256, help="of an answer; twice as many of an edit")
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--batches", default="1,4,8")
    parser.add_argument("--depth", type=int, default=64, help="tokens of the prompt before lies")
    parser.add_argument("--busy", action="store_true", help="beside a process that computes on one core")
    parser.add_argument("--only", default=",".join(PARTS), metavar="PART,...", help="default: %(default)s")
    parser.add_argument("--json", action="store_true", help="a JSON object a line")
    args = parser.parse_args()
    if args.tokens <= UNCOUNTED:
        parser.error(f"--tokens {args.tokens}: expected more than the {UNCOUNTED} that are not counted")
    batches, parts = [int(num) for num in args.batches.split(",")], args.only.split(",")
    if unknown := set(parts) - set(PARTS):
        parser.error(f"--only {', '.join(sorted(unknown))}: expected {', '.join(PARTS)}")
    with neighbour() if args.busy else nullcontext():
        for subject in subjects(args.model):
            if "mtp" in parts and subject.model.mtp is None:
                parser.error(f"{subject.name}: has no MTP module; leave out `mtp`: --only lies,edit")
            for part in parts:
                for batch in batches if part != "edit" else batches[:1]:
                    show(part, {**PARTS[part](subject, args, batch), "busy": args.busy}, args.json)


def show(part: str, found: dict[str, object], as_json: bool) -> None:
    if as_json:
        print(json.dumps({"part": part, **found}), flush=True)
        return
    extra, clock = (
        f"{a:.3f} ({b:.3f} to {c:.3f})"
        for a, b, c in (found["extra_by_steps"], found["by_the_clock"])  # type: ignore[misc]
    )
    middle = " to ".join(f"{ratio:.3f}" for ratio in found["spread"])
    print(
        f"{part}, {found['model']}, {found['batch']} answers of {found['tokens']} after {found['depth']}"
        f"{', busy' if found['busy'] else ''}: extra by steps {extra}, clock with / without {clock}, "
        f"half of them {middle or '-'}, {found['tokens_per_step']:.2f} tokens a step, {found['drafted']:.0f} drafted",
        flush=True,
    )


if __name__ == "__main__":
    main()
