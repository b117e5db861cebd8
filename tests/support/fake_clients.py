"""Programs in place of real clients, which note how they were started, and a server in place of a3b."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

PROGRAM = """\
#!{python}
import json, os, sys
record = {{"argv": sys.argv[1:], "cwd": os.getcwd(), "env": dict(os.environ), "typed": None}}
with open({noted!r} + ".new", "w") as file:
    json.dump(record, file)
os.replace(file.name, {noted!r})
{then}
"""
ASKING = """\
import urllib.request
url, body = os.environ["ANTHROPIC_BASE_URL"], {"model": "m", "max_tokens": 1}
body["tools"] = [{"name": "look", "input_schema": {}}]
body["system"] = "Be brief.\\nYou work in " + os.getcwd() + " in zone " + os.environ.get("TZ", "of the user")
body["messages"] = [{"role": "user", "content": sys.argv[-1]}]
key = {"x-api-key": os.environ["ANTHROPIC_AUTH_TOKEN"]}
request = urllib.request.Request(url + "/v1/messages", json.dumps(body).encode(), key)
print(urllib.request.urlopen(request).read())
"""


class FakeClient:
    """A program of some name. `record` is how it was started last."""

    def __init__(self, directory: Path, name: str, then: str = ""):
        """then: Python that it runs at the end."""
        directory.mkdir(exist_ok=True)
        self._noted = directory / f"{name}.json"
        self.path = directory / name
        self.path.write_text(PROGRAM.format(python=sys.executable, noted=str(self._noted), then=then))
        self.path.chmod(0o755)

    @property
    def was_started(self) -> bool:
        return self._noted.exists()

    @property
    def record(self) -> dict[str, Any]:
        return json.loads(self._noted.read_text())

    def forget(self) -> None:
        self._noted.unlink(missing_ok=True)


MODELS = {"object": "list", "data": [{"id": "m", "owned_by": "a3b", "max_model_len": 131_072}]}
METRICS = "a3b_prefill_tokens_total 1000.0\na3b_prefill_seconds_total 10.0\n"
WARM = {"object": "warm", "prompt_tokens": [9000, 9000], "shared_tokens": 8400, "cached_tokens": 0, "on_disk": True}


class FakeServer:
    """Answers as a3b would. answers: by path, a JSON value, bytes, or (status, value, headers); changed at will."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {
            "/v1/models": MODELS,
            "/metrics": METRICS.encode(),
            "/v1/messages": {},
            "/v1/warm": {**WARM, "seconds": 1.5},
        }
        self.asked: list[tuple[str, dict[str, str], Any]] = []
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def fake_server(change: Callable[[FakeServer], None] = lambda server: None) -> Iterator[FakeServer]:
    server = FakeServer()
    change(server)

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            length = int(self.headers.get("content-length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            server.asked.append((self.path, {k.lower(): v for k, v in self.headers.items()}, body))
            answer = server.answers.get(self.path, (404, {}, {}))
            status, value, headers = answer if isinstance(answer, tuple) else (200, answer, {})
            data = value if isinstance(value, bytes) else json.dumps(value).encode()
            self.send_response(status)
            for name, text in {"content-length": str(len(data)), **headers}.items():
                self.send_header(name, text)
            self.end_headers()
            self.wfile.write(data)

        do_POST = do_GET

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.port = http.server_address[1]
    thread = threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
