"""An endpoint on loopback that answers a client at once and keeps what it was asked: no model, no tokens computed.

It speaks the little of each API that a client needs to send its first request and end. What is kept is bounded. Enter
at `Capture`."""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

MAX_BODY = 32 << 20  # bytes of one request
MAX_REQUESTS = 32  # kept; later ones are answered and forgotten
IDLE_S = 60.0  # without a byte from a client
TEXT = "Done."
ANSWERED = ("/v1/messages", "/v1/chat/completions", "/v1/responses")


@dataclass(frozen=True)
class Captured:
    """A request for an answer: path with /v1, body."""

    path: str
    body: dict[str, Any]


class Capture:
    """A server in a thread, as a context. `requests` grows while clients ask."""

    def __init__(self, model: str, context: int):
        self.model, self.context = model, context
        self.key = secrets.token_urlsafe(16)  # without it nobody on this machine can add to what is kept
        self.requests: list[Captured] = []
        self.refused: list[str] = []  # paths that were not understood
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"capture": self}))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def keep(self, path: str, body: dict[str, Any]) -> None:
        with self._lock:
            if len(self.requests) < MAX_REQUESTS:
                self.requests.append(Captured(path, body))

    def __enter__(self) -> Capture:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    capture: Capture
    protocol_version = "HTTP/1.1"
    timeout = IDLE_S

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        path = _path(self.path)
        model = {"id": self.capture.model, "object": "model", "max_model_len": self.capture.context}
        if path == "/v1/models":
            self._send({"object": "list", "data": [model]})
        elif path.startswith("/v1/models/"):
            self._send(model)
        elif path in ("/v1/health", "/v1/"):
            self._send({"status": "ok"})
        else:
            self._send({"error": {"type": "not_found", "message": "not captured"}}, 404)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        path, body = _path(self.path), self._body()
        if body is None:
            return
        given = self.headers.get("x-api-key") or self.headers.get("authorization", "").removeprefix("Bearer ")
        if not secrets.compare_digest(given.encode(errors="replace"), self.capture.key.encode()):
            self._send({"error": {"type": "authentication_error", "message": "another key"}}, 401)
            return
        if path == "/v1/messages/count_tokens":
            self._send({"input_tokens": len(json.dumps(body)) // 4})
        elif path in ANSWERED:
            self.capture.keep(path, body)
            events = list(_ANSWERS[path](self.capture.model))
            if body.get("stream"):
                self._stream(events, named=path != "/v1/chat/completions")
            else:
                self._send(_WHOLE[path](self.capture.model))
        else:
            self._send({"error": {"type": "not_found", "message": "not captured"}}, 404)

    def _body(self) -> dict[str, Any] | None:
        length = self.headers.get("content-length", "")
        if not (length.isascii() and length.isdigit() and len(length) < 12 and int(length) <= MAX_BODY):
            self.close_connection = True
            self._send({"error": {"type": "invalid_request_error", "message": "content-length"}}, 413)
            return None
        try:
            body = json.loads(self.rfile.read(int(length)))
        except (ValueError, RecursionError):
            body = None
        if not isinstance(body, dict):
            self._send({"error": {"type": "invalid_request_error", "message": "not a JSON object"}}, 400)
            return None
        return body

    def _send(self, value: Any, status: int = 200) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _stream(self, events: list[dict[str, Any]], named: bool) -> None:
        lines = (
            [f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events]
            if named
            else [*(f"data: {json.dumps(event)}\n\n" for event in events), "data: [DONE]\n\n"]
        )
        data = "".join(lines).encode()
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _path(path: str) -> str:
    path = urlsplit(path).path
    return path if path.startswith("/v1/") else f"/v1{path}"


def _message(model: str, content: list[dict[str, Any]], reason: str | None) -> dict[str, Any]:
    return {
        "id": "msg_capture",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": content,
        "stop_reason": reason,
        "stop_sequence": None,
        "usage": {"input_tokens": 1, "output_tokens": 1},
    }


def _messages(model: str) -> Iterator[dict[str, Any]]:
    yield {"type": "message_start", "message": _message(model, [], None)}
    yield {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    yield {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": TEXT}}
    yield {"type": "content_block_stop", "index": 0}
    delta = {"stop_reason": "end_turn", "stop_sequence": None}
    yield {"type": "message_delta", "delta": delta, "usage": {"output_tokens": 1}}
    yield {"type": "message_stop"}


def _chat_chunk(model: str, kind: str, choice: dict[str, Any]) -> dict[str, Any]:
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    choices = [{"index": 0, "finish_reason": "stop", **choice}]
    return {"id": "chatcmpl-capture", "object": kind, "created": 0, "model": model, "choices": choices, "usage": usage}


def _chat(model: str) -> Iterator[dict[str, Any]]:
    delta = {"role": "assistant", "content": TEXT}
    yield _chat_chunk(model, "chat.completion.chunk", {"delta": delta})


def _response(model: str, output: list[dict[str, Any]], status: str) -> dict[str, Any]:
    usage = {
        "input_tokens": 1,
        "output_tokens": 1,
        "total_tokens": 2,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens_details": {"reasoning_tokens": 0},
    }
    return {
        "id": "resp_capture",
        "object": "response",
        "created_at": 0,
        "model": model,
        "status": status,
        "output": output,
        "usage": usage,
    }


_ITEM = {
    "id": "msg_capture",
    "type": "message",
    "role": "assistant",
    "status": "completed",
    "content": [{"type": "output_text", "text": TEXT, "annotations": []}],
}


def _responses(model: str) -> Iterator[dict[str, Any]]:
    yield {"type": "response.created", "sequence_number": 0, "response": _response(model, [], "in_progress")}
    yield {"type": "response.output_item.done", "sequence_number": 1, "output_index": 0, "item": _ITEM}
    yield {"type": "response.completed", "sequence_number": 2, "response": _response(model, [_ITEM], "completed")}


_ANSWERS = dict(zip(ANSWERED, (_messages, _chat, _responses), strict=True))
_WHOLE = dict(
    zip(
        ANSWERED,
        (
            lambda model: _message(model, [{"type": "text", "text": TEXT}], "end_turn"),
            lambda model: _chat_chunk(model, "chat.completion", {"message": {"role": "assistant", "content": TEXT}}),
            lambda model: _response(model, [_ITEM], "completed"),
        ),
        strict=True,
    )
)
