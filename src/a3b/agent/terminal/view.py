"""Events of a session as text that scrolls by, and the few rows below it that still change. Enter at `TerminalView`.

Everything from models, tools and files passes `fit_line`. Text that is written out is never changed again; thinking and
tool output that stay folded are kept, so that they can be shown later."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.text import Text

from a3b.agent.events import (
    AgentEvent,
    Compacted,
    Notice,
    Steered,
    TaskFinished,
    TextChunk,
    ThinkingChunk,
    ToolFinished,
    ToolOutput,
    ToolStarted,
    TurnFinished,
)
from a3b.agent.terminal.answer import AnswerStyle
from a3b.agent.terminal.lines import DIFF_STYLES, LineBuffer, fit_line, output_lines, rows_of
from a3b.printable import printable
from a3b.units import counted, span

TAIL_ROWS, DIFF_ROWS, LIVE_ROWS = 5, 40, 6  # of an output, of a diff, of what is being written
MAX_THOUGHT, MAX_OUTPUT = 400_000, 200_000  # characters that are kept of one
RECALLED_TASKS, RECALLED = 2, 60  # tasks of a resumed session that are shown, and events of them
MAX_THOUGHTS, MAX_TOOLS = 100, 300  # that can be shown again
COUNTED_ONLY = {"read", "search", "recall"}  # tools whose output is for the model: people see how long it is
NOTICE_STYLES = {"error": "red", "warning": "yellow"}
Write = Callable[[Text, bool], None]


@dataclass
class ShownCall:
    """A tool call that can be shown whole. number: as the user names it."""

    number: int
    summary: str
    text: str = ""
    diff: str = ""


@dataclass
class ShownThought:
    """Thinking of one turn. tokens: as the server counted them, or as many pieces as came."""

    text: str
    seconds: float
    tokens: int
    is_exact: bool = False

    @property
    def line(self) -> str:
        if not self.tokens:
            return f"thought in an earlier session, {len(self.text):,} characters"
        counted = f"{'' if self.is_exact else 'about '}{self.tokens:,} token{'' if self.tokens == 1 else 's'}"
        return f"thought for {span(self.seconds)}, {counted}"


class TerminalView:
    """write: takes lines above the prompt, and whether they may be broken between words."""

    def __init__(self, write: Write, clock: Callable[[], float] = time.monotonic):
        self._write_out, self._clock = write, clock
        self.is_unfolded = False  # thinking is written out
        self.thoughts: list[ShownThought] = []
        self.calls: OrderedDict[int, ShownCall] = OrderedDict()
        self._numbers: dict[str, int] = {}  # running calls by id
        self._num_calls = 0
        self._outputs: dict[str, str] = {}  # the end of what each prints
        self._thought: list[str] = []
        self._thought_length = 0
        self._thought_start = 0.0
        self._lines = LineBuffer()
        self._answer: AnswerStyle | None = None
        self._blank_lines = 0
        self._block = ""

    def take(self, event: AgentEvent) -> None:
        match event:
            case ThinkingChunk(text=text):
                self._think(text)
            case TextChunk(text=text):
                self._end_thinking()
                self._say(text)
            case TurnFinished(usage=usage):
                self._end_thinking(usage.thinking)
                self._end_answer()
            case ToolStarted(call=call, summary=summary):
                self._start(call, summary)
            case ToolOutput(call=call, text=text):
                self._outputs[call] = (self._outputs.get(call, "") + text)[-4 * MAX_OUTPUT // 100 :]
            case ToolFinished():
                self._finish(event)
            case Steered(text=text):
                self.user(text)
            case Notice(text=text, level=level):
                self._end_thinking()  # an answer that broke off comes again from its beginning
                self._end_answer()
                self.notice(text, NOTICE_STYLES.get(level, "dim"))
            case Compacted(before=before, after=after):
                self._end_thinking()
                self._end_answer()
                self.notice(f"compacted: {before:,} tokens became {after:,}; /think show and /show still have the rest")
            case TaskFinished():
                self._end(event)

    def live(self, width: int) -> list[tuple[str, str]]:
        """(style, row) of what is not complete yet."""
        if self._thought:
            text = (
                self._lines.rest
                if self.is_unfolded
                else "".join(self._thought[-LIVE_ROWS * width :])[-LIVE_ROWS * width :].strip("\n")
            )
            return [("class:dim", row) for row in rows_of(printable(text, lines=True), width, TAIL_ROWS - 2)]
        if self._numbers:
            call, number = next(reversed(self._numbers.items()))
            lines = output_lines(self._outputs.get(call, "").replace("\r", "\n"))[-TAIL_ROWS:]
            rows = [("", f"[{number}] {self.calls[number].summary}"[: width - 1])]
            return rows + [("class:dim", "    " + line[: width - 5]) for line in lines]
        rest = self._lines.rest.expandtabs(4)
        return [("", row) for row in rows_of(printable(rest), width, LIVE_ROWS)] if rest else []

    def user(self, text: str) -> None:
        """What the user said."""
        self._begin("user")
        for i, line in enumerate(text.split("\n")):
            self._write(("> " if i == 0 else "  ") + fit_line(line), "bold")

    def notice(self, text: str, style: str = "dim") -> None:
        self._begin("aside")
        for line in text.split("\n"):
            self._write(fit_line(line), style)

    def recall(self, events: Sequence[AgentEvent]) -> None:
        """Earlier events: all thinking and calls can be shown; what the user said last is, and what came after it, with
        one line for each call."""
        said = [i for i, event in enumerate(events) if isinstance(event, Steered)]
        first = (said[-RECALLED_TASKS:] or [0])[0]
        rest = max(first + 1, len(events) - RECALLED)
        for i, event in enumerate(events):
            is_shown = i >= rest or i == first
            match event:
                case ThinkingChunk(text=text):
                    self._keep(ShownThought(text[:MAX_THOUGHT], 0, 0))
                case ToolStarted(call=call, summary=summary):
                    self._start(call, summary)
                case ToolFinished():
                    self._recall_call(event, is_shown)
                case Steered(text=text) if is_shown:
                    self.user(_first_lines(text, 10))
                case TextChunk(text=text) if is_shown:
                    self._say(_first_lines(text, 40))
                    self._end_answer()
                case Notice(text=text) if is_shown:
                    self.notice(text)
            if i == first and rest > first + 1:
                self.notice("... (/tree lists all turns)")

    def _recall_call(self, event: ToolFinished, is_shown: bool) -> None:
        call = self.calls[self._numbers.pop(event.call)]
        call.text = event.text[:MAX_OUTPUT]
        if is_shown:
            self._begin("aside")
            lines = output_lines(call.text)
            title = Text(f"[{call.number}] {call.summary}", "bold")
            told = lines[0][:100] if event.is_error and lines else counted(len(lines), "line")
            self._write_out(title.append(f"  {told}", "red" if event.is_error else "dim"), True)

    def fold(self) -> None:
        """Folds or unfolds thinking; what is being thought, or was thought last, is written out when it unfolds."""
        self.is_unfolded = not self.is_unfolded
        if not self.is_unfolded:
            self._lines = LineBuffer() if self._thought else self._lines
            self.notice("thinking is folded (Ctrl-T shows it)")
        elif self._thought:
            self._begin("aside")
            self._write_thought(self._lines.add("".join(self._thought)))
        elif self.thoughts:
            self.show_thought(len(self.thoughts))
        else:
            self.notice("thinking will be shown (Ctrl-T folds it)")

    def show_thought(self, number: int) -> None:
        """Writes out the thinking of a turn, counted from 1."""
        if not 1 <= number <= len(self.thoughts):
            self.notice(f"no thinking {number}; there are {len(self.thoughts)}" if self.thoughts else "no thinking yet")
            return
        thought = self.thoughts[number - 1]
        self._begin("aside")
        self._write_thought([f"[thinking {number}] {thought.line}", *thought.text.strip("\n").split("\n")])

    def show_call(self, number: int | None = None) -> None:
        """Writes out all that a call printed, and what it changed; None is the last one."""
        call = self.calls.get(next(reversed(self.calls), 0) if number is None else number)
        if call is None:
            self.notice(f"no tool call {number}" if number is not None else "no tool call yet")
            return
        self._begin("aside")
        self._write(f"[{call.number}] {call.summary}", "bold")
        for line in output_lines(call.text):
            self._write("    " + line, "dim", wrap=False)
        self._write_diff(call.diff, None, call.number)

    def show_diff(self, diff: str) -> None:
        """Writes out a whole diff."""
        self._begin("aside")
        self._write_diff(diff, None, 0)

    def _begin(self, block: str) -> None:
        """A blank line where another kind of text begins."""
        if self._block and self._block != block:
            self._write_out(Text(""), False)
        self._block = block

    def _write(self, text: str, style: str = "", wrap: bool = True) -> None:
        self._write_out(Text(text, style), wrap)

    def _think(self, text: str) -> None:
        self._end_answer()
        if not self._thought:
            self._thought_start, self._thought_length = self._clock(), 0
        self._thought_length += len(text)
        self._thought.append(text if self._thought_length <= MAX_THOUGHT else "")
        if self.is_unfolded:
            self._begin("aside")
            self._write_thought(self._lines.add(text))

    def _write_thought(self, lines: list[str]) -> None:
        for line in lines:
            self._write(fit_line(line), "dim")

    def _end_thinking(self, tokens: int = 0) -> None:
        """tokens: as the server counted them, 0 if it has not yet."""
        if not self._thought:
            if tokens and self.thoughts and not self.thoughts[-1].is_exact:
                self.thoughts[-1].tokens, self.thoughts[-1].is_exact = tokens, True
            return
        thought = ShownThought(
            "".join(self._thought), self._clock() - self._thought_start, tokens or len(self._thought), tokens > 0
        )
        self._keep(thought)
        self._thought = []
        rest = self._lines.end()
        self._begin("aside")
        if self.is_unfolded:
            self._write_thought([line for line in rest if line.strip()])
        self._write(thought.line + ("" if self.is_unfolded else " (Ctrl-T shows it)"), "dim")

    def _keep(self, thought: ShownThought) -> None:
        self.thoughts.append(thought)
        for old in self.thoughts[:-MAX_THOUGHTS]:  # numbers stay
            old.text = "(no longer kept)"

    def _say(self, text: str) -> None:
        if self._answer is None:
            self._answer, self._blank_lines = AnswerStyle(), 0
        for line in self._lines.add(text):
            self._say_line(line)

    def _say_line(self, line: str) -> None:
        assert self._answer is not None
        if not line.strip():
            self._blank_lines += 1
            return
        for _ in range(min(self._blank_lines, 2) if self._block == "answer" else 0):
            self._write("")
        self._begin("answer")
        self._blank_lines = 0
        styled = self._answer.line(line)
        self._write_out(styled, not self._answer.is_code)

    def _end_answer(self) -> None:
        if self._answer is not None:
            for line in self._lines.end():
                self._say_line(line)
            self._answer = None

    def _start(self, call: str, summary: str) -> None:
        self._end_thinking()
        self._end_answer()
        self._num_calls += 1
        self._numbers[call] = self._num_calls
        self.calls[self._num_calls] = ShownCall(self._num_calls, fit_line(summary.partition("\n")[0], 200))
        while len(self.calls) > MAX_TOOLS:
            self.calls.popitem(last=False)

    def _finish(self, event: ToolFinished) -> None:
        if event.call not in self._numbers:
            self._start(event.call, event.tool)
        number = self._numbers.pop(event.call)
        self._outputs.pop(event.call, None)
        call = self.calls.setdefault(number, ShownCall(number, fit_line(event.tool, 200)))
        call.text, call.diff = event.text[:MAX_OUTPUT], event.diff[:MAX_OUTPUT]
        self._begin("aside")
        lines = output_lines(call.text)
        title = Text(f"[{number}] {call.summary}", "bold")
        if event.seconds >= 1:
            title.append(f"  {span(event.seconds)}", "dim")
        if event.tool in COUNTED_ONLY and not event.is_error:
            title.append(f"  {len(lines)} line{'' if len(lines) == 1 else 's'}", "dim")
            lines = []
        self._write_out(title, True)
        if left_out := len(lines) - TAIL_ROWS if len(lines) > TAIL_ROWS + 1 else 0:
            self._write(f"    ... {left_out:,} more lines, /show {number} has all", "dim")
        for line in lines[left_out:]:
            self._write("    " + line, "red" if event.is_error else "dim", wrap=False)
        self._write_diff(call.diff, DIFF_ROWS, number)

    def _write_diff(self, diff: str, most: int | None, number: int) -> None:
        lines = output_lines(diff) if diff else []
        for line in lines[:most]:
            is_name = line.startswith(("--- ", "+++ "))
            self._write("    " + line, "dim" if is_name else DIFF_STYLES.get(line[:1], ""), wrap=False)
        if most is not None and len(lines) > most:
            self._write(f"    ... {len(lines) - most:,} more lines, /show {number} has all", "dim")

    def end(self) -> None:
        """Nothing more comes of what has begun."""
        self._end_thinking()
        self._end_answer()
        self._numbers.clear()
        self._outputs.clear()

    def _end(self, event: TaskFinished) -> None:
        self.end()
        usage = event.usage
        words = f"{event.turns} turn{'' if event.turns == 1 else 's'}, {usage.read:,} tokens read"
        words += f" and {usage.cached:,} cached" if usage.cached else ""
        self._begin("end")
        if event.status != "done" and event.text:
            for line in event.text.split("\n")[:20]:
                self._write(fit_line(line), "red" if event.status == "failed" else "yellow")
        self._write(f"{fit_line(event.status, 40)}: {words}, {usage.written:,} written", "dim")


def _first_lines(text: str, most: int) -> str:
    lines = text.strip().split("\n")
    return "\n".join(lines if len(lines) <= most else [*lines[:most], f"... {len(lines) - most:,} more lines"])
