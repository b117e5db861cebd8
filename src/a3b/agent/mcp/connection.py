"""One server and the connection to it: started, asked, started again, ended. Enter at `ServerConnection`.

The SDK's client lives in a task of its own, since it must be left where it was entered; calls come from any task."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from a3b.agent.mcp.config import McpServerConfig
from a3b.agent.mcp.guard import MessageGuard, ServerFault
from a3b.agent.mcp.http import HttpTrouble, http_transport
from a3b.agent.mcp.listing import ServerListing, difference, read_listing
from a3b.agent.mcp.schemas import clean_text
from a3b.agent.mcp.stdio import ServerProcess, stdio_transport
from a3b.agent.sandbox.sandbox import SandboxProcess
from a3b.agent.tools.tool import ToolError

if TYPE_CHECKING:
    from mcp import Client

T = TypeVar("T")
SUBSCRIBE_SECONDS, END_SECONDS, MAX_LISTS, MAX_LOOKS = 5.0, 15.0, 3, 20
LOGGERS = ("mcp", "client", "httpx2")  # quote what servers send, with control characters and all


class ServerConnection:
    """launch: starts the process of a stdio server; roots: the directories that a server may be told; tell: gets a
    sentence for the user; on_change: gets what changed, such as "tools (new: add)".

    listing: what the server offered when it was last started; None before that. version: as the server says."""

    def __init__(
        self,
        server: McpServerConfig,
        launch: Callable[[McpServerConfig], Awaitable[SandboxProcess]],
        roots: tuple[Path, ...],
        tell: Callable[[str], None],
        on_change: Callable[[str], None],
    ):
        self.server, self.listing, self.version = server, None, ""
        self._launch, self._roots, self._tell, self._on_change = launch, roots, tell, on_change
        self._starting = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._client: Client | None = None
        self._close = asyncio.Event()
        self._end = ""  # why the last connection ended
        self._num_late, self._num_looks, self._is_stale = 0, 0, False
        self._asked: set[str] = set()
        self._trouble = HttpTrouble()
        self._look: asyncio.Task[None] | None = None

    listing: ServerListing | None

    @property
    def is_running(self) -> bool:
        return self._client is not None

    async def start(self) -> None:
        """Starts the server and reads what it offers. Raises ServerFault."""
        async with self._starting:
            if self.is_running:
                return
            await self._stop()
            self._close.clear()
            ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._task = asyncio.create_task(self._serve(ready), name=f"MCP server {self.server.name}")
            try:
                async with asyncio.timeout(self.server.start_seconds):
                    await asyncio.shield(ready)
            except TimeoutError:
                ready.cancel()
                await self._stop()
                seconds = f"{self.server.start_seconds:g} seconds"
                raise ServerFault(f'was not ready within {seconds}; "startTimeout" changes that') from None
            except BaseException:
                await self._stop()
                raise

    async def ask(self, what: str, send: Callable[[Client], Awaitable[T]]) -> T:
        """An answer of the server, which is started again, once, if it has ended. what: such as "call add", for errors.

        Raises ToolError, and MCPError for an error that the server answers with."""
        from mcp import MCPError
        from mcp_types import CONNECTION_CLOSED, REQUEST_TIMEOUT

        client = await self._running()
        name, self._trouble.text = self.server.name, ""
        try:
            async with asyncio.timeout(self.server.call_seconds):
                answer = await send(client)
        except TimeoutError:
            self._num_late += 1
            text = f"did not answer within {self.server.call_seconds:g} seconds ({what})"
            if self._num_late > 1:  # it may only have been slow the first time
                await self._stop()
                text += " for the second time; it was stopped, and starts again with the next call"
            self._tell(f"MCP server {name!r} {text}.")
            raise ToolError(f"MCP server {name!r} {text}.") from None
        except MCPError as error:
            if error.code not in (CONNECTION_CLOSED, REQUEST_TIMEOUT) and not self._close.is_set():
                self._num_late = 0
                if self._trouble.text:
                    raise ToolError(f"MCP server {name!r} {self._trouble.text}.") from None
                raise
            await self._stop()
            self._tell(f"MCP server {name!r} {self._end or 'ended'} during a call ({what}).")
            raise ToolError(
                f"MCP server {name!r} {self._end or 'ended'} during {what}, which may have been done in part. "
                "It starts again with the next call."
            ) from None
        except (ValueError, RuntimeError) as error:
            raise ToolError(
                f"MCP server {name!r} gave an answer to {what} that cannot be used: {reason(error)}"
            ) from None
        self._num_late = 0
        return answer

    async def offered(self) -> ServerListing:
        """What the server offers now; asked again if it said that something changed. Raises ToolError."""
        if self.listing is None:
            await self._running()
        if self._is_stale and self.is_running:
            self._is_stale = False
            self.listing = await self.ask("list", lambda client: read_listing(client, self.server))
        return self.listing or ServerListing()

    async def close(self) -> None:
        """Ends the server."""
        async with self._starting:
            await self._stop()

    async def _running(self) -> Client:
        if self._client is None:
            why = self._end or "had ended"
            try:
                await self.start()
            except ServerFault as error:
                self._tell(f"MCP server {self.server.name!r} {why}, and did not start again: it {error}.")
                raise ToolError(f"MCP server {self.server.name!r} did not start again: it {error}.") from None
            self._tell(f"MCP server {self.server.name!r} {why}; it was started again.")
        if self._client is None:
            raise ToolError(f"MCP server {self.server.name!r} {self._end or 'ended'} right after its start.")
        return self._client

    async def _stop(self) -> None:
        task, self._task = self._task, None
        if self._look is not None and self._look is not asyncio.current_task():
            self._look.cancel()
        if task is not None and not self.is_running:
            task.cancel()  # it may wait for a server that says nothing
        self._client = None
        self._close.set()
        if task is not None:
            done, _ = await asyncio.wait({task}, timeout=END_SECONDS)
            if not done:
                task.cancel()
                await asyncio.wait({task}, timeout=END_SECONDS)

    async def _serve(self, ready: asyncio.Future[None]) -> None:
        """Holds the connection from its start to its end."""
        for name in LOGGERS:
            logger = logging.getLogger(name)
            logger.addHandler(logging.NullHandler())
            logger.propagate = False
        guard = MessageGuard(self._changed, self._on_asked)
        trouble = self._trouble = HttpTrouble()
        process: ServerProcess | None = None
        why, num_lists = "", 0
        try:
            if self.server.command:
                process = ServerProcess(await self._launch(self.server))
                transport = stdio_transport(process, guard)
            else:
                transport = http_transport(self.server, guard, trouble)
            async with AsyncExitStack() as stack:
                client = await stack.enter_async_context(self._client_of(transport))
                self.version = clean_text(client.server_info.version, 40) if client.server_info else ""
                await self._subscribe(client, stack)
                self._is_stale = True
                while (
                    self._is_stale and (num_lists := num_lists + 1) <= MAX_LISTS
                ):  # some change their tools right away
                    self._is_stale = False
                    listing = await read_listing(client, self.server)
                self.listing = replace(listing, left_out=tuple(dict.fromkeys((*guard.left_out, *listing.left_out))))
                if not ready.done():
                    self._client = client
                    ready.set_result(None)
                await self._until_over(process, guard)
        except Exception as error:  # the SDK, the transport and what servers make of them raise anything
            why = f"failed: {reason(error)}"
        finally:
            self._client = None
            self._end = _end_of(process, guard, trouble, why)
            if not ready.done():
                ready.set_exception(ServerFault(self._end or "ended at once"))
                ready.exception()  # whoever waited may have gone

    def _client_of(self, transport: Any) -> Client:
        from mcp import Client
        from mcp_types import Implementation

        async def list_roots(context: Any) -> Any:
            from mcp_types import ListRootsResult, Root

            return ListRootsResult(
                roots=[Root.model_validate({"uri": path.as_uri(), "name": path.name}) for path in self._roots]
            )

        return Client(
            transport,
            client_info=Implementation(name="a3b", version="1"),
            list_roots_callback=list_roots,
            cache=None,
        )

    async def _subscribe(self, client: Client, stack: AsyncExitStack) -> None:
        """Newer servers tell of changed tools only to those who ask."""
        tools = client.server_capabilities.tools
        if client.session.discover_result is None or tools is None or not tools.list_changed:
            return
        from mcp import MCPError

        with suppress(MCPError, RuntimeError, TimeoutError):
            async with asyncio.timeout(SUBSCRIBE_SECONDS):
                await stack.enter_async_context(client.listen(tools_list_changed=True))

    async def _until_over(self, process: ServerProcess | None, guard: MessageGuard) -> None:
        over = {asyncio.create_task(self._close.wait()), asyncio.create_task(guard.ended.wait())}
        if process is not None:
            over.add(asyncio.create_task(process.gone.wait()))
        try:
            await asyncio.wait(over, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in over:
                task.cancel()

    def _changed(self, what: str) -> None:
        self._is_stale = True
        if self.is_running and (self._look is None or self._look.done()) and self._num_looks < MAX_LOOKS:
            self._num_looks += 1  # a server may change for ever
            self._look = asyncio.create_task(self._look_again(what))

    async def looked(self) -> None:
        """Waits until changes that the server told of have been looked at."""
        if self._look is not None:
            await asyncio.wait({self._look})

    async def _look_again(self, what: str) -> None:
        """Tells how a server that said that something changed differs from before."""
        before = self.listing or ServerListing()
        with suppress(ToolError):
            self._on_change(what + difference(before, await self.offered()))

    def _on_asked(self, what: str) -> None:
        if what not in self._asked:
            self._asked.add(what)
            self._tell(f"MCP server {self.server.name!r} asked for {what}; it was declined.")


def reason(error: BaseException) -> str:
    """Why something failed, in one clean line."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, ServerFault):
        return str(error)
    if isinstance(error, ValueError) and (problems := getattr(error, "errors", None)):  # of pydantic
        first = problems()[0]
        return clean_text(f"{'.'.join(map(str, first['loc']))}: {first['msg']}", 300)
    lines = str(error).strip().splitlines()
    return clean_text(lines[0] if lines else type(error).__name__, 300)


def _end_of(process: ServerProcess | None, guard: MessageGuard, trouble: HttpTrouble, why: str) -> str:
    """Why a connection ended, as the rest of a sentence that begins with the server."""
    if guard.fault:
        return guard.fault
    if trouble.text:
        return trouble.text
    if process is None or process.outcome is None or not process.has_died:
        return why
    outcome = process.outcome
    how = f"exit status {outcome.status}" if outcome.ended_by == "exit" else f"out of {outcome.ended_by}"
    line = process.last_line or clean_text(guard.garbage)
    return f"ended ({how})" + (f", its last words were {line!r}," if line else "")
