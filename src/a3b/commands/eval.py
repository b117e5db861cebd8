"""`a3b eval KIND`: benchmarks of any OpenAI-compatible endpoint, by name; `list` tells which; `quality`: what packing
costs."""

from __future__ import annotations

import importlib
from argparse import Namespace

OWN = (
    "quality",
    "list",
    "report",
    "compare",
    "plan",
    "thinking",
)  # what has a module of its own; the rest are names of benchmarks


def run(args: Namespace) -> int | None:
    module = f"eval_{args.kind}" if args.kind in OWN else "eval_run"
    status: int | None = importlib.import_module(f"a3b.commands.{module}").run(args)
    return status
