"""Model output to events, while it is being written: thinking, text and tool calls.

Owns the syntax of an answer (`<think>`, `<tool_call>`, `<function=…>`, `<parameter=…>`) and its recoveries.
Does not know token ids, sampling or transport; how tags are read and where a value ends is in
`output/qwen_tags.py`, types of arguments in `output/tool_arguments.py`. Enter at `OutputParser`.

Rules, where the format leaves a choice:

* Control tokens are tags, their spelled names are text. A control token with no meaning where it stands is
  text as well: `<tool_call>` opens a call only if `<function=NAME>` or `{"` follows, so that prose may speak
  of it; `<think>` and a second `</think>` count only where a block has no text yet.
* Thinking and text come trimmed, as chat templates trim them: white space is held back until more follows.
  Around a call (or a second block of thinking) the white space before it is kept, that behind it only if
  there was none before.
* The output ends inside a call: what is there becomes the call, marked incomplete; without a name it is text.
* What stands in a call outside its parameters comes as text after the call; closing tags there, also misspelled or cut,
  vanish.
* `<function=NAME>` at the beginning of a line, without `<tool_call>`, is a call if NAME is one of the tools and a
  parameter or the end follows; not within a block of code, and inside thinking only if the output ends right after it.
* Calls written as JSON may follow each other in one `<tool_call>`, or be a list.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from a3b.interface.events import Event, ToolCallDelta, ToolCallEnd, ToolCallStart, merge_events
from a3b.output.json_text import JsonSpan, read
from a3b.output.prose import Prose
from a3b.output.qwen_tags import (
    CALL,
    CALL_END,
    END,
    FUNCTION,
    FUNCTION_END,
    MARKS,
    NAMES,
    PARAMETER,
    PARAMETER_END,
    SPELLED_CALL_END,
    TAGS,
    THINK,
    THINK_END,
    NeedMore,
    peek,
    read_name,
    skip_blank,
    tag_at,
    value_end,
)
from a3b.output.thought_calls import ThoughtCall
from a3b.output.tool_arguments import ArgumentsWriter, ToolSchemas, parse_json_calls
from a3b.prompt.segments import Control

Place = Literal["text", "opening", "call", "closing"]
MAX_CLOSER = 40  # characters of a parameter's name by which it may be closed
CHUNK = 2048  # characters looked at together; bounds the copying when a long text comes in one piece
_SURROGATE = re.compile("[\ud800-\udfff]")
_MARK = re.compile(f"[{MARKS}]")
_VALUE_STOP = re.compile(f"[\n<{MARKS}]")
_CLOSE = re.compile(f"{PARAMETER_END}|[{CALL_END}{END}]")
_BODY_STOP = re.compile(f"[<{MARKS}]")
_BETWEEN_CALLS = re.compile(r"[ \t\r\n,;}\]]{0,64}")


@dataclass
class _Doubt:
    """A tag inside a string of what may be JSON. end: of the characters from there, how many end the value if it is
    none.

    num_pieces: of the value before the tag. pieces: the output from the tag on."""

    end: int
    num_pieces: int
    pieces: list[str] = field(default_factory=list)


class OutputParser:
    """Events of one answer. However the output is cut into pieces, the merged events are the same.

    tools: the request's tools (OpenAI or Anthropic form), for the types of arguments.
    in_thinking: the prompt ended inside `<think>`, as it does unless thinking is off.
    call_id: makes the id of the call with a given index.
    control_tokens: False for a vocabulary without control tokens; their spelled names are then tags.
    only_offered: a call of any other tool is text.

    The end-of-turn token is the caller's to recognise; any other control token pushed here comes as its name.
    """

    def __init__(
        self,
        tools: Sequence[Mapping[str, Any]] | None = None,
        in_thinking: bool = True,
        call_id: Callable[[int], str] = "call_{}".format,
        control_tokens: bool = True,
        only_offered: bool = False,
    ):
        self._schemas = ToolSchemas(tools)
        self._only_offered = only_offered
        self._call_id = call_id
        self._control_tokens = control_tokens
        self._raw = ""  # text that may be the beginning of a spelled tag
        self._buffer = ""
        self._ahead: deque[str] = deque()  # text that comes behind the buffer
        self._events: list[Event] = []
        self._step = self._block
        self._finished = False
        self._prose = Prose(in_thinking)
        # the open call
        self._num_calls = 0
        self._all_complete = True
        self._id = self._tool = ""
        self._writer = ArgumentsWriter(self._schemas, "")
        self._value_begun = False
        self._depth = 0  # `<tool_call>` open inside the value
        self._closer = ""  # a tag by the name of the parameter
        self._stray: list[str] = []
        self._doubt: _Doubt | None = None
        self._span: JsonSpan | None = None
        self._sought = 0  # up to where the buffer has no `</parameter>`
        self._is_json = self._is_bare = False
        self._thought: ThoughtCall | None = None  # a call inside the thinking

    @property
    def place(self) -> Place:
        """Where the next token stands: in text or thinking, after a `<tool_call>` that may begin a call, in a call, or
        after its function."""
        if self._step == self._block:
            return "opening" if self._buffer[:1] == CALL else "text"
        if self._step == self._after_function:
            return "text" if self._is_bare else "closing"
        return "text" if self._step == self._hold_thought else "call"

    @property
    def tool(self) -> str:
        """The name in the call begun last."""
        return self._tool

    @property
    def in_thinking(self) -> bool:
        """Whether what comes next is thinking, as far as can be told."""
        return self._prose.thinking

    @property
    def num_calls(self) -> int:
        """Tool calls begun so far."""
        return self._num_calls

    @property
    def all_complete(self) -> bool:
        """Whether no call so far was cut off."""
        return self._all_complete

    @property
    def is_whole(self) -> bool:
        """Whether no tag and no call is open: all came out, but for white space."""
        return self._step == self._block and not self._buffer and not self._raw

    @property
    def num_held(self) -> int:
        """Characters of white space held back at the end of the thinking or text that is being written."""
        return self._prose.num_held

    def push(self, piece: Control | str) -> list[Event]:
        """Take the next control token or piece of text (whole characters), give the events it completes."""
        if self._finished:
            raise RuntimeError("OutputParser.push after finish: make a new parser for each answer")
        if isinstance(piece, Control):
            mark = TAGS.get(piece.name, piece.name)
            self._run(self._marked("", last=True) + mark)
        else:
            self._run(self._marked(_SURROGATE.sub("\ufffd", piece)))
        return self._drain()

    def finish(self) -> list[Event]:
        """End of output: close what is open. A second call gives nothing."""
        if not self._finished:
            self._finished = True
            self._run(self._marked("", last=True) + END)
        return self._drain()

    def _marked(self, text: str, last: bool = False) -> str:
        """Text with its spelled tags as marks, less an end that may be the beginning of a tag."""
        if self._control_tokens:
            return text
        text = self._raw + text
        for name, mark in TAGS.items():
            text = text.replace(name, mark)
        tail = text.rfind("<")
        keep = tail if not last and tail >= 0 and any(n.startswith(text[tail:]) for n in TAGS) else len(text)
        self._raw = text[keep:]
        return text[:keep]

    def _run(self, text: str) -> None:
        """Go on with `text`, and with what a step puts back."""
        self._ahead += _chunks(text)
        while self._ahead:
            self._buffer += self._ahead.popleft()
            try:
                while self._buffer:
                    self._step()
            except NeedMore:
                pass

    def _drain(self) -> list[Event]:
        events, self._events = merge_events(self._events), []
        return events

    def _take(self, num_chars: int) -> str:
        """Remove that much from the buffer; marks come as the names they stand for."""
        taken, self._buffer = self._buffer[:num_chars], self._buffer[num_chars:]
        self._span, self._sought = None, 0
        return taken.translate(NAMES)

    # Each step below looks at the start of the buffer and either takes something from it or waits.

    def _block(self) -> None:
        """Thinking or text, up to a tag that means something here."""
        match = _MARK.search(self._buffer)
        end = match.start() if match else len(self._buffer)
        if end:
            at = self._prose.lines.find(self._buffer, end) if self._schemas else end
            if at == 0 and self._bare_call():
                return
            if at == 0:
                self._prose.lines.skip("<")
            return self._write_prose(self._take(at or 1))
        mark = self._buffer[0]
        if mark == CALL:
            return self._open_call()
        begins = mark == THINK and self._prose.blank and not self._prose.thinking
        if begins or (mark == THINK_END and self._prose.thinking):
            self._take(1)
            self._prose.enter(thinking=begins)
        elif self._prose.blank and mark != END:
            self._take(1)  # a tag once more
        else:
            self._write_prose(self._take(1))

    def _bare_call(self) -> bool:
        """A call without `<tool_call>` at the start of the buffer."""
        if peek(self._buffer, 0, FUNCTION) == "":
            return False
        name, end = read_name(self._buffer, len(FUNCTION))
        if not self._schemas.offers_loose(name) or tag_at(self._buffer, skip_blank(self._buffer, end))[0] not in (
            PARAMETER,
            FUNCTION_END,
        ):
            return False
        if self._prose.thinking:
            self._thought, self._step = ThoughtCall(end, self._schemas.offers_loose), self._hold_thought
        else:
            self._open_bare()
        return True

    def _open_bare(self) -> None:
        self._open_function(0)
        self._is_bare = True

    def _hold_thought(self) -> None:
        """A call inside the thinking, held back until it is clear whether the output ends after it."""
        num_chars = self._thought.decide(self._buffer)
        if num_chars == 0:
            return self._open_bare()
        text = self._take(num_chars)
        self._prose.lines.skip(text)
        self._step = self._block
        self._write_prose(text)

    def _write_prose(self, text: str) -> None:
        self._events += self._prose.write(text)

    def _open_call(self) -> None:
        """`<tool_call>`: a call if one follows, else a word of the text. Ends thinking if it is a call."""
        buffer = self._buffer
        at = skip_blank(buffer, 1)
        opening = peek(buffer, at, FUNCTION, "{", "[")
        if self._open_function(at) if opening == FUNCTION else opening and self._json_calls(at):
            return
        self._write_prose(self._take(1))

    def _open_function(self, at: int) -> bool:
        """Take `<function=NAME>` at `at` and begin a call, if it is well formed."""
        name, end = read_name(self._buffer, at + len(FUNCTION))
        if not self._may_call(name):
            return False
        self._take(end)
        self._start(name)
        self._step = self._body
        return True

    def _may_call(self, name: str) -> bool:
        return name != "" and (self._schemas.offers(name) or not self._only_offered)

    def _json_calls(self, at: int) -> bool:
        """Calls written as one JSON object or list at `at`; waits until it is complete."""
        buffer, inner = self._buffer, at
        for bracket in "[{" if buffer[at] == "[" else "{":
            if peek(buffer, inner, bracket) == "":
                return False
            inner = skip_blank(buffer, inner + 1)
        if peek(buffer, inner, '"', "'") == "":
            return False
        end, missing = self._find_json_end(at)
        calls = parse_json_calls(buffer[at:end].translate(NAMES) + missing)
        if calls is None or not all(self._may_call(name) for name, _ in calls):
            return False
        self._take(end)
        for number, (name, arguments) in enumerate(calls, 1):
            self._start(name)
            self._put(arguments)
            self._end(complete=not missing or number < len(calls) or self._buffer[:1] == CALL_END)
        self._is_json = True
        return True

    def _find_json_end(self, at: int) -> tuple[int, str]:
        self._span = self._span or JsonSpan(MARKS)
        found = self._span.find_end(self._buffer, at, END)
        if found is None:
            raise NeedMore
        return found

    def _start(self, name: str) -> None:
        self._prose.thinking = False
        self._tool, self._writer = name, ArgumentsWriter(self._schemas, name)
        self._id = self._call_id(self._num_calls)
        self._events.append(ToolCallStart(self._num_calls, self._id, name))
        self._num_calls += 1
        self._is_json = self._is_bare = False

    def _delta(self, fragment: str) -> None:
        self._events.append(ToolCallDelta(self._num_calls - 1, fragment))

    def _put(self, arguments: Mapping[str, Any]) -> None:
        for key, value in arguments.items():
            self._delta(self._writer.put(key, value))

    def _end(self, complete: bool) -> None:
        """Close the call; what it held outside its parameters becomes text."""
        self._delta(self._writer.end())
        arguments = self._writer.arguments
        self._all_complete = self._all_complete and complete
        self._events.append(ToolCallEnd(self._num_calls - 1, self._id, self._tool, arguments, complete))
        stray, self._stray = "".join(self._stray), []
        self._prose.enter(thinking=False)
        self._write_prose(stray)
        self._step = self._after_function

    def _body(self) -> None:
        """Inside a function, between parameters."""
        buffer = self._buffer
        at = skip_blank(buffer, 0)
        if peek(buffer, at, "{") and not self._writer.arguments and self._json_body(at):
            return
        found, end = tag_at(buffer, at)
        if found == PARAMETER:
            key, end = read_name(buffer, end, blanks=True)
            if key:
                self._take(end)
                self._delta(self._writer.open(key))
                self._value_begun, self._depth = False, 0
                self._closer = f"</{key}>" if len(key) <= MAX_CLOSER else ""
                self._step = self._value
                return
        elif found in (FUNCTION_END, SPELLED_CALL_END):
            self._take(end if found == FUNCTION_END else at)
            return self._end(complete=True)
        elif found in (FUNCTION, CALL, CALL_END, END):
            self._take(at)
            if found == END:
                self._buffer = self._buffer[-1:]  # without a tag that was cut off
            return self._end(complete=found != END)
        elif found == PARAMETER_END:
            self._take(end)
            return
        self._stray.append(self._take(at + 1))
        self._step = self._stray_text

    def _stray_text(self) -> None:
        """Text inside a function that belongs to no parameter."""
        stop = _BODY_STOP.search(self._buffer)
        if stop is None or stop.start():
            self._stray.append(self._take(stop.start() if stop else len(self._buffer)))
        else:
            self._step = self._body

    def _json_body(self, at: int) -> bool:
        """Arguments written as one JSON object in place of parameters."""
        end, missing = self._find_json_end(at)
        try:
            arguments = read(self._buffer[at:end].translate(NAMES) + missing)
        except ValueError:
            return False
        self._take(end)
        self._put(arguments)
        return True

    def _value(self) -> None:
        """Inside a parameter. One newline at each end belongs to the tags."""
        if not self._value_begun:
            self._value_begun = True
            if self._buffer[0] == "\n":
                self._take(1)
                return
        stop = _VALUE_STOP.search(self._buffer)
        if stop is None or stop.start():
            return self._write(stop.start() if stop else len(self._buffer))
        newline = int(self._buffer[0] == "\n")
        if newline == len(self._buffer):
            raise NeedMore
        ends_at_tag = self._writer.is_scalar or self._writer.is_whole_json
        tag, end = tag_at(self._buffer, newline)
        if self._closer and peek(self._buffer, newline, f"<{self._closer[2:-1]}"):
            self._closer = ""
        if not ends_at_tag or tag != PARAMETER_END:
            end = value_end(
                self._buffer, newline, self._depth > 0, self._is_bare, self._is_new_key, self._next_close, self._closer
            )
        mark = self._buffer[newline]
        if end is not None:
            if newline or mark == END or not self._writer.in_json_string:
                return self._close_value(end)
            self._doubt = self._doubt or _Doubt(end, self._writer.num_pieces)
        self._depth += (mark == CALL) - (mark == CALL_END and self._depth > 0)
        self._write(newline + (mark in "<" + MARKS))

    def _write(self, num_chars: int) -> None:
        """Take a piece of the value. If it shows that the value is no JSON, a tag that was passed over ends it after
        all."""
        piece = self._buffer[:num_chars]
        self._delta(self._writer.write(self._take(num_chars)))
        if self._doubt is not None:
            self._doubt.pieces.append(piece)
            if self._writer.is_no_json:
                self._go_back()

    def _go_back(self) -> None:
        """End the value at the tag that was passed over, and read again what came behind it."""
        doubt, self._doubt = self._doubt, None
        self._writer.cut(doubt.num_pieces)
        text = "".join(doubt.pieces) + self._buffer
        self._buffer = ""
        self._ahead.extendleft(reversed(_chunks(text[doubt.end :])))
        self._end_value()

    def _close_value(self, num_chars: int) -> None:
        """Take the tag at the start of the buffer that ends the value, unless the value is in doubt and still no
        JSON."""
        if self._doubt is not None and not self._writer.is_whole_json:
            return self._go_back()
        self._doubt = None
        self._take(num_chars)
        self._end_value()

    def _end_value(self) -> None:
        self._delta(self._writer.close())
        self._step = self._body

    def _is_new_key(self, key: str) -> bool:
        """Whether the tool has a parameter `key` that this call has not yet had."""
        writer = self._writer
        return key != writer.key and key not in writer.arguments and self._schemas.may_have(self._tool, key)

    def _next_close(self, at: int) -> tuple[str, int]:
        """The next `</parameter>`, or the mark that ends the call or the output, from `at` on, and the offset after
        it."""
        match = _CLOSE.search(self._buffer, max(at, self._sought))
        if match is None:
            self._sought = max(at, len(self._buffer) - len(PARAMETER_END) + 1)
            raise NeedMore
        return match.group(), match.end()

    def _after_function(self) -> None:
        """After a function: closing tags, another function, or text if the end is missing."""
        buffer = self._buffer
        at = _BETWEEN_CALLS.match(buffer).end() if self._is_json else skip_blank(buffer, 0)
        if at == len(buffer):
            raise NeedMore
        found, end = tag_at(buffer, at)
        is_bare = self._is_bare
        if found == FUNCTION and self._open_function(at):
            self._is_bare = is_bare
            return
        if self._is_json and found == "" and self._json_calls(at):
            return
        if found in (FUNCTION_END, PARAMETER_END, SPELLED_CALL_END):
            self._take(end)
            return
        self._step = self._block
        if found == CALL_END:
            self._take(end)


def _chunks(text: str) -> list[str]:
    return [text[start : start + CHUNK] for start in range(0, len(text), CHUNK)]
