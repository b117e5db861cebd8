"""Long texts in pieces that have the same tokens as the whole, so that the encoder's memory does not grow with them.

A text is cut only where no match of the vocabulary's regular expression can extend across and no lookahead before it
reaches beyond. That holds for the expressions in `KNOWN`; with any other a text stays whole. Enter at
`Cutter.pieces`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from a3b.errors import UsageError

PIECE = 1 << 16  # characters; they take some 20 MB in the encoder
MAX_RUN = 1 << 20  # characters without a possible cut: some 360 MB; the library fails at ten times as many spaces
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r"\s*[\r\n]+|\s+(?!\S)|\s+"
KNOWN = frozenset(
    (
        _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + _REST,  # Qwen2 and 3
        # Qwen3.5 and 3.6
        _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|" + _REST,
    )
)
_CUT = re.compile(
    r"(?<=\S)(?= )"  # a space begins a word, unless it follows whitespace
    # a word of letters ends; ASCII only, so that nothing is composed across the cut
    r"|(?<=[A-Za-z])(?=[\x00-@\[-`{-\x7f])"
    r"|(?<=[0-9])(?=[\x00-\x7f])"  # each digit is a word
    r"|(?<=\n)(?=[!-~])"  # line ends belong to what precedes them
    # CJK letters end at punctuation
    "|(?<=[\u3041-\u3096\u30a1-\u30fa\u3400-\u4db5\u4e00-\u9fa5])(?=[\u3001\u3002\uff01\uff0c\uff1a\uff1b\uff1f])"
)


class Cutter:
    """Cuts texts for the vocabulary of a tokenizer.json."""

    def __init__(self, spec: Mapping[str, Any], piece: int = PIECE):
        self._piece = piece if _is_known(spec) else MAX_RUN

    def pieces(self, text: str) -> Iterator[str]:
        """The text in pieces. Raises UsageError where it is too long and cannot be cut."""
        start = 0
        while len(text) - start > self._piece:
            cut = self._cut(text, start)
            yield text[start:cut]
            start = cut
        yield text[start:]

    def _cut(self, text: str, start: int) -> int:
        """The end of a piece: near its full length, otherwise the next possible one."""
        full = start + self._piece
        for begin, end in ((max(start + 1, full - 256), full), (start + 1, full), (full, start + MAX_RUN)):
            if self._piece < MAX_RUN and (found := _CUT.search(text, begin, end + 1)) and found.start() <= end:
                return found.start()
        if len(text) - start <= MAX_RUN:
            return len(text)
        raise UsageError(
            f"text: more than {MAX_RUN:,} characters without a space or another end of a word, beginning with "
            f"{text[start : start + 20]!r}; shorten them, or put spaces between them"
        )


def _is_known(spec: Mapping[str, Any]) -> bool:
    """Whether the tokens depend on nothing but NFC, one expression of `KNOWN` and the bytes of its matches."""
    normalizer, pre = spec.get("normalizer"), spec.get("pre_tokenizer")
    stages = pre.get("pretokenizers") if isinstance(pre, Mapping) else None
    if not (normalizer is None or normalizer == {"type": "NFC"}) or not isinstance(stages, list) or len(stages) != 2:
        return False
    split, bytes_ = stages
    if (
        not isinstance(split, Mapping)
        or not isinstance(bytes_, Mapping)
        or not isinstance(pattern := split.get("pattern"), Mapping)
    ):
        return False
    return bool(
        split.get("type") == "Split"
        and split.get("behavior") == "Isolated"
        and not split.get("invert")
        and pattern.get("Regex") in KNOWN
        and bytes_.get("type") == "ByteLevel"
        and not bytes_.get("add_prefix_space")
        and not bytes_.get("use_regex", True)
    )
