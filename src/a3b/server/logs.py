"""The server's log: the form of its lines, and the progress of long prompts. Enter at `configure_logging` and
`logging_progress`."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import datetime
from typing import Any

from a3b.interface.events import Event, Reading, Started
from a3b.interface.request import Request
from a3b.printable import printable
from a3b.server.service_protocol import ServiceProtocol

logger = logging.getLogger("a3b.server")
PROGRESS_S = 5.0  # seconds between two lines about one prompt
REASON_LEN = 240  # characters


class LogFormatter(logging.Formatter):
    """TIME MESSAGE, with the level for warnings and errors. Further lines of a message are indented, so that no message
    can forge another."""

    def format(self, record: logging.LogRecord) -> str:
        text = printable(super().format(record), lines=True).replace("\n", "\n    ")
        level = f"{record.levelname} " if record.levelno >= logging.WARNING else ""
        return f"{datetime.fromtimestamp(record.created).astimezone().isoformat(timespec='milliseconds')} {level}{text}"


def configure_logging(level: str) -> None:
    """Send the lines of all loggers to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LogFormatter())
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)


def request_line(
    id: str, method: str, path: str, status: int, tokens: tuple[int, int, int] | None, seconds: float, reason: str = ""
) -> str:
    """The log line of a request. tokens: (prompt, cached, written). The reason may have spaces, so it comes last."""
    counted = f" prompt={tokens[0]} cached={tokens[1]} written={tokens[2]}" if tokens else ""
    why = f" reason={printable(reason[:REASON_LEN])}" if reason else ""
    return f"{id} {printable(method[:20])} {printable(path[:200])} {status}{counted} seconds={seconds:.3f}{why}"


class _ProgressLogging:
    """A service that logs how much of a long prompt it has read."""

    def __init__(self, service: ServiceProtocol):
        self._service = service

    def __getattr__(self, name: str) -> Any:
        return getattr(self._service, name)

    async def stream(self, request: Request) -> AsyncGenerator[Event, None]:
        begun = told = time.monotonic()
        async with aclosing(self._service.stream(request)) as events:
            async for event in events:
                now = time.monotonic()
                if isinstance(event, Started):
                    begun = told = now  # it may have waited for a place until now
                elif isinstance(event, Reading) and now - told >= PROGRESS_S:
                    told = now
                    logger.info(
                        "%s", progress_line(request.request_id, event.done, event.total, event.done / (now - begun))
                    )
                yield event


def progress_line(id: str, done: int, total: int, tokens_per_s: float) -> str:
    left = f", about {(total - done) / tokens_per_s:.0f} s left" if tokens_per_s > 0 else ""
    return f"{id} reading {done:,} of {total:,} tokens, {tokens_per_s:.0f} tokens/s{left}"


def logging_progress(service: ServiceProtocol) -> ServiceProtocol:
    return _ProgressLogging(service)
