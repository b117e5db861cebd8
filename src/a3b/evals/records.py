"""What became of each try of each case: lines of JSON that only grow, so that a killed run loses what was in flight.

A line counts once its newline is there. Of several lines of one try the last counts: a try that ended with an error is
repeated by --resume. Enter at `CaseRecord`, `read_records`, `RecordFile`."""

from __future__ import annotations

import fcntl
import json
import math
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from a3b.errors import StoreError
from a3b.files import not_linked, read_bytes

MAX_BYTES = 1 << 30  # of the file
MAX_LINE = 1 << 20
MAX_TEXT = 4000  # characters of a detail or an error
TOKENS = ("computed", "cached", "written", "thinking")


@dataclass(frozen=True)
class CaseCost:
    """Tokens and seconds of one try. computed: of prompts, read by the model; cached: of prompts, not computed again;
    written: of answers, `thinking` of them; requests: to the server; untold: those whose tokens it did not tell, which
    no figure counts."""

    computed: int = 0
    cached: int = 0
    written: int = 0
    thinking: int = 0
    requests: int = 0
    seconds: float = 0.0
    untold: int = 0

    @classmethod
    def of_request(cls, computed: int, cached: int, written: int, thinking: int) -> CaseCost:
        """Of one request. A prompt has tokens, so a server that tells none does not count them."""
        return cls(computed, cached, written, thinking, 1, untold=int(computed + cached == 0))

    @property
    def is_told(self) -> bool:
        """Whether the server told the tokens of any request."""
        return self.untold < max(self.requests, 1)

    def tokens(self, name: str, tries: int = 1) -> str:
        """A figure of a mean try, in words: "unknown" where the server told none, "at least" where it told some."""
        if not self.is_told:
            return "unknown"
        return f"{'at least ' if self.untold else ''}{getattr(self, name) / max(tries, 1):,.0f}"

    def value(self) -> dict[str, Any]:
        """As plain JSON values: tokens that nobody told are null."""
        return asdict(self) | ({} if self.is_told else dict.fromkeys(TOKENS))

    def __add__(self, other: CaseCost) -> CaseCost:
        return CaseCost(*(a + b for a, b in zip(asdict(self).values(), asdict(other).values(), strict=True)))


@dataclass(frozen=True)
class CaseRecord:
    """One try. score: in [0, 1], None after an error, which is not a wrong answer; begun, finished: seconds since 1970;
    session: when the process began that ran it; facts: further figures of the benchmark, by name."""

    case: str
    epoch: int
    seed: int
    score: float | None
    error: str = ""
    detail: str = ""
    cost: CaseCost = CaseCost()
    facts: dict[str, Any] = field(default_factory=dict)
    begun: float = 0.0
    finished: float = 0.0
    session: float = 0.0

    @property
    def key(self) -> tuple[str, int]:
        return self.case, self.epoch

    def value(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self) | {"cost": self.cost.value()}


def read_records(path: Path) -> dict[tuple[str, int], CaseRecord]:
    """The last record of each try, in the order of their first lines. A last line without its end is left out.

    Raises StoreError for a file that a run has not written so."""
    try:
        data = read_bytes(path, MAX_BYTES)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror or error}") from None
    found: dict[tuple[str, int], CaseRecord] = {}
    lines = data.split(b"\n")[:-1]  # what follows the last newline was not finished
    for number, line in enumerate(lines, 1):
        record = _parsed(line, f"{path}, line {number}")
        found[record.key] = record
    return found


def _parsed(line: bytes, place: str) -> CaseRecord:
    hint = "this is no line of a run; remove it, and --resume repeats that case"
    if len(line) > MAX_LINE:
        raise StoreError(f"{place}: has {len(line):,} bytes, at most {MAX_LINE:,} are expected; {hint}")
    try:
        value = json.loads(line)
        cost = _cost(value["cost"])
        record = CaseRecord(
            case=_kind(value["case"], str),
            epoch=_kind(value["epoch"], int),
            seed=_kind(value["seed"], int),
            score=None if value["score"] is None else _share(value["score"]),
            error=_kind(value["error"], str),
            detail=_kind(value["detail"], str),
            cost=cost,
            facts=_kind(value["facts"], dict),
            begun=_amount(value["begun"]),
            finished=_amount(value["finished"]),
            session=_amount(value["session"]),
        )
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        what = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)[:200]
        raise StoreError(f"{place}: {what}; {hint}") from None
    if (record.score is None) != bool(record.error):
        raise StoreError(f"{place}: has a score and an error, or neither; {hint}")
    return record


def _cost(value: dict[str, Any]) -> CaseCost:
    """Tokens that are null were told by nobody; runs of earlier versions do not count those requests."""
    told = {"untold": 0, **value}
    if told["untold"]:
        told |= {name: 0 for name in TOKENS if told[name] is None}
    return CaseCost(**{name: _amount(told[name]) for name in (f.name for f in fields(CaseCost))})


def _kind(value: Any, kind: type[Any]) -> Any:
    if type(value) is not kind:
        raise ValueError(f"found {type(value).__name__} where {kind.__name__} is expected")
    return value


def _amount(value: Any) -> Any:
    if type(value) not in (int, float) or not 0 <= value < 1 << 60:
        raise ValueError(f"found {str(value)[:40]!r} where an amount is expected")
    return value


def _share(value: Any) -> float:
    if type(value) not in (int, float) or not 0 <= value <= 1:
        raise ValueError(f"score {str(value)[:40]!r} is not between 0 and 1")
    return float(value)


class RecordFile:
    """The file of one run, open for one process. Raises StoreError if another one has it or it cannot be written."""

    def __init__(self, path: Path):
        self.path = path
        try:
            self._file = open(path, "ab", opener=not_linked)
        except OSError as error:
            raise StoreError(f"{path}: {error.strerror or error}") from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise StoreError(f"{path}: another process works on this run; wait for it, or end it") from None
        self._cut_unfinished()

    def _cut_unfinished(self) -> None:
        data = read_bytes(self.path, MAX_BYTES)
        if data and not data.endswith(b"\n"):
            os.ftruncate(self._file.fileno(), data.rfind(b"\n") + 1)

    def add(self, record: CaseRecord) -> None:
        """Appends one record; it is on the disk on return."""
        value = record.value() | {"error": record.error[:MAX_TEXT], "detail": record.detail[:MAX_TEXT]}
        line = json.dumps(value, allow_nan=False).encode(errors="surrogatepass") + b"\n"
        if len(line) > MAX_LINE:
            line = json.dumps(value | {"facts": {"left out": "too large"}}).encode() + b"\n"
        try:
            self._file.write(line)
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise StoreError(f"{self.path}: {error.strerror or error}") from None

    def close(self) -> None:
        self._file.close()


def total_cost(records: Iterable[CaseRecord]) -> CaseCost:
    total = CaseCost()
    for record in records:
        total += record.cost
    return total


def elapsed(records: Iterable[CaseRecord]) -> float:
    """Seconds of wall clock: of each process from its beginning to its last record."""
    ends: dict[float, float] = {}
    for record in records:
        ends[record.session] = max(ends.get(record.session, record.session), record.finished)
    return math.fsum(end - begun for begun, end in ends.items())
