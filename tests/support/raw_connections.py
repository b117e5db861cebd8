"""A real server, and ways to talk to it by bytes, for tests of its connections."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import time
from contextlib import ExitStack, contextmanager

from a3b.interface.events import Finished, TextDelta
from a3b.server.app import create_app
from a3b.server.connections import ConnectionManager
from a3b.server.limits import ServerLimits
from a3b.server.middleware import ServerSettings
from tests.support.scripted_service import STARTED, USAGE, ScriptedService
from tests.support.serving import served

ANSWER = [STARTED, TextDelta("hi"), Finished("stop", USAGE)]
CHAT = "/v1/chat/completions"
WAIT_S = 20  # far more than anything here takes
HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Server:
    """A real one, and ways to talk to it by bytes."""

    def __init__(self, port: int, connections: ConnectionManager, stack: ExitStack):
        self.port, self.connections, self._stack = port, connections, stack

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def open(self, data: bytes = b"", source: str = "127.0.0.1") -> socket.socket:
        client = self._stack.enter_context(
            socket.create_connection(("127.0.0.1", self.port), WAIT_S, source_address=(source, 0))
        )
        client.sendall(data)
        return client

    def told(self, data: bytes) -> bytes:
        """Everything received after `data` was sent and this side closed."""
        client = self.open(data)
        client.shutdown(socket.SHUT_WR)
        return rest(client)

    def wait_until(self, is_so) -> None:
        deadline = time.monotonic() + WAIT_S
        while not is_so():
            assert time.monotonic() < deadline
            time.sleep(0.005)


class Slow(ScriptedService):
    """Begins after a while."""

    async def stream(self, request):
        await asyncio.sleep(0.3)
        async for event in super().stream(request):
            yield event


@contextmanager
def running(service=None, settings=None, **limits):
    limits = ServerLimits(**limits)
    connections = ConnectionManager(limits)
    settings = ServerSettings(**{"limits": limits, **(settings or {})})
    app = create_app(service or ScriptedService(ANSWER), settings, connections=connections)
    with served(app, connections) as port, ExitStack() as stack:
        yield Server(port, connections, stack)


def rest(client: socket.socket) -> bytes:
    """Everything received until the server closes; a reset fails the test."""
    data = b""
    while piece := client.recv(65536):
        data += piece
    return data


def one(client: socket.socket) -> bytes:
    """One answer with a length."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += client.recv(65536)
    length = int(re.search(rb"content-length: (\d+)", data)[1])
    while len(data.partition(b"\r\n\r\n")[2]) < length:
        data += client.recv(65536)
    return data


def post(body: bytes = b"", more: str = "", length: int | None = None, path: str = CHAT) -> bytes:
    length = len(body) if length is None else length
    return f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n{more}\r\n".encode() + body


def chat(**more) -> bytes:
    return json.dumps({"messages": [{"role": "user", "content": "hello"}], **more}).encode()


def lines(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "a3b.server"]
