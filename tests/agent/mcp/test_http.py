"""Servers over streamable HTTP: an honest one of the SDK, and ones that refuse, lead elsewhere, flood and hang."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from a3b.agent.mcp.config import McpServerConfig
from a3b.agent.mcp.guard import MAX_MESSAGE, ServerFault
from a3b.agent.tools.tool import ToolError
from tests.support.hostile_mcp import answer
from tests.support.mcp_servers import Heard, connected

pytestmark = pytest.mark.slow  # starts servers


class Hostile(BaseHTTPRequestHandler):
    """Answers as `server.mode` says, honestly where that says nothing. server.seen: (path, headers) of requests."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.server.seen.append((self.path, dict(self.headers)))
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        message, mode = json.loads(body), self.server.mode
        is_call = message.get("method") == "tools/call"
        if "id" not in message:
            self.reply(202, b"")
        elif mode in REFUSALS and (mode != "error-in-call" or is_call):
            self.reply(REFUSALS[mode], b"no")
        elif mode == "elsewhere":
            self.reply(307, b"", location=self.server.elsewhere)
        elif mode == "moved" and self.path == "/mcp":
            self.reply(307, b"", location="/mcp/")
        elif mode == "wrong-type":
            self.reply(200, b"<html>", kind="text/html")
        elif mode == "no-json":
            self.reply(200, b"{nonsense")
        elif mode == "hang-call" and is_call:
            self.server.free.wait(60)
        elif mode == "huge" and is_call:
            self.flood()
        elif mode == "bomb" and is_call:
            self.reply(200, gzip.compress(bytes(1 << 20)), **{"content-encoding": "gzip"})
        elif mode == "events" and is_call:
            self.events()
        elif message["method"] not in ("initialize", "tools/list", "tools/call"):
            self.reply(404, b"")
        else:
            result = answer("", message, iter(()))
            self.reply(200, json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}).encode())

    def do_GET(self):
        self.reply(405, b"")

    def reply(self, status, body, kind="application/json", **headers):
        self.send_response(status)
        for name, value in {"content-type": kind, "content-length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def flood(self):
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(1 << 30))
        self.end_headers()
        self.pour(b'"' + b"x" * (1 << 16))

    def events(self):
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        note = {"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": 1}}
        self.pour(f"event: message\ndata: {json.dumps(note)}\n\n".encode() * 100)

    def pour(self, piece):
        self.close_connection = True
        try:
            while True:
                self.wfile.write(piece)
        except OSError:
            pass

    def log_message(self, *args):
        pass


REFUSALS = {"401": 401, "403": 403, "500": 500, "error-in-call": 500}


@contextmanager
def hostile_http(mode):
    with ThreadingHTTPServer(("127.0.0.1", 0), Hostile) as server:
        server.mode, server.seen, server.free, server.elsewhere = mode, [], threading.Event(), ""
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.free.set()
            server.shutdown()
            thread.join()


def config(server, **fields):
    url = f"http://127.0.0.1:{server.server_port}/mcp"
    return McpServerConfig("net", Path("mcp.json"), "user", "d", target=url, url=url, is_sandboxed=False, **fields)


async def called(server_config, workspace, heard=None):
    from a3b.agent.mcp.tools import call_tool

    class One:
        absent: dict[str, str] = {}

        async def permit(self, *given):
            pass

    async with connected(server_config, workspace, heard) as connection:
        one = One()
        one.connections = {"net": connection}
        return (await call_tool(one, "net", "echo", {"text": "hi"})).text


def fault(server_config, workspace):
    with pytest.raises(ServerFault) as caught:
        asyncio.run(called(server_config, workspace))
    return str(caught.value)


def test_a_server_of_the_sdk_answers(tmp_path):
    import uvicorn

    from tests.support.own_mcp import server as own

    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/mcp"
    runner = uvicorn.Server(uvicorn.Config(own.streamable_http_app(), log_level="error"))
    thread = threading.Thread(target=runner.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        server = McpServerConfig("net", Path("m"), "user", "d", target=url, url=url, is_sandboxed=False)

        async def run():
            async with connected(server, tmp_path) as connection:
                return await connection.ask("call add", lambda client: client.call_tool("add", {"a": 2, "b": 3}))

        assert asyncio.run(run()).content[0].text == "5"
    finally:
        runner.should_exit = True
        thread.join()
        listener.close()


def test_an_older_server_gets_the_headers_of_its_entry(tmp_path):
    with hostile_http("") as server:
        assert asyncio.run(called(config(server, headers={"Authorization": "Bearer k"}), tmp_path)) == "hi"
        assert {headers["Authorization"] for _, headers in server.seen} == {"Bearer k"}


@pytest.mark.parametrize("mode", ["401", "403"])
def test_a_refused_key_is_told_with_the_headers_that_were_sent(tmp_path, mode):
    with hostile_http(mode) as server:
        text = fault(config(server, headers={"Authorization": "Bearer s3cret"}), tmp_path)
    assert f"refuses access (HTTP {mode}); headers sent from its entry: Authorization" in text and "s3cret" not in text


def test_a_redirect_to_another_host_is_not_followed(tmp_path):
    with hostile_http("") as other, hostile_http("elsewhere") as server:
        server.elsewhere = f"http://127.0.0.2:{other.server_port}/mcp"
        text = fault(config(server, headers={"Authorization": "Bearer k"}), tmp_path)
        assert other.seen == []
    assert f"leads elsewhere (HTTP 307 to {server.elsewhere}), which is not followed" in text


def test_a_redirect_within_the_server_is_followed(tmp_path):
    with hostile_http("moved") as server:
        assert asyncio.run(called(config(server), tmp_path)) == "hi"
        assert "/mcp/" in {path for path, _ in server.seen}


@pytest.mark.parametrize(
    ("mode", "words"),
    [("500", "answers HTTP 500"), ("wrong-type", "Unexpected content type: text/html"), ("no-json", "JSON")],
)
def test_a_server_that_speaks_something_else_is_given_up(tmp_path, mode, words):
    with hostile_http(mode) as server:
        assert words in fault(config(server), tmp_path)


def test_a_server_that_is_not_there_is_told(tmp_path):
    with hostile_http("") as server:
        gone = config(server)
    assert "failed: " in fault(gone, tmp_path)


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("hang-call", "did not answer within 1 seconds"),
        ("huge", f"sent a message of more than {MAX_MESSAGE >> 20} MiB"),
        ("bomb", "compresses its answers"),
        ("events", "sent more than 20,000 messages that nobody asked for"),
        ("error-in-call", "HTTP 500"),
    ],
)
def test_an_answer_that_cannot_be_used_is_an_error_of_the_call(tmp_path, mode, words):
    with hostile_http(mode) as server, pytest.raises(ToolError) as caught:
        asyncio.run(called(config(server, call_seconds=1.0 if mode == "hang-call" else 30.0), tmp_path, Heard()))
    assert words in str(caught.value)
