"""The command line: parses arguments and runs one command. Each command is a module of `a3b.commands`.

Answers go to stdout; progress, thinking and errors to stderr. Exit status: 0 done, 1 refused, 2 wrong usage, 130
Ctrl-C, 143 SIGTERM. Enter at `main`."""

from __future__ import annotations

import argparse
import importlib
import sys
from contextlib import ExitStack

from a3b import __version__
from a3b.commands.examples import EXAMPLES
from a3b.commands.options import COMMANDS
from a3b.commands.parser import Parser, brief
from a3b.commands.standard_streams import all_written, terminable, usable_streams
from a3b.errors import A3BError, UsageError
from a3b.printable import report, say
from a3b.settings import VARIABLES, RuntimeConfig

NO_HOME = "Could not determine home directory."  # the message of pathlib
MODELS = {  # fields that may be a name in A3B_HOME, by command
    **dict.fromkeys(("chat", "serve", "info", "render", "logits"), ("model",)),
    **dict.fromkeys(("verify", "bench"), ("directory",)),
    "eval": ("model", "against"),
}
FIRST_SCREEN = """\
a3b runs Qwen3.6-35B-A3B, or the a3b-nano inside this package, on the CPU. To begin:

    a3b up                  get the 35B model in the form that suits this machine, and serve it; asks first
    a3b code                then, in a project: the coding agent of a3b, in a sandbox
    a3b launch claude       or another agent on that server; also qwen, codex, opencode, pi, aider ...
    a3b chat                talk to a3b-nano, which needs no download; a3b chat qwen3.6 once that is here
    a3b code --demo         see a3b-nano repair a small package, in a scratch directory
    a3b run "Why is the sky blue?"
    a3b list                models that are here, and where everything is kept

'a3b help COMMAND' explains a command. All of them: """


def main(argv: list[str] | None = None) -> int:
    usable_streams()
    status = 0
    try:
        with all_written("a3b") as outcome, terminable():
            status = command(argv)
        return status if outcome.status is None else outcome.status
    except KeyboardInterrupt:
        say()
        return 130


def command(argv: list[str] | None) -> int:
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.command is None:
        report(FIRST_SCREEN + ", ".join(commands_of(parser)))
        return 0
    args.parser = parser
    try:
        args.runtime = RuntimeConfig.from_env()
        if args.runtime.unknown:
            known = ", ".join(f"A3B_{name.upper()}" for name in VARIABLES)
            say(brief(f"environment: unknown and ignored: {', '.join(args.runtime.unknown)[:200]}; known: {known}"))
        if args.runtime.overruled:
            say(f"environment: {args.runtime.overruled}")
        if "model" in args and args.model is None:
            args.model = args.runtime.model
        if "context" in args:
            args.context = args.context or args.runtime.context
        with ExitStack() as args.held:  # what the command keeps from others until it ends
            find_models(args)
            return importlib.import_module(f"a3b.commands.{args.command}").run(args) or 0
    except A3BError as error:
        say(brief(f"a3b {args.command}: {error}"))
        return 2 if isinstance(error, UsageError) else 1
    except MemoryError as error:
        say(f"a3b {args.command}: out of memory: {error or 'give it a smaller model, context or prompt'}")
        return 1
    except RuntimeError as error:
        if str(error) != NO_HOME:
            raise
        say(
            f"a3b {args.command}: a path begins with '~', but the home directory is "
            "not known; write it out, or set HOME or A3B_HOME"
        )
        return 2


def find_models(args: argparse.Namespace) -> None:
    """Put directories in the place of the names of models."""
    from a3b.commands.model_here import model_here  # what only some commands need

    for field in MODELS.get(args.command, ()):
        if (given := getattr(args, field, None)) is not None:
            setattr(args, field, model_here(str(given), args))


def build_parser() -> Parser:
    parser = Parser(
        prog="a3b",
        description="Run Qwen3.6-35B-A3B, or the embedded a3b-nano, on the CPU; earlier thinking is kept.",
        epilog="'a3b help COMMAND' explains a command. Environment: A3B_MODEL, "
        "A3B_CONTEXT, A3B_THREADS, A3B_DRAFTS, A3B_HOME; for serve "
        "A3B_HOST, A3B_PORT, A3B_API_KEY, A3B_ALLOW_HOST, A3B_ALLOW_ORIGIN, A3B_LOG_LEVEL.",
    )
    parser.add_argument("--version", action="version", version=f"a3b {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, (text, fill) in COMMANDS.items():
        fill(
            commands.add_parser(
                name, help=text, description=text[0].upper() + text[1:] + ".", examples=EXAMPLES.get(name, "")
            )
        )
    return parser


def commands_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The parsers of the commands of a parser, by name."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return action.choices
    return {}


if __name__ == "__main__":
    sys.exit(main())
