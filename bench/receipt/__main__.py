"""Runs what the pages claim and writes what came out: docs/receipts/VERSION.md and .json. `make receipt`

    python -m bench.receipt [--only NAME,...] [--resume] [--list] [--out DIR]

Every line is a command of its own (bench/receipt/lines.py); one that fails does not stop the others, and one that
lacks something says what. The receipt is written after each line. --resume keeps lines that were run at this commit,
--only runs the named ones and keeps all others as they are, each with its commit. What commands print is kept in
build/receipt. Exits with 1 if a line failed."""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from a3b.errors import A3BError
from a3b.kernels import _native
from a3b.machine import Machine, processor_name
from bench.receipt.lines import GB, LINES, ROOT, Line
from bench.receipt.page import CHANGED, FAIL, NOT_RUN, PASS, Entry, Receipt

LOGS = ROOT / "build" / "receipt"
PATIENCE = 10  # times the seconds of a line, after which it is ended
LEAST_S = 600
TOLD = 300  # characters of an error


def this_commit() -> str:
    """Short, with a mark if files differ from it, the receipt aside."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!docs/receipts")
        return git("rev-parse", "--short=10", "HEAD") + (CHANGED if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "no git"


def this_machine() -> str:
    machine = Machine.read()
    facts = {
        "processor": processor_name() or "unknown",
        "cores": machine.num_cores,
        "instruction set": _native.isas()[0],
        "memory": f"{machine.total_memory_bytes / GB:.1f} GB",
        "system": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
    }
    return ", ".join(f"{name}: {value}" for name, value in facts.items())


def environment() -> dict[str, str]:
    """`python` and `a3b` are those of this interpreter, with the sources that it has."""
    programs = LOGS / "bin"
    programs.mkdir(parents=True, exist_ok=True)
    for name, words in (("python", ""), ("a3b", "-m a3b.cli ")):
        script = programs / name
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" {words}"$@"\n', encoding="utf-8")
        script.chmod(0o755)
    return {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}


def run(line: Line, commit: str) -> Entry:
    """One line; it never raises for what the command does."""
    entry = Entry(line.name, line.claim, line.command, NOT_RUN, date=f"{datetime.date.today():%Y-%m-%d}")
    entry = replace(entry, machine=this_machine())
    missing = [why for need in line.needs if (why := need())]
    if missing:
        return replace(entry, why="; ".join(missing))
    began, log = time.monotonic(), LOGS / f"{line.name}.log"
    with log.open("w+", encoding="utf-8", errors="replace") as out, (LOGS / f"{line.name}.err").open("w+") as err:
        process = subprocess.Popen(
            ["bash", "-o", "pipefail", "-c", line.command],
            cwd=ROOT, env=environment(), stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True,
        )  # fmt: skip
        try:
            status = process.wait(max(PATIENCE * line.seconds, LEAST_S))
        except subprocess.TimeoutExpired:
            status = None
        finally:
            end(process)
        out.seek(0), err.seek(0)
        printed, complaint = out.read(), err.read()
    entry = replace(entry, seconds=round(time.monotonic() - began, 1), commit=commit, status=FAIL)
    if status is None:
        return replace(entry, why=f"it was ended after {entry.seconds:,.0f} s; build/receipt/{log.name} has its output")
    try:
        figure, holds = line.judge(printed)
    except (ValueError, LookupError, TypeError) as error:
        last = (complaint.strip() or printed.strip() or "nothing was printed").splitlines()[-1][:TOLD]
        return replace(
            entry, why=f"exit status {status}, {last}" if status else f"its output is not understood: {error!r:.200}"
        )
    if status:
        return replace(entry, figure=figure, why=f"exit status {status}")
    return replace(entry, figure=figure, status=PASS if holds else FAIL, why="" if holds else "not as claimed")


def end(process: subprocess.Popen[bytes]) -> None:
    """The command, with all that it started and left."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def chosen(only: str | None, names: Sequence[str]) -> set[str]:
    """Raises A3BError for a name that no line has."""
    wanted = set(only.split(",")) if only else set(names)
    if unknown := sorted(wanted - set(names)):
        raise A3BError(f"--only {','.join(unknown)}: no such line; there are {', '.join(names)}")
    return wanted


def receipt(lines: Sequence[Line], only: str | None, resume: bool, out: Path, version: str) -> int:
    """Runs the lines; how many failed."""
    wanted, commit = chosen(only, [line.name for line in lines]), this_commit()
    earlier = Receipt.read(out / f"{version}.json") if only or resume else None
    found = Receipt(version, earlier.entries if earlier else {})
    kept = {x.name for x in lines if resume and x.name in found.entries and found.entries[x.name].holds_for(x, commit)}
    to_run = [line for line in lines if line.name in wanted - kept]
    LOGS.mkdir(parents=True, exist_ok=True)
    found.write(out, lines)
    can_run = {line.name for line in to_run if not any(need() for need in line.needs)}
    for index, line in enumerate(to_run):
        left = sum(x.seconds for x in to_run[index:] if x.name in can_run)
        say(f"{index + 1} of {len(to_run)}, {line.name}: {line.claim}; about {left / 60:.0f} min left")
        entry = found.entries[line.name] = run(line, commit)
        found.write(out, lines)
        say(f"    {entry.status}, {entry.seconds:,.0f} s: {entry.found}")
    say(f"{out / version}.md is written")
    return sum(found.entries[line.name].status == FAIL for line in lines if line.name in wanted)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="NAME,...", help="run these lines and keep the others as they are")
    parser.add_argument("--resume", action="store_true", help="keep lines that were run at this commit")
    parser.add_argument("--list", action="store_true", help="print the lines and their commands, and run nothing")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "receipts", metavar="DIR")
    args = parser.parse_args()
    if args.list:
        for line in LINES:
            print(f"{line.name:<14} {line.seconds:>5} s  {line.command}")
        return 0
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what a line started ends with this process
    try:
        return int(receipt(LINES, args.only, args.resume, args.out, version) > 0)
    except A3BError as error:
        say(f"receipt: {error}")
        return 2


if __name__ == "__main__":
    sys.exit(main())
