"""A model hub on this machine: the parts of the protocol that a download uses, and the ways a real one fails.

`/api/models/REPO/revision/R` lists files with sizes and checksums; `/REPO/resolve/COMMIT/PATH` answers HEAD and GET,
small files itself, LFS files by a redirect to `/cdn/`, both with Range."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote, unquote

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPO = "Owner/Model-1B"
LFS_BYTES = 1000  # files from this size on are LFS


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        pass  # the client went away, as it may


class FakeHub:
    """`files` are served under REPO. Set the other fields to make it fail.

    `on_get(path, start)` is called before each GET of content and may return a (status, headers) to answer instead."""

    def __init__(self, files: dict[str, bytes]):
        self.files, self.commit = files, COMMIT
        self.bodies: dict[str, bytes] = {}  # served in place of what was announced
        self.sizes: dict[str, int] = {}  # announced in place of the true ones
        self.break_after: dict[str, list[int]] = {}  # per path: bytes sent until the connection closes, one per GET
        self.ignores_range = False
        self.on_get: Callable[[str, int], tuple[int, dict] | None] = lambda path, start: None
        self.on_list: Callable[[], tuple[int, dict] | None] = lambda: None
        self.listing: object = None  # JSON in place of the true one
        self.requests: list[tuple[str, str, int]] = []  # (method, path, first byte) of content
        self.tokens: list[str | None] = []
        self.lock = threading.Lock()
        self.server = Server(("127.0.0.1", 0), self._handler())
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def got(self, path: str) -> list[int]:
        """First bytes of the GETs of a file's content."""
        return [start for method, p, start in self.requests if method == "GET" and p == path]

    def info(self) -> object:
        siblings = []
        for path, content in self.files.items():
            size = self.sizes.get(path, len(content))
            entry = {
                "rfilename": path,
                "size": size,
                "blobId": hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest(),
            }
            if len(content) >= LFS_BYTES:
                entry["lfs"] = {"size": size, "sha256": hashlib.sha256(content).hexdigest(), "pointerSize": 130}
            siblings.append(entry)
        return {"id": REPO, "sha": self.commit, "private": False, "tags": [], "downloads": 0, "siblings": siblings}

    def _handler(hub):
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def log_message(self, *_):
                pass

            def do_HEAD(self):
                self.do_GET()

            def do_GET(self):
                path = unquote(self.path.split("?")[0])
                if path in (f"/api/models/{REPO}/revision/main", f"/api/models/{REPO}/revision/{hub.commit}"):
                    with hub.lock:
                        hub.tokens.append(self.headers.get("Authorization"))
                    status, headers = hub.on_list() or (200, {})
                    self.answer(
                        status, headers, json.dumps(hub.listing or hub.info()).encode() if status == 200 else b"{}"
                    )
                elif match := re.fullmatch(f"/api/models/({REPO})/revision/.*", path):
                    self.answer(404, {"X-Error-Code": "RevisionNotFound"}, b'{"error":"no such revision"}')
                elif match := re.fullmatch(f"/{REPO}/resolve/{hub.commit}/(.*)", path):
                    self.resolve(match[1])
                elif path.startswith("/cdn/"):
                    self.content(path.removeprefix("/cdn/"))
                else:
                    self.answer(401, {"X-Error-Message": "Invalid username or password."}, b"{}")

            def start(self) -> int:
                match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
                return int(match[1]) if match else 0

            def stop(self, size: int) -> int:
                match = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
                return min(int(match[2]) + 1, size) if match else size

            def resolve(self, path: str) -> None:
                with hub.lock:
                    hub.requests.append((self.command, path, self.start()))
                    other = hub.on_get(path, self.start())
                if other:
                    return self.answer(*other, b"{}")
                if path not in hub.files:
                    return self.answer(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": hub.commit}, b"{}")
                if len(hub.files[path]) < LFS_BYTES:
                    return self.content(path)
                sum = hashlib.sha256(hub.files[path]).hexdigest()
                self.answer(
                    302,
                    {
                        "Location": f"{hub.endpoint}/cdn/{quote(path)}",
                        "X-Repo-Commit": hub.commit,
                        "X-Linked-Size": str(len(hub.files[path])),
                        "X-Linked-ETag": f'"{sum}"',
                    },
                    b"",
                )

            def content(self, path: str) -> None:
                body, start = hub.bodies.get(path, hub.files[path]), self.start()
                stop = self.stop(len(body))
                if hub.ignores_range:
                    start, stop = 0, len(body)
                if start and start >= len(body):
                    return self.answer(416, {"Content-Range": f"bytes */{len(body)}"}, b"")
                headers = {"ETag": '"x"', "Accept-Ranges": "bytes"}
                is_part = "Range" in self.headers and not hub.ignores_range
                if is_part:
                    headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(body)}"
                with hub.lock:
                    limits = hub.break_after.get(path)
                    limit = limits.pop(0) if limits and self.command == "GET" else None
                self.answer(206 if is_part else 200, headers, body[start:stop], limit)

            def answer(self, status: int, headers: dict, body: bytes, limit: int | None = None) -> None:
                self.send_response(status)
                for key, value in headers.items():
                    self.send_header(key, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command == "GET":
                    try:
                        self.wfile.write(body if limit is None else body[:limit])
                    except (BrokenPipeError, ConnectionResetError):
                        self.close_connection = True
                if limit is not None:
                    self.close_connection = True

        return Handler
