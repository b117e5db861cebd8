"""Model output to events, while it is being written: thinking, text and tool calls.

Owns the structure of an answer: blocks of thinking and text, and the places of calls among them. The dialects
(`output/dialects`) know how a call is written, and read it. Knows no token ids, no sampling and no transport. Enter at
`OutputParser`.

Rules, where the format leaves a choice:

* Control tokens are tags; their spelled names are text. A control token with no meaning where it occurs is text as
  well: the opener of a call is one only if a call follows, so that prose may mention it; `<think>` and a second
  `</think>` count only where a block has no text yet.
* Thinking and text come trimmed, as chat templates trim them: whitespace is held back until more follows. Around a
  call (or a second block of thinking) the whitespace before it is kept; the whitespace after it only if there was
  none before.
* If the output ends inside a call, what is there becomes the call, marked incomplete; without a name it is text.
* A call without its opener counts at the beginning of a line, if the dialect knows such calls; not within a block of
  code, and inside thinking only if the output ends right after it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from a3b.interface.events import Event, merge_events
from a3b.output.buffer import Buffer, NeedMore, skip_blank
from a3b.output.call_writer import CallWriter
from a3b.output.dialects import DIALECTS
from a3b.output.dialects.dialect import CallReader, Dialect, HeldCall
from a3b.output.marks import END, MARKS, mark_of
from a3b.output.prose import Prose
from a3b.output.tool_arguments import ToolSchemas
from a3b.prompt.segments import Control

Place = Literal["text", "opening", "call", "closing"]
THINK, THINK_END = "<think>", "</think>"
_SURROGATE = re.compile("[\ud800-\udfff]")
_MARK = re.compile(f"[{MARKS}]")


class OutputParser:
    """Events of one answer. However the output is cut into pieces, the merged events are the same.

    tools: the request's tools (OpenAI or Anthropic form), for the types of arguments.
    in_thinking: the prompt ended inside `<think>`, as it does unless thinking is off.
    call_id: makes the id of the call with a given index.
    only_offered: a call of any other tool is text.
    dialects: how calls may be written, the most likely first.

    The end-of-turn token is the caller's to recognise; any other control token pushed here comes as its name.
    """

    def __init__(
        self,
        tools: Sequence[Mapping[str, Any]] | None = None,
        in_thinking: bool = True,
        call_id: Callable[[int], str] = "call_{}".format,
        only_offered: bool = False,
        dialects: Sequence[Dialect] = DIALECTS,
    ):
        self._dialects = tuple(dialects)
        tags = [THINK, THINK_END, *(name for one in dialects for name in (one.opener, one.closer) if name)]
        self._marks = {name: mark_of(name) for name in tags}
        self._openers = frozenset(self._marks[one.opener] for one in dialects)
        self._closers = frozenset(self._marks[one.closer] for one in dialects if one.closer)
        self._schemas = ToolSchemas(tools)
        self._buffer = Buffer()
        self._events: list[Event] = []
        self._prose = Prose(
            in_thinking,
            starts="".join(one.bare_start for one in dialects),
            fences={one.opener: one.closer for one in dialects if one.closer},  # spelled: around an example of a call
        )
        self._calls = CallWriter(self._schemas, self._prose, self._events, call_id, only_offered)
        self._step: Callable[[], None] = self._block
        self._finished = False
        self._dialect = self._dialects[0]  # of the call begun last
        self._is_bare = False  # it has no opener
        self._reader: CallReader | None = None
        self._held: HeldCall | None = None

    @property
    def place(self) -> Place:
        """Where the next token is: in text or thinking, after an opener that may begin a call, in a call, or
        after a call that has an opener."""
        if self._step == self._block:
            return "opening" if self._buffer.text[:1] in self._openers else "text"
        if self._step == self._after_call:
            return "text" if self._is_bare or not self._dialect.closer else "closing"
        return "text" if self._step == self._hold else "call"

    @property
    def tool(self) -> str:
        """The name in the call begun last."""
        return self._calls.tool

    @property
    def in_thinking(self) -> bool:
        """Whether what comes next is thinking, as far as can be told."""
        return self._prose.thinking

    @property
    def num_calls(self) -> int:
        """Tool calls begun so far."""
        return self._calls.num_calls

    @property
    def all_complete(self) -> bool:
        """Whether no call so far was cut off."""
        return self._calls.all_complete

    @property
    def is_whole(self) -> bool:
        """Whether no tag and no call is open: everything but whitespace has been emitted."""
        return self._step == self._block and not self._buffer.text

    @property
    def num_held(self) -> int:
        """Characters of whitespace held back at the end of the thinking or text that is being written."""
        return self._prose.num_held

    def push(self, piece: Control | str) -> list[Event]:
        """Take the next control token or piece of text (whole characters); return the events it completes."""
        if self._finished:
            raise RuntimeError("OutputParser.push after finish: make a new parser for each answer")
        if isinstance(piece, Control):
            return self._run(self._marks.get(piece.name, piece.name))
        return self._run(_SURROGATE.sub("\ufffd", piece))

    def finish(self) -> list[Event]:
        """End the output: close what is open. A second call returns nothing."""
        if self._finished:
            return []
        self._finished = True
        return self._run(END)

    def _run(self, text: str) -> list[Event]:
        self._buffer.add(text)
        while self._buffer.advance():
            try:
                while self._buffer.text:
                    self._step()
            except NeedMore:
                pass
        events = merge_events(self._events)
        self._events.clear()
        return events

    # Each step looks at the start of the buffer and either takes something from it or raises NeedMore.

    def _block(self) -> None:
        """Thinking or text, up to a tag that means something here."""
        text = self._buffer.text
        match = _MARK.search(text)
        end = match.start() if match else len(text)
        if end:
            at = self._prose.lines.find(text, end) if self._schemas else end
            if at == 0 and self._open_bare():
                return
            if at == 0:
                self._prose.lines.skip(text[0])
            return self._write_prose(self._buffer.take(at or 1))
        mark, prose = text[0], self._prose
        if mark in self._openers:
            return self._open(mark)
        begins = mark == self._marks[THINK] and prose.blank and not prose.thinking
        if begins or (mark == self._marks[THINK_END] and prose.thinking):
            self._buffer.take(1)
            prose.enter(thinking=begins)
        elif prose.blank and mark != END:
            self._buffer.take(1)  # a tag that is repeated
        else:
            self._write_prose(self._buffer.take(1))

    def _write_prose(self, text: str) -> None:
        self._events += self._prose.write(text)

    def _open(self, opener: str) -> None:
        """At an opener: a call if one follows, otherwise a word of the text. A call ends the thinking."""
        at = skip_blank(self._buffer.text, 1)
        for dialect in self._dialects:
            if self._marks[dialect.opener] == opener and self._begin(dialect, at):
                return
        self._write_prose(self._buffer.take(1))

    def _begin(self, dialect: Dialect, at: int, is_bare: bool = False) -> bool:
        """Begin a call of `dialect`, if there is one at `at`."""
        self._reader = dialect.open(self._buffer, at, self._calls, is_bare)
        if self._reader is None:
            return False
        self._dialect, self._is_bare, self._step = dialect, is_bare, self._call
        self._call()
        return True

    def _call(self) -> None:
        """Inside a call."""
        assert self._reader is not None
        self._reader.step()
        if not self._calls.is_open:
            self._step = self._after_call

    def _after_call(self) -> None:
        """After a call: needless closing tags, another call, or text if the closer is missing."""
        text = self._buffer.text
        at = self._dialect.skip_between(text)
        if at == len(text):
            raise NeedMore
        for dialect in self._dialects:
            if dialect.may_follow(self._dialect) and self._begin(dialect, at, self._is_bare):
                return
        for dialect in self._dialects:
            if end := dialect.skip_closing(text, at):
                self._buffer.take(end)
                return
        self._step = self._block
        if text[at] in self._closers:
            self._buffer.take(at + 1)

    def _open_bare(self) -> bool:
        """Begin a call without its opener, if one is at the start of the buffer."""
        for dialect in self._dialects:
            if head_end := dialect.find_bare(self._buffer.text, self._calls):
                if not self._prose.thinking:
                    return self._begin(dialect, 0, is_bare=True)
                self._dialect, self._held, self._step = dialect, dialect.hold(head_end, self._calls), self._hold
                return True
        return False

    def _hold(self) -> None:
        """At a call inside the thinking without its opener, until it is clear whether the output ends after it."""
        assert self._held is not None
        num_chars = self._held.decide(self._buffer.text)
        if num_chars == 0:
            self._begin(self._dialect, 0, is_bare=True)
            return
        text = self._buffer.take(num_chars)
        self._prose.lines.skip(text)
        self._step = self._block
        self._write_prose(text)
