"""`a3b eval report DIR...`: results beside published scores, as a table, as Markdown or JSON, and as a picture.

Exit status 1 if a run could not be read; the rest is shown."""

from __future__ import annotations

import json
import os
from argparse import Namespace
from pathlib import Path

from a3b.errors import UsageError
from a3b.evals.report import as_markdown, as_text, build_report, find_runs
from a3b.evals.roster import BENCHMARKS, benchmark
from a3b.evals.runs import RunDirectory
from a3b.printable import report, say


def run(args: Namespace) -> int:
    if args.plot is not None:
        from a3b.commands.benchmarks.plots import pyplot

        pyplot()  # before anything is read, if it is missing
    runs, wrong = find_runs(args.directories) if args.directories else _own_runs(args)
    for problem in wrong:
        say(f"a3b eval report: left out: {problem}")
    found = build_report(runs, list(BENCHMARKS), benchmark)
    if args.plot is not None:
        from a3b.commands.eval_plot import draw_scores

        draw_scores(found, args.plot)
    report(json.dumps(found.value(), indent=2) if args.json else (as_markdown if args.markdown else as_text)(found))
    return 1 if wrong else 0


def _own_runs(args: Namespace) -> tuple[list[RunDirectory], list[str]]:
    """Those of A3B_HOME. Without any, the published scores still say what there is to run."""
    place = Path(os.path.abspath(Path(args.runtime.home).expanduser())) / "evals"
    try:
        return find_runs([place])
    except UsageError:
        say(f"a3b eval report: no run is in {place} yet; a3b eval list says what can be run")
        return [], []
