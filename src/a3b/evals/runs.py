"""A run's directory: what was asked for, what became of each case, every transcript.

    config.json     benchmark, options, files of the user's, and under what it was begun and went on (`conditions.py`);
                    never a key
    cases.jsonl     a line for each finished try (`records.py`); the truth of the run
    logs/           inspect's logs, with every transcript: `inspect view --log-dir DIR/logs`
    results.json    score with its interval, cost, and every try; written again whenever a process ends

Enter at `new_run`, `open_run`, `RunDirectory`."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from a3b.errors import StoreError, UsageError
from a3b.evals.conditions import are_identities, changes, check_files, conditions, identity_of
from a3b.evals.intervals import ShareInterval, share
from a3b.evals.records import CaseRecord, elapsed, read_records, total_cost
from a3b.files import read_text

FORMAT = 1
CONFIG, CASES, RESULTS, LOGS = "config.json", "cases.jsonl", "results.json", "logs"
MAX_CONFIG = 1 << 20
MOST_RESUMED = 100  # changes of the conditions that are kept


@dataclass(frozen=True)
class RunSummary:
    """What a run amounts to. missing: tries that were not finished; errors: that ended with an error."""

    share: ShareInterval
    tries: int
    errors: int
    missing: int
    seconds: float

    @property
    def is_complete(self) -> bool:
        return not self.errors and not self.missing


@dataclass(frozen=True)
class RunDirectory:
    """One run on disk. config: as `config_of` makes it."""

    path: Path
    config: Mapping[str, Any]

    @property
    def benchmark(self) -> str:
        return str(self.config["benchmark"])

    @property
    def cases_file(self) -> Path:
        return self.path / CASES

    @property
    def logs(self) -> Path:
        return self.path / LOGS

    def records(self) -> dict[tuple[str, int], CaseRecord]:
        """Raises StoreError."""
        return read_records(self.cases_file)

    def summary(self, records: Mapping[tuple[str, int], CaseRecord] | None = None) -> RunSummary:
        found = self.records() if records is None else records
        done = [record for record in found.values() if record.score is not None]
        planned = self.config.get("tries") or len(found)
        return RunSummary(
            share(list(scores_by_case(done).values())),
            len(done),
            len(found) - len(done),
            max(int(planned) - len(found), 0),
            elapsed(found.values()),
        )

    @property
    def is_done(self) -> bool:
        """Whether every try has a score. Raises StoreError."""
        return bool(self.config["tries"]) and self.summary().is_complete

    def note(self, **values: Any) -> RunDirectory:
        """The same run with more in its config."""
        config = {**self.config, **values}
        write_json(self.path / CONFIG, config)
        return RunDirectory(self.path, config)

    def check_files(self) -> None:
        """Raises UsageError if a file of the user's is not what it was when the run was begun."""
        check_files(self.config.get("files", ()), self.path)

    def go_on(self, now: Mapping[str, Any]) -> tuple[RunDirectory, list[str]]:
        """The run with the conditions under which it goes on in its config, and what of them has changed, in words."""
        resumed = self.config.get("resumed", [])
        changed = changes((resumed or [self.config])[-1], now)
        return (self.note(resumed=[*resumed, dict(now)][-MOST_RESUMED:]) if changed else self), changed

    def plan(self, tries: Collection[tuple[str, int]]) -> RunDirectory:
        """The same run with the number of its tries in its config. tries: case and epoch of each. Raises UsageError if
        the run has results of others, which would be mixed with those of the cases that are chosen now."""
        found = self.records()
        if others := [case for case, epoch in found if (case, epoch) not in tries]:
            raise UsageError(
                f"--resume {self.path}: {len(others)} of its {len(found)} results, such as that of {others[0][:60]!r}, "
                "are of cases that are not planned now: another version of a3b, other data or another server chose "
                "them; go on with what it was begun with, or begin a new run"
            )
        return self.note(tries=len(tries))

    def write_results(self) -> RunSummary:
        """Writes results.json from the records. Raises StoreError."""
        records = self.records()
        summary = self.summary(records)
        value = {
            "format": FORMAT,
            "benchmark": self.benchmark,
            "model": self.config["model"],
            "score": None if not summary.share.cases else asdict(summary.share),
            "tries": summary.tries,
            "errors": summary.errors,
            "missing": summary.missing,
            "seconds": summary.seconds,
            "cost": total_cost(records.values()).value(),
            "cases": [record.value() for record in records.values()],
        }
        write_json(self.path / RESULTS, value)
        return summary


def scores_by_case(records: Sequence[CaseRecord]) -> dict[str, list[float]]:
    """Scores of the tries of each case, by epoch."""
    found: dict[str, list[tuple[int, float]]] = {}
    for record in records:
        if record.score is not None:
            found.setdefault(record.case, []).append((record.epoch, record.score))
    return {case: [score for _, score in sorted(tries)] for case, tries in found.items()}


def config_of(
    benchmark: str,
    options: Mapping[str, Any],
    server: Mapping[str, Any],
    parallel: int | None = None,
    files: Iterable[Path] = (),
) -> dict[str, Any]:
    """What config.json says. options: of the run, without keys; server: what it says of itself; parallel: cases at
    once; files: of the user's, that decide what is measured. Raises UsageError for one that cannot be read."""
    return {
        "format": FORMAT,
        "benchmark": benchmark,
        "model": options["model"],
        "options": dict(options),
        "files": [identity_of(path) for path in files],
        **conditions(server, parallel),
        "tries": None,
    }


def new_run(parent: Path, name: str, config: Mapping[str, Any], given: Path | None = None) -> RunDirectory:
    """An empty directory below `parent` with the run's config, or the directory that was named, which must not hold
    anything. Raises UsageError."""
    path = given or parent / f"{name}-{slug(str(config['model']))}-{time.strftime('%Y%m%d-%H%M%S')}"
    number = 2
    while given is None and path.exists():
        path = path.with_name(f"{path.name.split('.')[0]}.{number}")
        number += 1
    try:
        path.mkdir(parents=True, exist_ok=given is not None)
        if any(path.iterdir()):
            resume = "; --resume DIR goes on with a run" if (path / CONFIG).exists() else ""
            raise UsageError(f"--out {path}: there are files in it; expected a new or an empty directory{resume}")
        write_json(path / CONFIG, config)
    except StoreError as error:
        raise UsageError(str(error)) from None
    except OSError as error:
        raise UsageError(f"{error.filename or path}: {error.strerror or error}; give a place with --out DIR") from None
    return RunDirectory(path, dict(config))


def open_run(path: Path) -> RunDirectory:
    """A run that was begun. Raises StoreError for anything else."""
    file = path / CONFIG
    try:
        config = json.loads(read_text(file, MAX_CONFIG))
    except FileNotFoundError:
        raise StoreError(f"{path}: there is no {CONFIG}, so this is no run of a3b eval") from None
    except OSError as error:
        raise StoreError(f"{file}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{file}: is no JSON ({str(error)[:100]}); was it edited?") from None
    check = {"format": int, "benchmark": str, "model": str, "options": dict, "server": dict, "versions": dict}
    for name, kind in check.items():
        if not isinstance(config, dict) or type(config.get(name)) is not kind:
            raise StoreError(f"{file}: {name!r} is missing or no {kind.__name__}; this is no run of a3b eval")
    if config["format"] != FORMAT:
        raise StoreError(f"{file}: has format {config['format']}, this a3b reads {FORMAT}")
    if not are_identities(config.get("files", [])):
        raise StoreError(f"{file}: 'files' is no list of objects with a path; was it edited?")
    resumed = config.get("resumed", [])
    if not isinstance(resumed, list) or not all(isinstance(found, dict) for found in resumed):
        raise StoreError(f"{file}: 'resumed' is no list of objects; was it edited?")
    if type(config.get("tries")) is not int:
        config["tries"] = None
    return RunDirectory(path, config)


def slug(text: str) -> str:
    """A name for a file from the name of a model."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-.")[:60] or "model"


def write_json(path: Path, value: Any) -> None:
    """Writes a file whole or not at all. Raises StoreError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(temporary, "w", encoding="utf-8", errors="backslashreplace") as file:
            json.dump(value, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise StoreError(f"{path}: {error.strerror or error}") from None
