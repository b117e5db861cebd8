"""Tab in the terminal: /commands at the beginning of a line, @paths anywhere. Enter at `LineCompleter`."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document

from a3b.printable import UNFIT

MOST_ENTRIES, MOST_SHOWN = 5_000, 60  # of a directory that are looked at; of completions
AT_PATH = re.compile(r"(?:^|\s)@(\S*)$")


class LineCompleter(Completer):
    """commands: with their slash; paths are below `directory`. Names that a terminal cannot show are left out."""

    def __init__(self, commands: Iterable[str], directory: Path):
        self._commands, self._directory = sorted(commands), directory

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterator[Completion]:
        before = document.text_before_cursor
        if before.startswith("/") and " " not in before:
            yield from (Completion(name, -len(before)) for name in self._commands if name.startswith(before))
        elif found := AT_PATH.search(before):
            yield from self._paths(found[1])

    def _paths(self, typed: str) -> Iterator[Completion]:
        above, slash, name = typed.rpartition("/")
        directory = self._directory / above
        try:
            with os.scandir(directory) as entries:
                kept = [
                    e for e in islice(entries, MOST_ENTRIES) if e.name.startswith(name) and not UNFIT.search(e.name)
                ]
                kept = [e for e in kept if name.startswith(".") or not e.name.startswith(".")]
                names = sorted(e.name + ("/" if e.is_dir() else "") for e in kept if " " not in e.name)
        except (OSError, ValueError):
            return
        for found in names[:MOST_SHOWN]:
            yield Completion(above + slash + found, -len(typed), display=found)
