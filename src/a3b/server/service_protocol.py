"""What a server asks of the engine behind it. Enter at `ServiceProtocol`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Protocol

from a3b.interface.events import Event
from a3b.interface.request import Request
from a3b.interface.sampling_params import SamplingParams


class ServiceProtocol(Protocol):
    """What answers requests; `a3b.engine.service` in a server, a script in tests."""

    model: str  # the name clients use
    context: int  # tokens
    places: int  # answers written at a time
    template: str  # of prompts, in Jinja

    def stream(self, request: Request) -> AsyncIterator[Event]:
        """Started, Reading*, deltas, Finished. A refusal is an A3BError before the first event; closing the iterator
        cancels."""

    async def count_tokens(self, request: Request) -> int:
        """Tokens of the prompt that `stream` would read."""

    async def render(self, request: Request) -> list[int]:
        """The ids of that prompt."""

    def sampling(self, request: Request) -> SamplingParams:
        """What `stream` would choose tokens by."""

    def encode(self, text: str) -> list[int]:
        """Ids of a text in which nothing is a control token."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids. Raises TokenizerError for those that the vocabulary does not have."""

    def health(self) -> dict[str, Any]:
        """At least `status`: "ok" once requests can be answered."""

    def metrics(self) -> Mapping[str, float]:
        """Numbers for /metrics by name; what ends in _total counts up."""
