"""`a3b eval list`: the benchmarks, what each needs, and what of it is here."""

from __future__ import annotations

import json
from argparse import Namespace
from typing import Any

from a3b.evals.roster import BENCHMARKS, benchmark
from a3b.printable import report


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


def lines(rows: list[dict[str, Any]]) -> list[str]:
    out = []
    for row in rows:
        count = f"{row['cases']:,} cases" if row["cases"] else "any number of cases"
        out.append(f"{row['name']:<14} {row['summary']} ({count})")
        for need in row["needs"]:
            state = "here" if need["is_here"] else f"missing: {need['provided_by']}"
            out.append(f"{'':<14}   needs {need['what']}: {state}")
        out += [f"{'':<14}   --data PATH: {row['data']}"] if row["data"] else []
        out += [
            f"{'':<14}   --set {name}={{}}: {meaning}".replace("{}", "...") for name, meaning in row["options"].items()
        ]
    return out
