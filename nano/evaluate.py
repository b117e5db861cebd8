"""Measures how well a3b-nano does its tasks: unseen cases, exact checkers, the engine that users run. `make nano-eval`.

    python -m nano.evaluate [--model DIR] [--cases 200] [--families secret,lookup-2] [--json] [--show 2]

Everything is greedy but the first turn of *secret*, whose thinking is sampled at temperature 1 over the whole
vocabulary, with a seed per case. Columns: right, legal form, and for *secret* the same cases with the thinking of
earlier turns left out of the prompt, and a told -> hidden table fitted on the other half of the games.
"""

from __future__ import annotations

import argparse
import json
import secrets
import sys
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial

from a3b.engine.engine import Engine
from a3b.engine.local import TERMINAL, local_service
from a3b.engine.service import Service
from a3b.evals.families import secret
from a3b.evals.families.common import CaseOutcome, Message, rng_for
from a3b.evals.families.fix_patterns import UNSEEN_KINDS
from a3b.interface.events import assistant_message
from a3b.interface.request import Request
from a3b.interface.sampling_params import SamplingParams
from nano.data import SHORT
from nano.tasks import FAMILIES

MAX_ANSWER = 500  # tokens; the longest answer in training is shorter
GREEDY = SamplingParams(temperature=0.0, max_tokens=MAX_ANSWER)
GOALS = {"secret": 0.9, "lookup-2": 0.8, "calc": 0.8, "needle": 0.8}
FORM_GOAL = 0.98


def rows() -> dict[str, Callable]:
    """Row of the table -> maker of a case from a generator of random numbers."""
    table: dict[str, Callable] = {"secret": FAMILIES["secret"].case}
    for hops in (1, 2, 3, 4):
        table[f"lookup-{hops}"] = partial(FAMILIES["lookup"].case, hops=hops)
    table["calc"] = FAMILIES["calc"].case
    table["needle"] = partial(FAMILIES["needle"].case, length=SHORT // 2)
    table["chat"] = FAMILIES["chat"].case
    table["revise"] = FAMILIES["revise"].case
    table["fix"] = FAMILIES["fix"].case
    table["fix-unseen-kinds"] = partial(FAMILIES["fix"].case, kinds=list(UNSEEN_KINDS))
    return table


class Player:
    """`generate` for the cases: answers with the service that the terminal uses, in a namespace of the case."""

    def __init__(self, service: Service, seed: int, preserve: bool):
        self.service, self.seed, self.preserve = service, seed, preserve
        self.namespace = secrets.token_hex(8)

    def __call__(self, messages: list[Message], tools: list[dict] | None, sample: bool = False) -> Message:
        params = (
            SamplingParams(temperature=1.0, top_k=0, top_p=1.0, seed=self.seed, max_tokens=MAX_ANSWER)
            if sample
            else GREEDY
        )
        request = Request(
            messages=[{key: value for key, value in message.items() if key != "unfinished"} for message in messages],
            tools=tools or [],
            policy="all" if self.preserve else "current-task",
            sampling=vars(params),
            namespace=self.namespace,
        )
        events = list(self.service.answer(request))
        message = assistant_message(events)
        if events[-1].reason == "length":
            message["unfinished"] = True
        return message


def play(service: Service, name: str, make_case: Callable, cases: int, preserve: bool = True) -> list[CaseOutcome]:
    outcomes = []
    for index in range(cases):
        case = make_case(rng_for("test", name.split("-")[0], index))
        outcomes.append(case.play(Player(service, index, preserve)))
        if sys.stderr.isatty():
            print(f"\r{name}: {index + 1}/{cases} \x1b[K", end="", file=sys.stderr)
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr)
    return outcomes


def table_baseline(outcomes: list[CaseOutcome]) -> float:
    """Both halves of the games predict the other's hidden numbers from the told ones."""
    pairs = []
    for outcome in outcomes:
        first = next(m for m in outcome.messages if m["role"] == "assistant")
        numbers, told = secret.thought(first), secret.in_text(first)
        if numbers and len(told) == 1 and told <= set(numbers):
            shown = told.pop()
            pairs.append((shown, numbers[1] if numbers[0] == shown else numbers[0]))
    half = len(pairs) // 2
    a, b = pairs[:half], pairs[half:]
    return (secret.table_score(a, b) * len(b) + secret.table_score(b, a) * len(a)) / max(len(pairs), 1)


def evaluate(service: Service, names: list[str], cases: int, show: int) -> dict[str, dict[str, float]]:
    result: dict[str, dict[str, float]] = {}
    for name in names:
        start = time.time()
        outcomes = play(service, name, rows()[name], cases)
        row = {"right": share(o.ok for o in outcomes), "legal": share(o.valid for o in outcomes)}
        if name == "secret":
            row["without_thinking"] = share(o.ok for o in play(service, name, rows()[name], cases, preserve=False))
            row["table"] = table_baseline(outcomes)
        row["seconds"] = round(time.time() - start, 1)
        result[name] = row
        for outcome in [o for o in outcomes if not o.ok][:show]:
            print(f"  {name}: {outcome.detail}", file=sys.stderr)
    return result


def share(values) -> float:
    values = list(values)
    return round(sum(values) / len(values), 4)


def report(result: dict[str, dict[str, float]]) -> str:
    lines = [f"{'task':<10} {'right':>7} {'goal':>6} {'legal':>7} {'no thinking':>12} {'table':>7}"]
    for name, row in result.items():
        goal = f"{GOALS[name]:.0%}" if name in GOALS else ""
        extra = [f"{row[key]:.1%}" if key in row else "" for key in ("without_thinking", "table")]
        lines.append(f"{name:<10} {row['right']:>7.1%} {goal:>6} {row['legal']:>7.1%} {extra[0]:>12} {extra[1]:>7}")
    legal = sum(row["legal"] for row in result.values()) / len(result)
    lines.append(f"legal form over all tasks: {legal:.1%} (goal {FORM_GOAL:.0%})")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="checkpoint directory; default the embedded one")
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--families", default=",".join(rows()))
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--show", type=int, default=0, help="print that many failures of each task")
    args = parser.parse_args()
    with closing(local_service(Engine.load(args.model), TERMINAL)) as service:
        result = evaluate(service, args.families.split(","), args.cases, args.show)
    print(json.dumps(result, indent=2) if args.json else report(result))


if __name__ == "__main__":
    main()
