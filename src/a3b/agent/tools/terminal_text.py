"""What commands print, made plain text: no terminal sequences, no control characters, and of a line that is written
over again and again only its last state. Enter at `TerminalText`."""

from __future__ import annotations

import codecs
import re

MAX_LINE = 64 << 10  # characters that are held back for the end of their line
MAX_REWRITTEN = 4 << 10  # characters of a line after which its earlier states are forgotten
SEQUENCES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # colours, cursor
    r"|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)"  # titles, links, pictures
    r"|\x1b[ -/]+[0-~]"  # character sets
    r"|\x1b[0-~]"
)
UNFINISHED = re.compile(r"\x1b(?:\[[0-?]*[ -/]*|[\]PX^_][^\x07\x1b]*\x1b?|[ -/]*)\Z")
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


class TerminalText:
    """Takes bytes as they come, gives text up to the last whole line; `finish` gives the rest.

    Bytes that are not UTF-8 become U+FFFD."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._open = ""  # a line without its end

    def feed(self, data: bytes) -> str:
        lines = (self._open + self._decoder.decode(data)).split("\n")
        self._open = lines.pop()
        text = "".join(plain_line(line) + "\n" for line in lines)
        if len(self._open) > MAX_REWRITTEN:
            self._drop_rewritten()
        if len(self._open) > MAX_LINE:
            text += self._give_way()
        return text

    def finish(self) -> str:
        rest, self._open = self._open + self._decoder.decode(b"", final=True), ""
        return "\n".join(map(plain_line, rest.split("\n")))

    def _drop_rewritten(self) -> None:
        """Forgets the earlier states of a progress bar."""
        end = len(self._open)
        while (at := self._open.rfind("\r", 0, end)) >= 0:
            if plain_line(self._open[at:end]).strip():
                self._open = self._open[at + 1 :]
                return
            end = at

    def _give_way(self) -> str:
        """Gives out the beginning of a line that does not end."""
        unfinished = UNFINISHED.search(self._open)
        at = unfinished.start() if unfinished and unfinished.start() > MAX_LINE // 2 else len(self._open)
        done, self._open = self._open[:at], self._open[at:]
        return plain_line(done)


def plain_line(line: str) -> str:
    """One line, without its end."""
    if line.isprintable():
        return line
    if "\x1b" in line:
        line = SEQUENCES.sub("", line)
    if "\r" in line:
        line = next((part for part in reversed(line.split("\r")) if part.strip()), "")
    if "\b" in line:
        line = _overstruck(line)
    return CONTROL.sub("", line)


def _overstruck(line: str) -> str:
    """A line of which each backspace has taken the character before it."""
    kept: list[str] = []
    for character in line:
        if character != "\b":
            kept.append(character)
        elif kept:
            kept.pop()
    return "".join(kept)
