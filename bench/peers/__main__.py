"""a3b, llama.cpp and ik_llama.cpp on the same GGUF file, in one run: tokens/s of prefill (512) and decode (64), side by
side.

    python -m bench.peers GGUF --llama DIR [--peer PATH] [--packed DIR] [--rounds 3] [--threads 1,2] [--only NAME]
    [--json]

--llama is what bench/peers/build_llama.py made, --peer the same of ik_llama.cpp or its llama-bench. a3b runs the packed
form of the file, which `a3b pack` makes first if it is not there (FILE-packed, as large again). Then every setting of
every engine runs once (those whose names begin with --only, if that is given), and the best ones for prefill and for
decode take turns, `--rounds` times, so that a slow spell of the machine meets all. Before each measurement the machine
is left alone until it has nothing to do (5 minutes at most). Medians with lowest and highest. An engine that fails is
named with the reason, and the status is 1."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from a3b.machine import processor_name
from bench.peers.engines import (
    DECODE,
    PREFILL,
    Engine,
    EngineError,
    Measurement,
    Setting,
    a3b,
    a3b_program,
    ik_llama,
    llama_cpp,
    pack,
    rest,
)
from bench.peers.logits import program

KINDS = (PREFILL, DECODE)


@dataclass
class Contestant:
    """An engine, its best setting for each kind, and the tokens/s of every run with it. `others`: files that it does
    not read."""

    engine: Engine
    others: list[Path] = field(default_factory=list)
    best: dict[str, Setting] = field(default_factory=dict)
    tried: dict[str, dict[str, float]] = field(default_factory=dict)  # setting -> kind -> tokens/s
    rates: dict[str, list[float]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    peak_rss_bytes: int = 0
    failures: list[str] = field(default_factory=list)

    def choose(self, model: Path, say: Callable[[str], None]) -> None:
        """Try every setting once; an engine with only one needs no trial."""
        settings = self.engine.settings
        if len(settings) > 1:
            for setting in settings:
                try:
                    found = self._measure(model, setting, say)
                except EngineError as error:
                    self._failed(error, say)
                    continue
                self.tried[setting.name] = {kind: statistics.median(rates) for kind, rates in found.rates.items()}
                say(
                    f"{self.engine.name}, {setting.name}: "
                    + ", ".join(f"{k} {v:.2f}" for k, v in self.tried[setting.name].items())
                )
            settings = tuple(s for s in settings if s.name in self.tried)
        for kind in KINDS if settings else ():
            self.best[kind] = max(settings, key=lambda s: self.tried.get(s.name, {}).get(kind, 0.0))

    def run(self, model: Path, runs: int, say: Callable[[str], None]) -> None:
        """One turn: each best setting in a process of its own, or one process if it is the same."""
        for setting in dict.fromkeys(self.best.values()):
            what = tuple(kind for kind in KINDS if self.best[kind] == setting)
            try:
                found = self._measure(model, setting, say, what, runs)
            except EngineError as error:
                self._failed(error, say)
                continue
            for kind, rates in found.rates.items():
                self.rates[kind] += rates
                say(f"{self.engine.name}, {kind}: " + " ".join(f"{rate:.2f}" for rate in rates))
            self.peak_rss_bytes = max(self.peak_rss_bytes, found.peak_rss_bytes)

    def _measure(self, model: Path, setting: Setting, say: Callable[[str], None], *args) -> Measurement:
        rest(self.others, say)
        return self.engine.measure(model, setting, *args)

    def _failed(self, error: EngineError, say: Callable[[str], None]) -> None:
        self.failures.append(str(error))
        say(f"failed: {error}")

    def result(self) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for kind in KINDS:
            rates = self.rates[kind]
            if rates:
                out[kind] = {
                    "tokens_per_s": statistics.median(rates),
                    "lowest": min(rates),
                    "highest": max(rates),
                    "runs": len(rates),
                    "setting": self.best[kind].name,
                }
        return out | {"peak_rss_bytes": self.peak_rss_bytes, "tried": self.tried, "failures": self.failures}


def compare(model: Path, engines: list[Engine], rounds: int, runs: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Everything measured. `ratios`: a3b to each other engine, of medians."""
    read = {engine.packed or model for engine in engines}
    contestants = [Contestant(engine, sorted(read - {engine.packed or model})) for engine in engines]
    for contestant in contestants:
        contestant.choose(model, say)
    for turn in range(rounds):
        for contestant in contestants[:: -1 if turn % 2 else 1]:
            contestant.run(model, runs, say)
    results = {c.engine.name: c.result() for c in contestants}
    ours = results.get("a3b", {})
    ratios = {
        name: {k: ours[k]["tokens_per_s"] / other[k]["tokens_per_s"] for k in KINDS if k in ours and k in other}
        for name, other in results.items()
        if name != "a3b"
    }
    return {
        "file": str(model),
        "file_bytes": model.stat().st_size,
        "cpu": processor_name() or "unknown",
        "cpus": len(os.sched_getaffinity(0)),
        "engines": results,
        "ratios": ratios,
    }


def table(result: dict[str, Any]) -> str:
    lines = [
        f"{result['file']}, {result['file_bytes'] / 1e9:.2f} GB, on {result['cpus']} CPUs ({result['cpu']})",
        "| engine | kind | tokens/s | lowest – highest (runs) | a3b is | setting |",
        "|---|---|---|---|---|---|",
    ]
    for name, found in result["engines"].items():
        for kind in KINDS:
            if kind not in found:
                lines.append(f"| {name} | {kind} | failed | | | |")
                continue
            f, ratio = found[kind], result["ratios"].get(name, {}).get(kind)
            spread = f"{f['lowest']:.2f} – {f['highest']:.2f} ({f['runs']})"
            lines.append(
                f"| {name} | {kind} | {f['tokens_per_s']:.2f} | {spread} | "
                f"{f'{ratio:.2f}×' if ratio else ''} | {f['setting']} |"
            )
    for name, found in result["engines"].items():
        lines.append(f"{name}: peak memory {found['peak_rss_bytes'] / 2**30:.1f} GiB")
        lines += [f"failed: {failure}" for failure in found["failures"]]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, metavar="GGUF")
    parser.add_argument("--llama", type=Path, required=True, help="directory with llama.cpp's programs")
    parser.add_argument("--peer", type=Path, help="ik_llama.cpp: a directory with its programs, or its llama-bench")
    parser.add_argument("--a3b", default=a3b_program(), help="the program to run as a3b")
    parser.add_argument("--packed", type=Path, metavar="DIR", help="the packed form of the file")
    parser.add_argument(
        "--threads", default=str(len(os.sched_getaffinity(0))), help="numbers to try with the peers, like 1,2"
    )
    parser.add_argument(
        "--only", default="", metavar="NAME", help="try the peers' settings whose names begin with this"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--runs", type=int, default=2, help="of each engine in a round")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if not args.model.is_file():
        print(
            f"{args.model}: no such file; write one with: python -m bench.peers.random_gguf {args.model}",
            file=sys.stderr,
        )
        return 2
    threads = [int(number) for number in args.threads.split(",")]
    engines = [llama_cpp(program(args.llama, "llama-bench"), threads)]
    if args.peer:
        engines.append(ik_llama(args.peer if args.peer.is_file() else program(args.peer, "llama-bench"), threads))
    for i, engine in enumerate(engines):
        settings = tuple(s for s in engine.settings if s.name.startswith(args.only))
        if not settings:
            print(
                f"--only {args.only!r}: {engine.name} has {'; '.join(s.name for s in engine.settings)}", file=sys.stderr
            )
            return 2
        engines[i] = replace(engine, settings=settings)
    try:
        packed = pack(args.a3b, args.model, args.packed)
    except EngineError as error:
        print(error, file=sys.stderr)
        return 1
    engines.append(a3b(args.a3b, packed))
    result = compare(args.model, engines, args.rounds, args.runs, lambda line: print(line, file=sys.stderr, flush=True))
    print(json.dumps(result, indent=1) if args.json else table(result))
    return int(any(kind not in found for found in result["engines"].values() for kind in KINDS))


if __name__ == "__main__":
    sys.exit(main())
