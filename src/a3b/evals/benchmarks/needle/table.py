"""Scores by depth and length: as a table of text, and as a picture. Enter at `table`, `draw`."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from a3b.errors import UsageError
from a3b.evals.benchmarks.needle.haystack import KINDS
from a3b.evals.records import CaseRecord
from a3b.evals.runs import RunDirectory

INSTALL = "pip install 'a3b[bench]'"
PICTURE = "needle.png"


def by_cell(records: Iterable[CaseRecord]) -> dict[str, dict[tuple[int, int], list[float]]]:
    """Scores by kind, then by (length, depth in percent). Records without these facts are left out."""
    out: dict[str, dict[tuple[int, int], list[float]]] = {}
    for record in records:
        kind, length, depth = (record.facts.get(name) for name in ("kind", "length", "depth"))
        if record.score is not None and kind in KINDS and type(length) is int and type(depth) is int:
            out.setdefault(kind, {}).setdefault((length, depth), []).append(record.score)
    return out


def table(records: Iterable[CaseRecord]) -> list[str]:
    """For each kind a line per length, a column per depth, and the mean with the number of cases."""
    out = []
    for kind, cells in by_cell(records).items():
        lengths, depths = (sorted({key[i] for key in cells}) for i in (0, 1))
        out += ["", f"{kind:<12} " + " ".join(f"{f'{depth} %':>6}" for depth in depths) + f" {'all':>6}  cases"]
        for length in lengths:
            row = [cells.get((length, depth), []) for depth in depths]
            together = [score for scores in row for score in scores]
            shown = " ".join(f"{statistics.mean(scores):>6.0%}" if scores else f"{'-':>6}" for scores in row)
            out.append(f"{length:>12,} {shown} {statistics.mean(together):>6.0%} {len(together):>6}")
    return out


def pyplot() -> Any:
    """Raises UsageError where matplotlib is missing."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot as plt
    except ImportError:
        raise UsageError(f"the picture needs matplotlib: {INSTALL}") from None
    return plt


def draw(runs: Sequence[tuple[str, Iterable[CaseRecord]]], path: Path) -> None:
    """A map of depth over length for each run and kind, in a row for each run. Raises UsageError."""
    plt = pyplot()
    found = [(title, kind, cells) for title, records in runs for kind, cells in by_cell(records).items()]
    kinds = list(dict.fromkeys(kind for _, kind, _ in found))
    titles = [title for title, _ in runs]
    figure, axes = plt.subplots(
        len(titles), len(kinds), figsize=(1 + 3.4 * len(kinds), 0.9 + 2.1 * len(titles)), squeeze=False
    )
    for axis in axes.flat:
        axis.set_visible(False)
    for title, kind, cells in found:
        axis = axes[titles.index(title)][kinds.index(kind)]
        axis.set_visible(True)
        lengths, depths = (sorted({key[i] for key in cells}) for i in (0, 1))
        grid = [[statistics.mean(cells.get((n, d), [float("nan")])) for n in lengths] for d in depths]
        axis.imshow(grid, vmin=0, vmax=1, cmap="RdYlGn", aspect="auto")
        for i, row in enumerate(grid):
            for j, value in enumerate(row):
                if value == value:
                    axis.text(j, i, f"{100 * value:.0f}", ha="center", va="center", fontsize=7, color=ink(value))
        axis.set_xticks(range(len(lengths)), [_short(length) for length in lengths], fontsize=7)
        axis.set_yticks(range(len(depths)), [f"{depth} %" for depth in depths], fontsize=7)
        axis.set_title(f"{title}: {kind}" if title else kind, fontsize=8)
    figure.supxlabel("tokens of the prompt", fontsize=8)
    figure.supylabel("depth of the fact", fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)


def ink(value: float) -> str:
    """A colour that can be read on that of a value."""
    return "white" if value < 0.2 or value > 0.85 else "black"


def _short(length: int) -> str:
    return f"{length // 1024}k" if length % 1024 == 0 else f"{length:,}"


def finish(run: RunDirectory) -> list[str]:
    """The lines at the end of a run: the table, and where the picture is. Raises StoreError."""
    records = list(run.records().values())
    lines, place = table(records), run.path / PICTURE
    if not lines:
        return []
    try:
        draw([("", records)], place)
        found = str(place)
    except UsageError as error:
        found = f"none: {error}"
    except OSError as error:
        found = f"none: {place}: {error.strerror or error}"
    return [*lines, "", f"picture    {found}"]
