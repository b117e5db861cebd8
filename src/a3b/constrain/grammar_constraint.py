"""What a grammar allows of an answer, token by token. The grammar itself is followed in a process of its own.

Enter at `GrammarConstraint.mask` and `GrammarConstraint.accept`.
"""

from __future__ import annotations

import time
from collections import deque

import numpy as np

from a3b.constrain.constraint import Mask
from a3b.constrain.matchers import STEP_WALL_S, MatcherState
from a3b.errors import UsageError
from a3b.isolation.host import Task, TaskKilled
from a3b.output.parser import Place


class GrammarConstraint:
    """What a grammar allows. While thinking, the turn cannot end and no call can begin: both would bypass the grammar.

    The process of the grammar computes the mask after a token while the model computes its logits. Tokens that follow
    with certainty it takes by itself, and their states come without being asked for."""

    knows_end, sees_thinking = True, False

    def __init__(self, task: Task, end: int, num_tokens: int, thinking: Mask, notes: tuple[str, ...] = ()):
        """task: from `Matchers.open`. end: id of the end of the turn. thinking: the tokens allowed in thinking."""
        self._task, self._end, self._num_tokens, self.thinking, self.notes = task, end, num_tokens, thinking, notes
        self._mask: Mask | None = None  # None: not here yet
        self._only = -1  # where the mask is here: the one token that it allows, which the process has taken already
        self._states: deque[MatcherState] = deque()  # that came before they were reached
        self._num_unsent = 0  # tokens accepted since the process was last sent one
        self._num_behind = 0  # states that a copy is sent although it is past them
        self._is_done = self._ended = False
        self._until = time.monotonic() + STEP_WALL_S  # deadline of the mask
        self._error = ""

    def copy(self) -> GrammarConstraint:
        """A copy at the same place, with its own process. Raises UsageError."""
        try:
            task = self._task.start_from()
        except TaskKilled:
            raise _too_slow() from None
        other = GrammarConstraint(task, self._end, self._num_tokens, self.thinking, self.notes)
        other._num_unsent = other._num_behind = self._num_unsent
        return other

    @property
    def ready(self) -> bool:
        is_here = self._mask is not None or bool(self._states) or bool(self._error)
        return is_here or self._task.is_ready() or time.monotonic() > self._until

    def wait(self, seconds: float) -> None:
        """Wait until `ready`, but no longer than the timeout."""
        if not self.ready:
            self._task.is_ready(seconds)

    def mask(self) -> Mask:
        if self._mask is None:
            if not self._error:
                state = self._states.popleft() if self._states else self._receive()
                packed, self._is_done, self._error, self._only = state
            if self._error:  # an answer that the library can no longer follow is not valid
                raise UsageError(f"the answer's grammar: {self._error}; use a simpler schema")
            if self._is_done:
                self._mask = np.zeros(self._num_tokens, bool)
                self._mask[self._end] = not self._ended
            elif self._only >= 0:
                self._mask = np.zeros(self._num_tokens, bool)
                self._mask[self._only] = True
            else:
                bits = np.frombuffer(packed, np.uint8)
                self._mask = np.unpackbits(bits, bitorder="little", count=self._num_tokens).view(bool)
        return self._mask

    def accept(self, token_id: int) -> None:
        if self._ended or not self.mask()[token_id]:
            self._task.close()
            self._mask, self._error = None, "a token was taken that it does not allow"
            raise UsageError(f"token {token_id}: the answer's grammar does not allow it")
        if token_id == self._end:
            self._ended = self._is_done = True
            self._mask = np.zeros(self._num_tokens, bool)
        else:
            self._mask = None
            if token_id == self._only:
                self._num_unsent += 1
                self._until = time.monotonic() + STEP_WALL_S
            else:
                self._num_unsent = 0
                self._send(token_id)

    def forced(self, most: int) -> list[int]:
        found: list[int] = []
        if self._ended or self._error or not (self._mask is not None or self._states or self._task.is_ready()):
            return found
        try:
            self.mask()
        except UsageError:  # for who needs the mask
            return found
        only, num = self._only, 0
        while only >= 0 and len(found) < most:
            found.append(only)
            if num == len(self._states):
                if not self._task.is_ready():
                    return found
                try:
                    self._states.append(self._receive())
                except UsageError:
                    return found
            only, num = self._states[num].only, num + 1
        is_done = self._states[num - 1].is_done if num else self._is_done
        return [*found, self._end] if is_done and len(found) < most else found

    def at(self, place: Place, tool: str, num_calls: int) -> None:
        pass

    def close(self) -> None:
        self._task.close()

    def _send(self, token_id: int) -> None:
        self._until = time.monotonic() + STEP_WALL_S
        try:
            self._task.send(token_id)
        except TaskKilled:
            raise _too_slow() from None

    def _receive(self) -> MatcherState:
        try:
            state: MatcherState
            for _ in range(self._num_behind + 1):
                state = self._task.receive(max(self._until - time.monotonic(), 0))
            self._num_behind = 0
        except TaskKilled:
            raise _too_slow() from None
        return state


def _too_slow() -> UsageError:
    return UsageError("the answer's grammar: a token takes too much time or memory; use a simpler schema")
