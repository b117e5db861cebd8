"""`a3b help [COMMAND ...]`: the same as --help after the command."""

from __future__ import annotations

from argparse import Namespace


def run(args: Namespace) -> None:
    args.parser.parse_args([*args.words, "--help"])  # prints, and ends the process
