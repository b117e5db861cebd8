"""A progress line on stderr, shown only at a terminal and only for work that takes longer than a moment."""

from __future__ import annotations

import shutil
import sys
import time

from a3b.printable import printable
from a3b.units import span

MILLION = MB = 1_000_000
FIRST_AFTER_S = 1.0
EVERY_S = 0.2
WIDTH, LEAST_WIDTH = 24, 8  # of the bar


class Progress:
    """`with Progress("reading", total) as p: p(done)`; the line is erased at the end."""

    def __init__(self, label: str, total: int, unit: str = "tokens", scale: int = 1):
        """total: of what `add` counts; scale: how many of those one shown unit is."""
        self.label, self.total, self.unit, self.scale = printable(label), total // scale, unit, scale
        self.counted = self.before = 0  # before: what was done when the clock began
        self.start = self.shown = time.monotonic()
        self.visible, self.to = False, sys.stderr

    def __enter__(self) -> Progress:
        return self

    def add(self, count: int) -> None:
        """Show `count` more than before."""
        self.counted += count
        self(self.counted // self.scale)

    def __call__(self, done: int) -> None:
        left = (time.monotonic() - self.start) * (self.total - done) / max(done - self.before, 1e-9)
        self.draw(f"{self.label} {done}/{self.total} {self.unit}", done / max(self.total, 1), left)

    def draw(self, text: str, share: float, left: float | None) -> None:
        """Show a line, with a bar if the terminal has room for one. left: seconds; None if nobody knows."""
        now = time.monotonic()
        due = FIRST_AFTER_S if not self.visible else EVERY_S
        if not self.to.isatty() or now - self.shown < due:
            return
        self.shown, self.visible = now, True
        line = text if left is None else f"{text}, {span(left)} left"
        columns = shutil.get_terminal_size().columns - 1  # a full line would wrap, and stay
        if (width := min(WIDTH, columns - len(line) - 3)) >= LEAST_WIDTH:
            bar = ("#" * round(width * min(max(share, 0), 1))).ljust(width, ".")
            line = f"[{bar}] {line}"
        print(f"\r{line[:columns]}\x1b[K", end="", file=self.to)
        self.to.flush()

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self.visible:
            print("\r\x1b[K", end="", file=self.to, flush=True)
            self.visible = False
