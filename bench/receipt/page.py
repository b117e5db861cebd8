"""The receipt as a file: JSON that a later run goes on from, and the page made of it. Enter at `Receipt`."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from a3b.errors import UsageError
from bench.receipt.lines import Line

PASS, FAIL, NOT_RUN = "pass", "fail", "not run"
CHANGED = "+changes"  # behind a commit: files differ from it


@dataclass(frozen=True)
class Entry:
    """How a line ended. why: of a failure, or of not being run."""

    name: str
    claim: str
    command: str
    status: str
    figure: str = ""
    why: str = ""
    seconds: float = 0.0
    commit: str = ""
    date: str = ""
    machine: str = ""

    @property
    def found(self) -> str:
        return "; ".join(part for part in (self.figure, self.why) if part)

    def holds_for(self, line: Line, commit: str) -> bool:
        """Whether the line was run as it is now, at this commit; changed files may have changed again."""
        same = (self.claim, self.command, self.commit) == (line.claim, line.command, commit)
        return same and self.status in (PASS, FAIL) and not commit.endswith(CHANGED)


@dataclass
class Receipt:
    """entries: by name of the line."""

    version: str
    entries: dict[str, Entry] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Receipt | None:
        """What an earlier run left; None if there is nothing. Raises UsageError if it is no receipt."""
        if not path.exists():
            return None
        try:
            facts = json.loads(path.read_text(encoding="utf-8"))
            entries = [Entry(**entry) for entry in facts["lines"]]
            return cls(facts["version"], {entry.name: entry for entry in entries})
        except (ValueError, TypeError, LookupError) as error:
            raise UsageError(f"{path} is no receipt ({error}); remove it, or name another with --out") from error

    def write(self, directory: Path, lines: Sequence[Line]) -> None:
        """VERSION.json and VERSION.md, in the order of `lines`."""
        directory.mkdir(parents=True, exist_ok=True)
        facts: dict[str, Any] = {"version": self.version, "lines": [asdict(e) for e in self.ordered(lines)]}
        text = json.dumps(facts, indent=1, ensure_ascii=False) + "\n"
        for name, content in ((f"{self.version}.json", text), (f"{self.version}.md", self.page(lines))):
            part = directory / f"{name}.part"
            part.write_text(content, encoding="utf-8")
            os.replace(part, directory / name)

    def ordered(self, lines: Sequence[Line]) -> list[Entry]:
        """One of each line; those that were never asked for are not run."""
        nothing = "not asked for"
        return [self.entries.get(x.name, Entry(x.name, x.claim, x.command, NOT_RUN, why=nothing)) for x in lines]

    def page(self, lines: Sequence[Line]) -> str:
        entries = self.ordered(lines)
        count = {status: sum(e.status == status for e in entries) for status in (PASS, FAIL, NOT_RUN)}
        recorded = {line.name: line.recorded for line in lines}
        ran = [entry for entry in entries if entry.status != NOT_RUN]
        machines = list(dict.fromkeys(entry.machine for entry in ran))
        text = [
            f"# Receipt of a3b {self.version}",
            "",
            f"{count[PASS]} lines pass, {count[FAIL]} fail, {count[NOT_RUN]} were not run. Made by `make receipt`,",
            f"from {told_runs(ran)}. Each command also runs alone, in",
            "a checkout where `make quick` was run once.",
            "",
            *(f"- Machine {num}: {machine or 'not recorded'}." for num, machine in enumerate(machines, 1)),
            "",
            "| line | verdict | claimed | found | seconds | commit, date, machine |",
            "|---|---|---|---|---|---|",
        ]
        for entry in entries:
            found = entry.found
            if entry.status == NOT_RUN and recorded[entry.name]:
                found += f"; earlier: {recorded[entry.name]}"
            seconds = f"{entry.seconds:,.0f}" if entry.status != NOT_RUN else ""
            when = ""
            if entry.status != NOT_RUN:
                when = f"{entry.commit}, {entry.date}, {machines.index(entry.machine) + 1}"
            verdict = entry.status if entry.status != FAIL else "**fail**"
            cells = (f"[{entry.name}](#{entry.name})", verdict, entry.claim, found, seconds, when)
            text.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
        text += ["", "## Commands"]
        for entry in entries:
            text += ["", f"### {entry.name}", "", f"    {entry.command}"]
        return "\n".join(text) + "\n"


def told_runs(entries: Sequence[Entry]) -> str:
    """Of how many commits and dates a receipt is put together."""
    commits, dates = {entry.commit for entry in entries}, sorted({entry.date for entry in entries})
    at = f"{len(commits)} commit{'s' if len(commits) > 1 else ''}"
    return f"runs at {at}, {' to '.join(dict.fromkeys((dates[0], dates[-1])))}" if entries else "no run yet"
