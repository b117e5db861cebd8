"""Server-sent events of a server that may send anything: bounded, whatever it sends. Enter at `json_events`."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

from a3b.errors import A3BError

MAX_EVENT = 8 << 20  # bytes of one event
MAX_ANSWER = 64 << 20  # of an answer with its events
DONE = "[DONE]"


class BadStreamError(A3BError):
    """What came is no stream of a chat completion."""


class Heartbeat:
    """A comment line: the server lives, and has nothing to say."""


class StreamEnd:
    """The server says that this was all."""


HEARTBEAT, END = Heartbeat(), StreamEnd()


async def lines(pieces: AsyncIterator[bytes]) -> AsyncIterator[str]:
    """The lines of a stream of bytes, without their ends. Raises BadStreamError for one that is too long."""
    rest, total = b"", 0
    async for piece in pieces:
        total += len(piece)
        if total > MAX_ANSWER:
            raise BadStreamError(f"the answer has more than {MAX_ANSWER >> 20} MiB; expected less")
        *whole, rest = (rest + piece).split(b"\n")
        if len(rest) > MAX_EVENT:
            raise BadStreamError(f"a line of the answer has more than {MAX_EVENT >> 20} MiB; expected less")
        for line in whole:
            yield line.rstrip(b"\r").decode(errors="replace")
    if rest:
        yield rest.rstrip(b"\r").decode(errors="replace")


async def json_events(pieces: AsyncIterator[bytes]) -> AsyncIterator[dict[str, Any] | Heartbeat | StreamEnd]:
    """The JSON objects of a stream up to [DONE], which is END, and HEARTBEAT for each comment.

    Raises BadStreamError for data that is no JSON object."""
    data: list[str] = []
    size = 0
    async for line in lines(pieces):
        if line.startswith(":"):
            yield HEARTBEAT
        elif line.startswith("data:"):
            data.append(line[5:].removeprefix(" "))
            size += len(line)
            if size > MAX_EVENT:
                raise BadStreamError(f"an event has more than {MAX_EVENT >> 20} MiB; expected less")
        elif not line and data:
            text, data, size = "\n".join(data).strip(), [], 0
            if text == DONE:
                yield END
                return
            if text:
                yield parsed(text)
    if text := "\n".join(data).strip():  # the blank line at the end is missing
        yield END if text == DONE else parsed(text)


def parsed(text: str) -> dict[str, Any]:
    """A JSON object. Raises BadStreamError."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise BadStreamError(f"an event is not JSON: {text[:100]!r}") from None
    if not isinstance(found, dict):
        raise BadStreamError(f"an event is {type(found).__name__}; expected an object: {text[:100]!r}")
    return found
