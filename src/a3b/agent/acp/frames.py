"""Messages of JSON-RPC, one a line, between the descriptors that were stdin and stdout. Enter at `open_frames`.

Nothing else may reach stdout: what any other part of the process prints goes to stderr. A line that is no message is
answered and forgotten; none is longer than `MAX_FRAME`."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import sys
from typing import Any

MAX_FRAME = 32 << 20  # bytes
PIECE = 1 << 16
PARSE_ERROR, INVALID_REQUEST = -32700, -32600


class FrameTransport:
    """A `Transport` of the library."""

    def __init__(self, source: int, target: int):
        """source, target: descriptors, which it closes."""
        self._source, self._target = source, target
        self._buffer, self._is_skipping, self._has_ended = bytearray(), False, False
        self._reader: asyncio.StreamReader | None = None
        self._transports: list[asyncio.BaseTransport] = []
        self._writer: asyncio.StreamWriter | None = None
        self._lock = asyncio.Lock()

    async def start(self) -> None:
        """Pipes and sockets are read as bytes come; a regular file is just read."""
        loop = asyncio.get_running_loop()
        if _is_stream(self._source):
            self._reader = asyncio.StreamReader()
            protocol = asyncio.StreamReaderProtocol(self._reader)
            transport, _ = await loop.connect_read_pipe(lambda: protocol, os.fdopen(self._source, "rb", 0))
            self._transports.append(transport)
        if _is_stream(self._target):
            out = asyncio.streams.FlowControlMixin()
            pipe, _ = await loop.connect_write_pipe(lambda: out, os.fdopen(self._target, "wb", 0))
            self._writer = asyncio.StreamWriter(pipe, out, None, loop)
            self._transports.append(pipe)

    async def send(self, message: dict[str, Any]) -> None:
        data = json.dumps(message, ensure_ascii=False, separators=(",", ":"), default=str)
        line = data.encode("utf-8", "replace") + b"\n"
        async with self._lock:
            if self._writer is not None:
                self._writer.write(line)
                await self._writer.drain()
            else:
                while line:
                    line = line[os.write(self._target, line) :]

    async def receive(self) -> dict[str, Any] | None:
        """The next message that is one; None at the end."""
        while True:
            line = await self._line()
            if line is None:
                return None
            if not line.strip():
                continue
            try:
                message = json.loads(line)
            except (ValueError, RecursionError) as error:
                await self._complain(PARSE_ERROR, f"a line is no JSON: {str(error)[:200]}")
                continue
            if problem := _problem(message):
                await self._complain(INVALID_REQUEST, problem)
                continue
            return dict(message)

    async def close(self) -> None:
        for transport in self._transports:
            transport.close()

    async def _complain(self, code: int, text: str) -> None:
        await self.send({"jsonrpc": "2.0", "id": None, "error": {"code": code, "message": text}})

    async def _line(self) -> bytes | None:
        """A line of at most `MAX_FRAME` bytes; longer ones are left out, and the sender is told."""
        while True:
            end = self._buffer.find(b"\n")
            if end < 0 and len(self._buffer) > MAX_FRAME:
                self._buffer.clear()
                self._is_skipping = True
            elif end >= 0:
                line = bytes(self._buffer[:end])
                del self._buffer[: end + 1]
                if not self._is_skipping and len(line) <= MAX_FRAME:
                    return line
                self._is_skipping = False
                await self._complain(INVALID_REQUEST, f"a line has more than {MAX_FRAME:,} bytes")
                continue
            elif self._has_ended:
                rest, self._buffer = bytes(self._buffer), bytearray()
                return rest if rest and not self._is_skipping else None
            piece = await self._reader.read(PIECE) if self._reader is not None else os.read(self._source, PIECE)
            self._has_ended = not piece
            self._buffer += piece


def open_frames() -> FrameTransport:
    """Takes stdin and stdout for messages; from here on both lead elsewhere for everybody else."""
    sys.stdout.flush()
    source, target = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return FrameTransport(source, target)


def _is_stream(descriptor: int) -> bool:
    mode = os.fstat(descriptor).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or (stat.S_ISCHR(mode) and os.isatty(descriptor))


def _problem(message: Any) -> str:
    """What is wrong with the form of a message, "" if nothing is."""
    if not isinstance(message, dict):
        return "expected an object of JSON-RPC 2.0"
    method, id = message.get("method"), message.get("id")
    if "id" in message and not (isinstance(id, str | int | type(None)) and not isinstance(id, bool)):
        return "id: expected a string or a whole number"
    if "method" in message:
        return "" if isinstance(method, str) else "method: expected a string"
    if "id" not in message or not ("result" in message or isinstance(message.get("error"), dict)):
        return "expected a method, or an id with a result or an error"
    return ""
