"""From words to a query of SQLite's FTS5, and from a match to a few lines. Words are data: no operator of the query
language comes through. Enter at `queries_of`, `searchable`, `excerpt`."""

from __future__ import annotations

import re

MAX_WORDS, MAX_WORD = 24, 100
EXCERPT = 360  # characters
# without blanks between words: each character is a word of its own
UNSPACED = re.compile("([\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff])")


def clean(text: str) -> str:
    """The text as SQLite can hold it."""
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()


def searchable(text: str) -> str:
    """The text in words, also where the language writes none apart."""
    return UNSPACED.sub(r" \1 ", text)


def queries_of(words: str) -> list[str]:
    """Queries to try one after the other: all words in one passage, then any of them. Empty: there is no word."""
    found = [clean(word[:MAX_WORD]) for word in words.split() if re.search(r"\w", word)][:MAX_WORDS]
    phrases = ['"' + searchable(word).replace('"', '""') + '"' for word in dict.fromkeys(found)]
    if len(phrases) < 2:
        return phrases
    return [" AND ".join(phrases), " OR ".join(phrases)]


def excerpt(text: str, words: str) -> str:
    """The lines of a passage around the first of the words."""
    lowered, place = text.lower(), 0
    for word in re.finditer(UNSPACED.pattern + r"|\w{2,}", words.lower()):
        if (at := lowered.find(word[0])) >= 0:
            place = at
            break
    start = max(place - EXCERPT // 3, 0)
    start = 0 if start == 0 else next((i + 1 for i in range(start, place) if text[i].isspace()), start)
    part = text[start : start + EXCERPT]
    if start + EXCERPT < len(text) and (end := max(part.rfind(" "), part.rfind("\n"))) > EXCERPT // 2:
        part = part[:end]
    lines = [line.rstrip() for line in part.splitlines() if line.strip()]
    return ("... " if start else "") + "\n".join(lines) + (" ..." if start + len(part) < len(text) else "")
