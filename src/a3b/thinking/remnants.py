"""Texts of the model as clients send them back: which changes are incidental, and which are edits.

Knows texts only; `a3b.thinking.turn_matching` decides what they say about a turn. Each function takes time in
proportion to the texts. Enter at `is_remnant`.

A remnant of thinking is a beginning or an end of it (`chat.completions.stream()` of openai-node keeps only the last
piece of a stream), or all of it after other thinking of the same conversation (some clients accumulate it). These do
not matter:

* whitespace, Windows line endings, composed characters (Unicode NFC),
* `&lt;` for `<`, as in HTML,
* a mark where something was cut off: `...`, `[truncated]`, `(1,024 characters truncated)`; only at the ends, because in
  the middle it may stand for a secret,
* the tags `<think>` and `</think>` around it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from html import unescape
from itertools import chain
from unicodedata import normalize

MAX_LEN = 1 << 20  # characters; a longer text is compared as it is
MAX_MARK = 100  # characters of a mark where something was cut off
MAX_WORD = 128  # characters; a longer word is not composed, as that takes quadratic time
_CUT = r"(?:\.{3,}|…|\[(?:\.{3,}|…)\]|[\[(<][^\[\]()<>\n]{0,40}truncated[^\[\]()<>\n]{0,40}[\])>])"
_CUT_BEFORE, _CUT_AFTER = re.compile(rf"^{_CUT}", re.IGNORECASE), re.compile(rf"{_CUT}$", re.IGNORECASE)
_TAG_BEFORE, _TAG_AFTER = re.compile(r"^<think>"), re.compile(r"</think>$")


def settled(text: str) -> str:
    """The text without what clients change in passing: Windows line endings, trailing spaces, Unicode composition."""
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    if " \n" in text or "\t\n" in text:
        text = "\n".join(line.rstrip(" \t") for line in text.split("\n"))
    return _composed(text).strip()


def plain(text: str) -> str:
    """The text reduced to what distinguishes two thoughts: one space for any run of whitespace, and NFC."""
    return " ".join(_composed(text).split()) if len(text) <= MAX_LEN else text.strip()


def is_remnant(sent: str, whole: str, earlier: Iterable[str] = (), *, only_end: bool = False) -> bool:
    """Whether the thinking `sent` by a client is what it kept of `whole`. All but `sent` are results of `plain`.

    earlier: the thinking of the turns before, latest first. only_end: a beginning does not count."""
    for text, is_beginning, is_end in _readings(plain(sent)):
        if (
            text == whole
            or (is_end and whole.endswith(text))
            or (is_beginning and not only_end and whole.startswith(text))
        ):
            return True
        if whole and text.endswith(whole) and _is_made_of(text[: -len(whole)], chain((whole,), earlier)):
            return True
    return False


def _readings(sent: str) -> Iterator[tuple[str, bool, bool]]:
    """Readings of a text: (what the client kept, whether it may be a beginning, whether it may be an end)."""
    for text in dict.fromkeys((sent, unescape(sent))):
        yield text, True, True
        bare = _TAG_AFTER.sub("", _TAG_BEFORE.sub("", text)).strip()
        before = _CUT_BEFORE.match(bare)
        rest = bare[before.end() :] if before else bare
        after = _CUT_AFTER.search(rest, max(0, len(rest) - MAX_MARK))
        kept = (rest[: after.start()] if after else rest).strip()
        yield kept, not before or not kept, not after or not kept  # cut off at both ends, it may be from anywhere


def _is_made_of(text: str, pieces: Iterable[str]) -> bool:
    """Whether a text consists of these pieces, from its end on, each at most once."""
    for piece in pieces:
        if not (text := text.rstrip()):
            return True
        text = text.removesuffix(piece)
    return not text.strip()


def _composed(text: str) -> str:
    if text.isascii() or len(text) > MAX_LEN:
        return text
    return " ".join(
        word if word.isascii() or len(word) > MAX_WORD else normalize("NFC", word) for word in text.split(" ")
    )
