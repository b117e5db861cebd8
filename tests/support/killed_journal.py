"""A process that journals some steps, undoes some, and kills itself at its Nth change to the disk.

python -m tests.support.killed_journal JOURNAL WORKSPACE SEED N; with N = 0 it runs to its end and prints how many there
were."""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from a3b.agent.journal.journal import Journal
from tests.support.file_trees import random_script, shell

CHANGES = ("open", "rename", "unlink", "mkdir", "rmdir", "symlink", "fchmod", "chmod", "truncate", "fdatasync")


class Countdown:
    """Kills the process before its Nth change."""

    def __init__(self, at: int):
        self.at, self.count = at, 0

    def wrap(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **named: Any) -> Any:
            self.count += 1
            if self.count == self.at:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **named)

        return counted


def main(journal_path: str, workspace: str, seed: str, at: str) -> None:
    """Four steps with an undo and a redo between."""
    countdown = Countdown(int(at))
    for name in CHANGES:
        setattr(os, name, countdown.wrap(getattr(os, name)))
    rng, work = random.Random(int(seed)), Path(workspace)
    journal = Journal(Path(journal_path), work)
    for n in range(4):
        journal.begin(f"step {n}")
        shell(work, random_script(rng, work, 6) + f"\necho {n} > always")
        journal.finish()
        if n in (1, 3):
            journal.undo()
        if n == 1:
            journal.redo()
    journal.close()
    print(countdown.count)


if __name__ == "__main__":
    main(*sys.argv[1:])
