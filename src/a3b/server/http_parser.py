"""h11's parser with bounds: the length of a header, the pieces of a body, and events in one turn. Enter at
`BoundedParser`."""

from __future__ import annotations

from typing import Any

import h11

DATA_EVENTS, EVENT_BYTES = 10_000, 64  # pieces that a body may have, and one more for each so many bytes


class BoundedParser(h11.Connection):
    """Keeps the last error, refuses bodies in tiny pieces, and gives at most `num_left` events, then NEED_DATA."""

    error: h11.RemoteProtocolError | None = None
    num_events = num_bytes = 0  # pieces of the body of this request, and bytes in them
    num_left = 0  # events in this turn

    def __init__(self, max_head_bytes: int):
        super().__init__(h11.SERVER, max_head_bytes)
        self.max_head_bytes = max_head_bytes

    def next_event(self) -> Any:
        if self.num_left == 0:
            return h11.NEED_DATA
        self.num_left -= 1
        try:
            event = super().next_event()
        except h11.RemoteProtocolError as error:
            self.error = error
            raise
        if isinstance(event, h11.Request):
            self._check_head(event)
        elif isinstance(event, h11.Data):
            self._check_pieces(event)
        return event

    def _check_head(self, request: h11.Request) -> None:
        """h11 bounds only a header that arrives in pieces."""
        self.num_events = self.num_bytes = 0
        num_bytes = len(request.target) + sum(len(name) + len(value) for name, value in request.headers)
        if num_bytes > self.max_head_bytes:
            self.error = h11.RemoteProtocolError("the header is too long", error_status_hint=431)
            raise self.error

    def _check_pieces(self, data: h11.Data) -> None:
        self.num_events += 1
        self.num_bytes += len(data.data)
        if self.num_events > DATA_EVENTS + self.num_bytes // EVENT_BYTES:
            self.error = h11.RemoteProtocolError("the body comes in too many pieces")
            raise self.error
