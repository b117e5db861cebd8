"""The types and codes of errors, each written once: what the two APIs call a status, and the codes that programs read.

Knows no exception. Enter at `types_of` and `CODES`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class ErrorTypes(NamedTuple):
    """What each API calls errors of a status."""

    openai: str
    anthropic: str


TYPES: Mapping[int, ErrorTypes] = {
    400: ErrorTypes("invalid_request_error", "invalid_request_error"),
    401: ErrorTypes("authentication_error", "authentication_error"),
    403: ErrorTypes("permission_error", "permission_error"),
    404: ErrorTypes("invalid_request_error", "not_found_error"),
    413: ErrorTypes("invalid_request_error", "request_too_large"),
    429: ErrorTypes("rate_limit_error", "rate_limit_error"),
    500: ErrorTypes("server_error", "api_error"),
    503: ErrorTypes("server_error", "overloaded_error"),
}
DEFAULT_CODE = "invalid_request_error"  # says no more than the type
CODES: Mapping[str, tuple[int, ...]] = {  # code: the statuses that it comes with
    DEFAULT_CODE: (400,),
    "context_length_exceeded": (400,),
    "unsupported_parameter": (400,),
    "unsupported_content": (400,),
    "item_not_found": (400,),
    "previous_response_not_found": (400,),
    "thread_fingerprint_mismatch": (400,),
    "invalid_api_key": (401,),
    "host_not_allowed": (403,),
    "origin_not_allowed": (403,),
    "model_not_found": (404,),
    "not_found": (404,),
    "not_supported": (404,),
    "response_not_found": (404,),
    "thread_not_found": (404,),
    "method_not_allowed": (405,),
    "request_timeout": (408,),
    "request_too_large": (413,),
    "internal_error": (500,),
    "model_error": (500,),
    "no_summary": (503,),
    "overloaded": (429, 503),  # 429: the queue is full; 503: the server has no room, or gave up
}


def types_of(status: int) -> ErrorTypes:
    """The types of a status; those of 400 or 500 where it has none of its own."""
    return TYPES.get(status) or TYPES[500 if status >= 500 else 400]


def openai_error(status: int, message: str, code: str | None, field: str | None = None) -> dict[str, Any]:
    """The JSON of an error in OpenAI's form."""
    return {"error": {"message": message, "type": types_of(status).openai, "param": field, "code": code}}


def anthropic_error(
    status: int, message: str, request_id: str, details: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The JSON of an error in Anthropic's form. details: what its SDKs read beyond the type."""
    error: dict[str, Any] = {"type": types_of(status).anthropic, "message": message}
    if details is not None:
        error["details"] = details
    return {"type": "error", "error": error, "request_id": request_id}
