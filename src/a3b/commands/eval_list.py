"""`a3b eval list`: the benchmarks, what each needs, and what of it is here; the same of one, for its help: `about`."""

from __future__ import annotations

import json
import shutil
import textwrap
from argparse import Namespace
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from a3b.evals.harness import INSTALL
from a3b.evals.roster import BENCHMARKS, benchmark
from a3b.printable import report

LEAST_WIDTH = 40  # of a line of help


def run(args: Namespace) -> None:
    rows = [describe(name) for name in BENCHMARKS]
    report(json.dumps({"benchmarks": rows}, indent=2) if args.json else "\n".join(lines(rows)))


def describe(name: str) -> dict[str, Any]:
    found = benchmark(name)
    needs = [
        {"what": need.what, "provided_by": need.provided_by, "is_here": need.is_here(None)} for need in found.needs
    ]
    return {
        "name": name,
        "summary": found.summary,
        "source": found.source,
        "licence": found.licence,
        "cases": found.cases or found.cases_with({}),
        "epochs": found.epochs,
        "published": dict(found.published),
        "needs": needs,
        "data": found.data,
        "options": dict(found.extra),
    }


def about(name: str) -> str:
    """What a benchmark has and needs of its own, for its help."""
    row = describe(name)
    harness = {"what": "inspect-ai", "provided_by": INSTALL, "is_here": find_spec("inspect_ai") is not None}
    data = {"--data PATH": row["data"]} if row["data"] else {}
    settings = {**{f"--set {option}=...": meaning for option, meaning in row["options"].items()}, **data}
    needs = {need["what"]: _state(need) for need in (harness, *row["needs"])}
    parts = {"its own settings": settings, "what it needs": needs}
    return "\n\n".join(
        "\n".join([f"{title}:", *map(_wrapped, facts.items())]) for title, facts in parts.items() if facts
    )


def _wrapped(fact: tuple[str, str]) -> str:
    width = max(shutil.get_terminal_size().columns - 2, LEAST_WIDTH)
    text = f"{fact[0]}: {fact[1]}"
    return textwrap.fill(
        text, width, initial_indent="  ", subsequent_indent=" " * 6, break_long_words=False, break_on_hyphens=False
    )


def _state(need: Mapping[str, Any]) -> str:
    return "here" if need["is_here"] else f"missing: {need['provided_by']}"


def lines(rows: list[dict[str, Any]]) -> list[str]:
    out = []
    for row in rows:
        count = f"{row['cases']:,} cases" if row["cases"] else "any number of cases"
        out.append(f"{row['name']:<14} {row['summary']} ({count})")
        for need in row["needs"]:
            out.append(f"{'':<14}   needs {need['what']}: {_state(need)}")
        out += [f"{'':<14}   --data PATH: {row['data']}"] if row["data"] else []
        out += [
            f"{'':<14}   --set {name}={{}}: {meaning}".replace("{}", "...") for name, meaning in row["options"].items()
        ]
    return out
