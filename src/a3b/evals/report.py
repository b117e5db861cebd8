"""Results of runs beside published scores: which benchmark, which model, under which protocol, and what differs.

Rows are benchmarks with what was set for them, columns models. A cell without a run says so. Enter at `find_runs`,
`build_report`, `as_text`, `as_markdown`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from a3b.errors import StoreError, UsageError
from a3b.evals.benchmark import GEMMA, QWEN, Benchmark
from a3b.evals.records import TOKENS, CaseCost, total_cost
from a3b.evals.runs import CONFIG, RunDirectory, open_run
from a3b.printable import printable

MOST_RUNS, DEEPEST = 1_000, 3  # directories that are looked into, and how far below those named
PUBLISHED = (QWEN, GEMMA)
LEGEND = "in percent, with 95 % intervals, and of how many cases where they are not all"


@dataclass(frozen=True)
class ReportCell:
    """What one run gave. score, low, high: in percent, None before a try has ended; of: how many cases there are, None
    if as many as one likes; notes: why it is not comparable as it stands."""

    score: float | None
    low: float | None
    high: float | None
    cases: int
    of: int | None
    tries: int
    errors: int
    missing: int
    cost: CaseCost
    seconds: float
    notes: tuple[str, ...]
    directory: str


@dataclass
class ReportRow:
    """A benchmark, with what was set for it. published: scores in percent by model; cells: by model."""

    benchmark: str
    settings: str
    published: Mapping[str, float] = field(default_factory=dict)
    protocol: str = ""
    differs: str = ""
    cells: dict[str, ReportCell] = field(default_factory=dict)


@dataclass(frozen=True)
class EvalReport:
    """models: the columns, in the order of the directories."""

    models: tuple[str, ...]
    rows: tuple[ReportRow, ...]

    def value(self) -> dict[str, Any]:
        """As plain JSON values."""
        rows = [asdict(row) for row in self.rows]
        for row, said in zip(self.rows, rows, strict=True):
            for model, cell in row.cells.items():
                said["cells"][model]["cost"] = cell.cost.value()
        return {"models": list(self.models), "rows": rows}


def find_runs(paths: Iterable[Path]) -> tuple[list[RunDirectory], list[str]]:
    """Runs in directories or some levels below them, and what is wrong with those that cannot be read.

    Raises UsageError for a directory without a run."""
    runs, wrong = [], []
    for given in paths:
        found = list(_configs(given))
        if not found:
            raise UsageError(f"{given}: there is no run of a3b eval in it; expected a directory with a {CONFIG}")
        for path in found:
            try:
                run = open_run(path)
                run.summary()  # reads every record
                runs.append(run)
            except StoreError as error:
                wrong.append(str(error))
    return runs, wrong


def _configs(path: Path, depth: int = 0) -> Iterable[Path]:
    if (path / CONFIG).is_file():
        yield path
        return
    if depth < DEEPEST and path.is_dir():
        for below in sorted(path.iterdir())[:MOST_RUNS]:
            if below.is_dir() and not below.is_symlink():
                yield from _configs(below, depth + 1)


def build_report(runs: Sequence[RunDirectory], known: Sequence[str], look_up: Callable[[str], Benchmark]) -> EvalReport:
    """known: names of benchmarks, in the order of the rows; those with published scores have a row also without a run.
    Columns are in the order of the runs."""
    rows: dict[tuple[str, str, int], ReportRow] = {}
    order = {name: place for place, name in enumerate(known)}
    for run in sorted(runs, key=lambda r: (order.get(r.benchmark, len(order)), r.benchmark)):
        model = str(run.config["model"])
        found = look_up(run.benchmark) if run.benchmark in order else None
        settings, number = settings_of(run, found), 1
        while (key := (run.benchmark, settings, number)) in rows and model in rows[key].cells:
            number += 1
        if key not in rows:
            shown = settings if number == 1 else f"{settings}; run {number}".removeprefix("; ")
            rows[key] = _row(run.benchmark, shown, found)
        rows[key].cells[model] = _cell(run, found)
    with_runs = {row.benchmark for row in rows.values()}
    empty = [_row(name, "", look_up(name)) for name in known if name not in with_runs and look_up(name).published]
    every = sorted([*rows.values(), *empty], key=lambda row: order.get(row.benchmark, len(order)))
    return EvalReport(tuple(dict.fromkeys(str(run.config["model"]) for run in runs)), tuple(every))


def _row(name: str, settings: str, found: Benchmark | None) -> ReportRow:
    if found is None:
        return ReportRow(name, settings, differs="this a3b does not know the benchmark")
    return ReportRow(name, settings, dict(found.published), found.protocol, found.differs)


def settings_of(run: RunDirectory, found: Benchmark | None = None) -> str:
    """What was set for a run, beside its seed and its places on disk, in words."""
    options = run.config["options"]
    said = [f"policy {options['policy']}"] if options.get("policy") else []
    for name in ("sampling", "extra"):
        values = options.get(name)
        unsaid = found.unsaid if found is not None and name == "extra" else ()
        shown = values.items() if isinstance(values, dict) else ()
        said += [f"{key} {value}" for key, value in shown if key not in unsaid]
    return ", ".join(said)[:200]


def _cell(run: RunDirectory, found: Benchmark | None) -> ReportCell:
    records = run.records()
    summary = run.summary(records)
    share, options = summary.share, run.config["options"]
    notes = []
    limit, of = options.get("limit"), _whole(found, options.get("extra")) if found else None
    if isinstance(limit, int) and (of is None or limit < of):
        notes.append(f"the first {limit:,} of {of:,}" if of else f"{limit:,} cases")
    elif of is not None and 0 < (planned := _planned(run)) < of:
        notes.append(f"{planned:,} of {of:,} cases")
    if summary.errors:
        notes.append(f"{summary.errors} ended with an error, not counted")
    if summary.missing:
        notes.append(f"{summary.missing} tries not run")
    if isinstance(epochs := options.get("epochs"), int) and epochs > 1:
        notes.append(f"{epochs} tries a case")
    return ReportCell(
        100 * share.mean if share.cases else None,
        100 * share.low if share.cases else None,
        100 * share.high if share.cases else None,
        share.cases,
        of,
        summary.tries,
        summary.errors,
        summary.missing,
        total_cost(records.values()),
        summary.seconds,
        tuple(notes),
        run.path.name,
    )


def _whole(found: Benchmark, extra: object) -> int | None:
    """How many cases the published score has, or else a run without --limit."""
    try:
        return found.cases or found.cases_with(extra if isinstance(extra, dict) else {})
    except (UsageError, AttributeError):  # edited
        return None


def _planned(run: RunDirectory) -> int:
    """How many cases a run has."""
    tries, epochs = run.config.get("tries"), run.config["options"].get("epochs")
    return tries // epochs if isinstance(tries, int) and isinstance(epochs, int) and epochs > 0 else 0


def score_text(cell: ReportCell | None) -> str:
    if cell is None:
        return "not run"
    if cell.score is None:
        return "no result"
    part = part_text(cell)
    return f"{cell.score:.1f} ({cell.low:.1f} to {cell.high:.1f}){f', {part}' if part else ''}"


def part_text(cell: ReportCell) -> str:
    """How many of how many cases a score is of, where they are not all; else "", as where there is no end of them."""
    return "" if cell.of is None or cell.cases >= cell.of else f"{cell.cases:,} of {cell.of:,}"


def score_table(report: EvalReport) -> list[list[str]]:
    """The table of scores: a head, and a row for each benchmark."""
    head = ["benchmark", "set", *(f"{model}, published" for model in PUBLISHED), *report.models]
    is_set = any(row.settings for row in report.rows)
    body = []
    for row in report.rows:
        published = [f"{row.published[model]:.1f}" if model in row.published else "" for model in PUBLISHED]
        cells = [score_text(row.cells.get(model)) for model in report.models]
        body.append([row.benchmark, row.settings, *published, *cells])
    return [row if is_set else [row[0], *row[2:]] for row in (head, *body)]


def cost_table(report: EvalReport) -> list[list[str]]:
    """What a try cost on average, for each run."""
    head = "benchmark,model,tries,computed,cached,written,thinking,s a try,s in all,run".split(",")
    body = []
    for row in report.rows:
        for model in report.models:
            if (cell := row.cells.get(model)) is not None:
                count = max(cell.tries + cell.errors, 1)
                cost = cell.cost
                times = [f"{cost.seconds / count:,.1f}", f"{cell.seconds:,.0f}"]
                figures = [f"{cell.tries}", *(cost.tokens(name, count) for name in TOKENS), *times]
                body.append([f"{row.benchmark} {row.settings}".strip(), model, *figures, cell.directory])
    return [head, *body]


def remarks(report: EvalReport) -> list[tuple[str, str]]:
    """For each benchmark, the protocol of published scores, what differs, and what is special in its runs."""
    said: dict[str, list[str]] = {}
    for row in report.rows:
        lines = said.setdefault(row.benchmark, [])
        if not lines and row.published:
            lines += [f"Published: {row.protocol}", f"Here: {row.differs}"]
        elif not lines and row.differs:
            lines.append(row.differs)
        for model, cell in row.cells.items():
            if cell.notes:
                lines.append(f"{model}{f' ({row.settings})' if row.settings else ''}: {', '.join(cell.notes)}")
    return [(name, line) for name, lines in said.items() for line in lines]


def as_text(report: EvalReport) -> str:
    parts = [aligned(score_table(report)), ""]
    if report.models:
        parts += [f"scores {LEGEND}; tokens of a try:", "", aligned(cost_table(report)), ""]
    parts += [f"{printable(name)}: {printable(line)}" for name, line in remarks(report)]
    return "\n".join(parts)


def aligned(table: Sequence[Sequence[str]]) -> str:
    shown = [[printable(text) for text in row] for row in table]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    rows = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in shown]
    return "\n".join(rows)


def as_markdown(report: EvalReport) -> str:
    parts = [_piped(score_table(report)), ""]
    if report.models:
        parts += [f"Scores {LEGEND}. What a try cost:", "", _piped(cost_table(report)), ""]
    parts += [f"- **{_plain(name)}**: {_plain(line)}" for name, line in remarks(report)]
    return "\n".join(parts) + "\n"


def _piped(table: Sequence[Sequence[str]]) -> str:
    head, *body = [[_plain(text) for text in row] for row in table]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *body))


def _plain(text: str) -> str:
    """Text of others as text of a Markdown table."""
    return printable(text).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("`", "\\`")
