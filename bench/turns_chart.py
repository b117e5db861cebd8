"""docs/turns.svg: seconds to read the prompts of a conversation, a3b beside llama.cpp's server.

    python -m bench.turns_chart [RUN.json --machine TEXT]

draws docs/turns.json. RUN.json is what `python -m bench.turns 35B --llama-server PATH --gguf FILE --json` printed; its
numbers are then written to docs/turns.json first. Each row has (median, lowest, highest) or one number, in seconds; the
axis is logarithmic. Enter at `rows_of` and `draw`."""

from __future__ import annotations

import argparse
import json
import math
import re
import statistics
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

DOCS = Path(__file__).resolve().parent.parent / "docs"
ENGINES = {"llama.cpp": "other", "a3b": "own"}  # and the classes of their marks; a3b is drawn on top
WIDTH, LEFT, RIGHT, TOP, ROW = 760, 236, 40, 74, 44
TICKS = (1, 3, 10, 30, 100, 300)
STYLE = """
text { font: 13px system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; fill: #1f2328 }
.title { font-size: 16px; font-weight: 600 } .small { font-size: 11px; fill: #59636e } .end { text-anchor: end }
.middle { text-anchor: middle } line { stroke: #d1d9e0 } .own { stroke: #0969da; fill: #0969da }
.other { stroke: #bc4c00; fill: #bc4c00 } .range { stroke-width: 5; stroke-opacity: .35; stroke-linecap: round }
text.own, text.other { stroke: none; font-weight: 600 }
@media (prefers-color-scheme: dark) {
text { fill: #f0f6fc } .small { fill: #9198a1 } line { stroke: #3d444d } .own { stroke: #4493f8; fill: #4493f8 }
.other { stroke: #f0883e; fill: #f0883e } }
"""


def rows_of(run: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The rows of the chart from the JSON of `bench.turns`. Raises ValueError if a turn is missing."""
    kinds = {
        "turn 1": r"turn 1",
        "turns 2 to {last}": r"turn (?!1$)\d+",
        "turn {restarted}, after kill -9": r"turn \d+, after kill.*",
        "turn {edited} edited after {last}": r"diverging.*",
    }
    ours = run["a3b"]
    last = max(int(row["what"].split()[1]) for row in ours if re.fullmatch(r"turn \d+", row["what"]))
    numbers = {"last": last, "edited": last // 2, "restarted": last // 2 + 1}
    found = []
    for name, pattern in kinds.items():
        row: dict[str, Any] = {"what": name.format(**numbers), "tokens": _tokens(_matching(ours, pattern))}
        for engine in ("a3b", "llama.cpp"):
            seconds = [one["read_s"] for one in _matching(run[engine], pattern)]
            row[engine] = _summary(seconds)
        found.append(row)
    return found


def _matching(rows: Iterable[dict[str, Any]], pattern: str) -> list[dict[str, Any]]:
    found = [row for row in rows if re.fullmatch(pattern, row["what"])]
    if not found:
        raise ValueError(f"no turn like {pattern!r}; expected the JSON of bench.turns with --llama-server")
    return found


def _tokens(rows: list[dict[str, Any]]) -> str:
    tokens = [row["prompt_tokens"] for row in rows]
    several = f"{min(tokens):,} to {max(tokens):,} tokens, {len(tokens)} turns"
    return several if len(tokens) > 1 else f"{tokens[0]:,} tokens"


def _summary(seconds: list[float]) -> list[float]:
    if len(seconds) == 1:
        return [round(seconds[0], 1)]
    return [round(value, 1) for value in (statistics.median(seconds), min(seconds), max(seconds))]


# -- the picture


def x_of(seconds: float) -> float:
    share = math.log(seconds / TICKS[0]) / math.log(TICKS[-1] / TICKS[0])
    return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)


def draw(data: dict[str, Any]) -> str:
    """The SVG, readable on a light and on a dark page."""
    bottom = TOP + ROW * len(data["rows"])
    parts = [_text(16, 28, data["title"], "title"), *_legend()]
    for tick in TICKS:
        parts.append(f'<line x1="{x_of(tick)}" x2="{x_of(tick)}" y1="{TOP - 12}" y2="{bottom}"/>')
        parts.append(_text(x_of(tick), bottom + 16, f"{tick} s", "small middle"))
    for i, row in enumerate(data["rows"]):
        parts += _row(row, TOP + ROW * i + 14)
    machine, _, rest = data["machine"].partition("; ")
    parts += [_text(16, bottom + 40, f"{machine}. Logarithmic axis.", "small"), _text(16, bottom + 56, rest, "small")]
    height = bottom + 68
    rows = (f"{row['what']}: a3b {row['a3b'][0]:g} s, llama.cpp {row['llama.cpp'][0]:g} s" for row in data["rows"])
    told = escape("; ".join(rows))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'role="img" aria-label="{told}">\n<style>{STYLE}</style>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _legend() -> list[str]:
    """On the right of the title."""
    parts = []
    for x, (engine, kind) in zip((WIDTH - 210, WIDTH - 100), reversed(ENGINES.items()), strict=True):
        parts += [f'<circle class="{kind}" cx="{x}" cy="24" r="5"/>', _text(x + 12, 28, engine, kind)]
    return parts


def _row(row: dict[str, Any], y: int) -> list[str]:
    """The number of the faster engine is on the left of its mark, that of the slower one on the right."""
    parts = [_text(16, y, row["what"], ""), _text(16, y + 15, row["tokens"], "small")]
    fastest = min(ENGINES, key=lambda engine: row[engine][0])
    for engine, kind in ENGINES.items():
        middle, low, high = row[engine] if len(row[engine]) == 3 else row[engine] * 3
        parts.append(f'<line class="{kind} range" x1="{x_of(low)}" x2="{x_of(high)}" y1="{y}" y2="{y}"/>')
        parts.append(f'<circle class="{kind}" cx="{x_of(middle)}" cy="{y}" r="5"/>')
        x, side = (x_of(low) - 10, " end") if engine == fastest else (x_of(high) + 10, "")
        parts.append(_text(x, y + 5, f"{middle:g} s", f"{kind}{side}"))
    return parts


def _text(x: float, y: float, text: str, kind: str) -> str:
    return f'<text x="{x}" y="{y}" class="{kind}">{escape(text)}</text>'


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", type=Path, help="the JSON of bench.turns")
    parser.add_argument("--machine", help="where and on what it ran; needed with a run")
    args = parser.parse_args()
    if (args.run is None) != (args.machine is None):
        parser.error("a run and --machine belong together")
    source = DOCS / "turns.json"
    data = json.loads(source.read_text(encoding="utf-8"))
    if args.run is not None:
        try:
            data |= {"machine": args.machine, "rows": rows_of(json.loads(args.run.read_text(encoding="utf-8")))}
        except (ValueError, KeyError) as error:
            sys.exit(f"{args.run}: {error}")
        source.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    (DOCS / "turns.svg").write_text(draw(data), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
