"""A conversation, and its file: one JSON object a line, only ever appended to.

    {"a3b": "transcript", "version": 1, "id": ..., "kind": ..., "parent": ..., "created": ...}   first
    {"turn": 3, "message": {...}, "task": "..."}   a message, as it is sent; the user's belong to the turn to come, and
                                                   say what he typed, if he did
    {"turn": 3, "message": {...}, "usage": {...}}  an answer, and what the turn cost
    {"turn": 3, "call": "call_1"}                  the call is about to run: it may have an effect from here on
    {"turn": 3, "begin": [...], "said": [...]}     the conversation begins anew, or as a copy, with these messages

A record is on the disk before the agent goes on, so a kill loses at most what was being written. Anything may stand in
a file that was changed by others: it is read with bounds, up to the first line that is no record. Enter at
`AgentTranscript.create`, `AgentTranscript.load`."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from io import FileIO
from pathlib import Path
from typing import Any

from a3b.agent.events import TokenUsage
from a3b.errors import StoreError, UsageError
from a3b.files import open_private
from a3b.units import moment

MAX_FILE = 512 << 20  # bytes
MAX_RECORD = 64 << 20
MAX_MESSAGES = 200_000
MAX_HEAD = 64 << 10
VERSION = 1
ROLES = ("system", "user", "assistant", "tool")
KINDS = ("session", "fork", "sub-agent")
Message = dict[str, Any]


@dataclass(frozen=True)
class TranscriptHead:
    """The first line. parent: the session this one began as a copy of, up to the end of `parent_turn`; key: a digest of
    the API key it was made with, "" without one; positions: how the server read them, in its words."""

    id: str
    kind: str
    directory: str
    created: float
    parent: str | None = None
    parent_turn: int | None = None
    model: str = ""
    key: str = ""
    positions: str = ""


@dataclass(frozen=True)
class TurnLine:
    """What the user said before a turn, or what the turn itself was: its first words, or its calls."""

    turn: int
    words: str
    is_user: bool = False

    @classmethod
    def of(cls, turn: int, message: Message) -> TurnLine:
        """Of an answer."""
        calls = [call["function"] for call in message.get("tool_calls", ())]
        words = message["content"] if not calls else ", ".join(map(_call_line, calls[:4]))
        return cls(turn, shortened(words or message.get("reasoning_content", "")))


@dataclass
class TranscriptState:
    """What the records amount to. prompt: tokens of the last request, written: of its answer, None if unknown;
    begun: ids of calls that were about to run; turn: finished ones; said: what the user typed, by the place of the
    message that has it; outline: the turns of this file."""

    messages: list[Message] = field(default_factory=list)
    turn: int = 0
    usage: TokenUsage = field(default_factory=lambda: TokenUsage(0, 0, 0))
    recomputed: int | None = None
    seconds: float = 0.0
    prompt: int | None = None
    written: int | None = None
    counted: int = 0  # messages that the last request and its answer had
    begun: set[str] = field(default_factory=set)
    compactions: int = 0
    words: str = ""  # the first task
    mcp: list[Any] | None = None  # tools of MCP servers, as the session began with them
    notes: str = ""  # the agent's plan at the last new beginning
    in_context: int = 0  # tokens of the conversation, as far as the server has told
    said: dict[int, str] = field(default_factory=dict)
    outline: list[TurnLine] = field(default_factory=list)

    def add(self, record: dict[str, Any]) -> None:
        """Raises ValueError for what is no record."""
        turn = record.get("turn")
        if type(turn) is not int or not 0 <= turn < 1 << 31:
            raise ValueError("has no turn")
        task = record.get("task")
        if "message" in record:
            self.messages.append(checked_message(record["message"]))
            if isinstance(task, str) and self.messages[-1]["role"] == "user":
                self.said[len(self.messages) - 1] = task
            self._add_outline(turn, self.messages[-1], task)
        if "begin" in record:
            begin = record["begin"]
            if not isinstance(begin, list):
                raise ValueError("begin is no list")
            self.messages = [checked_message(message) for message in begin]
            told = [record.get(key) for key in ("prompt", "written", "counted")]  # of the session it is a copy of
            prompt, written, counted = (n if type(n) is int and n >= 0 else None for n in told)
            self.prompt, self.written, self.counted = prompt, written, counted or 0
            after = record.get("after")
            self.in_context = (prompt or 0) + (written or 0) or (after if type(after) is int and after >= 0 else 0)
            self.said = _said(record.get("said"), self.messages, self.words or str(task))
            self.compactions += 1
            self.notes = record["notes"] if isinstance(record.get("notes"), str) else self.notes
        if "usage" in record:
            self._add_usage(record)
        if isinstance(call := record.get("call"), str):
            self.begun.add(call)
        if isinstance(tools := record.get("mcp"), list):
            self.mcp = tools
        if isinstance(task, str):
            self.words = self.words or task
        self.turn = max(self.turn, turn if "usage" in record or "begin" in record else 0)
        if len(self.messages) > MAX_MESSAGES:
            raise ValueError(f"more than {MAX_MESSAGES:,} messages")

    def _add_outline(self, turn: int, message: Message, task: Any) -> None:
        if message["role"] == "assistant":
            self.outline.append(TurnLine.of(turn, message))
        elif isinstance(task, str):
            self.outline.append(TurnLine(turn, shortened(task), is_user=True))

    def _add_usage(self, record: dict[str, Any]) -> None:
        usage = record["usage"]
        if not isinstance(usage, dict):
            raise ValueError("usage is none")
        numbers = {key: usage.get(key, 0) for key in asdict(self.usage)}
        if any(type(n) not in (int, float) or not 0 <= n < 1 << 50 for n in numbers.values()):
            raise ValueError("usage is none")
        added = TokenUsage(**numbers)
        self.usage += added
        self.seconds += added.prefill_s + added.decode_s
        prompt, recomputed = record.get("prompt"), record.get("recomputed")
        if not record.get("beside"):  # of a request that the conversation does not go on from
            self.prompt = prompt if type(prompt) is int and prompt >= 0 else None
            self.written = added.written
            self.counted = len(self.messages)
            if self.prompt is not None:
                self.in_context = self.prompt + added.written
        if type(recomputed) is int and recomputed >= 0:
            self.recomputed = (self.recomputed or 0) + recomputed


class AgentTranscript:
    """The messages of one session, and the file that they are kept in. One process has it open (see `sessions`)."""

    def __init__(self, path: Path, head: TranscriptHead, state: TranscriptState, file: FileIO):
        self.path, self.head, self.state = path, head, state
        self._file = file

    @classmethod
    def create(cls, path: Path, head: TranscriptHead) -> AgentTranscript:
        """A new file. Raises OSError."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
        file = FileIO(path, "x+", opener=lambda name, _: open_private(name, flags))
        made = cls(path, head, TranscriptState(), file)
        made._write({"a3b": "transcript", "version": VERSION, **asdict(head)})
        return made

    @classmethod
    def load(cls, path: Path) -> tuple[AgentTranscript, str]:
        """An existing file, to go on with, and what is to be said of it: a damaged rest is kept in PATH.damaged.

        Raises OSError, and UsageError for a file that is no transcript."""
        head, state, good, problem = read_transcript(path)
        if problem:
            data = _bytes_of(path)[good:]
            rest = path.with_suffix(".damaged")
            with open(rest, "wb", opener=lambda name, flags: open_private(name, flags)) as kept:
                kept.write(data)
            problem = f"{path.name}: {problem}; what follows it is left out, and kept in {rest}"
        file = FileIO(path, "r+", opener=open_private)
        file.truncate(good)
        file.seek(good)
        return cls(path, head, state, file), problem

    @property
    def messages(self) -> list[Message]:
        return self.state.messages

    @property
    def turn(self) -> int:
        return self.state.turn

    @property
    def mcp_tools(self) -> list[Any] | None:
        """Tools of MCP servers in every request of the session; None if that is still open."""
        return [] if self.state.mcp is None and self.messages else self.state.mcp

    def say(self, message: Message, **told: Any) -> None:
        """Adds a message of the user or a tool, or the system prompt; it belongs to the turn to come, results of tools
        to the last one. told: task, what the user typed, of a message that has his words."""
        turn = self.turn if message["role"] == "tool" else self.turn + 1
        self._add({"turn": turn, "message": message, **told})

    def answer(self, message: Message, usage: TokenUsage, **told: Any) -> None:
        """Adds an answer of the model with its cost: a turn is complete. told: prompt, recomputed, reason."""
        turn = self.turn + 1
        self._add({"turn": turn, "message": message, "usage": asdict(usage), "at": time.time(), **told})

    def spent(self, usage: TokenUsage, **told: Any) -> None:
        """The cost of a request that the conversation does not go on from, such as one for a summary."""
        self._add({"turn": self.turn, "usage": asdict(usage), "at": time.time(), "beside": True, **told})

    def begun(self, call: str) -> None:
        """A call is about to run."""
        self._add({"turn": self.turn, "call": call})

    def begin_anew(self, messages: list[Message], **told: Any) -> None:
        """The conversation goes on from these messages instead of those before. told: said, of `TranscriptState`, if
        they are of another transcript."""
        own = {id(self.messages[place]): text for place, text in self.state.said.items() if place < len(self.messages)}
        said = told.pop("said", {i: own[id(m)] for i, m in enumerate(messages) if id(m) in own})
        self._add({"turn": self.turn, "begin": messages, "said": sorted(said.items()), **told})

    def note(self, **told: Any) -> None:
        """A record that changes nothing, such as how a task ended."""
        self._add({"turn": self.turn, **told})

    def close(self) -> None:
        self._file.close()

    def _add(self, record: dict[str, Any]) -> None:
        self._write(record)
        self.state.add(record)

    def _write(self, record: dict[str, Any]) -> None:
        """Appends a whole record or nothing. Raises StoreError."""
        data = json.dumps(record).encode() + b"\n"
        end = self._file.tell()
        try:
            view = memoryview(data)
            while view:
                view = view[self._file.write(view) or 0 :]
            os.fdatasync(self._file.fileno())
        except OSError as error:
            with suppress(OSError):
                self._file.truncate(end)
                self._file.seek(end)
            raise StoreError(f"{self.path}: {error.strerror}; the session is kept up to the turn before") from None


def read_transcript(path: Path, turn: int | None = None) -> tuple[TranscriptHead, TranscriptState, int, str]:
    """(head, state at the end of `turn` or of the file, bytes up to there, what is wrong after that or "").

    A last line without its end was being written when its process died; nothing is said of it. Raises OSError, and
    UsageError for a file that is no transcript."""
    state, good, problem = TranscriptState(), 0, ""
    head: TranscriptHead | None = None
    for number, line in enumerate(_lines(_bytes_of(path)), 1):
        try:
            record = json.loads(line)
            if not isinstance(record, dict):
                raise ValueError("is no JSON object")
            if head is None:
                head = _head(record)
            elif turn is not None and record.get("turn", 0) > turn:
                break
            else:
                state.add(record)
        except (ValueError, RecursionError, TypeError) as error:
            problem = f"line {number} {error if not isinstance(error, json.JSONDecodeError) else 'is not JSON'}"
            break
        good += len(line)
    if head is None:
        raise UsageError(f"{path}: no transcript of a3b code ({problem or 'it is empty'})")
    return head, state, good, problem


def read_head(path: Path) -> TranscriptHead:
    """The first line alone. Raises OSError, and UsageError for a file that is no transcript."""
    with open(path, "rb", opener=open_private) as file:
        line = file.readline(MAX_HEAD)
    try:
        return _head(json.loads(line))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: no transcript of a3b code ({error})") from None


def _bytes_of(path: Path) -> bytes:
    with open(path, "rb", opener=open_private) as file:
        if (size := os.fstat(file.fileno()).st_size) > MAX_FILE:
            raise UsageError(f"{path}: {size >> 20} MiB; expected a transcript of at most {MAX_FILE >> 20}")
        return file.read(MAX_FILE)


def _lines(data: bytes) -> Iterator[bytes]:
    """Whole lines, with their ends."""
    at = 0
    while (end := data.find(b"\n", at)) >= 0:
        if end - at > MAX_RECORD:
            return
        yield data[at : end + 1]
        at = end + 1


def _head(record: Any) -> TranscriptHead:
    if not isinstance(record, dict) or record.get("a3b") != "transcript":
        raise ValueError("is no head of a transcript")
    if record.get("version") != VERSION:
        raise ValueError(f"is of version {str(record.get('version'))[:20]}; expected {VERSION}")
    id, kind, directory = (record.get(key) for key in ("id", "kind", "directory"))
    if not isinstance(id, str) or kind not in KINDS or not isinstance(directory, str):
        raise ValueError("is no head of a transcript")
    created, parent, turn = record.get("created"), record.get("parent"), record.get("parent_turn")
    return TranscriptHead(
        id,
        kind,
        directory,
        created=moment(created),
        parent=parent if isinstance(parent, str) else None,
        parent_turn=turn if type(turn) is int else None,
        model=str(record.get("model", ""))[:200],
        key=str(record.get("key", ""))[:64],
        positions=str(record.get("positions", ""))[:80],
    )


def checked_message(message: Any) -> Message:
    """A message that can be sent. Raises ValueError."""
    if not isinstance(message, dict) or message.get("role") not in ROLES:
        raise ValueError("is no message")
    if not isinstance(message.get("content"), str):
        raise ValueError("has a message without text")
    for key in ("reasoning_content", "reasoning", "tool_call_id"):
        if key in message and not isinstance(message[key], str):
            raise ValueError(f"has a message whose {key} is no text")
    calls = message.get("tool_calls", [])
    if not isinstance(calls, list) or not all(map(_is_call, calls)):
        raise ValueError("has a call that is none")
    return message


def shortened(text: str, most: int = 100) -> str:
    """The beginning of a text on one line."""
    words = " ".join(text[: 4 * most].split())
    return words if len(words) <= most else words[: most - 3] + "..."


def _call_line(function: dict[str, Any]) -> str:
    """A call in a few words: the tool, and its path or command."""
    try:
        given = json.loads(function["arguments"])
    except (ValueError, RecursionError):
        given = {}
    given = given if isinstance(given, dict) else {}
    what = next((given[key] for key in ("path", "command", "pattern") if isinstance(given.get(key), str)), "")
    return shortened(f"{function['name']} {what}", 60)


def _said(given: Any, messages: list[Message], first: str) -> dict[int, str]:
    """What the user typed of messages that a conversation begins with. first: his first task, which older files have
    at the end of his first message, and say nothing else."""
    if isinstance(given, list):
        pairs = [pair for pair in given if isinstance(pair, list | tuple) and len(pair) == 2]
        own = [(i, text) for i, text in pairs if type(i) is int and 0 <= i < len(messages) and isinstance(text, str)]
        return {i: text for i, text in own if messages[i]["role"] == "user"}
    users = [i for i, message in enumerate(messages) if message["role"] == "user"]
    return {i: first for i in users[:1] if first and messages[i]["content"].endswith(first)}


def _is_call(call: Any) -> bool:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict):
        return False
    return all(isinstance(text, str) for text in (call.get("id"), function.get("name"), function.get("arguments")))
