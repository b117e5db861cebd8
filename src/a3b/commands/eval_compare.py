"""`a3b eval compare DIR OTHER`: what the second of two runs of one benchmark has more of, case by case."""

from __future__ import annotations

import json
from argparse import Namespace

from a3b.evals.paired_runs import as_text, compare_runs
from a3b.evals.roster import BENCHMARKS, benchmark
from a3b.evals.runs import open_run
from a3b.printable import report


def run(args: Namespace) -> None:
    first, second = open_run(args.first), open_run(args.second)
    chosen = benchmark(first.benchmark) if first.benchmark in BENCHMARKS else None
    found = compare_runs(first, second, chosen)
    report(json.dumps(found.as_json(), indent=2) if args.json else as_text(found))
