"""Measures how many unseen packages the real agent repairs with nano: `a3b code --tools read,edit,bash`, in its
sandbox, over HTTP.

    python -m nano.fix_agent [--model DIR] [--cases 100] [--json] [--show 2] [--rows all,none,unseen]

A package is repaired if its tests pass afterwards and nothing but the broken function has changed. Rows: all: with the
thinking of all turns in the prompt; none: the same packages without that of earlier turns; unseen: kinds of bugs that
training never had; rule-1, rule-5: no model, the substitution of one word that mends most packages of training and
fits, in one or five attempts. Tokens are of the whole repair: read (not in the server's cache) and written."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from a3b.evals.agent_run import AgentRun
from a3b.evals.families.common import rng_for
from a3b.evals.families.fix import judge
from a3b.evals.families.fix_package import Package, change_of, make_package, run_tests
from a3b.evals.families.fix_patterns import UNSEEN_KINDS
from a3b.evals.repairs import Repair, cases, repair

FITTED = 2000  # packages of training from which the rule is made
READY = re.compile(r"^OpenAI: (http://127\.0\.0\.1:\d+)/v1 ", re.MULTILINE)


@contextmanager
def server(model: str | None, home: Path) -> Iterator[str]:
    """The address of a server of nano, or of another checkpoint, that ends with the block."""
    process = subprocess.Popen(
        [sys.executable, "-m", "a3b.cli", "serve", model or "nano", "--port", "0", "--no-persist"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"A3B_HOME": str(home)},
    )
    try:
        said = ""
        assert process.stdout is not None
        while not (found := READY.search(said)):
            line = process.stdout.readline()
            if not line:
                raise SystemExit(f"the server did not start:\n{said}")
            said += line
        yield found[1]
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


def substitutions() -> list[tuple[str, str]]:
    """(wrong word, right word), the commonest repairs of training first."""
    counts: Counter[tuple[str, str]] = Counter()
    for index in range(FITTED):
        old, new = (
            re.findall(r"\w+|\S", text) for text in change_of(make_package(rng_for("train", "rule", index)).bug)
        )
        changed = [(a, b) for a, b in zip(old, new, strict=False) if a != b]
        if len(old) == len(new) and len(changed) == 1:
            counts[changed[0]] += 1
    return [pair for pair, _ in counts.most_common()]


def by_rule(package: Package, table: list[tuple[str, str]], attempts: int) -> Repair:
    """The first substitutions of the table that fit the broken function, until the tests pass."""
    path, text = package.module + ".py", package.bug.broken
    head, body = text.split('"""\n', 1)
    tried = 0
    for wrong, right in table:
        changed = re.sub(rf"(?<![\w<>=!+*/-]){re.escape(wrong)}(?![\w<>=!+*/-])", right, body, count=1)
        if changed == body:
            continue
        tried += 1
        files = package.files | {path: package.files[path].replace(text, head + '"""\n' + changed)}
        ok, why = judge(package, files, lambda files=files: run_tests(files, package.tests))
        if ok or tried == attempts:
            return Repair(ok, why, package.bug.kind, AgentRun(turns=tried))
    return Repair(False, "no substitution fits", package.bug.kind, AgentRun(turns=tried))


def summary(repairs: list[Repair]) -> dict[str, Any]:
    count = len(repairs)
    kinds = sorted({r.kind for r in repairs})
    return {
        "repaired": sum(r.ok for r in repairs) / count,
        "turns": sum(r.run.turns for r in repairs) / count,
        "read": sum(r.run.cost.computed for r in repairs) / count,
        "written": sum(r.run.cost.written for r in repairs) / count,
        "recomputed": sum(r.run.recomputed for r in repairs),
        "kinds": {k: [sum(r.ok for r in repairs if r.kind == k), sum(r.kind == k for r in repairs)] for k in kinds},
    }


async def measure(url: str, home: Path, rows: list[str], count: int, show: int) -> dict[str, dict[str, Any]]:
    result = {}
    for row in rows:
        packages = cases(count, list(UNSEEN_KINDS) if row == "unseen" else None)
        fields = {"thinking_policy": "none"} if row == "none" else {}
        repairs = []
        for package, task in packages:
            repairs.append(await repair(url, home, package, task, fields))
            if sys.stderr.isatty():
                print(f"\r{row}: {sum(r.ok for r in repairs)} of {len(repairs)} \x1b[K", end="", file=sys.stderr)
        if sys.stderr.isatty():
            print("\r\x1b[K", end="", file=sys.stderr)
        for failed in [r for r in repairs if not r.ok][:show]:
            print(f"--- {row}: {failed.kind}: {failed.why}\n{failed.run.log}\n", file=sys.stderr)
        result[row] = summary(repairs)
    return result


def report(result: dict[str, dict[str, Any]]) -> str:
    lines = [f"{'row':<8} {'repaired':>9} {'turns':>6} {'read':>7} {'written':>8} {'recomputed':>11}"]
    for name, row in result.items():
        lines.append(
            f"{name:<8} {row['repaired']:>9.1%} {row['turns']:>6.1f} {row['read']:>7,.0f} {row['written']:>8,.0f} "
            f"{row['recomputed']:>11,}"
        )
    for name, row in result.items():
        lines.append(f"{name}: " + ", ".join(f"{kind} {ok}/{of}" for kind, (ok, of) in row["kinds"].items()))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="checkpoint directory; default the embedded one")
    parser.add_argument("--cases", type=int, default=100)
    parser.add_argument("--rows", default="all,none,unseen,rule-1,rule-5")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--show", type=int, default=0, help="print that many failures of each row")
    args = parser.parse_args()
    rows = args.rows.split(",")
    agent_rows = [row for row in rows if not row.startswith("rule")]
    result: dict[str, dict[str, Any]] = {}
    if agent_rows:
        with (
            tempfile.TemporaryDirectory(prefix="a3b-nano-fix-", dir="/var/tmp") as name,
            server(args.model, Path(name)) as url,
        ):
            result = asyncio.run(measure(url, Path(name), agent_rows, args.cases, args.show))
    for row in rows:
        if row.startswith("rule-"):
            table = substitutions()
            result[row] = summary([by_rule(p, table, int(row[5:])) for p, _ in cases(args.cases)])
    print(json.dumps(result, indent=2) if args.json else report(result))


if __name__ == "__main__":
    main()
