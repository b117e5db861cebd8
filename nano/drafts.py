"""How often drafts are right while a3b-nano does its tasks, and what that gains: the engine that users run.

    python -m nano.drafts [--cases 20] [--families secret,lookup-2] [--temperatures 0,0.7,1] [--json]

Each case is played with drafts and without, in turns, so that both share what else the machine does; seconds are those
of decoding. Columns: shares of the MTP module's guesses and of repetitions that were right, drafts and tokens a step,
how many times faster the answers came.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable
from contextlib import closing

from a3b.engine.engine import Engine
from a3b.engine.local import TERMINAL, local_service
from a3b.engine.service import Service
from a3b.evals.families.common import Message, rng_for
from a3b.interface.events import assistant_message
from a3b.interface.request import Request
from nano.evaluate import MAX_ANSWER, Player, rows

FAMILIES = ("secret", "lookup-2", "calc", "needle", "chat", "revise", "fix")


class Counting(Player):
    """Plays at one temperature, and adds up what answers say of their drafts."""

    def __init__(self, service: Service, seed: int, temperature: float, counts: Counter[str]):
        super().__init__(service, seed, preserve=True)
        self.temperature, self.counts = temperature, counts

    def __call__(self, messages: list[Message], tools: list[dict] | None, sample: bool = False) -> Message:
        request = Request(
            messages=[{key: value for key, value in message.items() if key != "unfinished"} for message in messages],
            tools=tools or [],
            sampling={"temperature": self.temperature, "top_p": 1.0, "seed": self.seed, "max_tokens": MAX_ANSWER},
            namespace=self.namespace,
        )
        events = list(self.service.answer(request))
        usage = events[-1].usage
        self.counts["tokens"] += usage.completion_tokens
        self.counts["steps"] += usage.speculation.steps
        self.counts["microseconds"] += int(1e6 * usage.decode_s)
        for source, count in usage.speculation.sources.items():
            self.counts[f"{source} drafted"] += count.drafted
            self.counts[f"{source} accepted"] += count.accepted
        return assistant_message(events)


def measured(
    services: dict[bool, Service], name: str, make_case: Callable, temperature: float, cases: int
) -> dict[str, float | None]:
    counts: dict[bool, Counter[str]] = {True: Counter(), False: Counter()}
    for index in range(cases):
        for drafts in (True, False) if index % 2 else (False, True):
            case = make_case(rng_for("test", name.split("-")[0], index))
            case.play(Counting(services[drafts], index, temperature, counts[drafts]))
    with_drafts, without = counts[True], counts[False]
    if with_drafts["tokens"] != without["tokens"]:
        raise SystemExit(f"{name}: {with_drafts['tokens']} tokens with drafts, {without['tokens']} without")

    def accepted(source: str) -> float | None:
        drafted = with_drafts[f"{source} drafted"]
        return with_drafts[f"{source} accepted"] / drafted if drafted else None

    steps = max(with_drafts["steps"], 1)
    return {
        "tokens": with_drafts["tokens"],
        "mtp": accepted("mtp"),
        "repeated": accepted("repeated"),
        "drafts_per_step": sum(n for key, n in with_drafts.items() if key.endswith(" drafted")) / steps,
        "tokens_per_step": with_drafts["tokens"] / steps,
        "gain": without["microseconds"] / max(with_drafts["microseconds"], 1),
    }


def percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.0f} %"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="checkpoint directory; default the embedded one")
    parser.add_argument("--cases", type=int, default=20)
    parser.add_argument("--families", default=",".join(FAMILIES))
    parser.add_argument("--temperatures", default="0,0.7,1")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    engine, found = Engine.load(args.model), []
    with (
        closing(local_service(engine, TERMINAL, drafts=True)) as drafting,
        closing(local_service(engine, TERMINAL, drafts=False)) as plain,
    ):
        for name in args.families.split(","):
            for temperature in map(float, args.temperatures.split(",")):
                row = measured({True: drafting, False: plain}, name, rows()[name], temperature, args.cases)
                found.append({"task": name, "temperature": temperature, **row})
    if args.json:
        print(json.dumps(found, indent=2))
        return
    print("| task | temperature | tokens | MTP right | repeated right | drafts a step | tokens a step | gain |")
    print("|---|---|---|---|---|---|---|---|")
    for row in found:
        shares = f"{percent(row['mtp'])} | {percent(row['repeated'])}"
        counts = f"{row['drafts_per_step']:.2f} | {row['tokens_per_step']:.2f} | {row['gain']:.2f}"
        print(f"| {row['task']} | {row['temperature']:g} | {row['tokens']:,} | {shares} | {counts} |")


if __name__ == "__main__":
    main()
