"""Where sessions lie, which there are, and which are open.

    A3B_HOME/agent/projects/NAME-HASH/     mode 0700; NAME and HASH of the directory's path
        ID.jsonl                           a transcript, mode 0600
        ID.lock                            held, with the process's number in it, while the session is open

Nothing of this lies in the workspace, and commands in the sandbox do not see it. Enter at `ProjectSessions`."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from a3b.agent.options import SessionNode
from a3b.agent.transcript import (
    AgentTranscript,
    TranscriptHead,
    TranscriptState,
    TurnLine,
    read_head,
    read_transcript,
)
from a3b.errors import A3BError, UsageError
from a3b.files import open_private, private_directory

ID = re.compile(r"\d{8}-\d{6}-[0-9a-f]{4}")
SUFFIX, LOCK = ".jsonl", ".lock"
MAX_LISTED = 200  # sessions that are read for a list
MAX_TURNS = 40  # lines of an outline that are shown
MAX_LISTED_BYTES = 64 << 20  # of one of them


def outline_lines(lines: Sequence[TurnLine]) -> list[str]:
    """The turns of a session by their numbers, below what the user said; the last ones, if there are many."""
    shown = [f"> {line.words}" if line.is_user else f"{line.turn:>5}  {line.words}" for line in lines[-MAX_TURNS:]]
    return [*([f"... {len(lines) - MAX_TURNS:,} lines before"] if len(lines) > MAX_TURNS else []), *shown]


def _turns(lines: Sequence[TurnLine]) -> str:
    known = [line.turn for line in lines if not line.is_user]
    if not known:
        return "no finished turn"
    return "\n".join([f"turns {known[0]} to {known[-1]}:", *outline_lines(lines)])


@dataclass(frozen=True)
class OpenElsewhere:
    """A session that another process has open."""

    id: str
    pid: int


def key_digest(api_key: str) -> str:
    """The name under which sessions of an API key are kept, "" without a key: what a3b's server calls its namespace."""
    key = api_key.encode(errors="surrogateescape")
    return blake2b(key, digest_size=8, person=b"a3b namespace").hexdigest() if key else ""


class ProjectSessions:
    """The sessions of one directory. home: A3B_HOME; api_key: sessions that were made with another are not shown."""

    def __init__(self, home: Path, workspace: Path, api_key: str = ""):
        self.key = key_digest(api_key)
        self.workspace = workspace.resolve()
        path = os.fsencode(self.workspace)
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", self.workspace.name).strip("-.")[:40]
        self.place = home / "agent" / "projects" / f"{name or 'root'}-{hashlib.sha256(path).hexdigest()[:16]}"

    def create(
        self,
        kind: str = "session",
        parent: str | None = None,
        parent_turn: int | None = None,
        model: str = "",
        positions: str = "",
    ) -> AgentTranscript:
        """A new transcript. Raises UsageError for a place that cannot be written."""
        now = time.time()
        id = f"{time.strftime('%Y%m%d-%H%M%S', time.localtime(now))}-{secrets.token_hex(2)}"
        head = TranscriptHead(id, kind, str(self.workspace), now, parent, parent_turn, model, self.key, positions)
        try:
            private_directory(self.place)
            return AgentTranscript.create(self.place / f"{id}{SUFFIX}", head)
        except OSError as error:
            raise UsageError(
                f"{self.place}: {error.strerror}; sessions are kept there, give another A3B_HOME"
            ) from None

    def load(self, id: str) -> tuple[AgentTranscript, str]:
        """A session to go on with, and what is to be said of its file. Raises UsageError."""
        path = self.path(self.find(id))
        try:
            transcript, problem = AgentTranscript.load(path)
        except OSError as error:
            raise UsageError(f"{path}: {error.strerror or error}") from None
        if transcript.head.directory != str(self.workspace):
            transcript.close()
            raise UsageError(f"{path}: is of {transcript.head.directory!r}; go there, or move the file back")
        return transcript, problem

    def fork(self, id: str, turn: int | None = None) -> str:
        """The id of a new session with the conversation of another up to the end of `turn`. Raises UsageError."""
        found = self.find(id)
        source = next((session for begun, session in self._line(found) if turn is not None and begun < turn), found)
        head, state = self._read(source, turn)
        if turn is not None and not 0 < turn <= state.turn:
            raise UsageError(f"turn {turn}: session {found} has {_turns(self.outline(found))}")
        copy = self.create("fork", source, state.turn, head.model, head.positions)
        try:
            cost = {
                "prompt": state.prompt,
                "written": state.written,
                "counted": state.counted,
                "after": state.in_context,
            }
            told = {"task": state.words, "turn": state.turn, "mcp": state.mcp, "said": state.said, **cost}
            copy.begin_anew(state.messages, **told)
        finally:
            copy.close()
        return copy.head.id

    def outline(self, id: str) -> list[TurnLine]:
        """The turns that a session can be forked at, with what the user said: also those that it began with as a copy.
        Raises UsageError."""
        lines: list[TurnLine] = []
        end: int | None = None
        for begun, session in self._line(self.find(id)):
            own = self._read(session)[1].outline
            lines = [line for line in own if line.turn > begun and (end is None or line.turn <= end)] + lines
            end = begun
        return lines

    def _line(self, id: str) -> list[tuple[int, str]]:
        """(the turn after which it began, id) of a session, and of those that it is a copy of, if they are there."""
        out: list[tuple[int, str]] = []
        while id not in [known for _, known in out] and len(out) < MAX_LISTED:
            try:
                head = read_head(self.path(id))
            except (OSError, A3BError):
                break
            is_copy = head.kind == "fork" and head.parent is not None and ID.fullmatch(head.parent) is not None
            out.append(((head.parent_turn or 0) if is_copy else 0, id))
            id = str(head.parent) if is_copy else id
        return out

    def _read(self, id: str, turn: int | None = None) -> tuple[TranscriptHead, TranscriptState]:
        """Raises UsageError."""
        try:
            head, state, _, _ = read_transcript(self.path(id), turn)
        except OSError as error:
            raise UsageError(f"{self.path(id)}: {error.strerror or error}") from None
        return head, state

    def path(self, id: str) -> Path:
        return self.place / f"{id}{SUFFIX}"

    def ids(self) -> list[str]:
        """Of all sessions, the latest begun first."""
        try:
            names = [entry.name.removesuffix(SUFFIX) for entry in os.scandir(self.place) if entry.name.endswith(SUFFIX)]
        except OSError:
            return []
        return sorted(filter(ID.fullmatch, names), reverse=True)

    def find(self, given: str) -> str:
        """The id that begins or ends with what was given. Raises UsageError."""
        ids = self.ids()
        found = [id for id in ids if given and (id.startswith(given) or id.endswith(given)) and self.is_own(id)]
        if given in found or len(found) == 1:
            return given if given in found else found[0]
        if found:
            raise UsageError(f"session {given[:40]!r}: may be {', '.join(found[:5])}; give more of it")
        raise UsageError(f"session {given[:40]!r}: not among those of {self.workspace}; a3b code sessions lists them")

    def is_own(self, id: str) -> bool:
        """Whether a session was made with this key. A file that cannot be read is: its reader says what is wrong."""
        try:
            return read_head(self.path(id)).key == self.key
        except (OSError, A3BError):
            return True

    def latest(self) -> str:
        """The session that was used last. Raises UsageError."""
        nodes = [node for node in self.nodes() if node.kind != "sub-agent"]
        if not nodes:
            raise UsageError(f"no session of {self.workspace} yet; a3b code begins one")
        return nodes[0].id

    def nodes(self) -> list[SessionNode]:
        """The sessions that can be read, the last used first."""
        found = (self._node(id) for id in self.ids()[:MAX_LISTED])
        return sorted((node for node in found if node), key=lambda node: -node.changed)

    def family(self, id: str) -> list[SessionNode]:
        """The sessions that were forked from one another, parents first."""
        nodes = {node.id: node for node in self.nodes()}

        def line(id: str) -> list[str]:
            """From the root down to a session."""
            found = [id]
            while (node := nodes.get(found[0])) and node.parent in nodes and node.parent not in found:
                found.insert(0, str(node.parent))
            return found

        own = line(id)[0]
        members = [node for node in nodes.values() if line(node.id)[0] == own]
        return sorted(members, key=lambda node: (len(line(node.id)), node.id))

    def _node(self, id: str) -> SessionNode | None:
        path = self.path(id)
        try:
            status = os.lstat(path)
            if status.st_size > MAX_LISTED_BYTES:
                if not self.is_own(id):
                    return None
                return SessionNode(id, "session", None, None, "(too long to be read)", 0, 0, status.st_mtime)
            head, state, _, _ = read_transcript(path)
        except (OSError, A3BError):
            return None
        if head.key != self.key:
            return None
        words = " ".join(state.words.split())[:120]
        return SessionNode(
            id,
            head.kind,
            head.parent,
            head.parent_turn,
            words,
            state.turn,
            state.in_context,
            status.st_mtime,
            self._holder(id) is not None,
        )

    # -- which are open

    @contextmanager
    def held(self, id: str) -> Iterator[None]:
        """Keeps a session from other processes while the block runs. Raises UsageError if another has it."""
        path = self.place / f"{id}{LOCK}"
        file = open(path, "r+b", buffering=0, opener=lambda name, _: open_private(name, os.O_RDWR | os.O_CREAT))
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = self._holder(id)
                raise UsageError(
                    f"session {id} is open in process {holder.pid if holder else '?'}; end it there, or go on "
                    f"from a copy: --resume {id} --from-turn N"
                ) from None
            file.truncate(0)
            file.write(str(os.getpid()).encode())
            yield
        finally:
            file.close()

    def open_elsewhere(self) -> list[OpenElsewhere]:
        """Sessions of this directory that other processes have open."""
        try:
            ids = [entry.name.removesuffix(LOCK) for entry in os.scandir(self.place) if entry.name.endswith(LOCK)]
        except OSError:
            return []
        holders = (self._holder(id) for id in sorted(filter(ID.fullmatch, ids))[-MAX_LISTED:])
        return [holder for holder in holders if holder and holder.pid != os.getpid()]

    def _holder(self, id: str) -> OpenElsewhere | None:
        try:
            with open(self.place / f"{id}{LOCK}", "rb", opener=open_private) as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                    return None
                except BlockingIOError:
                    said = file.read(20)
                    return OpenElsewhere(id, int(said) if said.isdigit() else 0)
        except OSError:
            return None
