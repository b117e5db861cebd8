"""argparse with one-line errors, the nearest known name, and examples in the help.

Enter at `Parser`. How the text of an argument is read is in `a3b.commands.argument_types`.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NoReturn

from a3b.errors import did_you_mean
from a3b.printable import printable

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

OTHERS = {  # commands and options of ollama, llama.cpp and vLLM, and their names here
    "ls": "list",
    "models": "list",
    "ps": "cache",
    "remove": "rm",
    "delete": "rm",
    "uninstall": "rm",
    "show": "info",
    "download": "pull",
    "start": "serve",
    "api": "serve",
    "generate": "run",
    "quantize": "pack",
    "convert": "pack",
    "create": "pack",
    "-v": "--version",
    "-n": "--max-tokens",
    "--n-predict": "--max-tokens",
    "--predict": "--max-tokens",
    "--num-predict": "--max-tokens",
    "-c": "--context",
    "--ctx-size": "--context",
    "--num-ctx": "--context",
    "--max-model-len": "--context",
    "--config": "--print",
    "--repeat-penalty": "--repetition-penalty",
    "-np": "--parallel",
    "-sys": "--system",
    "--system-prompt": "--system",
}
HINTS = {
    "-m": "MODEL is the first word",
    "--model": "MODEL is the first word",
    "-t": "set A3B_THREADS",
    "--threads": "set A3B_THREADS",
    "-p": "PROMPT is a word in quotes",
    "--prompt": "PROMPT is a word in quotes",
    "--think": "thinking is on unless '--no-think' is given",
}
MAX_ERROR = 2000  # characters
# argparse would take -1e3 for an option
NEGATIVE = re.compile(r"^-(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?$|^-(?:inf|nan)$")


class Parser(argparse.ArgumentParser):
    """Reports a mistake in one line, with the option or command that was meant. examples: shown at the end of help."""

    def __init__(self, *args: Any, examples: str = "", **kwargs: Any):
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        if examples:
            kwargs["epilog"] = "examples:\n" + "\n".join(f"  {line}" for line in examples.strip().splitlines())
        super().__init__(*args, **kwargs)
        self._negative_number_matcher = NEGATIVE
        self.passes_on = ""  # where what follows '--' goes as it is, for another program
        self.late_epilog: Callable[[], str] | None = None  # for what only help that is asked for has to load

    def error(self, message: str) -> NoReturn:
        self.exit(
            2,
            printable(brief(f"{self.prog}: {message}{'' if message.endswith('?') else ';'} see '{self.prog} --help'"))
            + "\n",
        )

    def format_help(self) -> str:
        if self.late_epilog is not None:
            self.epilog = self.late_epilog()
        return super().format_help()

    def _print_message(self, message: str, file: SupportsWrite[str] | None = None) -> None:
        """Print, and unlike argparse do not hide a failure to write."""
        if message:
            (file or sys.stderr).write(printable(message, lines=True))

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """Parse, and unlike argparse refuse what is unknown here, where the options of the command are known."""
        rest: list[str] = []
        if self.passes_on and "--" in (args or ()):
            place = args.index("--")
            args, rest = args[:place], args[place + 1 :]
        found, unknown = super().parse_known_args(args, namespace)
        if self.passes_on:
            setattr(found, self.passes_on, rest)
        if unknown:
            name = unknown[0].partition("=")[0]
            if self.passes_on:
                near = did_you_mean(name, self._option_string_actions) or ";"
                self.error(
                    f"{name[:80]!r} is no option of a3b{near} what is for the client comes after '--': {self.prog} "
                    f"CLIENT -- {name[:80]}"
                )
            if not name.startswith("-"):
                self.error(f"unexpected argument {name[:80]!r}")
            after = "text that begins with '-' comes after '--'"
            self.error(f"unknown option {name[:80]}" + (meant(name, self._option_string_actions) or f"; {after}"))
        return found, unknown

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            known = list(action.choices)
            hint = meant(str(value), known) or f"; expected one of {', '.join(known)}"
            raise argparse.ArgumentError(action, f"{str(value)[:80]!r} is unknown{hint}")


def meant(word: str, known: Iterable[str]) -> str:
    """What an unknown word probably means, as the end of a sentence; "" if nothing is similar."""
    known = list(known)
    if OTHERS.get(word) in known:
        return f"; did you mean {OTHERS[word]!r}?"
    return f"; {HINTS[word]}" if word in HINTS else did_you_mean(word, known)


def brief(text: str) -> str:
    """An error without its middle if it repeats something long, such as a prompt given as a file name."""
    return text if len(text) <= MAX_ERROR else f"{text[: MAX_ERROR // 2]} ... {text[-MAX_ERROR // 4 :]}"
