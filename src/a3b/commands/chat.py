"""`a3b chat [MODEL]`: a conversation at the terminal; piped input is answered line by line. `saved_chat.py` has earlier
conversations."""

from __future__ import annotations

import shlex
import signal
import sys
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

from a3b.commands.dialogue import DIM, PLAIN, Dialogue, Printer, check_sampling, drafts, load, sampling, speed
from a3b.commands.saved_chat import Kept, directory, print_listing
from a3b.commands.transcripts import Transcripts
from a3b.engine.engine import Engine
from a3b.errors import A3BError, did_you_mean
from a3b.model.parameters import count_parameters
from a3b.printable import say

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import History

SAMPLE = "What are you?"  # asked when no question comes
HELP = """\
/help             this list
/new              forget the conversation
/resume [ID]      list earlier conversations, or continue one
/system TEXT      set the system prompt (and start anew)
/think on|off     let the model think before it answers
/preserve on|off  keep the thinking of earlier turns in the prompt
/show on|off      show thinking
/exit             leave (or Ctrl-D)
Ctrl-C stops an answer. A line that ends with \\ continues on the next."""


def run(args: Namespace) -> int:
    if args.resume == "":
        print_listing(Transcripts(directory(args)))
        return 0
    check_sampling(args)
    kept = Kept.of(args)  # before the model is loaded, so that a wrong id is reported at once
    engine = load(args)
    if engine.huge_pages:
        engine.huge_pages.start()
    chat = Chat(args, engine, kept)
    if kept.transcript:
        kept.fill(chat.dialogue)
    try:
        if sys.stdin.isatty():
            chat.interact()
            return 0
        if hasattr(sys.stdin, "reconfigure"):
            sys.stdin.reconfigure(errors="replace")
        return chat.answer_lines(sys.stdin)
    finally:
        chat.dialogue.close()
        kept.close()


class Chat:
    def __init__(self, args: Namespace, engine: Engine, kept: Kept):
        self.args, self.engine, self.kept = args, engine, kept
        kept.positions = engine.positions
        preserve = args.preserve_thinking == "on"
        self.dialogue = Dialogue(engine, args.system, not args.no_think, preserve, drafts=drafts(args))
        self.show_thinking = not args.hide_thinking
        self.params = sampling(args, engine, has_tools=False)

    def interact(self) -> None:
        from prompt_toolkit import PromptSession

        say(self.greeting())
        session: PromptSession[str] = PromptSession(reserve_space_for_menu=0, history=self.typed_lines())
        while True:
            try:
                line = read(session)
            except KeyboardInterrupt:  # at the prompt: drop the line
                continue
            except EOFError:
                line = "/exit"
            if leaves(line):
                if self.kept.transcript:
                    model = f" {shlex.quote(str(self.args.model))}" if self.args.model is not None else ""
                    say(f"a3b chat{model} --resume {self.kept.transcript.id} continues this conversation")
                return
            try:
                self.take(line)
            except KeyboardInterrupt:  # pressed again before the answer had stopped
                say("\nstopped; the question was taken back")

    def typed_lines(self) -> History | None:
        if self.args.no_history:
            return None
        from a3b.commands.typed_lines import TypedLines

        try:
            return TypedLines(directory(self.args) / "lines")
        except OSError as error:
            say(f"typed lines are not kept: {error.filename}: {error.strerror or error}")
            return None

    def answer_lines(self, lines: Iterable[str]) -> int:
        """Each line as soon as it comes, or a sample if none does; 1 if one was refused."""
        asked, ok = False, True
        for line in filter(None, map(str.strip, lines)):
            if leaves(line):
                return 0 if ok else 1
            say(f"> {line}")
            asked, ok = True, self.take(line) and ok
        if not asked:
            say(f"> {SAMPLE}")
            self.kept.writes = False
            ok = self.take(SAMPLE)
        return 0 if ok else 1

    def take(self, line: str) -> bool:
        """Run a command or answer a question; False if it was refused, which is reported on stderr."""
        try:
            if line.startswith("/"):
                self.command(line)
            elif line:
                self.answer(line)
        except A3BError as error:
            say(error)
            return False
        return True

    def greeting(self) -> str:
        count = count_parameters(self.engine.config)
        lines = [
            f"{self.engine.name}: {count.total / 1e6:,.0f} M parameters, {count.active / 1e6:,.1f} M active per token, "
            f"context {self.engine.context:,}"
        ]
        if self.engine.is_nano:
            lines.append(
                "This is the embedded demonstration model: it knows manners, a few words and some small tasks."
            )
        lines.append("/help lists commands, Ctrl-C stops an answer, Ctrl-D leaves.")
        return "\n".join(lines)

    def answer(self, text: str) -> None:
        self.kept.asked(text, self.dialogue.system)
        with interruptible() as cancel:
            message, finished, turn = self.dialogue.ask(text, self.params, Printer(thinking=self.show_thinking), cancel)
        self.kept.answered(message, turn)
        dim, plain = (DIM, PLAIN) if sys.stderr.isatty() else ("", "")
        sys.stderr.write(f"{dim}{speed(finished)}{plain}\n")

    def command(self, line: str) -> None:
        name, _, value = line.partition(" ")
        value = value.strip()
        if name == "/help":
            say(HELP)
        elif name == "/new":
            self.begin_anew()
            say("new conversation")
        elif name == "/system":
            self.begin_anew()
            self.dialogue.system = value or None
            say("system prompt set" if value else "no system prompt")
        elif name == "/resume" and value:
            self.kept.resume(value, self.dialogue)
        elif name == "/resume":
            print_listing(self.kept.transcripts, sys.stderr)
        elif name in SWITCHES and value in ("on", "off"):
            SWITCHES[name](self, value == "on")
            say(f"{name[1:]} {value}")
        elif name in SWITCHES:
            say(f"{name} takes on or off")
        else:
            known = [line.split()[0] for line in HELP.splitlines() if line.startswith("/")]
            say(f"no command {name}" + (did_you_mean(name, known) or "; /help lists them"))

    def begin_anew(self) -> None:
        self.kept.close()
        self.dialogue.clear()


def _think(chat: Chat, on: bool) -> None:
    chat.dialogue.think = on
    chat.args.no_think = not on
    chat.params = sampling(chat.args, chat.engine, has_tools=False)


def _preserve(chat: Chat, on: bool) -> None:
    chat.dialogue.preserve = on


def _show(chat: Chat, on: bool) -> None:
    chat.show_thinking = on


SWITCHES = {"/think": _think, "/preserve": _preserve, "/show": _show}


def leaves(line: str) -> bool:
    """/quit and /bye are what other chats call it."""
    return line.split(None, 1)[:1] in (["/exit"], ["/quit"], ["/bye"])


def read(session: PromptSession[str]) -> str:
    """One input, over several lines while they end with a backslash."""
    lines = [session.prompt("> ")]
    while lines[-1].endswith("\\"):
        lines[-1] = lines[-1][:-1]
        lines.append(session.prompt(". "))
    return "\n".join(lines).strip()


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Ctrl-C sets a flag, which the body checks, instead of raising; a second one raises."""
    pressed: list[int] = []

    def on_signal(number: int, frame: FrameType | None) -> None:
        if pressed:
            raise KeyboardInterrupt
        pressed.append(number)

    before = signal.signal(signal.SIGINT, on_signal)
    try:
        yield lambda: bool(pressed)
    finally:
        signal.signal(signal.SIGINT, before)
