"""Notices that the agent goes in circles: the same call with the same result, the same edit back and forth, an answer
that repeats itself. Enter at `LoopGuard`, `repeated_from`."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from typing import Any

TOLD_AT, STOPPED_AT = 3, 5  # times
SHOWN = 300  # characters of a call or a result
LONGEST_UNIT = 400  # characters of what an answer repeats
LEAST_REPEATED = 1600  # characters that are nothing but repetition
LEAST_TIMES = 6


@dataclass(frozen=True)
class LoopFinding:
    """What goes in circles. times: so far; text: for the model; is_over: whether the task is to be stopped."""

    times: int
    text: str
    is_over: bool


class LoopGuard:
    """Watches the calls of one task."""

    def __init__(self) -> None:
        self._seen: Counter[str] = Counter()  # since the last change of a file
        self._edits: set[tuple[str, str, str]] = set()
        self._flips: Counter[str] = Counter()  # by path

    def seen(self, tool: str, arguments: dict[str, Any], result: str, changed: bool) -> LoopFinding | None:
        """Takes a call that ended. changed: whether it did change a file, so that others may find something new."""
        if tool == "edit" and changed:
            return self._edited(arguments)
        call = json.dumps([tool, arguments], sort_keys=True, default=str)
        if changed:
            self._seen.clear()
            return None
        key = hashlib.sha256(f"{call}\0{result}".encode(errors="replace")).hexdigest()
        self._seen[key] += 1
        return _finding(
            self._seen[key],
            f"The same call has given the same result {self._seen[key]} times.\n"
            f"call: {tool} {short(json.dumps(arguments, ensure_ascii=False, default=str))}\nresult: {short(result)}",
            "It will not change by itself. Do something else: read the error again, look at another file, question "
            "what you took for granted.",
        )

    def _edited(self, arguments: dict[str, Any]) -> LoopFinding | None:
        path, old, new = (str(arguments.get(key)) for key in ("path", "old", "new"))
        back = (path, new, old) in self._edits
        self._edits.add((path, old, new))
        if not back:
            self._seen.clear()
            return None
        self._flips[path] += 1
        return _finding(
            self._flips[path],
            f"You have taken an edit of {path} back {self._flips[path]} times.\n"
            f"between: {short(old)}\nand: {short(new)}",
            "Neither is right. Find out why before you edit again.",
        )


def _finding(times: int, what: str, advice: str) -> LoopFinding | None:
    if times != TOLD_AT and times < STOPPED_AT:
        return None
    left = STOPPED_AT - times
    end = f"If you cannot go on, say what you need. After {left} more the task is stopped." if left > 0 else ""
    return LoopFinding(times, f"<loop>\n{what}\n{advice} {end}\n</loop>", times >= STOPPED_AT)


def short(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[:SHOWN]} ..."


def repeated_from(text: str) -> int | None:
    """Where an answer begins to be nothing but one repeated piece, up to its end; None if it does not."""
    tail = text[-(LEAST_REPEATED + LONGEST_UNIT) :]
    for unit in range(1, min(LONGEST_UNIT, len(tail) // LEAST_TIMES) + 1):
        if tail[-1] != tail[-1 - unit]:
            continue
        same = next((i for i in range(1, len(tail) - unit + 1) if tail[-i] != tail[-i - unit]), len(tail) - unit + 1)
        if same - 1 >= LEAST_REPEATED - unit and same - 1 >= unit * (LEAST_TIMES - 1) and tail[-unit:].strip():
            return _start(text, unit)
    return None


def _start(text: str, unit: int) -> int:
    at = len(text) - unit - 1
    while at >= 0 and text[at] == text[at + unit]:
        at -= 1
    return at + 1
