"""What drafts cost and gain at full shape: steps of several tokens, guesses of the MTP module, and published rates of
acceptance replayed through the real path.

    python -m bench.draft_speed MODEL [--rounds 15] [--tokens 160] [--pairs 3] [--depth 512] [--only PART]

MODEL: a packed directory with an MTP module; random weights route every token by itself. Prints a JSON object a line,
of one process in which all takes turns. `steps`: milliseconds of steps with 0 to 7 drafts, the median and the lower
quartile (`quiet`: the memory of shared machines is slower at times), beside what they read: a step of n tokens reads
E·(1 - (1 - K/E)^n) of E experts. `guess`: what a guess of the module takes, its draw included, with the head's trimmed
vocabulary and with all of it, and the share of a step without drafts. `replay`: answers are dictated, the module
computes its guesses, and they are taken to be right as often as was published for drafts of 1, 2 and 3 tokens: 0.88,
0.82 and 0.71 of all drafted tokens in code, 0.65, 0.60 and 0.55 in prose. The controller knows nothing of that.
`alike`: the same with three tokens of ten equal to the one before, which routes much like it. Source of the rates:
llama.cpp, pull request 22673."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from a3b.engine.backend import Job
from a3b.engine.draft_prices import StepCosts
from a3b.engine.draft_sources import ContextDrafter
from a3b.engine.drafts import Drafter
from a3b.engine.engine import Engine
from a3b.engine.mtp_guesses import Guess, MtpGuesses, MtpOdds, probability
from a3b.engine.sampler import Sampler, TokenCounts
from a3b.formats.packed import Manifest
from a3b.interface.sampling_params import preset
from a3b.model.config import ModelConfig
from a3b.model.forward import Model
from a3b.model.mtp import MtpModule
from a3b.model.tensor_names import BY_ROLE, is_mtp
from bench.drafts import UNCOUNTED, MakeDrafters, Subject, compared

PUBLISHED = {"code": (0.88, 0.82, 0.71), "prose": (0.65, 0.60, 0.55)}  # of drafted tokens, by the length of drafts
MOST_DRAFTS = 7
USUAL = 6  # of BUCKETS: guesses that are right four times of five


def by_place(shares: Sequence[float]) -> list[float]:
    """How often the n-th draft is right if those before it are, from shares of all drafts of length n."""
    whole = [num * share for num, share in enumerate(shares, 1)]  # tokens accepted in a step
    reached = [after - before for before, after in zip([0.0, *whole], whole, strict=False)]
    return [after / before for before, after in zip([1.0, *reached], reached, strict=False)]


class Replayed(MtpGuesses):
    """Computes what the module guesses, and says the truth as often as a table wants."""

    def __init__(self, module: MtpModule, job: Job, odds: MtpOdds, costs: StepCosts, rates: Sequence[float]):
        super().__init__(module, job.ids, odds, costs.note_guess)
        self._job, self._rates, self._rng = job, rates, np.random.default_rng(3)

    def odds(self) -> float:
        return super().odds() if self._place < len(self._rates) else 0.0

    def guess(self) -> Guess:
        super().guess()
        asked = self._asked[-1]
        place = len(self._job.generation.sampled) + asked.place
        truth = self._job.generation.dictated  # type: ignore[attr-defined]
        is_right = place < len(truth) and self._rng.random() < self._rates[asked.place]
        token = truth[place] if is_right else (truth[min(place, len(truth) - 1)] + 1) % 50_000
        bucket = USUAL - asked.place  # one for each place: what the module thinks of its noise means nothing
        self._asked[-1] = asked._replace(token=token, bucket=bucket)
        return Guess(token, self._odds.by_probability.of(bucket), "mtp")


def replaying(module: MtpModule, rates: Sequence[float]) -> MakeDrafters:
    def of(costs: StepCosts) -> Callable[[Job], Drafter]:
        odds = MtpOdds.new()

        def make(job: Job) -> Drafter:
            return ContextDrafter(job.ids, None, Replayed(module, job, odds, costs, rates))

        return make

    return of


def steps(model: Model, directory: Path, depth: int, rounds: int) -> list[dict[str, float]]:
    rng = np.random.default_rng(5)
    state, most = model.new_state(), 50_000
    model.forward(rng.integers(0, most, depth), state, "none")
    found: dict[int, list[float]] = {num: [] for num in range(MOST_DRAFTS + 1)}
    for turn in range(-2, rounds):
        for num in rng.permutation(len(found)).tolist():  # else a disturbance each second meets the same ones
            ids = rng.integers(0, most, num + 1)
            start = time.perf_counter()
            model.forward_drafted([(ids, state, num)])
            if turn >= 0:
                found[num].append(time.perf_counter() - start)
    whole, experts = read_bytes(directory, model.config)
    E, K = model.config.num_experts, model.config.num_experts_per_tok
    rows = []
    for num, seconds in found.items():
        read = whole + experts * E / K * (1 - (1 - K / E) ** (num + 1))
        row = {"tokens": num + 1, "bytes_ratio": read / (whole + experts)}
        for name, of in (("", statistics.median), ("quiet_", lower_quartile)):
            row |= {f"{name}ms": 1e3 * of(seconds), f"{name}ratio": of(seconds) / of(found[0])}
        rows.append(row)
    return rows


def lower_quartile(values: Sequence[float]) -> float:
    """What it takes while nobody else uses the memory."""
    return sorted(values)[len(values) // 4]


def read_bytes(directory: Path, config: ModelConfig) -> tuple[int, int]:
    """Bytes of weights that a token reads, without experts and of its experts."""
    rest = chosen = 0
    for tensor in Manifest.read(directory).tensors.values():
        if is_mtp(tensor.name) or tensor.name == BY_ROLE["embed"].full_name(None):
            continue
        if len(tensor.shape) == 3:
            chosen += tensor.num_bytes * config.num_experts_per_tok // config.num_experts
        else:
            rest += tensor.num_bytes
    return rest, chosen


def guesses(model: Model, module: MtpModule, depth: int, rounds: int) -> dict[str, float]:
    rng = np.random.default_rng(6)
    state = model.new_state()
    model.forward(rng.integers(0, 50_000, depth), state, "none")
    trimmed, whole = module.default_head, module.head(None)
    sampler, counts = Sampler(preset("thinking").with_seed(1), len(whole.ids)), TokenCounts(len(whole.ids))
    for token in rng.integers(0, 50_000, depth):
        counts.add(int(token))
    found: dict[str, list[float]] = {"plain": [], "trimmed": [], "whole": []}
    for turn in range(-2, rounds):
        for name in rng.permutation(list(found)).tolist():
            start = time.perf_counter()
            if name == "plain":
                model.forward_drafted([(rng.integers(0, 50_000, 1), state, 0)])
            else:
                module.default_head = trimmed if name == "trimmed" else whole
                chain = module.chain(state)
                chain.add(int(rng.integers(0, 50_000)))
                logits, ids = chain.logits(), module.default_head.ids
                probability(logits, ids, sampler.guess(logits, ids, counts, turn, None))
            if turn >= 0:
                found[name].append(time.perf_counter() - start)
    module.default_head = trimmed
    rows: dict[str, float] = {}
    for prefix, of in (("", statistics.median), ("quiet_", lower_quartile)):
        ms = {name: 1e3 * of(seconds) for name, seconds in found.items()}
        rows |= {f"{prefix}{name}_ms": value for name, value in ms.items()}
        rows[f"{prefix}share"] = ms["trimmed"] / ms["plain"]
    return rows


def dictated(num: int, alike: bool, seed: int = 1) -> list[int]:
    """Ids without repetitions; alike: three of ten are the one before."""
    rng = np.random.default_rng(seed)
    ids = rng.permutation(50_000)[:num].tolist()
    for i in range(1, num):
        if alike and rng.random() < 0.3:
            ids[i] = ids[i - 1]
    return ids


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--tokens", type=int, default=160, help="of a dictated answer")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--depth", type=int, default=512)
    parser.add_argument("--only", choices=("steps", "guess", "replay", "alike"))
    args = parser.parse_args()
    if args.tokens <= UNCOUNTED:
        parser.error(f"--tokens {args.tokens}: expected more than the {UNCOUNTED} that are not counted")
    engine = Engine.load(args.model)
    model, module = engine.model, engine.model.mtp
    if module is None:
        parser.error(f"{args.model}: has no MTP module; add one: a3b pack --add-mtp SRC {args.model}")
    if engine.huge_pages:
        engine.huge_pages.start().wait()
    subject, prompt = Subject(args.model.name, model, engine.tokenizer), dictated(args.depth, False, seed=9)

    def wants(part: str) -> bool:
        return args.only in (None, part)

    if wants("steps"):
        for row in steps(model, args.model, args.depth, args.rounds):
            print(json.dumps({"part": "steps", **row}), flush=True)
    if wants("guess"):
        print(json.dumps({"part": "guess", **guesses(model, module, args.depth, args.rounds)}), flush=True)
    for part in ("replay", "alike"):
        for text, shares in PUBLISHED.items() if wants(part) else ():
            answers = [dictated(args.tokens, part == "alike")]
            found = compared(subject, prompt, answers, replaying(module, by_place(shares)), args.pairs)
            print(json.dumps({"part": part, "text": text, **found}), flush=True)


if __name__ == "__main__":
    main()
