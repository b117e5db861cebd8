"""One exchange with a client, whatever its API: who asked, the JSON of the body, what an error looks like, what an
answer reports.

Knows the forms of errors of OpenAI and Anthropic, by path. Enter at `read_json` and `to_api_error`.
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from typing import Any

from starlette.exceptions import HTTPException

from a3b.errors import A3BError, CheckpointError, ContextError, LogitsError, OverloadedError, StoreError, TensorError
from a3b.server.limits import RETRY_AFTER_S
from a3b.server.logs import logger

OURS = (CheckpointError, StoreError, LogitsError)  # errors that no other request would avoid
OPENAI_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    529: "overloaded_error",
}


# -- errors


class ApiError(A3BError):
    """A request that gets an error of HTTP: `status`, and a `code` for programs; `field` is the one at fault."""

    def __init__(
        self,
        status: int,
        message: str,
        code: str = "invalid_request_error",
        field: str | None = None,
        headers: Mapping[str, str] | None = None,
    ):
        super().__init__(message)
        self.status, self.code, self.field, self.headers = status, code, field, dict(headers or {})


def to_api_error(error: Exception, id: str) -> ApiError:
    """What the client gets for any exception; an unexpected one is logged under the id of the request."""
    match error:
        case ApiError():
            return error
        case HTTPException():
            return ApiError(error.status_code, error.detail, headers=error.headers)
        case ContextError():
            return ApiError(400, str(error), "context_length_exceeded")
        case OverloadedError():
            return ApiError(429, str(error), "overloaded", headers={"retry-after": str(RETRY_AFTER_S)})
        case A3BError() if not isinstance(error, OURS):
            return ApiError(400, str(error))
    log_unexpected(error, id)
    if isinstance(error, LogitsError | TensorError):  # says what is damaged, and quotes nothing
        return ApiError(500, str(error), "model_error")
    return ApiError(500, f"internal error; the log of the server has more under {id}", "internal_error")


def log_unexpected(error: BaseException, id: str) -> None:
    """Where it happened and what it was. Its message is left out: it may quote a prompt."""
    lines = "".join(traceback.format_tb(error.__traceback__))
    logger.error("%s failed with %s\n%s", id, type(error).__qualname__, lines.rstrip())


def error_body(error: ApiError, path: str, id: str) -> dict[str, Any]:
    """The JSON of an error, in the form of the API that `path` belongs to."""
    status, message = error.status, str(error)
    if path.removeprefix("/v1").startswith("/messages"):
        kind = ANTHROPIC_TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")
        if error.code == "context_length_exceeded":
            message = f"prompt is too long: {message}"  # the words by which clients know that they must compact
        # by which SDKs choose what to do
        details = {"details": {"error_code": error.code}} if error.code.startswith("thread_") else {}
        return {"type": "error", "error": {"type": kind, "message": message, **details}, "request_id": id}
    kind = OPENAI_TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    code = None if error.code == "invalid_request_error" else error.code
    return {"error": {"message": message, "type": kind, "param": error.field, "code": code}}
