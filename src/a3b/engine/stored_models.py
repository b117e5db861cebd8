"""Models that `a3b up` keeps by name: the record beside each, and the directory that a name means.

    models/FOLDER         a packed model
    models/FOLDER.json    its record: the name, the source and the preset; the file's time is its last use

Making and removing them is the command line's. Enter at `packed_model`."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from a3b.files import read_text
from a3b.formats.packed import MANIFEST
from a3b.hub.client import ADDRESS
from a3b.model.known_models import ShortName, by_repository, known_model

RECORD = ".json"
MAX_RECORD_BYTES, MAX_MODELS = 1 << 16, 10_000


@dataclass(frozen=True)
class Record:
    """What a stored model is: its name, and what makes it again."""

    name: str  # as it is typed
    source: str  # OWNER/NAME on the hub, or a path
    file: str = ""  # in the repository, if one was chosen
    preset: str = ""
    model: str = ""  # the name without its tag
    revision: str = ""  # commit
    begun: float = 0.0

    def is_called(self, name: str) -> bool:
        """Whether a name means this model: a name without a tag means each of its model. Raises UsageError for a tag
        that its model does not have."""
        if ADDRESS.sub("", name).lower() in (self.name.lower(), self.model.lower()):
            return True
        short = short_name(name)
        if short is None or self.model != short.model.name:
            return False
        return self.preset == short.preset if short.preset else not short.quant or self.name == short.text


def short_name(name: str) -> ShortName | None:
    """A short name, or a repository of a known model with its tag, as the short name of that model."""
    repo, _, tag = ADDRESS.sub("", name).partition(":")
    model = by_repository(repo)
    return known_model(f"{model.name}:{tag}") if model else known_model(name)


def read_record(path: Path, name: str) -> Record:
    """A record, or one with the name of the folder if it is missing or not readable."""
    try:
        value: Any = json.loads(read_text(path, MAX_RECORD_BYTES))
        texts = {f.name: value[f.name] for f in fields(Record) if f.name != "begun" and f.name in value}
        if not all(isinstance(text, str) and len(text) < 4096 for text in texts.values()):
            raise ValueError
        begun = value.get("begun")
        return Record(**texts, begun=float(begun) if isinstance(begun, int | float) else 0.0)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
        return Record(name, "", begun=time.time())


def packed_model(name: str, home: str) -> Path | None:
    """The directory of a complete model of that name below a home, the one used last of several; None if there is none.

    Raises UsageError for a known name with a tag that it does not have."""
    try:
        models = Path(home).expanduser() / "models"
        beside = [path for path, _ in zip(models.glob(f"*{RECORD}"), range(MAX_MODELS), strict=False)]
        beside = [path for path in beside if (path.with_suffix("") / MANIFEST).is_file()]
        beside.sort(key=lambda path: -path.stat().st_mtime)
    except (OSError, RuntimeError):  # RuntimeError: no home directory
        return None
    for path in beside:
        folder = path.with_suffix("")
        if read_record(path, folder.name).is_called(name):
            return folder
    return None
