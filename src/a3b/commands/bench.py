"""`a3b bench KIND`: the speed of a model, the start of a process, or a sparse model against dense ones."""

from __future__ import annotations

import importlib
from argparse import Namespace


def run(args: Namespace) -> int | None:
    status: int | None = importlib.import_module(f"a3b.commands.benchmarks.{args.kind}").run(args)
    return status
