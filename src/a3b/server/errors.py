"""From an exception to the error that a client gets. Enter at `ApiError`, `to_api_error` and `error_body`.

Knows which API a path belongs to; `error_types` has the forms of both."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from typing import Any

from starlette.exceptions import HTTPException

from a3b.errors import A3BError, CheckpointError, ContextError, LogitsError, OverloadedError, StoreError, TensorError
from a3b.server.error_types import DEFAULT_CODE, anthropic_error, openai_error
from a3b.server.limits import RETRY_AFTER_S
from a3b.server.logs import logger

SERVER_FAULTS = (CheckpointError, StoreError, LogitsError)  # no change to the request would avoid them


class ApiError(A3BError):
    """A request that gets an HTTP error. code: one of `error_types.CODES`. field: the path of the field at fault."""

    def __init__(
        self,
        status: int,
        message: str,
        code: str = DEFAULT_CODE,
        field: str | None = None,
        headers: Mapping[str, str] | None = None,
    ):
        super().__init__(message)
        self.status, self.code, self.field, self.headers = status, code, field, dict(headers or {})


def to_api_error(error: Exception, request_id: str) -> ApiError:
    """What the client gets for any exception; an unexpected one is logged with the id of the request."""
    match error:
        case ApiError():
            return error
        case HTTPException():
            return ApiError(error.status_code, error.detail, headers=error.headers)
        case ContextError():
            return ApiError(400, str(error), "context_length_exceeded")
        case OverloadedError():
            return ApiError(429, str(error), "overloaded", headers={"retry-after": str(RETRY_AFTER_S)})
        case A3BError() if not isinstance(error, SERVER_FAULTS):
            return ApiError(400, str(error))
    log_unexpected(error, request_id)
    if isinstance(error, LogitsError | TensorError):  # its message names what is damaged and quotes nothing
        return ApiError(500, str(error), "model_error")
    return ApiError(500, f"internal error; the server's log has details under {request_id}", "internal_error")


def log_unexpected(error: BaseException, request_id: str) -> None:
    """Log the type of an error and where it happened. Its message is left out: it may quote a prompt."""
    lines = "".join(traceback.format_tb(error.__traceback__))
    logger.error("%s failed with %s\n%s", request_id, type(error).__qualname__, lines.rstrip())


def error_body(error: ApiError, path: str, request_id: str) -> dict[str, Any]:
    """The JSON of an error, in the form of the API that `path` belongs to."""
    message = str(error)
    if not path.removeprefix("/v1").startswith("/messages"):
        return openai_error(error.status, message, None if error.code == DEFAULT_CODE else error.code, error.field)
    if error.code == "context_length_exceeded":
        message = f"prompt is too long: {message}"  # clients recognise these words and compact the history
    # Anthropic's SDKs read the code to decide how to continue a thread
    details = {"error_code": error.code} if error.code.startswith("thread_") else None
    return anthropic_error(error.status, message, request_id, details)
