"""The score of each kind of case, for benchmarks that are made of several. Enter at `lines_by_kind`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from a3b.evals.intervals import share


def lines_by_kind(kind_of: Callable[[str], str]) -> Callable[[Mapping[str, Sequence[float]]], list[str]]:
    """A function for `Benchmark.more`. kind_of: the kind of a case, from its id."""

    def lines(tries: Mapping[str, Sequence[float]]) -> list[str]:
        kinds: dict[str, list[Sequence[float]]] = {}
        for case, scores in tries.items():
            kinds.setdefault(kind_of(case), []).append(scores)
        if len(kinds) < 2:
            return []
        found = {name: share(scores) for name, scores in sorted(kinds.items())}
        width = max(map(len, found))
        return [
            f"           {name:<{width}} {one.mean:>7.1%} ({one.low:.1%} to {one.high:.1%}, {one.cases} cases)"
            for name, one in found.items()
        ]

    return lines
