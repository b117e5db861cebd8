"""A line to type in, what still changes above it, a toolbar below; all else scrolls by. Enter at `PromptScreen`.

The terminal's own scrollback stays, nothing takes the whole screen, and nothing asks where the cursor is: so it works
through ssh, tmux and recorders. Knows no session."""

from __future__ import annotations

import asyncio
import sys
import termios
from collections.abc import Callable
from contextlib import suppress

from prompt_toolkit.application import Application
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.completion import CompleteEvent, Completer, get_common_complete_suffix
from prompt_toolkit.filters import Condition
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.history import History, InMemoryHistory
from prompt_toolkit.input import create_input
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.layout import (
    BufferControl,
    ConditionalContainer,
    FormattedTextControl,
    HSplit,
    Layout,
    Window,
)
from prompt_toolkit.layout.dimension import Dimension
from prompt_toolkit.layout.processors import Processor, Transformation, TransformationInput
from prompt_toolkit.output.vt100 import Vt100_Output
from prompt_toolkit.styles import Style
from prompt_toolkit.utils import get_cwidth
from rich.console import Console
from rich.text import Text

from a3b.agent.terminal.lines import fit_line
from a3b.printable import UNFIT, UNFIT_IN_LINES, printable

INPUT_ROWS = 8
MAX_PASTE = 100_000  # characters
QUIET_S, LONGEST_WAIT_S = 0.5, 5.0  # without a key before a question appears
REDRAW_S = 0.05  # between two drawings
STYLE = Style.from_dict({"dim": "ansibrightblack", "toolbar": "ansibrightblack", "doing": "bold", "ask": "bold"})


class _Literal(Processor):
    """Shows what would act on the terminal as a dot: pasted text is foreign too."""

    def apply_transformation(self, transformation_input: TransformationInput) -> Transformation:
        fragments = transformation_input.fragments
        return Transformation([(style, UNFIT.sub("\u00b7", text), *rest) for style, text, *rest in fragments])  # type: ignore[misc]  # mouse handlers stay


class PromptScreen:
    """Runs until `leave` or until the user leaves.

    submit: takes what was typed; key: is told "stop", "leave", "fold" or "expand"; live: rows that still change, for a
    width; toolbar: what happens now, and figures."""

    def __init__(
        self,
        submit: Callable[[str], None],
        key: Callable[[str], None],
        live: Callable[[int], list[tuple[str, str]]],
        toolbar: Callable[[], tuple[str, list[str]]],
        completer: Completer | None = None,
        history: History | None = None,
    ):
        self._submit, self._key, self._live, self._toolbar = submit, key, live, toolbar
        self._console = Console(file=sys.stdout, markup=False, emoji=False, highlight=False)
        self._question: asyncio.Future[str] | None = None
        self._answers: list[str] = []
        self._last_key = 0.0
        self._choices = ""
        self.input = create_input(sys.stdin)
        self.output = Vt100_Output.from_pty(sys.stdout)
        self.output.enable_cpr = False
        self.buffer = Buffer(
            multiline=True, completer=completer, history=history or InMemoryHistory(), complete_while_typing=False
        )
        self.app: Application[None] = Application(
            layout=self._layout(),
            key_bindings=self._bindings(),
            style=STYLE,
            input=self.input,
            output=self.output,
            erase_when_done=True,
            min_redraw_interval=REDRAW_S,
        )
        self.app.timeoutlen, self.app.ttimeoutlen = 0.2, 0.1
        self.app.key_processor.before_key_press += self._note_key
        self._lock = asyncio.Lock()

    async def run(self) -> None:
        """Raises EOFError if the terminal goes away."""
        await self.app.run_async()

    def leave(self) -> None:
        if self.app.is_running and not self.app.is_done:
            self.app.exit()

    def write(self, text: Text, wrap: bool = True) -> None:
        """Adds lines above. wrap: break long ones between words; else the terminal breaks them where it likes."""
        size = self.output.get_size()
        if UNFIT_IN_LINES.search(text.plain):  # whoever wrote it forgot
            text = Text(printable(text.plain, lines=True))
        with self._console.capture() as captured:
            self._console.print(text, width=max(size.columns - 1, 20), soft_wrap=not wrap, end="\n")
        if not self.app.is_running:
            self.output.write_raw(captured.get())
            self.output.flush()
            return
        self.app.renderer.erase()
        self.output.write_raw(captured.get())
        self.output.flush()
        self.app.renderer.reset()
        self.app.invalidate()

    def refresh(self) -> None:
        """Draws again what changes."""
        self.app.invalidate()

    def ready(self) -> None:
        """Another line may be typed, as always."""

    def put_back(self, text: str) -> None:
        """Text into the line, before what is typed there."""
        rest = self.buffer.text
        self.buffer.text = f"{text}\n{rest}" if rest else text
        self.buffer.cursor_position = len(self.buffer.text)

    async def ask(self, question: Text, choices: str) -> str:
        """What the user types and sends after having seen a question. choices: shown where he types.

        What was typed before stays a draft, what is pasted is no answer, and "" is an empty line, Esc or Ctrl-C. The
        question waits until no key was pressed for a moment."""
        async with self._lock:
            loop = asyncio.get_running_loop()
            latest = loop.time() + LONGEST_WAIT_S
            while (wait := min(self._last_key + QUIET_S, latest) - loop.time()) > 0:
                await asyncio.sleep(wait)
            draft = self.buffer.document
            self.app.key_processor.empty_queue()
            with suppress(termios.error, OSError):
                termios.tcflush(self.input.fileno(), termios.TCIFLUSH)
            self.buffer.reset()
            self._question, self._answers, self._choices = loop.create_future(), [], choices
            try:
                self.write(question)
                return await self._question
            finally:
                self._question = None
                self.buffer.reset(draft)
                self.app.invalidate()

    def _layout(self) -> Layout:
        def prefix(line: int, wrapped: int) -> StyleAndTextTuples:
            if self._question is not None:
                return [("class:ask", f"{self._choices} " if line == wrapped == 0 else "  ")]
            return [("", "> " if line == wrapped == 0 else "  ")]

        live = Window(FormattedTextControl(self._live_text), dont_extend_height=True)
        line = Window(
            BufferControl(self.buffer, input_processors=[_Literal()]),
            get_line_prefix=prefix,
            wrap_lines=True,
            dont_extend_height=True,
            height=Dimension(min=1, max=INPUT_ROWS),
        )
        toolbar = Window(FormattedTextControl(self._toolbar_text), dont_extend_height=True)
        has_live = Condition(lambda: bool(self._live(self._columns)))
        return Layout(HSplit([ConditionalContainer(live, has_live), line, toolbar]), line)

    @property
    def _columns(self) -> int:
        return max(self.output.get_size().columns - 1, 20)

    def _live_text(self) -> StyleAndTextTuples:
        rows = self._live(self._columns)[-max(self.output.get_size().rows - INPUT_ROWS, 1) :]
        ends = ["\n"] * (len(rows) - 1) + [""]
        return [(style, row + end) for (style, row), end in zip(rows, ends, strict=True)]

    def _toolbar_text(self) -> StyleAndTextTuples:
        doing, parts = self._toolbar()
        rows = [""]
        for part in parts:
            joined = f"{rows[-1]} | {part}" if rows[-1] else part
            if get_cwidth(joined) > self._columns and rows[-1]:
                rows.append(part)
            else:
                rows[-1] = joined
        return [("class:doing", doing[: self._columns] + "\n"), ("class:toolbar", "\n".join(rows))]

    def _note_key(self, _: object) -> None:
        self._last_key = asyncio.get_running_loop().time()

    def _enter(self, event: KeyPressEvent) -> None:
        text = self.buffer.text
        if self._question is not None:
            self.buffer.reset()
            self._answers.append(text)
            if len(self._answers) == 1:  # more lines in the same moment are no typing
                asyncio.get_running_loop().call_soon(self._answer)
            return
        if text.strip():
            self.buffer.append_to_history()
        self.buffer.reset()
        if text.strip():
            self._submit(text.strip())

    def _answer(self) -> None:
        answers, self._answers = self._answers, []
        if self._question is None or self._question.done():
            return
        if len(answers) > 1:
            self.write(Text("several lines at once do not answer; type one", "yellow"))
        else:
            self._question.set_result(answers[0].strip())

    def _refuse(self) -> bool:
        """Whether a question was open, which is now answered with nothing."""
        if self._question is None:
            return False
        if not self._question.done():
            self._question.set_result("")
        return True

    def _paste(self, event: KeyPressEvent) -> None:
        text = event.data.replace("\r\n", "\n").replace("\r", "\n")
        if self._question is not None:
            self.write(Text("pasted text does not answer; type it", "yellow"))
        elif len(text) > MAX_PASTE:
            told = f"{len(text):,} characters were pasted, at most {MAX_PASTE:,} fit: put them into a file and name it"
            self.write(Text(told, "yellow"))
        else:
            self.buffer.insert_text(text)

    def _complete(self) -> None:
        """As a shell does: inserts what all completions have in common, or lists them."""
        if self._question is not None or self.buffer.completer is None:
            return
        document = self.buffer.document
        found = list(self.buffer.completer.get_completions(document, CompleteEvent(completion_requested=True)))
        if len(found) == 1:
            self.buffer.delete_before_cursor(-found[0].start_position)
            self.buffer.insert_text(found[0].text)
        elif common := get_common_complete_suffix(document, found):
            self.buffer.insert_text(common)
        elif found:
            self.write(Text("  ".join(fit_line(one.display_text, 80) for one in found), "dim"))

    def _interrupt(self, event: KeyPressEvent) -> None:
        if self._refuse():
            self._key("stop")
        elif self.buffer.text:
            self.buffer.reset()
        else:
            self._key("interrupt")

    def _bindings(self) -> KeyBindings:
        keys = KeyBindings()
        keys.add("enter")(self._enter)
        keys.add("<bracketed-paste>")(self._paste)
        keys.add("c-c")(self._interrupt)
        keys.add("<sigint>")(self._interrupt)
        keys.add("escape", "enter")(lambda event: self.buffer.insert_text("\n"))
        keys.add("c-j")(lambda event: self.buffer.insert_text("\n"))
        keys.add("escape")(lambda event: self._refuse() or self._key("stop"))
        keys.add("c-t")(lambda event: self._key("fold"))
        keys.add("c-o")(lambda event: self._key("expand"))
        keys.add("c-z")(lambda event: event.app.suspend_to_background())
        keys.add("c-l")(lambda event: event.app.renderer.clear())
        is_empty = Condition(lambda: not self.buffer.text)
        keys.add("c-d", filter=is_empty)(lambda event: self._key("leave"))
        keys.add("tab")(lambda event: self._complete())
        return keys
