"""The latest tokens of a sequence that an MTP module has not taken in, with the rows of the model that it needs.

The module takes them in together: one by one it would cost a small model a fifth of a step. Rejected drafts are noted
like all others and dropped with the next ones. Enter at `Trail`."""

from __future__ import annotations

import numpy as np

from a3b.kernels import MAX_DRAFTED

LATEST = 64  # tokens after which they are taken in
ROOM = 2 * LATEST + MAX_DRAFTED


class Trail:
    """Tokens from place `start` on. num_tokens: of the sequence, where an argument; what was noted beyond is no part of
    it."""

    def __init__(self, hidden_size: int):
        self.start = 0
        self._ids = np.empty(ROOM, np.int64)
        self._rows = np.zeros((ROOM + 1, hidden_size), np.float32)  # the first is that of the token before `start`

    def hidden(self, num_tokens: int) -> np.ndarray:
        """The row of the last token, before the final norm: float32 [D]; zeros before the first."""
        row: np.ndarray = self._rows[num_tokens - self.start]
        return row

    def is_long(self, num_tokens: int) -> bool:
        """Whether it is time to take in what is there."""
        return num_tokens - self.start >= LATEST

    def note(self, num_tokens: int, ids: np.ndarray, rows: np.ndarray) -> None:
        """Add what a step read, drafts included: ids int [T], rows float32 [T, D]. To a trail that is not long, and at
        most LATEST tokens and MAX_DRAFTED drafts."""
        at = num_tokens - self.start
        self._ids[at : at + len(ids)] = ids
        self._rows[at + 1 : at + 1 + len(ids)] = rows

    def pairs(self, num_tokens: int) -> tuple[np.ndarray, np.ndarray]:
        """(ids int64 [n], rows before each of them, float32 [n, D])."""
        num = num_tokens - self.start
        return self._ids[:num], self._rows[:num]

    def restart(self, num_tokens: int, hidden: np.ndarray) -> None:
        """All tokens are taken in. hidden: as `hidden` gives it."""
        self._rows[0] = hidden
        self.start = num_tokens

    @property
    def num_bytes(self) -> int:
        return self._ids.nbytes + self._rows.nbytes
