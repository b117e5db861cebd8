"""What the server asks of whatever writes the answers. Enter at `ServiceProtocol`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, Protocol

from a3b.interface.events import Event
from a3b.interface.request import Request
from a3b.interface.sampling_params import SamplingParams


class ServiceProtocol(Protocol):
    """Answers requests: `a3b.engine.service` in a running server, a script in tests."""

    model: str  # the name that clients use
    context: int  # tokens
    positions: str  # how they are read, in words: native, or scaled
    places: int  # answers written at the same time
    template: str  # of prompts, in Jinja

    def stream(self, request: Request) -> AsyncGenerator[Event, None]:
        """Started, Reading*, deltas, Finished. An A3BError before the first event is a refusal; closing the generator
        cancels the answer."""

    async def count_tokens(self, request: Request) -> int:
        """The number of tokens of the prompt that `stream` would read."""

    async def render(self, request: Request) -> list[int]:
        """The token ids of that prompt."""

    def sampling(self, request: Request) -> SamplingParams:
        """The parameters by which `stream` would choose tokens."""

    def encode(self, text: str) -> list[int]:
        """The token ids of a text; nothing in it counts as a control token."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids. Raises TokenizerError for ids outside the vocabulary."""

    def health(self) -> dict[str, Any]:
        """At least `status`: "ok" once requests can be answered."""

    def metrics(self) -> Mapping[str, float]:
        """Numbers for /metrics by name; names that end in _total are counters."""
