"""The only way from the sandbox into the network: an HTTP proxy in the agent's process that knows which hosts may be
reached, and asks the user about others.

Its listening socket was made inside of the sandbox's network and handed out by a Unix socket, so nothing else inside
leads out. Names are resolved here, and the connection goes to the address that was checked. Enter at `SandboxProxy`."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress

from a3b.agent.sandbox.addresses import HostRule, is_public, normal_name

MAX_CONNECTIONS = 128
MAX_HEAD = 32 << 10
HEAD_SECONDS = 30
CONNECT_SECONDS = 15
IDLE_SECONDS = 600
PIECE = 1 << 16
DROPPED = re.compile(rb"(?:proxy-[a-z-]+|connection|keep-alive|host)\s*:", re.IGNORECASE)

Ask = Callable[[str, int], Awaitable[bool]]  # whether the user lets a host be reached that no rule names


class ProxyRefusal(Exception):
    """A request that is not served. status: of HTTP; the message goes to the command that asked."""

    def __init__(self, status: str, message: str):
        super().__init__(message)
        self.status = status


class SandboxProxy:
    """Serves one sandbox. rules: hosts that may be reached; ask: about others."""

    def __init__(self, rules: tuple[HostRule, ...], ask: Ask):
        self.rules, self._ask = rules, ask
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, listener: socket.socket) -> asyncio.Server:
        """Accepts on a listening socket."""
        return await asyncio.start_server(self._accept, sock=listener, limit=MAX_HEAD)

    async def forward(self, listener: socket.socket, port: int) -> asyncio.Server:
        """Carries connections to a port on this machine's loopback, which the user named."""

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with suppress(OSError, TimeoutError):
                async with asyncio.timeout(CONNECT_SECONDS):
                    upstream = await asyncio.open_connection("127.0.0.1", port)
                await _relay((reader, writer), upstream)
            writer.close()

        return await asyncio.start_server(accept, sock=listener, limit=PIECE)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            if len(self._tasks) > MAX_CONNECTIONS:
                raise ProxyRefusal("503 Service Unavailable", f"more than {MAX_CONNECTIONS} connections at once")
            await self._answer(reader, writer)
        except ProxyRefusal as refusal:
            body = f"a3b sandbox: {refusal}\n".encode("utf-8", "backslashreplace")
            head = f"HTTP/1.1 {refusal.status}\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n"
            writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            with suppress(OSError):
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError, TimeoutError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(HEAD_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            raise ProxyRefusal(
                "431 Request Header Fields Too Large", f"more than {MAX_HEAD:,} bytes of headers"
            ) from None
        line, *fields = head[:-4].split(b"\r\n")
        method, host, port, path = _target(line)
        upstream = await self._connect(host, port)
        if method == "CONNECT":
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            shown = f"[{host}]" if ":" in host else host
            kept = [field for field in fields if not DROPPED.match(field) and field[:1] not in b" \t"]
            lines = [
                f"{method} {path} HTTP/1.1".encode("latin-1"),
                f"Host: {shown}:{port}".encode() if port != 80 else f"Host: {shown}".encode(),
                *kept,
                b"Connection: close",
            ]
            upstream[1].write(b"\r\n".join(lines) + b"\r\n\r\n")
        await _relay((reader, writer), upstream)

    async def _connect(self, host: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection to a host that may be reached. Raises ProxyRefusal."""
        rules = [rule for rule in self.rules if rule.allows(host, port)]
        if not rules and not await self._ask(host, port):
            option = host if port in (80, 443) else f"{host}:{port}"
            raise ProxyRefusal(
                "403 Forbidden", f"{host}:{port} is not allowed; the user may allow it with --allow-host {option}"
            )
        addresses = await _resolve(host, port)
        if not any(rule.port == port for rule in rules):
            public = [address for address in addresses if is_public(address)]
            if addresses and not public:
                raise ProxyRefusal(
                    "403 Forbidden",
                    f"{host} is at {addresses[0]}, which is no public address; the user may allow it with "
                    f"--allow-host {host}:{port}",
                )
            addresses = public
        problem = "has no address"
        for address in addresses[:4]:
            try:
                async with asyncio.timeout(CONNECT_SECONDS):
                    return await asyncio.open_connection(address, port, limit=PIECE)
            except (OSError, TimeoutError) as error:
                problem = f"cannot be reached: {error or 'no answer'}"
        raise ProxyRefusal("502 Bad Gateway", f"{host}:{port} {problem}")


def _target(line: bytes) -> tuple[str, str, int, str]:
    """Method, host, port and path of a request line. Raises ProxyRefusal."""
    words = line.decode("latin-1").split(" ")
    if len(words) == 3 and words[2].startswith("HTTP/1.") and re.fullmatch(r"[A-Z]{1,20}", words[0]):
        pattern = r"()([^/?#@]+)()" if words[0] == "CONNECT" else r"(http://)([^/?#@]+)([/?][^#]*)?"
        if found := re.fullmatch(pattern, words[1], re.IGNORECASE):
            name, port = re.fullmatch(r"(.*?)(?::(\d{1,5}))?", found[2]).groups()  # type: ignore[union-attr]  # matches all
            host = normal_name(name.removeprefix("[").removesuffix("]"))
            number = int(port or (0 if words[0] == "CONNECT" else 80))
            if host and 0 < number < 1 << 16:
                path = found[3] or "/"
                return words[0], host, number, path if path.startswith("/") else "/" + path
    raise ProxyRefusal("400 Bad Request", f"this is a proxy for http and https, and got {line[:80]!r}")


async def _resolve(host: str, port: int) -> list[str]:
    """Addresses of a host. Raises ProxyRefusal."""
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError, TimeoutError) as error:
        raise ProxyRefusal("502 Bad Gateway", f"{host} cannot be resolved: {error or 'no answer'}") from None
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _relay(inner: Stream, outer: Stream) -> None:
    """Carries bytes both ways until both sides have ended, or nothing moves any more."""
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(_carry(inner[0], outer[1]))
            group.create_task(_carry(outer[0], inner[1]))
    except* (OSError, TimeoutError):
        pass
    finally:
        outer[1].close()


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        async with asyncio.timeout(IDLE_SECONDS):
            data = await reader.read(PIECE)
            if not data:
                break
            writer.write(data)
            await writer.drain()
    with suppress(OSError, RuntimeError):
        writer.write_eof()
