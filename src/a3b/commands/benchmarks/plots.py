"""Draws what the bench commands measured, as PNG; needs matplotlib, the extra `bench`.

Enter at `draw_sparsity` and `draw_roofline`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from a3b.errors import UsageError
from a3b.model.forward import CHUNK

INK, SPARSE_COLOUR, DENSE_COLOUR, LIMIT = "#333333", "#c2410c", "#64748b", "#94a3b8"


def pyplot() -> Any:
    """The plotting module, drawing into files only."""
    try:
        import matplotlib
    except ImportError:
        raise UsageError(
            "pictures need matplotlib, which is not installed: pip install 'a3b[bench]', or leave out --plot"
        ) from None
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def draw_sparsity(facts: dict[str, Any], path: Path) -> None:
    """Left: tokens per second by parameters held. Right: by bytes that a token reads, with the line that bandwidth
    draws."""
    plt = pyplot()
    figure, (held, read) = plt.subplots(1, 2, figsize=(10, 4), sharey=True)
    rows = facts["shapes"]
    bandwidth = max(row["measured"]["read_bytes_per_s"]["median"] for row in rows)
    for i, row in enumerate(rows):
        colour = SPARSE_COLOUR if row["parameters"] > 1.5 * row["active"] else DENSE_COLOUR
        rate, size = row["decode"]["tokens_per_s"], sum(row["bytes_per_token"].values())
        for axes, x in ((held, row["parameters"] / 1e9), (read, size / 1e9)):
            axes.plot(x, rate, "o", color=colour, markersize=9, zorder=2 + (colour == SPARSE_COLOUR))
            place = (-8, 9) if i % 2 == 0 else (-8, -18)
            axes.annotate(row["shape"], (x, rate), place, textcoords="offset points", color=colour, ha="right")
    sizes = [sum(row["bytes_per_token"].values()) for row in rows]
    ends = [min(sizes) / 1.5, max(sizes) * 1.5]
    read.plot([x / 1e9 for x in ends], [bandwidth / x for x in ends], "--", color=LIMIT)
    read.annotate(
        f"{bandwidth / 1e9:.0f} GB/s",
        (ends[0] / 1e9, bandwidth / ends[0]),
        (12, -2),
        textcoords="offset points",
        color=LIMIT,
    )
    for axes, label in ((held, "parameters, billions"), (read, "GB that a token reads or writes")):
        axes.set(xscale="log", yscale="log", xlabel=label)
        axes.margins(0.25)
        _plain(axes)
    held.set_ylabel("decode, tokens/s")
    save(plt, figure, path)


def draw_roofline(facts: dict[str, Any], path: Path) -> None:
    """What `a3b bench speed` measured, under the two limits of the machine: bandwidth and int8 arithmetic."""
    plt = pyplot()
    figure, axes = plt.subplots(figsize=(7, 4.5))
    bandwidth, peak = (facts["measured"][key]["median"] for key in ("read_bytes_per_s", "int8_operations_per_s"))
    # The highest rate seen: memory may be faster during the work than before it.
    bandwidth = max(
        bandwidth, *(found["bytes_per_s"] / found["bandwidth_fraction"] for found in facts["decode"].values())
    )
    points = [
        (
            f"decode at {int(depth):,}",
            2 * facts["parameters"]["active"] / sum(found["bytes_per_token"].values()),
            2 * facts["parameters"]["active"] * found["tokens_per_s"],
        )
        for depth, found in facts["decode"].items()
    ]
    for num, found in facts["prefill"].items():
        work, steps = found["operations_per_s"] / found["tokens_per_s"], -(-int(num) // CHUNK)
        points.append(
            (f"prefill of {int(num):,}", work * int(num) / (facts["weight_bytes"] * steps), found["operations_per_s"])
        )
    knee = peak / bandwidth
    left, right = min(min(x for _, x, _ in points), knee) / 3, max(max(x for _, x, _ in points), knee) * 5
    axes.plot([left, knee, right], [bandwidth * left / 1e9, peak / 1e9, peak / 1e9], color=LIMIT)
    axes.annotate(
        f"{bandwidth / 1e9:.0f} GB/s", (left, bandwidth * left / 1e9), (12, 0), textcoords="offset points", color=LIMIT
    )
    axes.annotate(f"{peak / 1e9:,.0f} GOP/s int8", (knee, peak / 1e9), (4, 6), textcoords="offset points", color=LIMIT)
    for kind, colour in (("decode", SPARSE_COLOUR), ("prefill", DENSE_COLOUR)):
        alike = sorted((point for point in points if point[0].startswith(kind)), key=lambda point: point[2])
        # labels in the order of their points, spread, since the points are close
        for i, (label, x, y) in enumerate(alike):
            axes.plot(x, y / 1e9, "o", color=colour)
            place = (14, 16 * (i - (len(alike) - 1) / 2) - 4)
            axes.annotate(label, (x, y / 1e9), place, textcoords="offset points", color=colour, fontsize=9)
    axes.set(xscale="log", yscale="log", xlabel="integer operations per byte read", ylabel="10⁹ integer operations/s")
    _plain(axes)
    save(plt, figure, path)


def _plain(axes: Any) -> None:
    """Logarithmic axes with ticks at 1, 2, 5, 10, ..., written out."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.10g}"))
        axis.set_minor_locator(NullLocator())
    axes.grid(True, color="#e5e7eb", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=INK)


def save(plt: Any, figure: Any, path: Path) -> None:
    """Writes a PNG and closes the figure. Raises UsageError."""
    figure.tight_layout()
    try:
        figure.savefig(path, dpi=150, format="png", metadata={"Software": None})
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}; give another place for the picture") from None
    finally:
        plt.close(figure)
