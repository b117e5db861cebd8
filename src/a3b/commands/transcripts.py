"""Conversations of `a3b chat` on disk, so that they can be continued later: append-only, one JSON object per line.

The first line has the model and the system prompt, each question a line before its answer, each answer a line with the
sampled ids. So a process that is killed loses the answer it was writing and nothing else. Directory and files are
private to this user. Enter at `Transcripts`."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from a3b.errors import StoreError, UsageError
from a3b.files import open_private, private_directory, read_bytes

FORMAT, SUFFIX = 1, ".jsonl"
MAX_BYTES, MAX_TOTAL_BYTES = 64 << 20, 1 << 30  # of one conversation, of all
MAX_KEPT = 200
SHOWN_BYTES = 1 << 16  # read of a conversation to list it


@dataclass(frozen=True)
class Head:
    """What identifies the model of a conversation. identity: of the weights, hexadecimal; model: their name, for
    display; positions: how they were read, "" if it was not noted."""

    model: str
    identity: str
    system: str | None
    positions: str = ""


@dataclass(frozen=True)
class TurnIds:
    """The ids that replay a turn; closed: it began after a closed block, because thinking was off."""

    ids: tuple[int, ...]
    closed: bool


@dataclass
class Transcript:
    """One conversation, held open: no other process can add to it."""

    path: Path
    handle: int
    head: Head
    messages: list[dict[str, Any]] = field(default_factory=list)
    turns: list[TurnIds | None] = field(default_factory=list)  # of each message; None: its text is encoded again
    unanswered: str | None = None  # the last question, if its answer was lost

    @property
    def id(self) -> str:
        return self.path.stem

    def asked(self, text: str) -> None:
        self._append({"user": text})

    def answered(self, message: dict[str, Any], turn: TurnIds | None) -> None:
        ids = list(turn.ids) if turn is not None else None
        self._append({"assistant": message, "ids": ids, "closed": turn is not None and turn.closed})

    def close(self) -> None:
        os.close(self.handle)

    def _append(self, record: dict[str, Any]) -> None:
        """Raises OSError; the file then ends as before."""
        line, size = (json.dumps(record) + "\n").encode(), os.fstat(self.handle).st_size
        if size + len(line) > MAX_BYTES:
            raise OSError(f"a conversation has at most {MAX_BYTES >> 20} MiB")
        try:
            while line:
                line = line[os.write(self.handle, line) :]
        except OSError:
            os.ftruncate(self.handle, size)
            raise


class Transcripts:
    """A directory of conversations, which is made when the first is begun."""

    def __init__(self, directory: Path):
        self.directory = directory

    def begin(self, head: Head) -> Transcript:
        """A new conversation; the oldest go if there are too many. Raises OSError."""
        private_directory(self.directory)
        self._prune()
        path = self.directory / f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}{SUFFIX}"
        handle = open_private(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND)
        transcript = Transcript(path, handle, head)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            transcript._append(
                {
                    "a3b_chat": FORMAT,
                    "model": head.model,
                    "identity": head.identity,
                    "system": head.system,
                    "positions": head.positions,
                }
            )
        except BaseException:
            os.close(handle)
            raise
        return transcript

    def resume(self, id: str, model: str, identity: str) -> Transcript:
        """The conversation whose id begins with that. Raises UsageError if there is none or it is of another model,
        StoreError if it cannot be read or is open elsewhere."""
        found = [path for path in self._paths() if path.stem.startswith(id)] if id else []
        if len(found) != 1:
            why = (
                f"the ids of {len(found)} conversations begin with that; give more of it"
                if found
                else "no such conversation"
            )
            raise UsageError(f"--resume {id[:60]!r}: {why}; 'a3b chat --resume' lists them")
        return self._open(found[0], model, identity)

    def latest(self, model: str, identity: str) -> Transcript:
        """The conversation with this model that was used last. Raises as `resume` does."""
        others = []
        for path in self._paths():
            head = _head(path)
            if head and head.identity == identity:
                return self._open(path, model, identity)
            others += [head.model] if head else []
        more = f" (the last was with {others[0]})" if others else ""
        raise UsageError(
            f"--continue: no conversation with {model} is kept in {self.directory}{more}; begin one: a3b chat"
        )

    def listed(self) -> Iterator[tuple[str, int, str, str]]:
        """(id, seconds since it was used, model, first question), the latest first."""
        for path in self._paths():
            try:
                age = int(time.time() - path.stat().st_mtime)
            except OSError:
                continue
            if head := _head(path):
                yield path.stem, max(age, 0), head.model, _first_question(path)

    def _paths(self) -> list[Path]:
        """The latest first."""
        found = []
        try:
            for path in self.directory.glob(f"*{SUFFIX}"):
                found.append((path.stat().st_mtime_ns, path.name, path))
        except OSError:
            pass  # no such directory, or a file that has just gone
        return [path for _, _, path in sorted(found, reverse=True)]

    def _open(self, path: Path, model: str, identity: str) -> Transcript:
        try:
            handle = open_private(path, os.O_RDWR | os.O_APPEND)
        except OSError as error:
            raise StoreError(f"{path}: {error.strerror or error}") from None
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                data = read_bytes(path, MAX_BYTES)
            except BlockingIOError:
                raise StoreError(
                    f"conversation {path.stem} is open in another 'a3b chat'; leave that first, or begin a new one"
                ) from None
            except OSError as error:
                raise StoreError(f"{path}: {error.strerror or error}") from None
            whole = data[: data.rfind(b"\n") + 1]
            transcript = _read(path, handle, whole)
            if transcript.head.identity != identity:
                raise UsageError(
                    f"conversation {path.stem} was with {transcript.head.model}, this is another model ({model}); "
                    "give that model's directory, or begin a new conversation: a3b chat"
                )
            if len(whole) < len(data):  # a line that was being written when the process was killed
                os.ftruncate(handle, len(whole))
            return transcript
        except BaseException:
            os.close(handle)
            raise

    def _prune(self) -> None:
        total = 0
        for num, path in enumerate(self._paths(), 1):
            try:
                total += path.stat().st_size
                if num >= MAX_KEPT or total > MAX_TOTAL_BYTES:
                    path.unlink()
            except OSError:
                pass  # another process was faster


def _read(path: Path, handle: int, data: bytes) -> Transcript:
    """What the lines of a file say. Raises StoreError naming the line that says nothing of the kind."""
    lines = data.split(b"\n")[:-1]
    head = _as_head(_as_object(lines[0])) if lines else None
    if head is None:
        raise StoreError(f"{path}: line 1 is not the head of a conversation of this version; begin a new one: a3b chat")
    transcript = Transcript(path, handle, head)
    for number, line in enumerate(lines[1:], 2):
        record = _as_object(line)
        answer = _as_answer(record)
        if isinstance(record.get("user"), str):
            transcript.unanswered = record["user"]
        elif answer is not None and transcript.unanswered is not None:
            transcript.messages += [{"role": "user", "content": transcript.unanswered}, answer[0]]
            transcript.turns += [None, answer[1]]
            transcript.unanswered = None
        else:
            raise StoreError(
                f"{path}: line {number} is neither a question nor the answer to "
                "one; remove it and what follows, or the file"
            )
    return transcript


def _as_object(line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _as_head(record: dict[str, Any]) -> Head | None:
    model, identity, system = (record.get(key) for key in ("model", "identity", "system"))
    if record.get("a3b_chat") != FORMAT or not isinstance(model, str) or not isinstance(identity, str):
        return None
    positions = record.get("positions", "")
    if not isinstance(positions, str) or not (system is None or isinstance(system, str)):
        return None
    return Head(model, identity, system, positions)


def _as_answer(record: dict[str, Any]) -> tuple[dict[str, Any], TurnIds | None] | None:
    message, ids = record.get("assistant"), record.get("ids")
    if not isinstance(message, dict) or message.get("role") != "assistant":
        return None
    if not all(isinstance(message.get(key), str) for key in ("content", "reasoning_content")):
        return None
    if ids is None:
        return message, None
    if not isinstance(ids, list) or not ids or not all(type(token) is int and token >= 0 for token in ids):
        return None
    return message, TurnIds(tuple(ids), record.get("closed") is True)


def _beginning(path: Path) -> list[bytes]:
    try:
        handle = open_private(path)
        try:
            return os.read(handle, SHOWN_BYTES).split(b"\n")
        finally:
            os.close(handle)
    except OSError:
        return [b""]


def _head(path: Path) -> Head | None:
    return _as_head(_as_object(_beginning(path)[0]))


def _first_question(path: Path) -> str:
    text = _as_object((_beginning(path) + [b""])[1]).get("user")
    return text if isinstance(text, str) else ""
