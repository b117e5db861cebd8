"""The terminal without any control sequence: for TERM=dumb, line printers, editors' shells. Enter at `PlainScreen`.

The terminal edits the line, so nothing can be shown while one is typed but at its end."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import termios
from collections.abc import Callable
from contextlib import suppress

from rich.text import Text

from a3b.printable import printable

MAX_LINE = 1 << 20  # bytes


class PlainScreen:
    """As `PromptScreen`, without live rows; figures are printed when the agent is done."""

    def __init__(
        self,
        submit: Callable[[str], None],
        key: Callable[[str], None],
        toolbar: Callable[[], tuple[str, list[str]]],
    ):
        self._submit, self._key, self._toolbar = submit, key, toolbar
        self._left: asyncio.Future[None] | None = None
        self._question: asyncio.Future[str] | None = None
        self._lock = asyncio.Lock()
        self._bytes = b""
        self._said = ""

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        self._left = loop.create_future()
        loop.add_reader(sys.stdin.fileno(), self._read)
        loop.add_signal_handler(signal.SIGINT, self._interrupt)
        try:
            await self._left
        finally:
            loop.remove_reader(sys.stdin.fileno())
            loop.remove_signal_handler(signal.SIGINT)

    def leave(self) -> None:
        if self._left is not None and not self._left.done():
            self._left.set_result(None)

    def write(self, text: Text, wrap: bool = True) -> None:
        self._print(text.plain + "\n")

    def refresh(self) -> None:
        """There is nothing to draw again."""

    def ready(self) -> None:
        _, parts = self._toolbar()
        figures = " | ".join(parts)
        self._print((f"[{figures}]\n" if figures != self._said else "") + "> ")
        self._said = figures

    def put_back(self, text: str) -> None:
        self._print(f"not sent: {text}\n")

    async def ask(self, question: Text, choices: str) -> str:
        """The first whole line that is typed after the question has been printed."""
        async with self._lock:
            with suppress(termios.error, OSError):
                termios.tcflush(sys.stdin.fileno(), termios.TCIFLUSH)
            self._bytes = b""
            self._question = asyncio.get_running_loop().create_future()
            self._print(f"{question.plain}\n{choices} ")
            try:
                return await self._question
            finally:
                self._question = None

    def _print(self, text: str) -> None:
        data = printable(text, lines=True).encode(sys.stdout.encoding or "utf-8", "replace")
        while data:
            try:
                data = data[os.write(sys.stdout.fileno(), data) :]
            except BlockingIOError:
                continue

    def _read(self) -> None:
        try:
            data = os.read(sys.stdin.fileno(), 1 << 16)
        except OSError:
            data = b""
        if not data:
            self._key("leave")
            return
        *lines, self._bytes = (self._bytes + data).split(b"\n")
        self._bytes = self._bytes[:MAX_LINE]
        if self._question is not None:
            if len(lines) == 1 and not self._question.done():
                self._question.set_result(lines[0].decode(errors="replace").strip())
            elif lines:
                self._print("several lines at once do not answer; type one\n")
            return
        for line in lines:
            if text := line.decode(errors="replace").strip():
                self._submit(text)
            else:
                self.ready()

    def _interrupt(self) -> None:
        if self._question is not None and not self._question.done():
            self._question.set_result("")
        self._key("interrupt")
