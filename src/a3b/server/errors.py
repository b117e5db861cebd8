"""One exchange with a client, whatever its API: who asked, the JSON of the body, what an error looks like, what an answer reports.

Knows the forms of errors of OpenAI and Anthropic, by path. Enter at `read_json` and `refusal_of`.
"""

from __future__ import annotations

import json
import math
import re
import traceback
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from starlette.exceptions import HTTPException
from starlette.requests import Request

from a3b.engine.sampler import LogitsError
from a3b.errors import A3BError, CheckpointError, ContextError, OverloadedError, StoreError, TensorError
from a3b.interface.events import Event, Finished, Started, Usage
from a3b.isolation.deadlines import in_thread
from a3b.prompt.segments import well_formed
from a3b.server.bounded_json import TooMuchJSON, loads
from a3b.server.fields import Refusal, Service
from a3b.server.limits import RETRY_AFTER_S
from a3b.server.logs import logger
from a3b.server.response_store import ResponseStore
from a3b.server.thinking_signatures import Seals

T = TypeVar("T")
AT_ONCE = 256 << 10  # bytes of a body that is read while nothing else happens
READ_S = 60  # for a larger one
_PARSERS = ThreadPoolExecutor(8, "body")
MAX_WARNINGS = 100  # in an answer
HALF_PAIR = re.compile(r"\\u[dD][89a-fA-F]")  # how JSON spells half of a character beyond 16 bits; alone it is no text
OURS = (CheckpointError, StoreError, LogitsError)  # errors that no other request would avoid
OPENAI_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
ANTHROPIC_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 413: "request_too_large",
                   429: "rate_limit_error", 503: "overloaded_error", 529: "overloaded_error"}  # fmt: skip


@dataclass(frozen=True)
class Api:
    """What the routes of a wire format are made from."""

    service: Service
    seals: Seals
    stored: ResponseStore


def request_id(request: Request) -> str:
    return getattr(request.state, "request_id", "")


def namespace(request: Request) -> str:
    """Whose cache and thinking: nothing of one namespace is seen in another."""
    return getattr(request.state, "namespace", "")


def record(request: Request, usage: Usage) -> None:
    """Remember what a call cost in all, for its line in the log."""
    request.state.tokens = (usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens)


async def recorded(request: Request, stream: AsyncGenerator[Event, None]) -> AsyncGenerator[Event, None]:
    """The same events; what the answer cost is remembered."""
    async with aclosing(stream):
        async for event in stream:
            if isinstance(event, Started | Finished):
                record(request, event.usage)
            yield event


async def read_json(request: Request, read: Callable[[Any], T] = lambda value: value) -> T:
    """What `read` makes of the body, in which every text is well-formed. Raises Refusal saying where it is not JSON.

    A large body is handled in a thread, so that nobody waits for it."""
    data = await request.body()
    if len(data) > AT_ONCE:
        return await in_thread(_PARSERS, "body", READ_S, lambda: read(parse_json(data)))
    return read(parse_json(data))


def parse_json(data: bytes) -> Any:
    """What `read_json` gives for a body."""
    try:
        text = data.decode("utf-8")
        value = loads(text, parse_constant=_no_constant, parse_float=_finite)
    except UnicodeDecodeError as error:
        raise Refusal(400, f"body: not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno}"
        raise Refusal(400, f"body: not JSON at {where}: {error.msg}") from None
    except TooMuchJSON as error:
        raise Refusal(400, f"body: {error}") from None
    except ValueError as error:  # NaN, or a number of thousands of digits
        raise Refusal(400, f"body: not JSON: {error}") from None
    if HALF_PAIR.search(text):  # whole pairs are one character by now
        value = json.loads(well_formed(json.dumps(value, ensure_ascii=False)))
    return value


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number of JSON")


def _finite(text: str) -> float:
    if math.isinf(value := float(text)):
        raise ValueError(f"{text[:40]} is too large a number")
    return value


# -- errors


def refusal_of(error: Exception, id: str) -> Refusal:
    """What the client gets for any exception; an unexpected one is logged under the id of the request."""
    match error:
        case Refusal():
            return error
        case HTTPException():
            return Refusal(error.status_code, error.detail, headers=error.headers)
        case ContextError():
            return Refusal(400, str(error), "context_length_exceeded")
        case OverloadedError():
            return Refusal(429, str(error), "overloaded", headers={"retry-after": str(RETRY_AFTER_S)})
        case A3BError() if not isinstance(error, OURS):
            return Refusal(400, str(error))
    log_unexpected(error, id)
    if isinstance(error, LogitsError | TensorError):  # says what is damaged, and quotes nothing
        return Refusal(500, str(error), "model_error")
    return Refusal(500, f"internal error; the log of the server has more under {id}", "internal_error")


def log_unexpected(error: BaseException, id: str) -> None:
    """Where it happened and what it was. Its message is left out: it may quote a prompt."""
    lines = "".join(traceback.format_tb(error.__traceback__))
    logger.error("%s failed with %s\n%s", id, type(error).__qualname__, lines.rstrip())


def error_body(refusal: Refusal, path: str, id: str) -> dict[str, Any]:
    """The JSON of an error, in the form of the API that `path` belongs to."""
    status, message = refusal.status, str(refusal)
    if path.removeprefix("/v1").startswith("/messages"):
        kind = ANTHROPIC_TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")
        if refusal.code == "context_length_exceeded":
            message = f"prompt is too long: {message}"  # the words by which clients know that they must compact
        details = {"details": {"error_code": refusal.code}} if refusal.code.startswith("thread_") else {}  # by which SDKs choose what to do
        return {"type": "error", "error": {"type": kind, "message": message, **details}, "request_id": id}
    kind = OPENAI_TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    code = None if refusal.code == "invalid_request_error" else refusal.code
    return {"error": {"message": message, "type": kind, "param": refusal.field, "code": code}}


# -- what an answer reports beside itself


def report(finished: Finished, warnings: Sequence[str] = ()) -> dict[str, Any]:
    """What no other API has: where the prompt came from and who ended the thinking."""
    usage = finished.usage
    cache, thinking = usage.cache, usage.thinking
    return {
        "cache": asdict(cache),
        "thinking_in_context": {"sent": thinking.sent, "restored": thinking.restored, "dropped": thinking.dropped},
        "thinking_stop_reason": finished.thinking_stop or None,
        "prefill_s": usage.prefill_s,
        "decode_s": usage.decode_s,
        "warnings": [*warnings[:MAX_WARNINGS], *([f"and {more} more"] if (more := len(warnings) - MAX_WARNINGS) > 0 else [])],
    }


def warning_headers(warnings: Sequence[str], most: int = 5) -> dict[str, str]:
    """The header x-a3b-warnings: the first few, in ASCII on one line; none without warnings."""
    if not warnings:
        return {}
    told = [*warnings[:most], *([f"and {len(warnings) - most} more"] if len(warnings) > most else [])]
    line = re.sub(r"[^ -~]", "?", "; ".join(text[:200] for text in told))
    return {"x-a3b-warnings": line}
