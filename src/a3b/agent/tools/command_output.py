"""What a command prints and how it ended, as the model reads it. Enter at `bash_text`, `collect`."""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import Callable
from contextlib import suppress

from a3b.agent.sandbox.sandbox import CommandOutcome, SandboxProcess
from a3b.agent.tools.kept_output import OutputRecord
from a3b.agent.tools.terminal_text import TerminalText

MAX_DIRECTORY = 4096  # bytes of a path


def bash_text(printed: str, outcome: CommandOutcome, can_be_longer: bool = True) -> str:
    """What the model reads of a command. printed: its clean output, cut; can_be_longer: whether a call may take more
    time than this one had."""
    printed = printed.removesuffix("\n")
    return "\n".join(part for part in (printed, ended_text(outcome, can_be_longer)) if part) or "[no output]"


def ended_text(outcome: CommandOutcome, can_be_longer: bool = True) -> str:
    """How a command ended, in brackets; "" for one that succeeded."""
    if outcome.ended_by == "time":
        way_out = "a longer timeout or background lets it go on" if can_be_longer else "background lets it go on"
        return f"[stopped: {outcome.detail or 'out of time'}; {way_out}]"
    if outcome.ended_by == "stop":
        return "[stopped]"
    if outcome.ended_by == "protected":
        return f"[{outcome.detail}. The tools write and edit ask the user for it]"
    if outcome.ended_by != "exit":
        return f"[killed: {outcome.detail or f'too much {outcome.ended_by}'}]"
    if outcome.status == 0:
        return ""
    with suppress(ValueError):
        return f"[exit status {outcome.status}, {signal.Signals(outcome.status - 128).name}]"
    return f"[exit status {outcome.status}]"


async def collect(
    process: SandboxProcess, ending: EndMark, record: OutputRecord, emit: Callable[[str], None]
) -> CommandOutcome:
    """Takes the output of a command to its end; cancelled, it stops the command."""
    clean = TerminalText()

    def take(text: str) -> None:
        if text:
            record.add(text)
            emit(text)

    async def read() -> None:
        while data := await process.stdout.read(1 << 16):
            take(clean.feed(ending.feed(data)))
        take(clean.feed(ending.finish()) + clean.finish())

    try:  # both at once: what a command leaves behind holds its output open until `wait` has ended it
        return (await asyncio.gather(process.wait(), read()))[0]
    except BaseException:
        await process.stop()
        raise
    finally:
        record.close()


class EndMark:
    """Takes the end mark of a command out of its output. directory: where the shell was at last, "" if it did not say;
    left_behind: whether processes of it were still running."""

    def __init__(self, mark: str):
        self._mark = b"\0" + mark.encode()
        self._held = b""
        self.directory = ""
        self.left_behind = False

    def feed(self, data: bytes) -> bytes:
        data = self._held + data
        at = data.find(self._mark)
        end = data.find(b"\0", at + 1) if at >= 0 else -1
        if at >= 0 and (end >= 0 or len(data) - at < 2 * MAX_DIRECTORY):
            if end < 0:
                self._held = data[at:]
                return data[:at]
            self._held = b""
            self._note(data[at + len(self._mark) : end])
            return data[:at] + data[end + 1 :]
        at = data.rfind(b"\0", max(0, len(data) - len(self._mark)))
        at = at if at >= 0 and self._mark.startswith(data[at:]) else len(data)
        self._held = data[at:]
        return data[:at]

    def finish(self) -> bytes:
        rest, self._held = self._held, b""
        return b"" if rest.startswith(self._mark) else rest

    def _note(self, said: bytes) -> None:
        if found := re.fullmatch(rb"\s*(\d+) (/[^\0]*)", said, re.DOTALL):
            self.left_behind = int(found[1]) > 0
            with suppress(UnicodeDecodeError):
                self.directory = found[2].decode()[:MAX_DIRECTORY]
