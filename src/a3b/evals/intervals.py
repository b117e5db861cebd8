"""Confidence intervals of shares, and of differences between two runs over the same cases.

A case that is tried several times is one draw, not several: its tries are alike. Enter at `share`, `difference`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean

import numpy as np

LEVEL = 0.95
DRAWS, AT_ONCE = 10_000, 500  # of a bootstrap
SAME = 1e-9  # means of the same scores differ by rounding


@dataclass(frozen=True)
class ShareInterval:
    """A mean of scores in [0, 1], and the limits that hold it with a confidence of `LEVEL`. method: in words."""

    mean: float
    low: float
    high: float
    cases: int
    method: str


@dataclass(frozen=True)
class PairedDifference:
    """B less A over the same cases. won, lost: cases that only B, or only A, solved; p: of McNemar's exact test, None
    where scores are not 0 or 1."""

    mean: float
    low: float
    high: float
    cases: int
    won: int
    lost: int
    p: float | None


def share(scores: Sequence[Sequence[float]]) -> ShareInterval:
    """The mean over cases of the mean over their tries. scores: for each case, its tries.

    Wilson's interval where a case is a yes or a no; else, for shares and several tries, the standard error of the
    means of cases with Student's t (Miller, "Adding error bars to evals", 2024). Where cases are so alike that this
    would be nearly certain, it allows for cases that they do not show, cut to [0, 1]."""
    means = [fmean(tries) for tries in scores if tries]
    count = len(means)
    if not count:
        return ShareInterval(math.nan, 0.0, 1.0, 0, "no cases")
    if all(mean in (0, 1) for mean in means):
        low, high = wilson(sum(mean == 1 for mean in means), count)
        return ShareInterval(fmean(means), low, high, count, "Wilson")
    mean = fmean(means)
    if count == 1:
        return ShareInterval(mean, 0.0, 1.0, 1, "one case")
    variance = sum((m - mean) ** 2 for m in means) / (count - 1)
    half, (least, most) = student(count - 1) * math.sqrt(variance / count), with_unseen(mean, count, 0.0, 1.0)
    low, high = max(min(mean - half, least), 0.0), min(max(mean + half, most), 1.0)
    return ShareInterval(mean, low, high, count, "clustered by case")


def with_unseen(mean: float, count: int, worst: float, best: float) -> tuple[float, float]:
    """The limits of a mean if there are cases of the worst, or of the best, value that one sample of `count` in twenty
    does not show."""
    unseen = 1 - (1 - LEVEL) ** (1 / count)
    return (1 - unseen) * mean + unseen * worst, (1 - unseen) * mean + unseen * best


def wilson(successes: int, count: int, level: float = LEVEL) -> tuple[float, float]:
    """Wilson's score interval of successes out of count, which must not be 0."""
    z = NormalDist().inv_cdf(0.5 + level / 2)
    p = successes / count
    centre = p + z * z / (2 * count)
    half = z * math.sqrt(p * (1 - p) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    low, high = (centre - half) / scale, (centre + half) / scale
    return (0.0 if successes == 0 else max(low, 0.0)), (1.0 if successes == count else min(high, 1.0))


def student(freedom: int, level: float = LEVEL) -> float:
    """The quantile of Student's t for a two-sided interval, to 1e-9: found by bisection of its distribution."""
    target, low, high = level, 0.0, 1e3
    while high - low > 1e-9 * max(high, 1):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < target else (low, middle)
    return (low + high) / 2


def _within(t: float, freedom: int) -> float:
    """The probability that |T| < t, by the finite series of Abramowitz and Stegun 26.7.3 and 26.7.4."""
    angle = math.atan(t / math.sqrt(freedom))
    cos2 = math.cos(angle) ** 2
    if freedom % 2:
        total, term = 0.0, math.cos(angle)
        for i in range(1, freedom - 1, 2):
            total += term
            term *= cos2 * (i + 1) / (i + 2)
        return 2 / math.pi * (angle + (math.sin(angle) * total if freedom > 1 else 0.0))
    total, term = 0.0, 1.0
    for i in range(1, freedom, 2):
        total += term
        term *= cos2 * i / (i + 1)
    return math.sin(angle) * total


def difference(
    first: Sequence[Sequence[float]],
    second: Sequence[Sequence[float]],
    seed: int = 0,
    draws: int = DRAWS,
    most: float | None = None,
) -> PairedDifference:
    """How much better the second run is; both have the same cases in the same order. The interval is a bootstrap over
    cases, whose draws depend on `seed` alone.

    most: the largest change that a case can have. Where all cases change alike, a bootstrap would be certain; the
    interval then allows for cases that one sample in twenty would not show, changed as much the other way."""
    pairs = [(fmean(a), fmean(b)) for a, b in zip(first, second, strict=True) if a and b]
    if not pairs:
        return PairedDifference(math.nan, -1.0, 1.0, 0, 0, 0, None)
    changes, count = np.array([b - a for a, b in pairs]), len(pairs)
    mean = float(changes.mean())
    if most is not None and np.ptp(changes) < SAME:
        low, high = with_unseen(mean, count, -most, most)
    else:
        rng = np.random.Generator(np.random.PCG64(seed))
        means = np.concatenate([changes[rng.integers(0, count, (n, count))].mean(1) for n in _portions(draws)])
        low, high = map(float, np.quantile(means, ((1 - LEVEL) / 2, (1 + LEVEL) / 2)))
    won, lost = int((changes > 0).sum()), int((changes < 0).sum())
    binary = all(value in (0, 1) for pair in pairs for value in pair)
    return PairedDifference(mean, low, high, count, won, lost, mcnemar(won, lost) if binary else None)


def _portions(draws: int) -> list[int]:
    """Draws that are made together, to bound memory."""
    return [min(AT_ONCE, draws - done) for done in range(0, draws, AT_ONCE)]


def mcnemar(won: int, lost: int) -> float:
    """The exact two-sided p value of McNemar's test: that a fair coin falls so unevenly."""
    count = won + lost
    if not count:
        return 1.0
    tail = sum(math.comb(count, k) for k in range(min(won, lost) + 1))
    return min(1.0, float(2 * tail / 2**count))
