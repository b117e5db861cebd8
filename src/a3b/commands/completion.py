"""`a3b completion SHELL`: a script that completes commands, options and files, made from the parser itself by shtab."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

from a3b.engine.engine import NANO_NAMES
from a3b.errors import UsageError
from a3b.model.known_models import short_names

NAMES = ("MODEL", "NAME", "[MODEL] [PROMPT]")  # metavars of models: completed by short names and directories
PREAMBLE = {
    "bash": '_a3b_models() { compgen -W "$A3B_NAMES" -- "$1"; compgen -d -- "$1"; }',
    "zsh": "_a3b_models() { _alternative 'names:model:($A3B_NAMES)' 'directories:directory:_files -/' }",
}
PATHS = {  # metavar: what a shell completes in its place
    "DIR": "directory",
    "DST": "directory",
    "OTHER": "directory",
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
        if action.metavar in NAMES and not action.choices:
            setattr(action, "complete", {**shtab.DIRECTORY, **dict.fromkeys(PREAMBLE, "_a3b_models")})  # noqa: B010
    names = " ".join([*short_names(), *NANO_NAMES])
    preamble = {shell: text.replace("$A3B_NAMES", names) for shell, text in PREAMBLE.items()}
    script = shtab.complete(
        args.parser,
        shell=args.shell,
        root_prefix="a3b",
        preamble=preamble,  # type: ignore[arg-type]  # declared as a text, documented as texts by shell
    )
    sys.stdout.write(script + "\n")


def actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Options and positionals of a parser and of those below it."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from actions(below)
