"""What a3b-nano finds again in texts up to four times the longest conversation of its training, with YaRN and without.

    python -m bench.needle_curve DIR [--out docs/needle.png]    # needs 'a3b[eval,bench]'

Runs `a3b eval needle` on copies of the embedded model in DIR, whose config.json differs in nothing but positions: those
of training, and YaRN with factor 2 and 4 from the 4,096 tokens of the longest conversation. Facts stand at all depths,
a few cases each, and at the beginning, where they stood in training, with enough cases for a curve. Prints tables and
draws both. Runs that are there are continued or used."""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from a3b.engine.engine import nano_directory
from a3b.evals.benchmarks.needle.table import by_cell, ink, pyplot
from a3b.evals.intervals import wilson
from a3b.evals.records import CaseRecord, read_records

TRAINED = 4096  # tokens of the longest conversation in training (nano/README.md)
LENGTHS = "512,1k,2k,4k,8k,16k"
CONTEXT = 32_768
SERIES = {  # name: what config.json says of positions besides those of training
    "native positions": {},
    "YaRN 2 from 4,096": {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": TRAINED},
    "YaRN 4 from 4,096": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": TRAINED},
}
EVERY, FIRST = ("0,25,50,75,100", 6), ("0", 12)  # depths in percent, and cases of each


def model_of(parent: Path, name: str) -> Path:
    """A copy of the embedded model with these positions and a context of CONTEXT."""
    directory = parent / f"nano-{name.replace(' ', '-').replace(',', '')}"
    if not directory.exists():
        part = directory.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(nano_directory(), part)
        config: dict[str, Any] = json.loads((part / "config.json").read_text())
        config["max_position_embeddings"] = CONTEXT
        config["rope_parameters"] |= SERIES[name]
        (part / "config.json").write_text(json.dumps(config, indent=2))
        part.rename(directory)
    return directory


def measured(parent: Path, name: str, depths: str, each: int) -> list[CaseRecord]:
    """The records of a series, which is run or continued if it is not complete."""
    out = parent / f"run-{name.replace(' ', '-').replace(',', '')}-exact-{each}"
    command = [sys.executable, "-m", "a3b.cli", "eval", "needle", "--model", str(model_of(parent, name)), "--port", "0"]
    if (out / "config.json").exists():
        command += ["--resume", str(out)]
    else:
        settings = {"lengths": LENGTHS, "each": each, "kinds": "exact", "depths": depths}
        command += ["--out", str(out), *(f"--set={key}={value}" for key, value in settings.items())]
    results = out / "results.json"
    if not results.exists() or json.loads(results.read_text())["missing"]:
        subprocess.run(command, check=True, stdout=sys.stderr)
    return list(read_records(out / "cases.jsonl").values())


def by_length(records: list[CaseRecord]) -> dict[int, list[float]]:
    out: dict[int, list[float]] = {}
    for cells in by_cell(records).values():
        for (length, _), scores in cells.items():
            out.setdefault(length, []).extend(scores)
    return dict(sorted(out.items()))


def lines(found: dict[str, list[CaseRecord]]) -> list[str]:
    """Markdown: a row for each series, its share at each length."""
    lengths = list(by_length(next(iter(found.values()))))
    out = ["| positions | " + " | ".join(f"{n:,}" for n in lengths) + " |", "|---" * (len(lengths) + 1) + "|"]
    for name, records in found.items():
        cells = []
        for scores in by_length(records).values():
            low, high = wilson(round(sum(scores)), len(scores))
            cells.append(f"{statistics.mean(scores):.0%} ({low:.0%} - {high:.0%})")
        out.append(f"| {name} | " + " | ".join(cells) + " |")
    return out


def draw(first: dict[str, list[CaseRecord]], every: dict[str, list[CaseRecord]], path: Path) -> None:
    """Curves of shares over lengths, for facts at the beginning, and a map of depth over length for each series."""
    plt = pyplot()
    figure, axes = plt.subplots(
        1, 1 + len(every), figsize=(3.8 + 2.3 * len(every), 3.0), width_ratios=[1.7, *[1] * len(every)]
    )
    for name, records in first.items():
        rows = by_length(records)
        means = [100 * statistics.mean(scores) for scores in rows.values()]
        bounds = [wilson(round(sum(scores)), len(scores)) for scores in rows.values()]
        away = [[max(m - 100 * low, 0) for m, (low, _) in zip(means, bounds, strict=True)]]
        away += [[max(100 * high - m, 0) for m, (_, high) in zip(means, bounds, strict=True)]]
        axes[0].errorbar(
            range(len(rows)), means, yerr=away, marker="o", markersize=3, linewidth=1, capsize=2, label=name
        )
        axes[0].set_xticks(range(len(rows)), [_short(n) for n in rows], fontsize=7)
    axes[0].axvline(3, color="gray", linewidth=0.8, linestyle=":")
    axes[0].set_ylim(0, 103)
    axes[0].tick_params(labelsize=7)
    axes[0].set_title("found, %, of facts at the beginning (dotted: trained length)", fontsize=7)
    axes[0].legend(fontsize=6, loc="lower left")
    for axis, (name, records) in zip(axes[1:], every.items(), strict=True):
        (cells,) = by_cell(records).values()
        lengths, depths = (sorted({key[i] for key in cells}) for i in (0, 1))
        grid = [[statistics.mean(cells[n, d]) for n in lengths] for d in depths]
        axis.imshow(grid, vmin=0, vmax=1, cmap="RdYlGn", aspect="auto")
        axis.set_xticks(range(len(lengths)), [_short(n) for n in lengths], fontsize=6)
        axis.set_yticks(range(len(depths)), [f"{d} %" for d in depths], fontsize=6)
        axis.set_title(f"{name}: depth", fontsize=7)
        for i, row in enumerate(grid):
            for j, value in enumerate(row):
                axis.text(j, i, f"{100 * value:.0f}", ha="center", va="center", fontsize=6, color=ink(value))
    figure.supxlabel("tokens of the prompt", fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=120, metadata={"Software": None})


def _short(length: int) -> str:
    return f"{length // 1024}k" if length % 1024 == 0 else str(length)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs/needle.png"))
    args = parser.parse_args()
    args.directory.mkdir(parents=True, exist_ok=True)
    every, first = ({name: measured(args.directory, name, *what) for name in SERIES} for what in (EVERY, FIRST))
    for found in (first, every):
        print("\n".join([*lines(found), ""]))
    draw(first, every, args.out)


if __name__ == "__main__":
    main()
