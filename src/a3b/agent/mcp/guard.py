"""What a server may send: every message passes here before the SDK sees it, whatever the transport.

Messages that nobody asked for are counted and dropped, so that a flood costs no memory; lists of tools are freed of
what would make the SDK refuse them whole, and of output schemas, whose patterns could hold up this process for hours.
Enter at `MessageGuard.screen`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

from a3b.agent.mcp.schemas import is_small

if TYPE_CHECKING:
    from mcp.shared.message import SessionMessage

MAX_MESSAGE = 32 << 20  # bytes of one message
MAX_UNASKED, MAX_GARBAGE, WINDOW = 20_000, 1_000, 10.0  # messages, lines that are no messages, in so many seconds
MAX_REQUESTS = 100  # of the server to us, in a window
CHANGED = {
    "notifications/tools/list_changed": "tools",
    "notifications/resources/list_changed": "resources",
    "notifications/prompts/list_changed": "prompts",
}
ASKED = {  # requests of servers that are always declined
    "sampling/createMessage": "an answer of the model (sampling)",
    "elicitation/create": "input from the user (elicitation)",
}


class ServerFault(Exception):
    """What a server did that ends its connection; the text goes to the user and the model."""


class MessageGuard:
    """Watches one connection. on_change: gets "tools", "resources" or "prompts" when the server says that they
    changed; on_asked: gets what a server asks for and does not get.

    fault: what ended the connection, "" while it is fine; ended: set then; garbage: the first line that was no message;
    left_out: what was taken from lists of tools."""

    def __init__(
        self,
        on_change: Callable[[str], None],
        on_asked: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ):
        self.fault, self.garbage, self.ended = "", "", asyncio.Event()
        self.left_out: list[str] = []
        self._on_change, self._on_asked, self._clock = on_change, on_asked, clock
        self._window, self._counts = clock(), dict.fromkeys(("unasked", "garbage", "requests"), 0)

    def screen(self, item: SessionMessage | Exception) -> SessionMessage | None:
        """The message if the SDK should see it. Raises ServerFault if the connection must end."""
        from mcp_types import JSONRPCNotification, JSONRPCRequest, JSONRPCResponse

        if isinstance(item, Exception):
            self.count_garbage(str(item))
            return None
        message = item.message
        if isinstance(message, JSONRPCNotification):
            self._count("unasked", MAX_UNASKED, "messages that nobody asked for")
            if what := CHANGED.get(message.method):
                self._on_change(what)
            return item if message.method == "notifications/subscriptions/acknowledged" else None
        if isinstance(message, JSONRPCRequest):
            self._count("requests", MAX_REQUESTS, "requests")
            if what := ASKED.get(message.method):
                self._on_asked(what)
        elif isinstance(message, JSONRPCResponse) and isinstance(message.result.get("tools"), list):
            message.result["tools"] = self._tools(message.result["tools"])
        return item

    def count_garbage(self, line: str) -> None:
        """Takes note of a line that is no message. Raises ServerFault if there are too many."""
        self.garbage = self.garbage or line[:200]
        self._count("garbage", MAX_GARBAGE, "lines that are no messages")

    def fail(self, text: str) -> ServerFault:
        """The fault to raise; the first one is kept."""
        self.fault = self.fault or text
        self.ended.set()
        return ServerFault(text)

    def _count(self, kind: str, most: int, what: str) -> None:
        now = self._clock()
        if now - self._window > WINDOW:
            self._window, self._counts = now, dict.fromkeys(self._counts, 0)
        self._counts[kind] += 1
        if self._counts[kind] > most:
            raise self.fail(f"sent more than {most:,} {what} within {WINDOW:.0f} seconds")

    def _tools(self, tools: list[Any]) -> list[Any]:
        kept = []
        for tool in tools:
            if not isinstance(tool, dict) or not isinstance(tool.get("name"), str):
                self._leave_out("a tool without a name")
                continue
            schema, description = tool.get("inputSchema"), tool.get("description")
            if not isinstance(schema, dict) or not is_small(schema):
                self._leave_out(f"the schema of tool {tool['name'][:80]!r}, which is too large or no object")
                schema = {"type": "object"}
            clean = {"name": tool["name"], "inputSchema": _accepted(schema)}
            if isinstance(description, str):
                clean["description"] = description[:16_384]
            kept.append(clean)
        return kept

    def _leave_out(self, what: str) -> None:
        if len(self.left_out) < 100:
            self.left_out.append(what)


def _accepted(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema of which the SDK takes at least the outside; `plain_schema` looks at the rest."""
    properties, required = schema.get("properties"), schema.get("required")
    kept = {key: value for key, value in schema.items() if key in ("$defs", "definitions", "additionalProperties")}
    kept["type"] = "object"
    if isinstance(properties, dict):
        kept["properties"] = {name: value if isinstance(value, dict) else {} for name, value in properties.items()}
    if isinstance(required, list):
        kept["required"] = [name for name in required if isinstance(name, str)]
    return kept


class GuardedStream:
    """A stream of messages from a server, behind a guard; ends when the guard finds a fault."""

    def __init__(self, stream: Any, guard: MessageGuard):
        self._stream, self._guard = stream, guard

    async def receive(self) -> SessionMessage:
        """The next message that passes. Raises anyio.EndOfStream."""
        import anyio

        while True:
            item = await self._stream.receive()
            try:
                if (kept := self._guard.screen(item)) is not None:
                    return kept
            except ServerFault:
                raise anyio.EndOfStream from None

    async def aclose(self) -> None:
        await self._stream.aclose()

    def __aiter__(self) -> AsyncIterator[SessionMessage]:
        return self

    async def __anext__(self) -> SessionMessage:
        import anyio

        try:
            return await self.receive()
        except anyio.EndOfStream:
            raise StopAsyncIteration from None

    async def __aenter__(self) -> GuardedStream:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()
