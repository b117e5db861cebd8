"""One call in Qwen's XML, read from after its `<function=NAME>`, with recoveries for models that drift from it.

Text between parameters becomes text of the answer after the call; needless closing tags there vanish, even if
misspelled or cut off. Arguments may be one JSON object in place of parameters. If the output ends inside the call, what
is there becomes the call, marked incomplete. Enter at `XmlReader.step`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from a3b.output.buffer import Buffer, NeedMore, peek, skip_blank
from a3b.output.call_writer import CallWriter
from a3b.output.dialects.qwen_xml_tags import (
    CALL,
    CALL_END,
    FUNCTION,
    FUNCTION_END,
    PARAMETER,
    PARAMETER_END,
    SPELLED_CALL_END,
    ValueEnd,
    read_name,
    tag_at,
)
from a3b.output.json_text import read
from a3b.output.marks import END, MARKS, NAMES, is_mark

MAX_CLOSER = 40  # characters of a parameter's name by which it may be closed
_VALUE_STOP = re.compile(f"[\n<{MARKS}]")
_CLOSE = re.compile(f"{PARAMETER_END}|[{CALL_END}{END}]")
_BODY_STOP = re.compile(f"[<{MARKS}]")


@dataclass
class _Doubt:
    """A closing tag inside a string of what may be JSON: the value ends there if it turns out not to be JSON.

    num_pieces: of the value before the tag. tag_len: characters of the tag. pieces: the output from the tag on."""

    tag_len: int
    num_pieces: int
    pieces: list[str] = field(default_factory=list)


class XmlReader:
    """Each step looks at the start of the buffer and either takes something from it or raises NeedMore."""

    def __init__(self, buffer: Buffer, calls: CallWriter, is_bare: bool):
        """is_bare: the call has no `<tool_call>`."""
        self._buffer, self._calls, self._is_bare = buffer, calls, is_bare
        self._next = self._between
        self._stray: list[str] = []  # text that belongs to no parameter
        # the open parameter
        self._is_at_start = False  # nothing of its value has been read
        self._depth = 0  # `<tool_call>` open inside the value
        self._closer = ""  # a tag by the name of the parameter
        self._doubt: _Doubt | None = None

    def step(self) -> None:
        self._next()

    def _between(self) -> None:
        """Between parameters."""
        text = self._buffer.text
        at = skip_blank(text, 0)
        if peek(text, at, "{") and not self._calls.arguments.arguments and self._read_json(at):
            return
        tag, end = tag_at(text, at)
        if tag == PARAMETER:
            key, end = read_name(text, end, blanks=True)
            if key:
                return self._open(key, end)
        elif tag in (FUNCTION_END, SPELLED_CALL_END):
            self._buffer.take(end if tag == FUNCTION_END else at)
            return self._end(complete=True)
        elif tag in (FUNCTION, CALL, CALL_END, END):
            # the end of the output may follow a tag that was cut off
            self._buffer.take(len(text) - 1 if tag == END else at)
            return self._end(complete=tag != END)
        elif tag == PARAMETER_END:
            self._buffer.take(end)
            return
        self._stray.append(self._buffer.take(at + 1))
        self._next = self._outside

    def _outside(self) -> None:
        """In text that belongs to no parameter."""
        stop = _BODY_STOP.search(self._buffer.text)
        if stop is None or stop.start():
            self._stray.append(self._buffer.take(stop.start() if stop else len(self._buffer.text)))
        else:
            self._next = self._between

    def _read_json(self, at: int) -> bool:
        """Take arguments written as one JSON object in place of parameters."""
        end, missing = self._buffer.find_json_end(at)
        try:
            arguments = read(self._buffer.text[at:end].translate(NAMES) + missing)
        except ValueError:
            return False
        self._buffer.take(end)
        self._calls.put(arguments)
        return True

    def _end(self, complete: bool) -> None:
        self._calls.end(complete, "".join(self._stray))

    def _open(self, key: str, tag_len: int) -> None:
        self._buffer.take(tag_len)
        self._calls.open(key)
        self._is_at_start, self._depth = True, 0
        self._closer = f"</{key}>" if len(key) <= MAX_CLOSER else ""
        self._next = self._value

    def _value(self) -> None:
        """Inside a parameter. One newline at each end belongs to the tags."""
        text = self._buffer.text
        if self._is_at_start:
            self._is_at_start = False
            if text[0] == "\n":
                self._buffer.take(1)
                return
        stop = _VALUE_STOP.search(text)
        if stop is None or stop.start():
            return self._write(stop.start() if stop else len(text))
        newline = int(text[0] == "\n")
        if newline == len(text):
            raise NeedMore
        end = self._find_end(newline)
        mark = text[newline]
        if end is not None:
            if newline or mark == END or not self._calls.arguments.in_json_string:
                return self._close(end)
            self._doubt = self._doubt or _Doubt(end, self._calls.arguments.num_pieces)
        self._depth += (mark == CALL) - (mark == CALL_END and self._depth > 0)
        self._write(newline + (mark == "<" or is_mark(mark)))

    def _find_end(self, at: int) -> int | None:
        """The offset after the tag at `at`, if the value ends there."""
        text = self._buffer.text
        ends_at_tag = self._calls.arguments.is_scalar or self._calls.arguments.is_whole_json
        tag, end = tag_at(text, at)
        if self._closer and peek(text, at, f"<{self._closer[2:-1]}"):
            self._closer = ""
        if ends_at_tag and tag == PARAMETER_END:
            return end
        calls = self._calls
        rule = ValueEnd(text, self._depth > 0, self._is_bare, calls.is_new_key, self._next_close, self._closer)
        return rule.find(at)

    def _write(self, num_chars: int) -> None:
        """Take a piece of the value. If it shows that the value is not JSON, the tag in doubt ends it after all."""
        piece = self._buffer.text[:num_chars]
        self._calls.write(self._buffer.take(num_chars))
        if self._doubt is not None:
            self._doubt.pieces.append(piece)
            if self._calls.arguments.is_no_json:
                self._go_back(self._doubt)

    def _go_back(self, doubt: _Doubt) -> None:
        """End the value at the tag in doubt, and read again what follows the tag."""
        self._doubt = None
        self._calls.arguments.cut(doubt.num_pieces)
        text = "".join(doubt.pieces) + self._buffer.take_all()
        self._buffer.put_back(text[doubt.tag_len :])
        self._end_value()

    def _close(self, tag_len: int) -> None:
        """Take the tag at the start of the buffer, which ends the value unless an earlier one does."""
        if self._doubt is not None and not self._calls.arguments.is_whole_json:
            return self._go_back(self._doubt)
        self._doubt = None
        self._buffer.take(tag_len)
        self._end_value()

    def _end_value(self) -> None:
        self._calls.close()
        self._next = self._between

    def _next_close(self, at: int) -> tuple[str, int]:
        """The next `</parameter>`, or the mark that ends the call or the output, from `at` on, and the offset after
        it."""
        match = self._buffer.search(_CLOSE, at, len(PARAMETER_END))
        return match.group(), match.end()
