"""What llama.cpp or ik_llama.cpp gains by its own drafts, with the acceptance that was published.

    python -m bench.peers.drafts FILE.gguf --llama build/llama [--peer] [--repack] [--tokens 128] [--runs 3]
                                 [--threads 2]

FILE has an MTP module (`python -m bench.peers.random_gguf FILE --mtp`). One `llama-server` after another: without
drafts, then with the module's drafts of 1, 2 and 3 tokens, then without drafts again, since the machine may have
changed. llama.cpp accepts each as often as `PUBLISHED` says for code and for prose, by its own switch for that
(`--spec-synth-rates`); the module is computed, what it says is not used: as in `replay` of `python -m
bench.draft_speed`. ik_llama.cpp (--peer) has no such switch: random weights accept nearly nothing, so what is measured
is the time of its steps with drafts that are rejected, and `would_gain` is what they would gain in that time at the
published rates: tokens a step over the step's time in steps without. Prints a JSON object a line; `gain` is by the
mean of both runs without drafts."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterator
from itertools import accumulate
from operator import mul
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

from bench.draft_speed import PUBLISHED, by_place, dictated
from bench.turns import Server, free_port

PROMPT = 512  # tokens


def measured(args: argparse.Namespace, options: list[str]) -> dict[str, float]:
    """Tokens/s of answers after one prompt, drafts accepted of those drafted, tokens a step."""
    command = [str(args.llama / "bin/llama-server"), "-m", str(args.file), "-t", str(args.threads), "-np", "1"]
    command += ["-c", str(PROMPT + args.tokens + 64), *options]
    if args.peer:
        command += ["-rtr"] if args.repack else []
    elif not args.repack:
        command.append("--no-repack")
    rates, drafted, accepted, written = [], 0, 0, 0
    with Server(command, "/health", free_port()) as server:
        for run in range(-1, args.runs):  # the first reads the prompt
            body: dict[str, Any] = {
                "prompt": dictated(PROMPT, False, seed=9),
                "n_predict": args.tokens,
                "ignore_eos": True,
                "temperature": 1.0,
                "seed": run + 2,
                "cache_prompt": True,
            }
            timings = server.post("/completion", body)[0]["timings"]
            if run >= 0:
                rates.append(timings["predicted_per_second"])
                drafted += timings.get("draft_n", 0)
                accepted += timings.get("draft_n_accepted", 0)
                written += timings["predicted_n"]
    steps = written - accepted
    return {
        "tokens_per_s": statistics.median(rates),
        "steps_per_s": statistics.median(rates) * steps / written,
        "least": min(rates),
        "most": max(rates),
        "accepted": accepted / drafted if drafted else 0.0,
        "tokens_per_step": written / steps,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--llama", type=Path, required=True, help="what bench/peers/build_llama.py made")
    parser.add_argument("--peer", action="store_true", help="it is ik_llama.cpp")
    parser.add_argument("--repack", action="store_true", help="weights are repacked as they are loaded")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    rows = [shown({"drafts": 0, **measured(args, [])})]
    for row, options in (ik_llama if args.peer else llama_cpp)():
        try:
            rows.append(shown({**row, **measured(args, options)}))
        except HTTPError as error:  # a server that fails with some drafts may work with others
            print(f"{row}: the server refused: {error}: {error.read()[:300]!r}", file=sys.stderr, flush=True)
    rows.append(shown({"drafts": 0, **measured(args, [])}))
    plain = statistics.mean(row["tokens_per_s"] for row in rows if not row["drafts"])
    for row in rows:
        found = {**row, "gain": row["tokens_per_s"] / plain}
        if args.peer and (num := row["drafts"]):
            step = plain / row["steps_per_s"]
            found["would_gain"] = {text: (1 + num * shares[num - 1]) / step for text, shares in PUBLISHED.items()}
        print(json.dumps(found))
    return 0


def llama_cpp() -> Iterator[tuple[dict[str, Any], list[str]]]:
    """What is drafted, and the options for that."""
    for text, shares in PUBLISHED.items():
        for num in range(1, len(shares) + 1):
            rates = accumulate(by_place(shares)[:num], mul)
            options = ["--spec-type", "draft-mtp", "--spec-draft-n-max", str(num)]
            yield {"text": text, "drafts": num}, [*options, "--spec-synth-rates", ",".join(f"{r:.4f}" for r in rates)]


def ik_llama() -> Iterator[tuple[dict[str, Any], list[str]]]:
    for num in range(1, 1 + max(map(len, PUBLISHED.values()))):
        yield {"drafts": num}, ["--spec-type", f"mtp:n_max={num},p_min=0.0"]


def shown(row: dict[str, Any]) -> dict[str, Any]:
    print(json.dumps(row), file=sys.stderr, flush=True)
    return row


if __name__ == "__main__":
    sys.exit(main())
