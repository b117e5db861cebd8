"""Cuts the records of a transcript into passages that can be searched, each with where it comes from.

A copy that a fork begins with is left out: its words are those of the session it was forked from. Records may be
anything; what has no text gives no passage. Enter at `Passages.of`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from a3b.units import moment

USER, THINKING, ANSWER, TOOL, SUMMARY = "user", "thinking", "answer", "tool", "summary"
PASSAGE_KINDS = (USER, THINKING, ANSWER, TOOL, SUMMARY)
LENGTH = 1_200  # characters of a passage
MAX_TEXT = 64_000  # characters of one text, of which more is not searched
OWN_MARKS = ("<notice>", "<loop>", "<environment>")  # begin messages in the user's place that he did not write


@dataclass(frozen=True)
class Passage:
    """A piece of a session. turn: as in the transcript; at: seconds since 1970; kind: of PASSAGE_KINDS."""

    turn: int
    at: float
    kind: str
    text: str


@dataclass
class PassageReader:
    """Reads the records of one session in their order. at: when the last record with a time was written; begun: the
    last turn that has left the conversation, by a compaction."""

    at: float
    begun: int = 0

    def read(self, record: dict[str, Any]) -> list[Passage]:
        """The passages of one record."""
        turn, at = record.get("turn"), record.get("at")
        if type(turn) is not int or not 0 <= turn < 1 << 31:
            return []
        self.at = moment(at) or self.at
        if isinstance(summary := record.get("summary"), str) and "begin" in record:
            self.begun = turn
            return self._cut(turn, SUMMARY, summary)
        message = record.get("message")
        if not isinstance(message, dict):
            return []
        return [passage for kind, text in _texts(record, message) for passage in self._cut(turn, kind, text)]

    def _cut(self, turn: int, kind: str, text: str) -> list[Passage]:
        return [Passage(turn, self.at, kind, piece) for piece in pieces(text[:MAX_TEXT])]


def _texts(record: dict[str, Any], message: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(kind, text) of all that a message says."""
    role, content = message.get("role"), message.get("content")
    content = content if isinstance(content, str) else ""
    if role == "user":
        task = record.get("task")
        if isinstance(task, str):
            yield USER, task
        elif not content.startswith(OWN_MARKS):
            yield USER, content
    elif role == "tool":
        yield TOOL, content
    elif role == "assistant":
        for key in ("reasoning_content", "reasoning"):
            if isinstance(thinking := message.get(key), str):
                yield THINKING, thinking
                break
        yield ANSWER, content
        calls = message.get("tool_calls")
        for call in calls if isinstance(calls, list) else ():
            function = call.get("function") if isinstance(call, dict) else None
            if isinstance(function, dict):
                yield TOOL, _call_text(function)


def _call_text(function: dict[str, Any]) -> str:
    """A call in words: its name, and the texts of its arguments."""
    name, arguments = str(function.get("name"))[:80], function.get("arguments")
    try:
        given = json.loads(arguments) if isinstance(arguments, str) else arguments
    except (ValueError, RecursionError):
        given = None
    if not isinstance(given, dict):
        return f"{name} {arguments if isinstance(arguments, str) else ''}"
    return "\n".join([name, *(f"{key}: {value}" for key, value in given.items() if isinstance(value, str))])


def pieces(text: str) -> Iterator[str]:
    """The text in pieces of at most LENGTH characters, cut between paragraphs, lines or words where there are some."""
    text = text.strip()
    while len(text) > LENGTH:
        head = text[:LENGTH]
        at = next((end for mark in ("\n\n", "\n", " ") if (end := head.rfind(mark)) >= LENGTH // 2), LENGTH)
        yield text[:at].rstrip()
        text = text[at:].lstrip()
    if text:
        yield text
