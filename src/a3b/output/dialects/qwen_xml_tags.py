"""The tags of a call in Qwen's XML, reading them, and where the value of a parameter ends.

Where a parameter's value ends, so that values may contain the tags themselves:

* at `</parameter>` of a number, a boolean or null, always; also after a whole JSON object or array, if the tool takes
  one;
* inside a string of an unfinished object or array, at none of the tags below, unless it turns out never to be
  completed;
* at any other `</parameter>`, only if that is followed by what can follow it: another `<parameter=…>` (one whose name
  cannot come here counts only if it is closed and followed by a tag), a `</function>` that closes the call, the end of
  the call or of the output;
* without `</parameter>`, at `</function>` that closes the call, or at a line `<parameter=KEY>` whose KEY the
  tool has and the call has not yet had;
* at misspelled or cut-off forms of these two (`read_closer`), on the same conditions; a `<parameter=…>` after
  it must then be one that can begin there. `</KEY>` closes the parameter KEY likewise, if the value has no `<KEY`;
* in a call without `<tool_call>`, `</function>` closes the call whatever follows.

While a value holds an open `<tool_call>`, "closes the call" means that the output ends there or another call follows:
a file about tool calls passes through whole.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from a3b.output.buffer import NeedMore, peek, skip_blank
from a3b.output.marks import END, MARKS, mark_of

OPENER, CLOSER = "<tool_call>", "</tool_call>"
CALL, CALL_END = mark_of(OPENER), mark_of(CLOSER)
FUNCTION, FUNCTION_END, PARAMETER, PARAMETER_END = "<function=", "</function>", "<parameter=", "</parameter>"
SPELLED_CALL_END = CLOSER  # not as a control token: understood after `</function>`, if only another call can follow

MAX_NAME = 200  # characters of a tool's or parameter's name
MAX_CLOSERS = 3  # that close one function
_CHAR = rf"[^\s<>\"'{MARKS}]"
_NAME = re.compile(rf"""["']?({_CHAR}{{1,{MAX_NAME}}})["']?>""")
_NAME_SO_FAR = re.compile(rf"""["']?{_CHAR}{{0,{MAX_NAME}}}["']?""")
_KEY = re.compile(rf"""["']?({_CHAR}(?:(?:{_CHAR}| ){{0,{MAX_NAME - 2}}}{_CHAR})?)["']?>""")
_KEY_SO_FAR = re.compile(rf"""["']?(?:{_CHAR}(?:{_CHAR}| ){{0,{MAX_NAME - 1}}})?["']?""")
_CLOSER = re.compile(r"</(?:antml:)?([A-Za-z_0-9]{0,30})(?:=[\w.\-]{0,64})?[ \t]{0,8}")
_CLOSES = {
    "parameter": re.compile(r"param(?:eter)?(?:s|_\w+|\d+)?"),
    "function": re.compile(r"function(?:s|_\w+|\d+)?|invoke|invocation|tool|tool_use"),
    "call": re.compile(r"tool_call(?:s|\d+)?"),
}


def read_name(buffer: str, at: int, blanks: bool = False) -> tuple[str, int]:
    """Read a name, with or without quotes, and its ">": (name, offset after it), or ("", at) for none. blanks: the name
    may contain spaces."""
    if match := (_KEY if blanks else _NAME).match(buffer, at):
        return match.group(1), match.end()
    if (match := (_KEY_SO_FAR if blanks else _NAME_SO_FAR).match(buffer, at)) and match.end() == len(buffer):
        raise NeedMore
    return "", at


def read_closer(buffer: str, at: int) -> tuple[str, int]:
    """What the closing tag at `at` closes, misspelled or without its ">", and the offset after it; ("", at) for any
    other.

    "parameter", "function" or "call"; "cut" for the beginning of one at the end of the output.
    """
    match = _CLOSER.match(buffer, at)
    if match is None:
        return "", at
    if match.end() == len(buffer):
        raise NeedMore
    name, end = match[1], match.end()
    for kind, names in _CLOSES.items():
        if names.fullmatch(name):
            return kind, end + (buffer[end] == ">")
    if buffer[end] == END and any(
        tag.startswith(match.group()) for tag in (PARAMETER_END, FUNCTION_END, SPELLED_CALL_END)
    ):
        return "cut", end
    return "", at


def tag_at(buffer: str, at: int) -> tuple[str, int]:
    """The tag at `at` and the offset after it, ("", at) for none. A misspelled tag counts as the one that it stands
    for, and one that is cut off at the end of the output as END."""
    found = peek(buffer, at, PARAMETER, FUNCTION, CALL, CALL_END, END, "</")
    if found != "</":
        is_cut = buffer[at : at + 2] == "<" + END
        return (END, at + 1) if is_cut else (found, at + len(found))
    kind, end = read_closer(buffer, at)
    return {"parameter": PARAMETER_END, "function": FUNCTION_END, "call": SPELLED_CALL_END, "cut": END}.get(
        kind, ""
    ), end


@dataclass(frozen=True)
class ValueEnd:
    """Decides whether a value ends at a tag, by the rule in the module's docstring.

    nested: the value holds an open `<tool_call>`. bare: the call has none. is_new_key: whether a parameter of that name
    can begin here. next_close: the next `</parameter>` or end of a call from an offset on, and the offset after it.
    closer: a further tag that may close the value."""

    text: str
    nested: bool
    bare: bool
    is_new_key: Callable[[str], bool]
    next_close: Callable[[int], tuple[str, int]]
    closer: str = ""

    def find(self, at: int) -> int | None:
        """How many characters to take if the value ends at the tag at `at`, None if the tag is part of the value.

        `at` is 1 if a newline precedes the tag, otherwise 0."""
        is_closer = self.closer != "" and peek(self.text, at, self.closer) != ""
        found, end = (PARAMETER_END, at + len(self.closer)) if is_closer else tag_at(self.text, at)
        if found == PARAMETER_END:
            return end if self._may_follow(at, end) else None
        if found == PARAMETER:
            return at if at == 1 and self._begins_parameter(at) else None
        if found == CALL_END:
            return at if self._is_over(at + 1) else None
        if found == END:  # in the middle of a line, a "<" or "</" that is cut off may be anything
            return at if at == 1 or self.text[at] == END or end - at > 2 else None
        if self.bare and found == FUNCTION_END and at == 0:
            return None
        return at if self._closes_call(at, found, end) else None

    def _may_follow(self, at: int, end: int) -> bool:
        """Whether what follows the closing tag from `at` to `end` can follow a value."""
        then = skip_blank(self.text, end)
        tag, tag_end = tag_at(self.text, then)
        if tag != PARAMETER:
            return tag in (FUNCTION, CALL, END) or self._closes_call(then, tag, tag_end)
        if self._begins_parameter(then):
            return True
        return self.text.startswith(PARAMETER_END, at) and not self.nested and self._is_parameter(then)

    def _is_over(self, at: int) -> bool:
        return peek(self.text, skip_blank(self.text, at), CALL, END) != ""

    def _begins_parameter(self, at: int) -> bool:
        key, end = read_name(self.text, at + len(PARAMETER), blanks=True)
        return key != "" and self.is_new_key(key) and peek(self.text, end, "\n") == "\n"

    def _is_parameter(self, at: int) -> bool:
        """Whether a parameter begins that the tool does not have, or has had: another tag follows it, and no text."""
        key, end = read_name(self.text, at + len(PARAMETER), blanks=True)
        if key == "" or self.is_new_key(key):
            return True
        close, end = self.next_close(end)
        return close != PARAMETER_END or tag_at(self.text, skip_blank(self.text, end))[0] != ""

    def _closes_call(self, at: int, tag: str, end: int) -> bool:
        """Whether the tag from `at` to `end` closes the call."""
        for _ in range(MAX_CLOSERS):
            if tag != FUNCTION_END:
                break
            if self.bare:
                return True
            at = skip_blank(self.text, end)
            tag, end = tag_at(self.text, at)
            if tag in (CALL, FUNCTION, END):
                return True
        if tag == SPELLED_CALL_END:
            return self._is_over(end)
        return tag == CALL_END and (not self.nested or self._is_over(at + 1))
