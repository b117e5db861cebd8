"""What clients change in a prompt although the conversation stays the same: dates and times, and a line that Claude
Code adds.

A conversation keeps the dates it began with; otherwise everything after them would have to be recomputed. They are
looked for in what clients write on their own at its beginning: the system message, and `<system-reminder>` spans in the
user's messages before the first answer. Anywhere else a date is part of what was said. Texts that differ only in dates
have the same number of them in the same places, so the dates of one fit into the other. Knows neither turns nor tokens;
which dates a conversation began with is in `a3b.thinking.turn_memory`. Enter at `DatePreamble`.

Recognised, with years 1900 to 2099 and English names: 2026-11-25 and 2026/11/25, also with a time and a zone;
11/25/2026, 25.11.2026, Nov 25, 2026, Wed Nov 25 17:05:12 UTC 2026, 25 November 2026, Wednesday, November 25;
2026年11月25日; a weekday next to one of these or after "today is", "day:" or "week:"; 17:05:12, 5:05 PM, 17:05 UTC.
17:05 counts only next to a year or a word such as "time", and seconds or milliseconds since 1970 only after a word such
as "timestamp". Parts of a longer word, number, path, version or range do not count."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from itertools import repeat, takewhile
from typing import Any

MAX_DATES = 256  # of one preamble; one with more holds data, and stays as it is
MAX_CHARS = 1 << 18  # of one preamble that are searched; a longer one stays as it is
OPEN, CLOSE = "<system-reminder>", "</system-reminder>"
MASK = "\0"  # stands for a date
BILLING_NAME = "x-anthropic-billing-header:"
BILLING = re.compile(rf"^{BILLING_NAME}.*(?:\n|$)", re.MULTILINE)  # different in every request of Claude Code

Message = dict[str, Any]
Dates = Mapping[str, tuple[str, ...]]
"""A digest of a text without its dates -> the dates, in order."""

_YEAR = r"(?:19|20)[0-9]{2}"
_MONTH = (
    r"(?:Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|May|June?|July?|Aug(?:ust)?|Sept?(?:ember)?|Oct(?:ober)?"
    r"|Nov(?:ember)?|Dec(?:ember)?)\.?"
)
_DAY = r"(?:3[01]|[12][0-9]|0?[1-9])(?:st|nd|rd|th)?"
_WEEKDAY = r"(?:Mon|Tues?|Wed(?:nes)?|Thu(?:rs?)?|Fri|Sat(?:ur)?|Sun)(?:day)?(?![A-Za-z])"
_OFFSET = r"[+-](?:0[0-9]|1[0-4]):?[0-5][0-9]"
_ZONE = (
    r"(?: ?(?:Z|(?:UTC|GMT)(?: "
    r"?[+-][0-9]{1,2}(?::?[0-9]{2})?)?|[ECMP][SD]?T|[CEW]ES?T|A[EC][SD]T|BST|IST|JST|KST|SGT|MSK)"
    r"(?![0-9A-Za-z])(?: \([A-Z][A-Za-z ]{2,40}\))?)?"
)
_TIME = (
    rf"(?:2[0-3]|[01]?[0-9]):[0-5][0-9](?::[0-5][0-9](?:[.,][0-9]{{1,9}})?(?: ?{_OFFSET})?)?"
    rf"(?:[ \u00a0\u202f]?[AaPp](?:[Mm](?![A-Za-z0-9])|\.[Mm]\.))?{_ZONE}"
)
_NUMBERS = (
    rf"{_YEAR}(?P<sep>[-/])(?:1[0-2]|0[1-9])(?P=sep)(?:3[01]|[12][0-9]|0[1-9])(?:[T ]{_TIME}(?:{_OFFSET})?)?"
    rf"|[0-3]?[0-9]/[0-3]?[0-9]/{_YEAR}|[0-3][0-9]\.[01][0-9]\.{_YEAR}"
)
_NAMES = rf"{_MONTH} {{1,2}}{_DAY},? (?:{_TIME} )?{_YEAR}|{_DAY}(?:\.? (?:of )?|[-/]){_MONTH}(?:,? |[-/]){_YEAR}"
_NO_YEAR = rf"{_WEEKDAY}[,.]? {{1,2}}(?:the )?(?:{_MONTH} {{1,2}}{_DAY}|{_DAY}\.? (?:of )?{_MONTH})"
DATE = re.compile(
    r"(?<![0-9A-Za-z_./\\@+-])(?:"
    rf"(?:{_WEEKDAY}[,.]? {{1,2}}(?:the )?)?(?:{_NUMBERS}|{_NAMES})(?:,? \(?{_WEEKDAY}\)?)?"
    rf"|{_NO_YEAR}|(?:(?<=oday is )|(?<=[Dd]ay: )|(?<=[Ww]eek: )){_WEEKDAY}"
    rf"|(?:(?<!:)|(?<=[Tt]ime:))(?P<time>{_TIME})|(?P<unix>1[0-9]{{9}}(?:[0-9]{{3}})?(?:\.[0-9]{{1,9}})?)"
    r")(?![0-9A-Za-z_/\\:@]|[.,-][0-9A-Za-z])"
    rf"|{_YEAR} ?年 ?[0-9]{{1,2}} ?月 ?[0-9]{{1,2}} ?日(?: ?星期[一二三四五六日天])?"
)
# characters of a bare time such as 17:05; characters on each side in which a word may tell that it is one
BARE_LEN, BESIDE_LEN = 5, 24
BESIDE = re.compile(rf"(?i)(?:time|now|clock|today|date)\b|\b{_YEAR}\b")
STAMP = re.compile(r"(?i)(?:timestamp|epoch|unix|time|now)[^\n0-9]{0,20}$")


def without_billing(text: str) -> str:
    """The text without the lines that change with every request and mean nothing to a model."""
    return BILLING.sub("", text) if BILLING_NAME in text else text


def without_billing_lines(message: Any) -> Any:
    """The same for a system message in any form that clients send; other values are returned as they are."""
    if not isinstance(message, dict) or message.get("role") not in ("system", "developer"):
        return message
    content = message.get("content")
    if isinstance(content, str):
        return {**message, "content": without_billing(content)}
    if isinstance(content, list):
        parts = [
            {**part, "text": without_billing(part["text"])}
            if isinstance(part, dict) and isinstance(part.get("text"), str)
            else part
            for part in content
        ]
        return {**message, "content": parts}
    return message


class DatePreamble:
    """The messages before the first answer, and the dates in them that a conversation keeps.

    messages: as `normalise_messages` gives them. dates: of each text that has some."""

    def __init__(self, messages: Sequence[Message], roles: Sequence[str] = ("system", "user")):
        """roles: whose messages are searched."""
        self._messages = list(messages)
        # index: (digest of the text, where its dates are)
        self._places: dict[int, tuple[str, list[tuple[int, int]]]] = {}
        self.dates: dict[str, tuple[str, ...]] = {}
        first = takewhile(lambda indexed: indexed[1]["role"] != "assistant", enumerate(self._messages))
        spans = {i: _spans(message) for i, message in first if message["role"] in roles}
        if sum(end - start for found in spans.values() for start, end in found) > MAX_CHARS:
            return
        for i, found in spans.items():
            text = self._messages[i]["content"]
            if places := list(_places(text, found)):
                digest = _digest(
                    [len(self._places), self._messages[i]["role"], len(places), _filled(text, places, repeat(MASK))]
                )
                self._places[i] = digest, places
                self.dates[digest] = tuple(text[start:end] for start, end in places)
        if sum(map(len, self.dates.values())) > MAX_DATES:
            self._places, self.dates = {}, {}

    def with_dates(self, dates: Dates) -> list[Message]:
        """All messages, with these dates in place of their own. `dates`: of every text in `self.dates`."""
        out = self._messages.copy()
        for i, (digest, places) in self._places.items():
            out[i] = {**out[i], "content": _filled(out[i]["content"], places, dates[digest])}
        return out


def undated(messages: Sequence[Message]) -> list[Message]:
    """The messages without the dates that a conversation keeps, where they are in the user's messages."""
    preamble = DatePreamble(messages, ("user",))
    return preamble.with_dates({digest: (MASK,) * len(dates) for digest, dates in preamble.dates.items()})


def _spans(message: Message) -> list[tuple[int, int]]:
    """What of a message the client wrote on its own; a reminder that is never closed does not count."""
    text = message["content"]
    if not isinstance(text, str) or message["role"] not in ("system", "user"):
        return []
    if message["role"] == "system":
        return [(0, len(text))]
    spans, start = [], text.find(OPEN)
    while start >= 0 and (end := text.find(CLOSE, start)) >= 0:
        spans.append((start, end))
        start = text.find(OPEN, end)
    return spans


def _places(text: str, spans: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """(start, end) of each date or time, ascending."""
    for begin, stop in spans:
        for match in DATE.finditer(text, begin, stop):
            start, end = match.span()
            before = text[max(begin, start - BESIDE_LEN) : start].rpartition("\n")[2]
            after = text[end : min(stop, end + BESIDE_LEN)].partition("\n")[0]
            if match["unix"] and not STAMP.search(before):
                continue
            if match["time"] and end - start <= BARE_LEN and not BESIDE.search(f"{before}{MASK}{after}"):
                continue
            yield start, end


def _filled(text: str, places: Sequence[tuple[int, int]], dates: Iterable[str]) -> str:
    """The text with other dates in these places."""
    pieces, at = [], 0
    for (start, end), date in zip(places, dates, strict=False):
        pieces += [text[at:start], date]
        at = end
    return "".join(pieces) + text[at:]


def _digest(value: Any) -> str:
    return blake2b(json.dumps(value).encode(), digest_size=16).hexdigest()
