"""Answers in which a call begins only where the model wants one, or never. Knows no grammar's text.

Enter at `FreeCallConstraint` and `NoCallConstraint`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from a3b.constrain.constraint import Mask
from a3b.constrain.grammar_constraint import GrammarConstraint
from a3b.errors import UsageError
from a3b.output.parser import Place


class NoCallConstraint:
    """Everything but a call."""

    knows_end, ready, sees_thinking = False, True, False
    notes: tuple[str, ...] = ()

    def __init__(self, allowed: Mask):
        """allowed: all tokens but those that begin a call."""
        self._allowed = self.thinking = allowed

    def wait(self, seconds: float) -> None:
        pass

    def mask(self) -> Mask:
        return self._allowed

    def forced(self, most: int) -> list[int]:
        return []

    def accept(self, token_id: int) -> None:
        pass

    def at(self, place: Place, tool: str, num_calls: int) -> None:
        pass

    def close(self) -> None:
        pass


@dataclass(frozen=True)
class FreeCallMasks:
    """Tokens allowed outside of grammars. text: in free text, None for all. closing: after a call, until its closer.
    end: the end of the turn alone."""

    text: Mask | None
    closing: Mask
    end: Mask


class FreeCallConstraint:
    """Any text, until a call begins; then that of a declared tool, by its schema if it is strict, and any text again.

    Free text needs no mask. After the opener of a call the grammar also allows text that is not a call: an answer may
    mention the tag. The arguments of a tool that is not strict are free, since they may hold anything, calls and their
    tags included: the parser finds their end, and what follows them is the closer. Without parallel calls the turn ends
    after the first."""

    knows_end, sees_thinking = False, True
    notes: tuple[str, ...] = ()

    def __init__(self, start: GrammarConstraint, strict: frozenset[str], masks: FreeCallMasks, parallel: bool):
        """start: what may follow an opener. strict: names of the strict tools. parallel: more than one call may be
        made."""
        self._start, self._strict, self._masks, self._parallel = start, strict, masks, parallel
        self._call: GrammarConstraint | None = None  # the one that is held to its grammar
        self._place: Place = "text"
        self._is_over = False  # only the end of the turn may follow

    @property
    def thinking(self) -> Mask | None:
        return self.mask()

    @property
    def ready(self) -> bool:
        return self._is_over or self._call is None or self._call.ready

    def wait(self, seconds: float) -> None:
        if self._call is not None:
            self._call.wait(seconds)

    def mask(self) -> Mask | None:
        if self._is_over:
            return self._masks.end
        if self._call is not None:
            return self._call.mask()
        return self._masks.closing if self._place == "closing" else self._masks.text

    def forced(self, most: int) -> list[int]:
        if self._is_over:
            return [int(token) for token in np.flatnonzero(self._masks.end)[:most]]
        return self._call.forced(most) if self._call is not None else []

    def accept(self, token_id: int) -> None:
        if self._is_over and not self._masks.end[token_id]:
            raise UsageError("parallel_tool_calls: a second call; expected the end of the turn after the first")
        if self._call is not None:
            if self._call.mask()[token_id]:
                self._call.accept(token_id)
            else:
                self._free()  # the token was forced from outside, like the end of the thinking

    def at(self, place: Place, tool: str, num_calls: int) -> None:
        if num_calls and place in ("text", "opening"):
            self._is_over = not self._parallel
        if place == "opening" and self._place != "opening":
            self._free()
            self._call = self._start.copy()
        elif place == "text" or (place in ("call", "closing") and tool not in self._strict):
            self._free()
        self._place = place

    def _free(self) -> None:
        if self._call is not None:
            self._call.close()
            self._call = None

    def close(self) -> None:
        self._free()
        self._start.close()
