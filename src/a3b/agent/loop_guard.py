"""Notices that the agent goes in circles: the same call with the same result, the same change back and forth, an answer
that repeats itself. Enter at `LoopGuard`, `repeated_from`."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

TOLD_AT, STOPPED_AT = 3, 5  # times
STOPPED_COMMAND = 10  # times that a command may repeat a change: it may be a step of many
STOPPED_LOOKING, STOPPED_WAITING = 25, 200  # times that a call may look for what happens by itself
WAITED_S = 5.0  # a call that took so long has waited
OWN = ("edit", "write")  # tools whose calls say all that they change
SHOWN = 300  # characters of a call or a result
LONGEST_UNIT = 400  # characters of what an answer repeats
LEAST_REPEATED = 1600  # characters that are nothing but repetition
LEAST_TIMES = 6
# what differs between two runs with the same result: times, addresses, and where long output is kept
PASSING = re.compile(
    r"a3b-output-[\w-]+/\d+|\b0x[0-9a-fA-F]{4,}|\b\d+(?:[.:,]\d+){0,3} ?(?:[mnuµ]?s|secs?|seconds?|min|minutes?)\b"
    r"|\b\d{4}-\d\d-\d\d\b|\b\d{1,2}:\d\d(?::\d\d(?:[.,]\d+)?)?\b"
)
WAITS = re.compile(r"\s*(?:jobs|wait|fg)\b|(?:^|[;&|\s])sleep \d|a3b-output-")

ALIKE = (
    "It will not change by itself. Do something else: read the error again, look at another file, question what you "
    "took for granted."
)
BACK = "Find out why before you change it again."
LOOKS = "If it may change by itself, let time pass: wait %1 waits for job 1, and sleep 60 for a minute."


@dataclass(frozen=True)
class LoopFinding:
    """What goes in circles. times: so far; text: for the model; what: in a line for people; is_over: whether the
    task is to be stopped."""

    times: int
    text: str
    what: str
    is_over: bool


class LoopGuard:
    """Watches the calls of one task."""

    def __init__(self) -> None:
        self._seen: Counter[str] = Counter()  # calls with their results, since the last new change of a file
        self._changes: set[str] = set()  # calls that changed a file, and those that would take an edit back
        self._again: Counter[str] = Counter()  # changes that had been made before, by path or command

    def seen(
        self, tool: str, arguments: dict[str, Any], result: str, changed: bool, seconds: float = 0.0
    ) -> LoopFinding | None:
        """Takes a call that ended. changed: whether it did change a file, so that others may find something new."""
        call = _plain(tool, arguments)
        key = _digest(call, PASSING.sub("", result))
        if changed:
            return self._changed(tool, arguments, _digest(call) if tool in OWN else key)
        self._seen[key] += 1
        what = f"The same call has given the same result {self._seen[key]} times."
        shown = f"{_call(tool, arguments)}\nresult: {short(result)}"
        told, most, advice = TOLD_AT, STOPPED_AT, ALIKE
        if WAITS.search(str(arguments.get("command") or arguments.get("path"))):
            told, most, advice = (
                (TOLD_AT, STOPPED_LOOKING, LOOKS) if seconds < WAITED_S else (0, STOPPED_WAITING, LOOKS)
            )
        return _finding(self._seen[key], f"{what}\n{shown}", advice, told, most)

    def _changed(self, tool: str, arguments: dict[str, Any], key: str) -> LoopFinding | None:
        is_own, is_again, path = tool in OWN, key in self._changes, arguments.get("path")
        self._changes.add(key)
        if tool == "edit":
            back = {**arguments, "old": arguments.get("new"), "new": arguments.get("old")}
            self._changes.add(_digest(_plain(tool, back)))
        if not is_again:
            self._seen.clear()
            self._again = Counter({place: times for place, times in self._again.items() if place.startswith("/")})
            return None
        place = f"/{path}" if is_own else key
        self._again[place] += 1
        times = self._again[place]
        if is_own:
            what, most = f"You have taken a change of {path} back, or made it again, {times} times.", STOPPED_AT
        else:
            what, most = f"You have made the same change again {times} times, and no other.", STOPPED_COMMAND
        return _finding(times, f"{what}\n{_call(tool, arguments)}", BACK, TOLD_AT, most)


def _plain(tool: str, arguments: dict[str, Any]) -> str:
    """A call without what makes no difference."""
    plain = dict(arguments)
    if tool == "bash":
        plain = {"command": " ".join(str(arguments.get("command")).split()), "background": arguments.get("background")}
    elif isinstance(path := arguments.get("path"), str):
        plain["path"] = os.path.normpath(path)
    return json.dumps([tool, plain], sort_keys=True, default=str)


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode(errors="replace")).hexdigest()


def _call(tool: str, arguments: dict[str, Any]) -> str:
    return f"call: {tool} {short(json.dumps(arguments, ensure_ascii=False, default=str))}"


def _finding(times: int, what: str, advice: str, told_at: int, stopped_at: int) -> LoopFinding | None:
    if times != told_at and times < stopped_at:
        return None
    left = stopped_at - times
    end = f"If you cannot go on, say what you need. After {left} more the task is stopped." if left > 0 else ""
    first, _, call = what.partition("\n")
    words = f"{first.rstrip('.')}: {call.partition(chr(10))[0].removeprefix('call: ')}"
    return LoopFinding(times, f"<loop>\n{what}\n{advice} {end}\n</loop>", words, times >= stopped_at)


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
