"""Asks the user before something leaves the sandbox, and remembers the answers of a project. Enter at `Approver`."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from a3b.errors import StoreError, UsageError
from a3b.files import open_private, private_directory, read_bytes

Decision = Literal["once", "always", "no"]
MAX_BYTES = 1 << 20
MAX_SAID = 50  # refusals: a command can ask for any number of hosts
MAX_TEXT = 10_000  # characters of one kind or subject


@dataclass(frozen=True)
class ApprovalRequest:
    """What the agent wants to do, for the user to judge.

    kind: "network", "protected_path", "mcp_server", "mcp_call" or another; subject: what exactly, which with the kind
    is what "always" remembers, such as "pypi.org:443"; what: one line or more for people; why, where: more of the same;
    option: what would allow it without a question, such as "--allow-host pypi.org"; diff: the change that is asked
    about, in unified form; always: what "always" allows, in words.
    """

    kind: str
    subject: str
    what: str
    why: str = ""
    where: str = ""
    option: str = ""
    diff: str = ""
    always: str = ""


class Approver(Protocol):
    """Decides, usually by asking a person. Texts of a request are foreign: whoever shows them escapes them."""

    async def ask(self, request: ApprovalRequest) -> Decision:
        """May be called while another question is open."""
        ...


class DenyingApprover:
    """Says no, as nobody is there to ask. refused: the first requests, so that the end of a task can tell them."""

    def __init__(self) -> None:
        self.refused: list[ApprovalRequest] = []

    async def ask(self, request: ApprovalRequest) -> Decision:
        if len(self.refused) < MAX_SAID and request not in self.refused:
            self.refused.append(request)
        return "no"

    def report(self) -> list[str]:
        """What was refused and which option would have allowed it, a line each."""
        return [f"Not allowed: {refusal(request)}" for request in self.refused]


class RememberedApprovals:
    """Answers from memory what the user has allowed always, and asks another approver the rest, one by one."""

    def __init__(self, file: Path, approver: Approver):
        """file: of the project, below A3B_HOME. Raises StoreError if it holds anything but approvals."""
        self.file, self._approver = file, approver
        self._asking = asyncio.Lock()
        self._known = self._read()

    async def ask(self, request: ApprovalRequest) -> Decision:
        if len(request.kind) > MAX_TEXT or len(request.subject) > MAX_TEXT:
            return "no"  # nobody can judge that
        async with self._asking:
            key = request.kind, request.subject
            if key in self._known:
                return "always"
            decision = await self._approver.ask(request)
            if decision == "always":
                self._remember(key)
            return decision

    def known(self) -> list[tuple[str, str]]:
        """(kind, subject) of all that is allowed always."""
        return sorted(self._known)

    def forget(self, subject: str | None = None) -> list[str]:
        """Takes back what was allowed always: one subject, or what begins with it and is alone in that; None is all.
        Returns the subjects. Raises UsageError for one that is not known, OSError."""
        with self._locked():
            self._known |= self._read()
            found = sorted(name for _, name in self._known if subject in (None, name))
            found = found or sorted(name for _, name in self._known if name.startswith(str(subject)))
            if subject is not None and len(set(found)) != 1:
                allowed = ", ".join(found or [name for _, name in self.known()]) or "nothing"
                raise UsageError(f"{subject[:80]!r}: expected one that is allowed always: {allowed[:1000]}")
            self._write({key for key in self._known if key[1] not in found})
        return found

    def _remember(self, key: tuple[str, str]) -> None:
        with self._locked():
            self._write(self._read() | self._known | {key})  # another session may have added some

    def _write(self, known: set[tuple[str, str]]) -> None:
        self._known = known
        rows = [{"kind": kind, "subject": subject} for kind, subject in sorted(self._known)]
        data = json.dumps({"approvals": rows}, indent=1).encode("utf-8", "surrogatepass")
        new = self.file.with_name(self.file.name + ".new")
        handle = open_private(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        with open(handle, "wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        os.replace(new, self.file)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        private_directory(self.file.parent)
        with open(open_private(self.file.with_name(self.file.name + ".lock"), os.O_RDWR | os.O_CREAT)) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _read(self) -> set[tuple[str, str]]:
        try:
            os.close(open_private(self.file))  # a file of another user, or a link, is not ours to trust
            rows = json.loads(read_bytes(self.file, MAX_BYTES))["approvals"]
            found = {(row["kind"], row["subject"]) for row in rows}
        except FileNotFoundError:
            return set()
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            raise StoreError(
                f"{self.file} is not a file of approvals ({error!r}); remove it to be asked again"
            ) from None
        if not all(isinstance(part, str) for row in found for part in row):
            raise StoreError(
                f"{self.file} has an approval whose kind or subject is no text; remove it to be asked again"
            )
        return found


class TellingApprover:
    """Passes questions on, and keeps in mind which hosts the user refused: a program that is refused a connection says
    little more than "403"."""

    def __init__(self, approver: Approver):
        self._approver = approver
        self._said: dict[str, bool] = {}  # what to tell the model, and whether that is done
        self._waited, self._asked, self._num_open = 0.0, 0.0, 0

    @property
    def waited(self) -> float:
        """Seconds for which an answer was waited for, also one that has not come yet."""
        return self._waited + (time.monotonic() - self._asked if self._num_open else 0.0)

    async def ask(self, request: ApprovalRequest) -> Decision:
        if not self._num_open:
            self._asked = time.monotonic()
        self._num_open += 1
        try:
            decision = await self._approver.ask(request)
        finally:
            self._num_open -= 1
            if not self._num_open:
                self._waited += time.monotonic() - self._asked
        if decision == "no" and request.kind == "network" and len(self._said) < MAX_SAID:
            self._said.setdefault(f"[{request.subject} was not allowed; {request.option} would allow it]", False)
        return decision

    def take_news(self) -> list[str]:
        """A sentence for each host that was refused since the last call; each is given once."""
        news = [text for text, is_told in self._said.items() if not is_told]
        self._said |= dict.fromkeys(news, True)
        return news


def refusal(request: ApprovalRequest) -> str:
    """What the model and the user are told when a request was not allowed."""
    hint = f"; {request.option} would allow it" if request.option else ""
    return f"{request.what}{hint}"
