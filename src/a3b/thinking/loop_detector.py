"""Finds thinking that repeats itself.

Knows tokens and their bytes, no model and no budget. Enter at `LoopDetector.add`."""

from __future__ import annotations

import re
from collections import Counter, deque

_SENTENCE_END = re.compile("(?:[^\\s\\d][.!?]|。|！|？)[\"')*`]*\\s*\\Z".encode())  # "3." may continue as 3.5
LINES, SAME_LINES = 40, 6  # among the last 40 lines, one that occurs 6 times makes a loop ...
# ... if this share of them occurs so often; a walk through a program has new lines in between
STALE_LINES = 3, 2 / 3
MAX_LINE_BYTES = 4096  # of a longer line only its end is looked at
# shorter lines and lines with fewer different words are structure: rules, brackets, grids
LINE_BYTES, LINE_WORDS = 20, 3
_LETTERS = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ") | frozenset(range(0x80, 0x100))
MAX_PERIOD = 256  # tokens of the longest passage whose repetition is found
NUM_PERIODS = 3  # times that it must occur in a row
MIN_REPEATED = 256  # tokens of all occurrences; a printed grid of 10 by 10 zeros has 200
CHECK_TOKENS = 16  # between two searches for a repeated passage


class LoopDetector:
    """Watches one text. The work for a token does not grow with the text.

    It is a loop if the last tokens repeat a passage of up to MAX_PERIOD tokens exactly, or if the last lines are mostly
    the same few. Lines of code (indented, or between fences) do not count, because code repeats itself.

    found: whether there was a loop so far."""

    def __init__(self) -> None:
        self._ids: list[int] = []  # the last tokens: what the longest loop needs, and a few more
        self._until_check = CHECK_TOKENS
        self._line = b""
        self._in_fence = False
        self._lines: deque[bytes] = deque()
        self._counts: Counter[bytes] = Counter()
        self.found = False

    @property
    def at_end_of_sentence(self) -> bool:
        """Whether a line or a sentence has just ended."""
        return not self._line or _SENTENCE_END.search(self._line[-16:]) is not None

    def add(self, token_id: int, data: bytes) -> None:
        """Take the next token and its bytes."""
        self._ids.append(token_id)
        self._until_check -= 1
        if self._until_check == 0:
            self._until_check = CHECK_TOKENS
            self.found = self.found or self._repeats()
        self._line += data
        if b"\n" in data:
            *ended, self._line = self._line.split(b"\n")
            for line in ended:
                self.found |= self._add_line(line)
        self._line = self._line[-MAX_LINE_BYTES:]

    def _repeats(self) -> bool:
        """Whether the last tokens are one passage over and over."""
        del self._ids[: -max(NUM_PERIODS * MAX_PERIOD, MIN_REPEATED)]
        ids = self._ids
        for period in range(1, MAX_PERIOD + 1):
            num = max(NUM_PERIODS * period, MIN_REPEATED)
            if num > len(ids):
                break
            if (
                ids[-1 - period] == ids[-1]
                and ids[-8 - period : -period] == ids[-8:]
                and ids[-num:-period] == ids[period - num :]
            ):
                return True
        return False

    def _add_line(self, line: bytes) -> bool:
        """Whether this line makes the last lines a loop."""
        if line.lstrip().startswith(b"```"):
            self._in_fence = not self._in_fence
            return False
        if self._in_fence or line[:1] in (b" ", b"\t") or not line.strip():
            return False
        line = line.strip()
        self._lines.append(line)
        self._counts[line] += 1
        if len(self._lines) > LINES:
            old = self._lines.popleft()
            self._counts[old] -= 1
            if not self._counts[old]:
                del self._counts[old]
        if self._counts[line] < SAME_LINES or len(line) < LINE_BYTES:
            return False
        if len({word for word in line.split() if any(byte in _LETTERS for byte in word)}) < LINE_WORDS:
            return False
        times, share = STALE_LINES
        return sum(num for num in self._counts.values() if num >= times) >= share * len(self._lines)
