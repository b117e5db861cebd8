"""What tokens and tasks cost at a price of the machine, per hour or for its electricity.

Speeds are arguments, measured elsewhere. Enter at `given_price` and `costs`."""

from __future__ import annotations

import math
from argparse import Namespace
from dataclasses import dataclass

from a3b.errors import UsageError
from a3b.units import span

TASK = (30_000, 8_000)  # tokens read and written by a coding agent for a task of some twenty turns


@dataclass(frozen=True)
class Price:
    """Of one hour of this machine, in any currency, and of what it is made."""

    per_hour: float
    words: str
    task: tuple[int, int] = TASK  # tokens read, not found in the cache, and tokens written


def given_price(args: Namespace) -> Price | None:
    """The price that options give; None if they give none. Raises UsageError for half a price, and for none above 0."""
    hour, watts, kwh = args.price_per_hour, args.watts, args.price_per_kwh
    for option, value in (("--price-per-hour", hour), ("--watts", watts), ("--price-per-kwh", kwh)):
        if value is not None and not 0 < value < math.inf:
            raise UsageError(f"{option} {value:g}: expected a number above 0")
    if hour is not None and (watts is not None or kwh is not None):
        raise UsageError("--price-per-hour: has no place beside --watts and --price-per-kwh; give one or the other")
    if (watts is None) != (kwh is None):
        here, missing = ("--watts", "--price-per-kwh") if kwh is None else ("--price-per-kwh", "--watts")
        raise UsageError(f"{here}: needs {missing} too")
    if args.task is not None and (len(args.task) != 2 or not sum(args.task)):
        raise UsageError(
            f"--task {','.join(map(str, args.task))}: expected tokens read and written, such as 30000,8000"
        )
    task = args.task or TASK
    if hour is not None:
        return Price(hour, "the machine", task)
    if watts is not None:
        return Price(watts / 1000 * kwh, f"{watts:g} W at {kwh:g} a kWh", task)
    if args.task is not None:
        raise UsageError("--task: needs a price, --price-per-hour or --watts with --price-per-kwh")
    return None


def costs(price: Price, read_s: float, written_s: float, task_s: float) -> dict[str, float]:
    """What one unit of the currency buys, and what a task costs. read_s, written_s: seconds of a token; task_s: of a
    task."""
    per_second = price.per_hour / 3600
    return {
        "read_per_unit": 1 / (read_s * per_second),
        "written_per_unit": 1 / (written_s * per_second),
        "task_s": task_s,
        "task": task_s * per_second,
    }


def table(price: Price, rows: dict[str, dict[str, float]]) -> list[str]:
    """Lines that show the costs of shapes by their names."""
    read, written = price.task
    out = [
        f"cost       {price.words}: {price.per_hour:.4g} an hour; a task reads {read:,} tokens that no cache has and "
        f"writes {written:,}",
        "",
        f"{'shape':<14} {'read, for 1':>12} {'written, for 1':>15} {'a task':>10} {'it takes':>10}",
    ]
    for name, row in rows.items():
        out.append(
            f"{name[-14:]:<14} {row['read_per_unit']:>12,.0f} {row['written_per_unit']:>15,.0f} {row['task']:>10.3g} "
            f"{span(row['task_s']):>10}"
        )
    return out
