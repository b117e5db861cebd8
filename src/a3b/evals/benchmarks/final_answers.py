"""What a text gives as its final answer: a whole number for AIME, what stands between tags for reasoning-gym.

The last statement counts, as for a reader who scrolls to the end; what is not stated in one of the forms that the
prompt asks for is no answer. All searches take time linear in the text."""

from __future__ import annotations

import re

MAX_TEXT = 1 << 20  # characters of an answer that are looked at, its end
LAST_LINE = re.compile(r"ANSWER\s{0,9}:[\s*$]{0,9}([0-9]{1,6})(?![\d.,]?\d)", re.IGNORECASE)
DECORATION = re.compile(r"\\(?:text|mathrm|mathbf|textbf|boldsymbol)\b|\\[,;:! ]|\^\s*(?:\{\s*)?\\circ\s*\}?|[{}$\s]")
BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
BOXED = re.compile(r"\\(?:boxed|fbox)\s*\{")


def boxed(text: str) -> str | None:
    """The content of the last \\boxed{...}, braces within it balanced; None if there is none, or if it is cut off."""
    text = text[-MAX_TEXT:]
    opened = list(BOXED.finditer(text))
    if not opened:
        return None
    inside, depth = text[opened[-1].end() :], 1
    for brace in BRACE.finditer(inside):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0:
            return inside[: brace.start()]
    return None


def whole_number(text: str) -> int | None:
    """The number in the last \\boxed{}, or else after the last "ANSWER:"; None for no number, or one that is not
    whole. Leading zeros, as AIME writes them, mean nothing."""
    inside = boxed(text)
    if inside is not None:
        inside = DECORATION.sub("", inside)
        return int(inside) if re.fullmatch(r"\d{1,6}", inside, re.ASCII) else None
    found = LAST_LINE.findall(text[-MAX_TEXT:])
    return int(found[-1]) if found else None


def between_tags(text: str, tag: str = "answer") -> str | None:
    """What stands between the last <tag> and its </tag>, without white space around it; None if there is none."""
    text = text[-MAX_TEXT:]
    end = text.rfind(f"</{tag}>")
    start = text.rfind(f"<{tag}>", 0, max(end, 0))
    return text[start + len(tag) + 2 : end].strip() if end >= 0 and start >= 0 else None
