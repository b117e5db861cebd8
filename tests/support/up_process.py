"""`a3b up` in a process of its own, which measures nothing. Run as: python -m tests.support.up_process ARGUMENTS"""

from __future__ import annotations

import sys

from a3b.cli import main
from a3b.commands import model_sources
from a3b.commands.plan import Speed

if __name__ == "__main__":
    model_sources.predicted = lambda *_: Speed(40e9, 1000e9)
    sys.exit(main(["up", *sys.argv[1:]]))
