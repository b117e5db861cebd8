"""Removes sessions with all that was kept of them: words, thinking, index, journal, typed lines.

What is said of a session is gone everywhere below the directory's place, but for sessions that have the same words:
forks. The transcript goes last, so that whatever a kill leaves can be forgotten by the same command. Enter at
`forget_sessions`."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from a3b.agent.journal.journal import forget_journal
from a3b.agent.recall.search_index import locked, remove_index
from a3b.agent.sessions import LOCK, SUFFIX, ProjectSessions
from a3b.agent.transcript import Message, checked_message, read_head
from a3b.errors import A3BError, UsageError
from a3b.files import open_private

LINES = "lines"  # what was typed at a terminal
JOURNAL = "journal"
BESIDE = (".damaged", SUFFIX, LOCK)
MAX_LINE = 64 << 20


@dataclass(frozen=True)
class ForgottenSessions:
    """What is gone. ids: of sessions, sub-agents included; steps: of the journal."""

    ids: tuple[str, ...]
    steps: int


def all_of(sessions: ProjectSessions, ids: Iterable[str], with_forks: bool) -> list[str]:
    """The sessions with their sub-agents, and with their forks; without those, raises UsageError if there are some."""
    children: dict[str, list[tuple[str, str]]] = {}
    for id in sessions.ids():
        with suppress(OSError, A3BError):
            head = read_head(sessions.path(id))
            children.setdefault(head.parent or "", []).append((id, head.kind))
    out: list[str] = []
    forks: list[str] = []
    todo = list(dict.fromkeys(ids))
    while todo:
        out.append(id := todo.pop(0))
        for child, kind in children.get(id, ()):
            if child not in out and child not in todo:
                todo.append(child)
                forks += [child] if kind == "fork" else []
    if forks and not with_forks:
        raise UsageError(
            f"session {out[0]}: {', '.join(sorted(forks)[:5])} began as a copy of it and has its words too; --forks "
            "forgets such sessions as well"
        )
    return out


def forget_sessions(sessions: ProjectSessions, ids: list[str] | None) -> ForgottenSessions:
    """Removes sessions, None: all of the directory, with its journal, index and typed lines.

    Raises UsageError if one is open."""
    place = sessions.place
    if not place.is_dir():
        return ForgottenSessions((), 0)
    chosen = sessions.ids() if ids is None else ids
    with ExitStack() as held:
        for id in chosen:
            held.enter_context(sessions.held(id))
        if ids is None and (others := sessions.open_elsewhere()):
            raise UsageError(f"session {others[0].id} is open in process {others[0].pid}; end it there first")
        steps = forget_journal(place / JOURNAL, sessions.workspace, None if ids is None else set(ids))
        with locked(place):
            remove_index(place)
            _forget_lines(place / LINES, None if ids is None else {t for id in ids for t in _typed(sessions.path(id))})
            for id in chosen:
                for suffix in BESIDE:
                    with suppress(FileNotFoundError):
                        os.unlink(place / f"{id}{suffix}")
    return ForgottenSessions(tuple(chosen), steps)


def records_of(path: Path) -> Iterator[dict[str, Any]]:
    """What can be read of a transcript."""
    with suppress(OSError), open(path, "rb", opener=open_private) as file:
        while line := file.readline(MAX_LINE):
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(record, dict):
                yield record


def answers_of(path: Path) -> Iterator[tuple[list[Message], list[int]]]:
    """Each conversation that a session had, one after each compaction, with the places of the answers that are its own
    and no copy of another session's."""
    messages: list[Message] = []
    own: list[int] = []
    for record in records_of(path):
        begin = record.get("begin")
        if isinstance(begin, list):
            yield messages, own
            messages, own = [m for m in begin if _is_message(m)], []
        elif (message := record.get("message")) is not None and _is_message(message):
            if message["role"] == "assistant":
                own.append(len(messages))
            messages.append(message)
    yield messages, own


def _is_message(message: Any) -> bool:
    try:
        checked_message(message)
    except ValueError:
        return False
    return True


def _typed(path: Path) -> Iterator[str]:
    """What the user wrote in a session."""
    for record in records_of(path):
        message = record.get("message")
        if isinstance(message, dict) and message.get("role") == "user":
            yield from (t.strip() for t in (record.get("task"), message.get("content")) if isinstance(t, str))


def _forget_lines(path: Path, texts: set[str] | None) -> None:
    """Takes texts out of the typed lines, None: all. Entries are "# TIME" and a line with + for each typed one."""
    if texts is None:
        with suppress(FileNotFoundError):
            path.unlink()
        return
    with suppress(FileNotFoundError), open(path, "rb", opener=open_private) as file:
        entries = file.read(MAX_LINE).decode(errors="replace").split("\n# ")
        kept = [entry for entry in entries if _text(entry) not in texts]
        if len(kept) < len(entries):
            fresh = path.with_suffix(".new")
            with open(fresh, "wb", opener=open_private) as out:
                out.write("\n# ".join(kept if not kept or kept[0] == entries[0] else ["", *kept]).encode())
            os.rename(fresh, path)


def _text(entry: str) -> str:
    return "\n".join(line[1:] for line in entry.splitlines() if line.startswith("+")).strip()
