"""JSON bodies of requests, read in bounded time and memory. Enter at `read_json`."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from starlette.requests import Request

from a3b.isolation.bounded_json import TooMuchJSON, loads
from a3b.isolation.deadlines import in_thread
from a3b.prompt.segments import well_formed
from a3b.server.errors import ApiError

T = TypeVar("T")
AT_ONCE = 256 << 10  # bytes; larger bodies are parsed in a thread
READ_S = 60  # seconds for parsing one
_PARSERS = ThreadPoolExecutor(8, "body")
HALF_PAIR = re.compile(r"\\u[dD][89a-fA-F]")  # an escaped surrogate; alone it is not valid text


async def read_json(request: Request, read: Callable[[Any], T] = lambda value: value) -> T:
    """What `read` makes of the parsed body, whose texts are all well-formed. Raises ApiError that says where it is not
    JSON.

    A large body is handled in a thread, so that other requests do not wait for it."""
    data = await request.body()
    if len(data) > AT_ONCE:
        return await in_thread(_PARSERS, "body", READ_S, lambda: read(parse_json(data)))
    return read(parse_json(data))


def parse_json(data: bytes) -> Any:
    """The JSON value of a body. Raises ApiError."""
    try:
        text = data.decode("utf-8")
        value = loads(text, parse_constant=_no_constant, parse_float=_finite)
    except UnicodeDecodeError as error:
        raise ApiError(400, f"body: not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno}"
        raise ApiError(400, f"body: not JSON at {where}: {error.msg}") from None
    except TooMuchJSON as error:
        raise ApiError(400, f"body: {error}") from None
    except ValueError as error:  # NaN, or a number of thousands of digits
        raise ApiError(400, f"body: not JSON: {error}") from None
    if HALF_PAIR.search(text):  # complete pairs are one character by now
        value = json.loads(well_formed(json.dumps(value, ensure_ascii=False)))
    return value


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    if math.isinf(value := float(text)):
        raise ValueError(f"{text[:40]} is too large a number")
    return value
