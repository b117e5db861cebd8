"""Plant small faults in a copy of the sources, one at a time, and count how many the tests notice.

    python -m bench.mutants [GROUP ...] [--sample N|all] [--jobs N] [--seed N] [--fresh]

The faults are mutmut's, plus two of ours: a call left out and a condition negated. Each mutant runs only the tests that
execute its line (coverage contexts, collected once per state of the sources), those of its own module first, up to the
first failure. Everything is written to build/mutants: the working tree is never touched, and an interrupted run resumes
where it stopped. docs/mutants.md lists the survivors that no test should notice, with the reason; they do not count.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from mutmut.mutation.file_mutation import Mutation

from bench.mutants.contexts import Tests
from bench.mutants.faults import Mutant, Places, digest, mutants_of
from bench.mutants.runs import Job, copy_tree, run

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "mutants"
OUTCOMES, REPORT = BUILD / "outcomes.jsonl", BUILD / "report.md"
ACCEPTED = ROOT / "docs" / "mutants.md"  # table rows: | file | function | `was` | `now` | reason |
GROUPS = {  # globs below src/a3b; a file belongs to the first group that names it
    "scheduler": ["engine/scheduler.py", "engine/generation.py", "engine/sampler.py"],
    "service": ["engine/*.py"],
    "cache": ["cache/*.py"],
    "thinking": ["thinking/*.py"],
    "output": ["output/**/*.py"],
    "server": ["server/**/*.py"],
    "packing": ["packing/*.py"],
    "options": [
        "commands/options.py",
        "commands/argument_types.py",
        "commands/serve.py",
        "commands/parser.py",
        "settings.py",
        "interface/sampling_params.py",
    ],
}


def accepted() -> list[list[str]]:
    """The survivors that docs/mutants.md lists: path, function, lines as they were, and as they are changed."""
    rows = [re.split(r"(?<!\\) ?\| ?", line) for line in ACCEPTED.read_text().splitlines() if ".py | " in line]
    return [[cell.strip("`").replace("\\|", "|").replace(" ⏎ ", "\n") for cell in row[1:5]] for row in rows]


def gone(src: Path) -> list[str]:
    """Which of those can no longer be planted."""
    missing = []
    for path, function, was, _ in accepted():
        lines = (src / path).read_text().splitlines() if (src / path).exists() else []
        if not set(was.split("\n")) <= {line.strip() for line in lines}:
            missing.append(f"{path} {function}: {was}")
    return missing


def row_of(mutant: Mutant) -> str:
    """A survivor as docs/mutants.md lists it, but for the reason; a change of several lines has ⏎ between them."""
    was, now = (text.replace("|", "\\|").replace("\n", " ⏎ ") for text in mutant.change)
    return f"| {mutant.path} | {mutant.function} | `{was}` | `{now}` | "


def outcomes(fresh: bool) -> dict[str, dict[str, Any]]:
    if fresh:
        OUTCOMES.unlink(missing_ok=True)
    found = [json.loads(line) for line in OUTCOMES.read_text().splitlines()] if OUTCOMES.exists() else []
    return {one["state"]: one for one in found}


def is_known(job: Job, known: dict[str, dict[str, Any]]) -> bool:
    """Whether the outcome holds: what survived other tests may not survive these."""
    one = known.get(job.state)
    return one is not None and (one["outcome"] != "survived" or one["tested"] == job.tested)


def files_of(src: Path) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for group, patterns in GROUPS.items():
        for pattern in patterns:
            if not any(src.glob(pattern)):
                raise SystemExit(f"group {group}: no file below src/a3b matches {pattern}; mend GROUPS in {__file__}")
        taken = {path for paths in found.values() for path in paths}
        found[group] = sorted({path for pattern in patterns for path in src.glob(pattern)} - taken)
    return found


def choose(group: str, tree: Path, tests: Tests, sample: str, seed: str) -> tuple[list[Job], int, int]:
    """The jobs of a group, how many accepted survivors were passed over, and how many mutants there are in all."""
    src = tree / "src/a3b"
    codes = {str(path.relative_to(src)): path.read_text() for path in files_of(src)[group]}
    places = {path: Places(code) for path, code in codes.items()}
    all_mutants = [mutant for path, code in codes.items() for mutant in mutants_of(path, code)]
    all_mutants.sort(key=lambda mutant: digest(seed, mutant.sample_key))
    known = {digest(*row) for row in accepted()}
    sampled = all_mutants if sample == "all" else all_mutants[: int(sample)]
    jobs = []
    for mutant in sampled:
        if mutant.key not in known:
            chosen = tests.of(mutant, places[mutant.path])
            seconds = 20 + 3 * sum(tests.seconds[test] for of in chosen.values() for test in of)
            tested = digest(*(tests.states[file] for file in chosen))
            jobs.append(Job(group, mutant, chosen, seconds, digest(tests.sources_state, mutant.text), tested))
    return jobs, len(sampled) - len(jobs), len(all_mutants)


def controls(jobs: list[Job]) -> list[Job]:
    """For each group the tests of its most tested mutant, with nothing changed: what kills these kills by itself."""
    largest = {job.group: job for job in sorted(jobs, key=lambda job: sum(map(len, job.tests.values())))}
    nodes = {group: job.mutant.mutation.original_node for group, job in largest.items()}
    return [
        replace(job, mutant=replace(job.mutant, mutation=Mutation(nodes[group], nodes[group], None)))
        for group, job in largest.items()
    ]


def report(groups: Iterable[tuple[str, list[Job], int, int]], known: dict[str, dict[str, Any]]) -> str:
    lines = [
        "| group | mutants | run | killed | timeout | survived | accepted | noticed | s each |",
        "|---|" + "---:|" * 8,
    ]
    survivors = []
    for group, jobs, accepted, total in groups:
        done = [(job, known[job.state]) for job in jobs if is_known(job, known)]
        count = Counter(outcome["outcome"] for _, outcome in done)
        share = (count["killed"] + count["timeout"]) / max(len(done), 1)
        each = sum(outcome["seconds"] for _, outcome in done) / max(len(done), 1)
        counts = (count["killed"], count["timeout"], count["survived"], accepted)
        cells = (group, total, len(done), *counts, f"{share:.0%}", f"{each:.1f}")
        lines.append("| " + " | ".join(map(str, cells)) + " |")
        survivors += [
            f"{row_of(job.mutant)} line {job.mutant.lines.start}, {sum(map(len, job.tests.values()))} tests |"
            for job, outcome in done
            if outcome["outcome"] == "survived"
        ]
    listed = [f"No longer in the sources, but in {ACCEPTED.name}: {row}" for row in gone(ROOT / "src/a3b")]
    return "\n".join([*lines, "", "Survivors:", "", *survivors, "", *listed])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.mutants", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"of {', '.join(GROUPS)}; all by default")
    parser.add_argument("--sample", default="40", help="mutants per group, or all (default 40)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="at a time (default: one per processor)")
    parser.add_argument("--seed", default="0", help="of the sample (default 0)")
    parser.add_argument("--tests", default="", metavar="REGEX", help="only test files whose path matches")
    parser.add_argument("--fresh", action="store_true", help="forget earlier outcomes")
    args = parser.parse_args()
    if unknown := set(args.groups) - set(GROUPS):
        parser.error(f"no such group: {', '.join(sorted(unknown))}; there are {', '.join(GROUPS)}")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit(130))  # what runs is ended, the report written
    original, *trees = [BUILD / f"tree{number}" for number in range(args.jobs + 1)]
    for tree in (original, *trees):
        copy_tree(ROOT, tree)
    tests = Tests(original, BUILD / "contexts", args.jobs, args.tests)
    known = outcomes(args.fresh)
    groups = [(group, *choose(group, original, tests, args.sample, args.seed)) for group in args.groups or GROUPS]
    todo = [job for _, jobs, _, _ in groups for job in jobs if not is_known(job, known)]
    print(f"{len(todo)} mutants to run", flush=True)
    for control, outcome, by, _ in run(controls(todo), original, trees):
        if outcome != "survived":
            raise SystemExit(f"without any change, {by} fails for group {control.group}: mend it first ({outcome})")
    try:
        with OUTCOMES.open("a") as file:
            for job, outcome, by, seconds in run(todo, original, trees):
                one = {
                    "state": job.state,
                    "tested": job.tested,
                    "outcome": outcome,
                    "by": by,
                    "seconds": round(seconds, 1),
                }
                known[job.state] = one
                file.write(json.dumps(one) + "\n")
                file.flush()
                was, now = job.mutant.change
                where = f"{job.mutant.path}:{job.mutant.lines.start} {job.mutant.function}"
                print(f"{outcome} in {seconds:.1f} s by {by or 'nothing'}: {where}: {was!r} -> {now!r}", flush=True)
    finally:
        REPORT.write_text(report(groups, known))
        print(REPORT.read_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
