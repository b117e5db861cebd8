"""What a NAME of a model means: a short name, a repository of the hub or a file in one, a place on this disk, or nano.

    qwen3.6, qwen3.6:fast, qwen3.6:q4_k_m         known_models
    OWNER/NAME, OWNER/NAME:TAG, OWNER/NAME/FILE.gguf, or an address of these on the hub
    a directory, a file

Every command that takes a MODEL reads it here. Enter at `meaning`, or at `local_model` where it must be on this
disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from a3b.commands.model_home import ModelHome, StoredModel
from a3b.engine.engine import NANO_NAMES
from a3b.engine.stored_models import short_name
from a3b.errors import UsageError, did_you_mean
from a3b.formats.gguf import is_gguf
from a3b.hub.client import ADDRESS, is_repo
from a3b.model.known_models import PRESETS, KnownModel, by_repository, known_model, short_names

VIEWS = ("blob", "resolve", "tree", "raw")


@dataclass(frozen=True)
class NamedModel:
    """A NAME that was understood. Exactly one of nano, place and repo is given."""

    text: str
    nano: bool = False
    place: Path | None = None  # on this disk
    repo: str | None = None  # where its weights are on the hub
    file: str = ""  # in the repository
    quant: str = ""  # or the types of the file: a tag
    preset: str | None = None
    known: KnownModel | None = None
    revision: str | None = None

    @property
    def title(self) -> str:
        return self.known.title if self.known else str(self.place or self.repo)


def meaning(text: str) -> NamedModel:
    """What a NAME means. Raises UsageError for a name of nothing."""
    lower = text.lower()
    if is_place(text):
        return NamedModel(text, place=Path(text).expanduser())
    if lower in NANO_NAMES:
        return NamedModel(text, nano=True)
    if found := _of_hub(text):
        return found
    if short := known_model(text):
        repo = short.model.gguf if short.quant else short.model.weights
        return NamedModel(text, repo=repo, quant=short.quant or "", preset=short.preset, known=short.model)
    if Path(text).suffix == ".gguf" or text.startswith(("/", "./", "../", "~")):
        raise UsageError(f"{text[:200]!r}: there is no such file or directory")
    meant = did_you_mean(text, [*short_names(), *NANO_NAMES])
    raise UsageError(
        f"{text[:80]!r} is no model{meant or ';'} expected a short name ('a3b list --available' shows them), "
        "OWNER/NAME on the hub, a directory or a .gguf file"
    )


def _of_hub(text: str) -> NamedModel | None:
    """A repository, with a tag or the path of a file in it; None if the text has no such form."""
    parts = ADDRESS.sub("", text.strip()).strip("/").split("/")
    if len(parts) < 2 or text.startswith(("/", ".", "~")):
        return None
    owner, (name, _, tag), inner = parts[0], parts[1].partition(":"), parts[2:]
    revision = None
    if len(inner) >= 2 and inner[0] in VIEWS:
        revision, inner = None if inner[1] == "main" else inner[1], inner[2:]
    file, repo = "/".join(inner), f"{owner}/{name}"
    if not is_repo(repo) or (file and not file.endswith(".gguf")) or (file and tag):
        return None
    tag = tag.lower().replace("-", "_")
    preset = tag if tag in PRESETS else None
    quant = "" if preset or tag == "latest" else tag
    return NamedModel(
        text, repo=repo, file=file, quant=quant, preset=preset, known=by_repository(repo), revision=revision
    )


def local_model(name: str | None, home: ModelHome) -> str | None:
    """The directory of a model of A3B_HOME; any other name stays as it is. Raises UsageError for a tag that its model
    does not have."""
    if name is None or is_place(name) or name.lower() in NANO_NAMES:
        return name
    short_name(name)  # which refuses a wrong tag, also if no model is here
    found = stored_model(name, home)
    return str(found.folder) if found else name


def stored_model(name: str, home: ModelHome, complete: bool = True) -> StoredModel | None:
    """The model of A3B_HOME that a name means; of several, the one used last. complete: or one that stopped."""
    candidates = (model for model in home.stored() if model.complete == complete and not model.leaving)
    return next((model for model in candidates if model.record.is_called(name)), None)


def is_place(name: str) -> bool:
    """Whether a name is that of a directory with a model, or of a file."""
    try:
        path = Path(name).expanduser()
        if not path.is_dir():
            return path.is_file()
        return (path / "config.json").exists() or any(is_gguf(file) for file in path.glob("*.gguf"))
    except (OSError, ValueError, RuntimeError):  # too long, a zero byte, a home that is not known
        return False
