"""Searches short texts for patterns of a schema, byte by byte, with llguidance. Knows no model's vocabulary.

Enter at `Finder` and `byte_vocabulary`.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

import llguidance

from a3b.errors import UsageError
from a3b.json_schema.regex_terminals import search_terminal

MAX_PATTERN = 1000  # characters of a pattern that names of parameters are compared with
MAX_PATTERNS = 16  # that one Finder follows, up to 20 ms for each
_LIMITS = llguidance.LLParserLimits(
    max_grammar_size=10_000, step_lexer_fuel=100_000, initial_lexer_fuel=100_000, verbose_errors=False
)


class Finder:
    """Whether patterns of a schema are found in short texts, in linear time whatever the pattern: Python's `re` has no
    such bound."""

    def __init__(self) -> None:
        self._matchers: dict[str, llguidance.LLMatcher | None] = {}

    def found(self, pattern: str, text: str) -> bool:
        """Whether `pattern` is found in `text`; always False if the pattern cannot be followed, or too many others have
        been."""
        if pattern not in self._matchers:
            self._matchers[pattern] = _matcher(pattern) if len(self._matchers) < MAX_PATTERNS else None
        start = self._matchers[pattern]
        if start is None:
            return False
        matcher, data = start.deep_copy(), list(text.encode("utf-8", "replace"))
        return matcher.try_consume_tokens(data) == len(data) and matcher.is_accepting()


def is_simple(pattern: object) -> bool:
    """Whether `Finder` can follow the pattern: not too long, a regular expression, and without look-aheads."""
    if (
        not isinstance(pattern, str)
        or len(pattern) > MAX_PATTERN
        or any(look in pattern for look in ("(?=", "(?!", "(?<"))
    ):
        return False
    try:
        return bool(search_terminal(pattern))
    except UsageError:
        return False


def _matcher(pattern: str) -> llguidance.LLMatcher | None:
    if not is_simple(pattern):
        return None
    text = f"%llguidance {{}}\nstart: T\nT: {search_terminal(pattern)}\n"
    matcher = llguidance.LLMatcher(byte_vocabulary(), text, log_level=0, limits=_LIMITS)
    return None if matcher.is_error() else matcher


class _Bytes:
    """A vocabulary of the 256 bytes and an end."""

    bos_token_id, eos_token_id, special_token_ids = None, 256, (256,)
    tokens = tuple(bytes([byte]) for byte in range(256)) + (b"<end>",)

    def __call__(self, text: str | bytes) -> Iterable[int]:
        return list(text.encode() if isinstance(text, str) else text)


@cache
def byte_vocabulary() -> llguidance.LLTokenizer:
    return llguidance.LLTokenizer(llguidance.TokenizerWrapper(_Bytes()), n_vocab=257, slices=[])
