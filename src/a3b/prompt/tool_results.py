"""Puts tool results next to the calls that they answer.

Knows the roles and ids of messages, not their content. Enter at `pair_results`.

Templates write results without ids, so a model takes the first result for that of the first call. For each turn of the
assistant (its messages in a row) and what follows up to its next turn:

* Results come right after the calls, in the order of the calls; text between them follows.
* A result belongs to the call with its id; without an id, to the first free call of its name; without a name, to the
  first free call. A call without an id takes the first result that is left.
* A call without a result gets `NO_RESULT` if a later call of its turn has one, so that this one keeps its place.
  Nothing else is invented.
* A second result of a call is left out if it is identical; otherwise it follows the others.
* A result of no call of that turn (late, or of a call that is gone) follows the others.

Nothing moves across a turn of the assistant: what an earlier answer has read stays in its place, and an id that a
client uses again in a later turn means the call of that turn."""

from __future__ import annotations

import json
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from typing import Any

KNOWN = ("system", "user", "assistant", "tool")
# other names of the known roles
ROLES = {"developer": "system", "function": "tool", "human": "user", "ai": "assistant", "model": "assistant"}
NO_RESULT = "[no result was sent for this call]"
NO_RESULT_KEY = "_no_result"  # in a message that was inserted for a missing result
MAX_WARNINGS = 16

Message = dict[str, Any]
Call = tuple[str, str]  # id, "" without one, and name


def pair_results(messages: Sequence[Message]) -> tuple[list[Message], list[str]]:
    """(the messages with results in order, repeated ones left out and missing ones inserted; warnings about them).

    `messages` are of a chat as clients send them, or as `normalise_messages` gives them. Time and memory
    are linear in their number."""
    out: list[Message] = []
    warnings: list[str] = []
    at = 0
    while at < len(messages):
        calls: list[Call] = []
        while at < len(messages) and _role(messages[at]) == "assistant":
            calls += calls_in(messages[at])
            out.append(messages[at])
            at += 1
        end = at
        while end < len(messages) and _role(messages[end]) != "assistant":
            end += 1
        if end > at:
            out += _Pairing(calls, messages[at:end], warnings).messages()
        at = end
    if len(warnings) > MAX_WARNINGS:
        warnings[MAX_WARNINGS:] = [f"{len(warnings) - MAX_WARNINGS} more of calls and results"]
    return out, warnings


def result_warnings(messages: Sequence[Message]) -> list[str]:
    """Warnings about results that have no call, come twice or are missing."""
    return pair_results(messages)[1]


def calls_in(message: Message) -> list[Call]:
    """The calls of a message, in any form that `normalise_messages` takes for one."""
    given = message.get("tool_calls")
    found: list[Call] = []
    for call in given if isinstance(given, list | tuple) else [given]:
        if not isinstance(call, Mapping):
            continue
        function = call.get("function", call)
        name = function.get("name") if isinstance(function, Mapping) else function
        if isinstance(name, str | int):
            found.append((_id(call.get("id")), str(name)))
    legacy = message.get("function_call")
    name = legacy.get("name") if isinstance(legacy, Mapping) else legacy
    return found + ([("", str(name))] if isinstance(name, str | int) else [])


def _role(message: Message) -> str:
    role = message.get("role")
    name = role.strip().lower() if isinstance(role, str) else ""
    return ROLES.get(name, name)


def _id(value: Any) -> str:
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""


class _Pairing:
    """The calls of one turn and the messages that follow it."""

    def __init__(self, calls: Sequence[Call], following: Sequence[Message], warnings: list[str]):
        self.calls, self.following, self.warnings = calls, following, warnings
        self.taken: dict[int, int] = {}  # index of a call: that of its result in `following`
        self.dropped: set[int] = set()

    def messages(self) -> list[Message]:
        """What follows the turn, with its results first and in order."""
        left = self._by_id([i for i, message in enumerate(self.following) if _role(message) == "tool"])
        left = self._by_name(left)
        for i in self._in_order(left):
            self._warn(
                f"result {self._of(i)}: the turn of the assistant before it has no such call; kept after the others"
            )
        last = max(self.taken, default=-1)
        paired = [
            self.following[self.taken[i]] if i in self.taken else self._missing(call)
            for i, call in enumerate(self.calls[: last + 1])
        ]
        for call in self.calls[last + 1 :]:
            self._warn(f"call {_short(call[0])} of {_short(call[1])}: no result was sent")
        gone = self.dropped.union(self.taken.values())
        return paired + [message for i, message in enumerate(self.following) if i not in gone]

    def _by_id(self, results: Sequence[int]) -> list[int]:
        """Pair results by id; returns those that are left."""
        free: dict[str, deque[int]] = defaultdict(deque)
        for i, (call_id, _) in enumerate(self.calls):
            if call_id:
                free[call_id].append(i)
        left, first = [], {}
        for i in results:
            call_id = _id(self.following[i].get("tool_call_id"))
            if free.get(call_id):
                first[call_id] = i
                self.taken[free[call_id].popleft()] = i
            elif call_id in first:
                self._second(i, first[call_id])
            else:
                left.append(i)
        return left

    def _second(self, again: int, first: int) -> None:
        if self.following[again].get("content") == self.following[first].get("content"):
            self.dropped.add(again)
            self._warn(f"result {self._of(again)}: sent twice; the second is left out")
        else:
            self._warn(f"result {self._of(again)}: differs from an earlier result of that call; kept after the others")

    def _by_name(self, results: Sequence[int]) -> list[int]:
        """Pair results by the name of the tool; returns those that are left."""
        free: dict[str, deque[int]] = defaultdict(deque)
        for i, (_, name) in enumerate(self.calls):
            if i not in self.taken:
                free[name].append(i)
        left = []
        for i in results:
            message = self.following[i]
            name = _id(message.get("name"))
            if name and not _id(message.get("tool_call_id")) and free.get(name):
                self.taken[free[name].popleft()] = i
            else:
                left.append(i)
        return left

    def _in_order(self, results: Sequence[int]) -> list[int]:
        """Pair results by order; returns those that belong to no call."""
        free = deque(i for i in range(len(self.calls)) if i not in self.taken)
        unnamed = deque(i for i in free if not self.calls[i][0])
        left = []
        for i in results:
            message = self.following[i]
            is_bare = not _id(message.get("tool_call_id")) and not _id(message.get("name"))
            queue = free if is_bare else unnamed
            while queue and queue[0] in self.taken:
                queue.popleft()
            if queue:
                self.taken[queue.popleft()] = i
            else:
                left.append(i)
        return left

    def _missing(self, call: Call) -> Message:
        self._warn(f"call {_short(call[0])} of {_short(call[1])}: no result was sent; the model is told")
        # no id: two calls may share one, and the place says which it is
        return {"role": "tool", "content": NO_RESULT, NO_RESULT_KEY: True}

    def _of(self, i: int) -> str:
        message = self.following[i]
        if call_id := _id(message.get("tool_call_id")):
            return f"of call {_short(call_id)}"
        return f"of {_short(_id(message.get('name')))}" if _id(message.get("name")) else "without an id"

    def _warn(self, text: str) -> None:
        self.warnings.append(text)


def _short(text: str) -> str:
    return json.dumps(text if len(text) <= 60 else text[:57] + "...", ensure_ascii=False)
