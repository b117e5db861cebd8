"""The bytes of server-sent events, and JSON responses. Enter at `sse` and `json_response`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse, Response

# key in the state of a streamed request: bytes that may be sent between any two of its events
FILLER = "filler"


def sse(data: Any, event: str | None = None) -> bytes:
    """One server-sent event. A string is sent as it is, anything else as JSON."""
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return ((f"event: {event}\n" if event else "") + f"data: {text}\n\n").encode()


def comment(text: str) -> bytes:
    """A comment line: clients skip it, and it keeps the connection alive."""
    return f": {text}\n\n".encode()


def json_response(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return JSONResponse(value, status, dict(headers or {}))
