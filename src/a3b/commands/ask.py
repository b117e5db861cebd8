"""Asks the user once, at a terminal; elsewhere only an option agrees. Enter at `agreed`."""

from __future__ import annotations

import sys

from a3b.errors import UsageError
from a3b.printable import say

NO, YES = ("n", "no"), ("y", "yes", "")


def agreed(question: str, yes: bool, command: str) -> bool:
    """The answer to a question whose default is yes. yes: it was given as an option. command: what to run where nobody
    can be asked; UsageError says it. The end of the input is no."""
    if yes:
        return True
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError(f"nobody can be asked here, as this is no terminal; to agree, run: {command}")
    while True:
        say(f"{question} [Y/n] ", end="")
        line = sys.stdin.readline()
        if not line:
            say()
            return False
        if (word := line.strip().lower()) in YES or word in NO:
            return word in YES
        say("y or n")
