"""Draws the scores of a report, with their intervals, beside published ones. Enter at `draw_scores`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from a3b.commands.benchmarks.plots import DENSE_COLOUR, INK, LIMIT, SPARSE_COLOUR, pyplot, save
from a3b.errors import UsageError
from a3b.evals.benchmark import GEMMA, QWEN
from a3b.evals.report import EvalReport, ReportCell, part_text
from a3b.printable import printable

COLOURS = ("#0369a1", "#4d7c0f", "#7e22ce", "#b45309", "#0f766e")
MOST_LABEL = 40  # characters


def draw_scores(report: EvalReport, path: Path) -> None:
    """A line for each row of the report: runs as points with intervals, published scores as hollow ones."""
    rows = [row for row in report.rows if row.cells or row.published]
    if not rows:
        raise UsageError("--plot: there is nothing to draw")
    plt = pyplot()
    figure, axes = plt.subplots(figsize=(8, 1.2 + 0.55 * len(rows)))
    seen: set[str] = set()

    def point(model: str, score: float, place: float, **look: object) -> None:
        axes.plot(score, place, label=None if model in seen else _short(model), **look)
        seen.add(model)

    for place, row in enumerate(reversed(rows)):
        for model, colour in ((QWEN, SPARSE_COLOUR), (GEMMA, DENSE_COLOUR)):
            if model in row.published:
                look = {"marker": "D", "color": colour, "fillstyle": "none", "linestyle": "none"}
                point(f"{model}, published", row.published[model], place + 0.18, **look)
        for number, model in enumerate(report.models):
            cell = row.cells.get(model)
            if cell is not None and cell.score is not None and cell.low is not None and cell.high is not None:
                colour, y = COLOURS[number % len(COLOURS)], place - 0.12 * number
                axes.plot([cell.low, cell.high], [y, y], color=colour, linewidth=1.5, alpha=0.6)
                point(model, cell.score, y, marker="o", color=colour, linestyle="none")
                _mark_part(axes, cell, y, colour)
        if not row.cells:
            axes.annotate("not run", (1, place - 0.1), color=LIMIT, fontsize=8, va="center")
    axes.set_yticks(range(len(rows)), [_short(f"{row.benchmark} {row.settings}") for row in reversed(rows)])
    axes.set(xlim=(-2, 102), ylim=(-0.8, len(rows) - 0.4), xlabel="score, percent, with 95 % intervals")
    axes.grid(True, axis="x", color="#e5e7eb", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=INK)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False, fontsize=8)
    save(plt, figure, path)


def _mark_part(axes: Any, cell: ReportCell, place: float, colour: str) -> None:
    """Writes beside an interval of how few cases it is, where there is more room."""
    if (part := part_text(cell)) and cell.low is not None and cell.high is not None:
        end, away, side = (cell.high, 4, "left") if cell.low < 100 - cell.high else (cell.low, -4, "right")
        look = {"color": colour, "fontsize": 7, "ha": side, "va": "center"}
        axes.annotate(part, (end, place), (away, 0), textcoords="offset points", **look)


def _short(text: str) -> str:
    """A label: no mathematics, whatever a model is called."""
    return printable(text.strip())[:MOST_LABEL].replace("$", r"\$")
