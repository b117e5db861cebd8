"""How often the MTP module of a3b-nano guesses what nano writes: on unseen cases of its tasks and on text that it
continues.

    python -m nano.acceptance [--mtp DIR/state.pt] [--cases 20] [--families secret,fix] [--first] [--json]

nano writes the answers with the engine and its own sampler; the module then drafts behind every token, as the engine
would, and a drafted token is right if it is the one that was written. Rows: greedy; sampled at temperature 1 as
generation_config.json says, with drafts drawn by the same number of (seed, position), and with greedy drafts.
For drafts of 1, 2 and 3 tokens: the share of drafted tokens that are kept, and the tokens that a step gains.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections import defaultdict
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from a3b.engine.engine import Engine, nano_directory
from a3b.engine.generation import Generation
from a3b.engine.sampler import Sampler
from a3b.evals.families.common import Message, rng_for
from a3b.interface.events import assistant_message
from a3b.interface.sampling_params import SamplingParams
from a3b.prompt.segments import ends_in_thinking
from nano.data import SHORT, library_text
from nano.export import read_back
from nano.model import Nano, NanoShape, rms_norm
from nano.mtp import Mtp, logits
from nano.tasks import FAMILIES

MAX_ANSWER, TEXT_PROMPT, TEXT_ANSWER = 500, 600, 160  # tokens, characters, tokens
DRAFTS = (1, 2, 3)
SAMPLED = {"temperature": 1.0, "top_k": 20, "top_p": 0.95}
CASES = {
    "secret": FAMILIES["secret"].case,
    "lookup": partial(FAMILIES["lookup"].case, hops=3),
    "calc": FAMILIES["calc"].case,
    "needle": partial(FAMILIES["needle"].case, length=SHORT // 2),
    "chat": FAMILIES["chat"].case,
    "revise": FAMILIES["revise"].case,
    "fix": FAMILIES["fix"].case,
}


@dataclass(frozen=True)
class Written:
    """One answer: all ids, the place of its first token, and how it was sampled."""

    ids: list[int]
    start: int
    params: SamplingParams


class Writer:
    """`generate` for the cases; keeps what it wrote."""

    def __init__(self, engine: Engine, temperature: float, seed: int):
        self.engine, self.seed, self.written = engine, seed, []
        self.fields = SAMPLED if temperature else {"temperature": 0.0}

    def __call__(self, messages: list[Message], tools: list[dict] | None, sample: bool = False) -> Message:
        prompt = self.engine.template.render(messages, tools=tools or None, preserve_thinking=True)
        ids = self.engine.tokenizer.encode(prompt)
        return assistant_message(self.write(ids, MAX_ANSWER, tools=tools, in_thinking=ends_in_thinking(prompt)))

    def write(self, ids: list[int], most: int, **settings: Any) -> list:
        """The events of an answer to a prompt."""
        engine = self.engine
        params = SamplingParams(**self.fields, seed=self.seed * 1000 + len(self.written))
        generation = Generation(engine.tokenizer, engine.eos_token_ids, ids, params, most, **settings)
        state, events = engine.model.new_state(), []
        found = engine.model.forward(np.array(ids), state)
        while generation.reason is None:
            events += generation.accept([generation.choose(found).token_id]).events
            if generation.feed:
                found = engine.model.forward(np.array(generation.feed), state)
        self.written.append(Written([*ids, *generation.sampled], len(ids), params))
        return events


@cache
def texts() -> list[str]:
    return [text for text in library_text() if len(text) > 2 * TEXT_PROMPT]


def some_text(rng: random.Random) -> str:
    """A piece of the library that ends anywhere."""
    text = rng.choice(texts())
    start = rng.randrange(len(text) - TEXT_PROMPT)
    return text[start : start + TEXT_PROMPT]


def answers(engine: Engine, name: str, cases: int, temperature: float) -> list[Written]:
    out: list[Written] = []
    for index in range(cases):
        writer = Writer(engine, temperature, index)
        if name == "text":
            ids = engine.tokenizer.encode_text(some_text(rng_for("test", name, index)))
            writer.write(list(ids), TEXT_ANSWER, is_raw=True)
        else:
            CASES[name](rng_for("test", name, index)).play(writer)
        out += writer.written
        tell(f"{name}: {index + 1}/{cases}")
    return out


def tell(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r{text} \x1b[K", end="", file=sys.stderr)


class Guesser:
    """The module in PyTorch behind hidden states of the engine."""

    def __init__(self, engine: Engine, directory: Path, state: Path | None, first: bool):
        self.engine, self.first = engine, first
        self.trunk, self.mtp = Nano(NanoShape()), Mtp(NanoShape())
        read_back(self.trunk, directory)
        if state is None:
            read_back(self.mtp, directory)
        else:
            self.mtp.load_state_dict(torch.load(state, weights_only=True)["model"])

    @torch.no_grad()
    def right(self, answer: Written) -> dict[str, np.ndarray]:
        """Way of drafting -> bool [places, drafts]: whether each token drafted there is the one that was written."""
        ids, depth, model = answer.ids, DRAFTS[-1], self.engine.model
        hidden = torch.from_numpy(model.hidden([(np.array(ids[:-1]), model.new_state())]))
        hidden = rms_norm(hidden, self.trunk.norm, self.trunk.s.norm_eps)[None]
        places = range(answer.start - 1, len(ids) - 2)  # behind each token of the answer
        padded = torch.tensor([ids + [0] * depth])
        steps, _ = self.mtp.drafts(self.trunk, hidden, padded, torch.tensor([list(places)]), depth, self.first)
        guesses = np.stack([logits(self.trunk, rows[0]).numpy() for rows in steps], 1)  # [places, drafts, V]
        found: dict[str, np.ndarray] = {"greedy drafts": guesses.argmax(-1)}
        if answer.params.temperature:
            sampler = Sampler(answer.params, self.engine.tokenizer.num_tokens)
            drawn = [
                [sampler.sample(g, None, t + 2 + s) for s, g in enumerate(guesses[i])] for i, t in enumerate(places)
            ]
            found["same draw"] = np.array(drawn)
        wanted = np.array([(ids[t + 2 :] + [-1] * depth)[:depth] for t in places])
        return {way: drafted == wanted for way, drafted in found.items()}


def kept(right: np.ndarray, num: int) -> tuple[int, int, int]:
    """Tokens drafted, tokens kept and steps of an answer with drafts of `num` tokens behind each step."""
    drafted = accepted = steps = place = 0
    while place < len(right):
        leading = int(np.cumprod(right[place, :num]).sum())
        drafted, accepted, steps, place = drafted + num, accepted + leading, steps + 1, place + leading + 1
    return drafted, accepted, steps


def measure(engine: Engine, guesser: Guesser, names: list[str], cases: int) -> dict[str, dict[str, Any]]:
    result: dict[str, dict[str, Any]] = {}
    for name in names:
        for temperature in (0.0, 1.0):
            written = [a for a in answers(engine, name, cases, temperature) if len(a.ids) - a.start > 1]
            ways = defaultdict(list)
            for answer in written:
                for way, right in guesser.right(answer).items():
                    ways[way].append(right)
            for way, rights in ways.items():
                sums = {n: np.sum([kept(right, n) for right in rights], axis=0) for n in DRAFTS}
                result[f"{name}, {'temperature 1, ' + way if temperature else 'greedy'}"] = {
                    "tokens": sum(len(right) + 1 for right in rights),
                    "acceptance": {n: round(float(s[1] / s[0]), 3) for n, s in sums.items()},
                    "tokens_per_step": {n: round(float(1 + s[1] / s[2]), 2) for n, s in sums.items()},
                }
    return result


def report(result: dict[str, dict[str, Any]]) -> str:
    heads = [f"kept of {n}" for n in DRAFTS] + [f"a step, {n}" for n in DRAFTS]
    lines = [f"{'':<38} {'tokens':>7} " + " ".join(f"{h:>10}" for h in heads)]
    for row, value in result.items():
        shares = [f"{value['acceptance'][n]:>10.1%}" for n in DRAFTS]
        tokens = [f"{value['tokens_per_step'][n]:>10.2f}" for n in DRAFTS]
        lines.append(f"{row:<38} {value['tokens']:>7} " + " ".join(shares + tokens))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mtp", type=Path, help="state of nano.train_mtp; default the exported module")
    parser.add_argument("--cases", type=int, default=20)
    parser.add_argument("--families", default=",".join([*CASES, "text"]))
    parser.add_argument("--first", action="store_true", help="with the pair of the first token alone; see nano/mtp.py")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    engine = Engine.load(threads=args.threads)
    guesser = Guesser(engine, nano_directory(), args.mtp, args.first)
    result = measure(engine, guesser, args.families.split(","), args.cases)
    tell("")
    print(json.dumps(result, indent=2) if args.json else report(result))


if __name__ == "__main__":
    main()
