"""Bounds on processor time, for tests that tell linear work from quadratic."""

import sys


def at_most(seconds: float) -> float:
    """The bound; five times as much where a tracer, such as that of `make coverage`, follows every line."""
    return seconds * 5 if sys.gettrace() else seconds
