"""What a client sends first, found out by letting it ask an endpoint that answers at once.

It runs as `a3b launch` would start it, but in directories that hold nothing, with a copy of its settings, and a day
apart: whatever differs between two such requests is no part of its instructions. Nothing of the user's is written.
Enter at `first_requests`."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import tempfile
import termios
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from a3b.clients.capture import Capture, Captured
from a3b.clients.directory import write
from a3b.clients.setup import Client, Endpoint, Setup, Way, environment_of
from a3b.errors import A3BError
from a3b.files import private_directory

WAIT_S = 90.0  # for a client's first request
SETTLE_S = 1.0  # in which a client may ask for more than a title
END_S = 5.0  # for a client to end when it is told to
LOOK_S = 0.05
LAST_BYTES = 1 << 16  # of what a client said
# what terminals are asked: where the cursor is, and what they are
TERMINAL_ANSWERS = {b"\x1b[6n": b"\x1b[1;1R", b"\x1b[c": b"\x1b[?62;c"}
ESCAPES = re.compile(r"\x1b(?:\[[0-9;?<>=]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[ -/]*[0-~])")
MAX_CARRIED = 16 << 20  # bytes of a user's instructions that are copied
# 26 hours apart: it is never the same day in both
ZONES = ("Etc/GMT-14", "Etc/GMT+12")


class ClientError(A3BError):
    """A client did not do what was asked of it."""


@dataclass(frozen=True)
class Program:
    """An installed client: the command, and the variables of its user."""

    client: Client
    command: str
    environment: Mapping[str, str]


def first_requests(program: Program, way: Way, model: str, context: int, directory: Path) -> list[Captured]:
    """Two first requests of a session of this kind, from different directories. directory: the client's own.

    Raises ClientError with the client's last words."""
    return [
        _first_request(program, way, model, context, directory, zone, prefix)
        for zone, prefix in zip(ZONES, ("a3b-", "warm-"), strict=True)
    ]


def _first_request(
    program: Program, way: Way, model: str, context: int, directory: Path, zone: str, prefix: str
) -> Captured:
    with (
        tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True) as parent,
        Capture(model, context) as to,
    ):
        work, own = Path(parent, "project").resolve(), Path(parent, "settings")
        work.mkdir()
        setup = program.client.setup(Endpoint(to.url, model, context, to.key), own)
        _carry([*program.client.carried, *setup.files], directory, own)
        write(setup, own)
        write(Setup(files=way.trusts(work)), own)
        environment = environment_of(setup, program.environment) | {"TZ": zone, "PWD": str(work)}
        command = [program.command, *setup.arguments, *way.arguments]
        said = (_in_terminal if way.terminal else _without_terminal)(command, work, environment, to)
    if not to.requests:
        words = " / ".join(line.strip() for line in said.splitlines() if line.strip())[-400:]
        raise ClientError(f"{program.client.title} sent no request ({way.name}); its last words: {words or 'none'}")
    return max(to.requests, key=_weight)


def _weight(found: Captured) -> tuple[int, int]:
    """Most for the request with the instructions: titles and the like have fewer tools and are shorter."""
    tools = found.body.get("tools")
    return len(tools) if isinstance(tools, list) else 0, len(json.dumps(found.body))


def _carry(names: Sequence[str], directory: Path, own: Path) -> None:
    """Copy what the user keeps among the client's settings, unless it is large."""
    private_directory(own)
    left = MAX_CARRIED
    for name in names:
        source, target = directory / name, own / name
        with suppress(OSError):
            left -= _size(source)
            if left < 0:
                return
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True)
            else:
                shutil.copy2(source, target, follow_symlinks=False)


def _size(path: Path) -> int:
    """Bytes of a file or of all files in a directory; links are not followed. Raises OSError if there is none."""
    size = os.lstat(path).st_size
    for parent, _, names in os.walk(path):
        size += sum(os.lstat(Path(parent, name)).st_size for name in names)
    return size


def _without_terminal(command: Sequence[str], work: Path, environment: Mapping[str, str], to: Capture) -> str:
    """Let a client run to its end. Returns its last words."""
    with tempfile.TemporaryFile() as out:
        process = _started(command, work, environment, subprocess.DEVNULL, out.fileno())
        try:
            process.wait(WAIT_S)
        except subprocess.TimeoutExpired:
            pass
        finally:
            _end(process)
        out.seek(max(out.seek(0, os.SEEK_END) - LAST_BYTES, 0))
        return out.read().decode(errors="replace")


def _in_terminal(command: Sequence[str], work: Path, environment: Mapping[str, str], to: Capture) -> str:
    """Let a client run in a terminal until it has asked, and a little longer. Returns the last of what it drew."""
    own, its = pty.openpty()
    try:
        fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        shown = {"TERM": "xterm-256color", "COLORTERM": "truecolor"}
        process = _started(command, work, {**environment, **shown}, its, its)
        os.close(its)
        its = -1
        try:
            return _watched(own, process, to)
        finally:
            _end(process)
    finally:
        os.close(own)
        if its >= 0:
            os.close(its)


def _watched(terminal: int, process: subprocess.Popen[bytes], to: Capture) -> str:
    deadline, drawn, ends = time.monotonic() + WAIT_S, b"", None
    while time.monotonic() < (deadline if ends is None else ends) and process.poll() is None:
        if to.requests and ends is None:
            ends = time.monotonic() + SETTLE_S
        if not select.select([terminal], [], [], LOOK_S)[0]:
            continue
        try:
            piece = os.read(terminal, 1 << 16)
        except OSError:  # the other end is closed
            break
        for question, answer in TERMINAL_ANSWERS.items():
            if question in piece:
                os.write(terminal, answer)
        drawn = (drawn + piece)[-LAST_BYTES:]
    return ESCAPES.sub("", drawn.decode(errors="replace"))


def _started(
    command: Sequence[str], work: Path, environment: Mapping[str, str], stdin: int, out: int
) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            command, cwd=work, env=environment, stdin=stdin, stdout=out, stderr=out, start_new_session=True
        )
    except OSError as error:
        raise ClientError(f"{command[0]}: {error.strerror}") from None


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a client and all that it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(END_S)
    process.wait()
