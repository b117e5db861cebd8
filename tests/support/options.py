"""The options that a parser knows, command by command."""

from __future__ import annotations

import argparse

from a3b.cli import commands_of


def options_of(parser: argparse.ArgumentParser, name: str = "") -> dict[str, set[str]]:
    """Command ("cache prune"; "" is the program itself) -> its options but --help, each by its longest name.

    A command that only has commands below it is left out."""
    own = {max(action.option_strings, key=len) for action in parser._actions if action.option_strings} - {"--help"}
    below = commands_of(parser)
    found = {name: own} if own or not below else {}
    for word, command in below.items():
        found |= options_of(command, f"{name} {word}".strip())
    return found
