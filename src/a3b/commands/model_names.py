"""What a NAME of a model means where a model is to be run: a packed model of A3B_HOME by its name, or what it says.

Enter at `local_model`."""

from __future__ import annotations

from pathlib import Path

from a3b.commands.model_home import ModelHome, StoredModel
from a3b.formats.gguf import is_gguf
from a3b.model.known_models import ShortName, by_repository, known_model


def local_model(name: str | None, home: ModelHome) -> str | None:
    """The directory of a model of A3B_HOME; any other name stays as it is. Raises UsageError for a tag that its model
    does not have."""
    if name is None or is_place(name):
        return name
    found = stored_model(name, home)
    return str(found.folder) if found else name


def stored_model(name: str, home: ModelHome) -> StoredModel | None:
    """The complete model of A3B_HOME that a name means; of several, the one used last."""
    if found := home.find(name):
        return found
    short = short_name(name)
    for stored in home.stored() if short else ():
        if stored.complete and _fits(stored, short):
            return stored
    return None


def short_name(name: str) -> ShortName | None:
    """A short name, or a repository of a known model with its tag, as the short name of that model."""
    repo, _, tag = name.removeprefix("hf.co/").partition(":")
    model = by_repository(repo)
    return known_model(f"{model.name}:{tag}") if model else known_model(name)


def is_place(name: str) -> bool:
    """Whether a name is that of a directory with a model, or of a file."""
    try:
        path = Path(name).expanduser()
        return (
            path.is_file()
            or (path.is_dir() and any((path / f).exists() for f in ("config.json", "a3b.json")))
            or (path.is_dir() and any(is_gguf(file) for file in path.glob("*.gguf")))
        )
    except (OSError, ValueError, RuntimeError):  # too long, a zero byte, a home that is not known
        return False


def _fits(stored: StoredModel, short: ShortName | None) -> bool:
    if short is None or stored.record.model != short.model.name:
        return False
    if short.preset:
        return stored.record.preset == short.preset
    return not short.quant or stored.record.name == short.text
