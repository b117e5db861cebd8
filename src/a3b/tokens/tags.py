"""The tags of an answer, and reading them from a buffer that is still growing.

In the buffer a control token is one mark, a lone surrogate, which decoded text cannot contain; so the spelled
name of a control token is never taken for it. `END` marks the end of the output. Each reader either knows
what stands at an offset whatever follows, or raises `Wait`; that makes results independent of how the output
was cut. Enter at `look`.

Where a parameter's value ends, so that values may contain the tags themselves:

* at `</parameter>` of a number, a boolean or null, always; also behind a whole JSON object or array, if the tool takes one;
* inside a string of what is the beginning of one, at none of the tags below, unless it turns out that it never becomes whole;
* at any other `</parameter>`, only if that is followed by what can follow it: another `<parameter=…>`, a `</function>`
  that closes the call, the end of the call or of the output;
* without `</parameter>`, at `</function>` that closes the call, or at a line `<parameter=KEY>` whose KEY the
  tool has and the call has not yet had.
* While a value holds an open `<tool_call>`, "closes the call" means that the output ends there or another
  call follows: a file about tool calls passes through whole.
"""

from __future__ import annotations

import re
from collections.abc import Callable

CALL, CALL_END, THINK, THINK_END, END = "\ud800", "\ud801", "\ud802", "\ud803", "\ud804"
MARKS = CALL + CALL_END + THINK + THINK_END + END
TAGS = {"<tool_call>": CALL, "</tool_call>": CALL_END, "<think>": THINK, "</think>": THINK_END}
NAMES = {ord(mark): name for name, mark in TAGS.items()} | {ord(END): ""}
FUNCTION, FUNCTION_END, PARAMETER, PARAMETER_END = "<function=", "</function>", "<parameter=", "</parameter>"
SPELLED_CALL_END = "</tool_call>"  # understood behind `</function>`, if nothing but another call follows

MAX_NAME = 200  # characters of a tool's or parameter's name
MAX_BLANK = 64  # white space between two tags
_NAME = re.compile(rf'["\']?([^\s<>"\'{MARKS}]{{1,{MAX_NAME}}})["\']?>')
_NAME_SO_FAR = re.compile(rf'["\']?([^\s<>"\'{MARKS}]{{0,{MAX_NAME}}})["\']?')


class Wait(Exception):
    """The buffer ends before it is clear what it says."""


def look(buffer: str, at: int, *options: str) -> str:
    """Which option stands at `at`, "" for none; waits while it may still become one."""
    for option in options:
        if buffer.startswith(option, at):
            return option
    rest = buffer[at : at + MAX_BLANK]
    if any(option.startswith(rest) for option in options):
        raise Wait
    return ""


def skip_blank(buffer: str, at: int) -> int:
    """The offset of what follows white space; after MAX_BLANK characters the rest counts as text."""
    for offset in range(at, at + MAX_BLANK):
        if offset == len(buffer):
            raise Wait
        if buffer[offset] not in " \t\r\n":
            return offset
    return at + MAX_BLANK


def read_name(buffer: str, at: int) -> tuple[str, int]:
    """A name in quotes or not and its ">": (name, offset behind), ("", at) if there is none."""
    if match := _NAME.match(buffer, at):
        return match.group(1), match.end()
    if (match := _NAME_SO_FAR.match(buffer, at)) and match.end() == len(buffer):
        raise Wait
    return "", at


def value_end(buffer: str, at: int, nested: bool, is_new_key: Callable[[str], bool]) -> int | None:
    """How much of `buffer` to take if a value ends at the tag at `at`, None if the tag is part of the value.

    `at` is 1 if a newline precedes the tag, else 0. `nested`: the value holds an open `<tool_call>`.
    `is_new_key`: whether a parameter of that name can begin here. The rule is in the module's docstring.
    """

    def is_over(at: int) -> bool:
        return look(buffer, skip_blank(buffer, at), CALL, END) != ""

    def begins_parameter(at: int) -> bool:
        key, end = read_name(buffer, at + len(PARAMETER))
        return key != "" and is_new_key(key) and look(buffer, end, "\n") == "\n"

    def closes_call(at: int, tag: str) -> bool:
        if tag == FUNCTION_END:
            at = skip_blank(buffer, at + len(FUNCTION_END))
            tag = look(buffer, at, CALL_END, CALL, FUNCTION, END, SPELLED_CALL_END)
            if tag in (CALL, FUNCTION, END):
                return True
            if tag == SPELLED_CALL_END:
                return is_over(at + len(tag))
        return tag == CALL_END and (not nested or is_over(at + 1))

    found = look(buffer, at, PARAMETER_END, PARAMETER, FUNCTION_END, CALL_END, END)
    if found == PARAMETER_END:
        end = at + len(PARAMETER_END)
        then = skip_blank(buffer, end)
        tag = look(buffer, then, PARAMETER, FUNCTION, FUNCTION_END, CALL, CALL_END, END)
        if tag == PARAMETER:
            return end if not nested or begins_parameter(then) else None
        return end if tag in (FUNCTION, CALL, END) or closes_call(then, tag) else None
    if found == PARAMETER:
        return at if at == 1 and begins_parameter(at) else None
    if found == CALL_END:
        return at if is_over(at + 1) else None
    return at if found == END or closes_call(at, found) else None
