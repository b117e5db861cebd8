"""A progress line on stderr, shown only at a terminal and only for work that takes longer than a moment."""

from __future__ import annotations

import sys
import time

from a3b.printable import printable

MILLION = MB = 1_000_000
FIRST_AFTER_S = 1.0
EVERY_S = 0.2
WIDTH = 24


class Progress:
    """`with Progress("reading", total) as p: p(done)`; the line is erased at the end."""

    def __init__(self, label: str, total: int, unit: str = "tokens", scale: int = 1):
        """total: of what `add` counts; scale: how many of those one shown unit is."""
        self.label, self.total, self.unit, self.scale = printable(label), total // scale, unit, scale
        self.counted = self.before = 0  # before: what was done when the clock began
        self.start = self.shown = time.monotonic()
        self.visible = False

    def __enter__(self) -> Progress:
        return self

    def add(self, count: int) -> None:
        """Show `count` more than before."""
        self.counted += count
        self(self.counted // self.scale)

    def __call__(self, done: int) -> None:
        now = time.monotonic()
        due = FIRST_AFTER_S if not self.visible else EVERY_S
        if not sys.stderr.isatty() or now - self.shown < due:
            return
        self.shown, self.visible = now, True
        share = done / max(self.total, 1)
        left = (now - self.start) * (self.total - done) / max(done - self.before, 1e-9)
        bar = ("#" * round(WIDTH * share)).ljust(WIDTH, ".")
        print(
            f"\r{self.label} [{bar}] {done}/{self.total} {self.unit}, {left:.0f} s left \x1b[K", end="", file=sys.stderr
        )
        sys.stderr.flush()

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self.visible:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
            self.visible = False
