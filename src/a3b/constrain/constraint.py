"""What holds one answer to what its request allows. Enter at `Constraint`."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from a3b.output.parser import Place

Mask = npt.NDArray[np.bool_]
"""[num_tokens]: whether each token may come next."""


class Constraint(Protocol):
    """What one answer may still become. It sees every token after the thinking, sampled or forced, in order."""

    @property
    def thinking(self) -> Mask | None:
        """The tokens allowed while the model thinks, None for all."""

    @property
    def knows_end(self) -> bool:
        """Whether the end of the turn is allowed only after a complete answer."""

    @property
    def sees_thinking(self) -> bool:
        """Whether it sees the tokens of the thinking too."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What was requested and is not enforced."""

    @property
    def ready(self) -> bool:
        """Whether `mask` returns at once."""

    def wait(self, seconds: float) -> None:
        """Wait until `ready`, but no longer than the timeout."""

    def mask(self) -> Mask | None:
        """The tokens allowed next, None for all."""

    def forced(self, most: int) -> list[int]:
        """The next tokens, as far as it is known by now that no others are allowed; at most so many. Never waits."""

    def accept(self, token_id: int) -> None:
        """Take the next token. Raises UsageError for one that is not allowed."""

    def at(self, place: Place, tool: str, num_calls: int) -> None:
        """Where the parser of the answer is after that token, the tool of the call begun last, and how many were
        begun."""

    def close(self) -> None:
        """End its processes; it must not be used afterwards."""
