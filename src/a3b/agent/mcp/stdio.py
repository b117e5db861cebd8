"""The transport to a server that is a process: one message a line on its stdin and stdout, each of bounded size.

The SDK's own transport holds a line of any length. Enter at `stdio_transport`."""

from __future__ import annotations

import json
from asyncio import Event, StreamReader, timeout
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

from a3b.agent.mcp.guard import MAX_MESSAGE, MessageGuard, ServerFault
from a3b.agent.mcp.schemas import clean_text
from a3b.agent.sandbox.sandbox import CommandOutcome, SandboxProcess

if TYPE_CHECKING:
    from mcp.shared.message import SessionMessage

GRACE = 2.0  # seconds for a server to end after its stdin is closed
PIECE = 1 << 16


class ServerProcess:
    """A server that is a process. gone: set once it sends no more; last_line: the end of what it printed to stderr;
    has_died: whether it ended before it was told to; outcome: how it ended, once it has."""

    def __init__(self, process: SandboxProcess):
        self.process, self.gone = process, Event()
        self.has_died = False
        self.outcome: CommandOutcome | None = None
        self._pieces: deque[bytes] = deque(maxlen=4)

    async def keep_stderr(self, stream: StreamReader) -> None:
        while piece := await stream.read(PIECE):
            self._pieces.append(piece[-1000:])

    @property
    def last_line(self) -> str:
        lines = b"".join(self._pieces).decode("utf-8", "replace").strip().splitlines()
        return clean_text(lines[-1][-300:]) if lines else ""

    async def end(self) -> None:
        """Ends it: its stdin is closed, and if it does not end by itself, it is killed with all it started."""
        self.has_died = self.gone.is_set()
        stdin = self.process.stdin
        if stdin is not None:
            with suppress(OSError, RuntimeError):
                stdin.close()
        try:
            async with timeout(GRACE):
                self.outcome = await self.process.wait()
        except TimeoutError:
            await self.process.stop()


@asynccontextmanager
async def stdio_transport(server: ServerProcess, guard: MessageGuard) -> AsyncIterator[Any]:
    """The streams that the SDK's client takes. The process has ended when the block is left."""
    import anyio
    from mcp.shared.message import SessionMessage

    process = server.process
    to_client, from_server = anyio.create_memory_object_stream[SessionMessage](0)
    to_server, from_client = anyio.create_memory_object_stream[SessionMessage](0)

    async def read() -> None:
        async with to_client:
            with suppress(ServerFault, anyio.ClosedResourceError, anyio.BrokenResourceError, OSError):
                async for line in _lines(process.stdout, guard):
                    if (message := _message(line, guard)) is not None:
                        await to_client.send(message)
        server.gone.set()
        with suppress(OSError):
            while await process.stdout.read(PIECE):  # a full pipe would keep it from being seen to end
                pass

    async def write() -> None:
        assert process.stdin is not None
        async with from_client:
            try:
                async for message in from_client:
                    process.stdin.write(
                        message.message.model_dump_json(by_alias=True, exclude_unset=True).encode() + b"\n"
                    )
                    await process.stdin.drain()
            except OSError:
                server.gone.set()  # one that reads no more answers no more

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read)
        tasks.start_soon(write)
        if process.stderr is not None:
            tasks.start_soon(server.keep_stderr, process.stderr)
        try:
            yield from_server, to_server
        finally:
            with anyio.CancelScope(shield=True):
                from_server.close()
                to_server.close()
                await server.end()
            tasks.cancel_scope.cancel()


async def _lines(stream: StreamReader, guard: MessageGuard) -> AsyncIterator[bytes]:
    pieces: list[bytes] = []
    held = 0
    while piece := await stream.read(PIECE):
        *ends, rest = piece.split(b"\n")
        for end in ends:
            yield b"".join((*pieces, end))
            pieces, held = [], 0
        pieces.append(rest)
        held += len(rest)
        if held > MAX_MESSAGE:
            raise guard.fail(f"sent a message of more than {MAX_MESSAGE >> 20} MiB")


def _message(line: bytes, guard: MessageGuard) -> SessionMessage | None:
    """A line as a message that may pass; an answer that breaks the protocol becomes an error with its id, so that
    nobody waits for it. Raises ServerFault."""
    from mcp.shared.message import SessionMessage
    from mcp_types import INTERNAL_ERROR, ErrorData, JSONRPCError, jsonrpc_message_adapter

    if not line.strip():
        return None
    try:
        message = jsonrpc_message_adapter.validate_json(line, by_name=False)
    except ValueError:
        found = _repaired(line)
        try:
            message = jsonrpc_message_adapter.validate_python(found, by_name=False)
        except ValueError:
            if not isinstance(found, dict) or "method" in found or not isinstance(found.get("id"), int | str):
                guard.count_garbage(line[:200].decode("utf-8", "replace"))
                return None
            error = ErrorData(code=INTERNAL_ERROR, message="the answer has neither a result nor an error in it")
            message = JSONRPCError(jsonrpc="2.0", id=found["id"], error=error)
    return guard.screen(SessionMessage(message))


def _repaired(line: bytes) -> Any:
    """JSON whose texts have bytes or surrogates that are no UTF-8, as programs write that cut a text anywhere, with "?"
    for them; None for what is no JSON."""
    try:
        found = json.loads(line.decode("utf-8", "replace"))
        return json.loads(json.dumps(found, ensure_ascii=False).encode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None
