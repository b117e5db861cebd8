"""`a3b completion SHELL`: a script that completes commands, options and files, made from the parser itself by shtab."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

from a3b.errors import UsageError

PATHS = {  # metavar: what a shell completes in its place
    "MODEL": "directory",
    "DIR": "directory",
    "DST": "directory",
    "[MODEL] [PROMPT]": "directory",
    "SRC": "file",
    "FILE": "file",
    "FILE.json": "file",
    "FILE.npy": "file",
    "FILE.png": "file",
}


def run(args: argparse.Namespace) -> None:
    try:
        import shtab
    except ImportError:
        raise UsageError("completion needs the package shtab, which is missing: pip install shtab") from None
    kinds = {"directory": shtab.DIRECTORY, "file": shtab.FILE}
    for action in actions(args.parser):
        kind = PATHS.get(action.metavar) if isinstance(action.metavar, str) else None
        if kind and not action.choices:
            setattr(action, "complete", kinds[kind])  # noqa: B010, where shtab looks; argparse declares no such field
    sys.stdout.write(shtab.complete(args.parser, shell=args.shell, root_prefix="a3b") + "\n")


def actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Options and positionals of a parser and of those below it."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from actions(below)
