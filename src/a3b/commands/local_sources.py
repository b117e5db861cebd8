"""Models on this disk that could be packed in place of a download: which of them is the one that is wanted, and fits.

Files of other programs are only read. Enter at `best_source`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from a3b.commands.choice import PresetChoice, Room, check_own_types, choose
from a3b.commands.model_names import NamedModel
from a3b.commands.sizes import as_packed
from a3b.errors import A3BError, UsageError
from a3b.formats.gguf import is_gguf, is_model
from a3b.hub.on_disk import FoundModel
from a3b.model.known_models import known_model
from a3b.packing.open_source import open_source
from a3b.packing.plan import bytes_per_token, make_plan
from a3b.packing.source import Source

FILE_TYPES = {2: "q4_0", 3: "q4_1", 7: "q8_0", 14: "q4_k_s", 15: "q4_k_m", 16: "q5_k_s", 17: "q5_k_m", 18: "q6_k"}
MOST = 12  # candidates that are opened


@dataclass(frozen=True)
class LocalSource:
    """A model that can be packed without a download. certain: its program says that it is the model."""

    found: FoundModel
    source: Source
    choice: PresetChoice
    certain: bool


def best_source(
    named: NamedModel, models: Iterable[FoundModel], room: Room, context: int | None
) -> tuple[LocalSource | None, list[str]]:
    """The best of what is on the disk, and why the others were passed over. A model that names itself in its lists goes
    before one whose file only has such a name, then the larger packed model that fits."""
    usable, passed = [], []
    candidates = [(model, certain) for model in models if (certain := is_wanted(named, model)) is not None]
    for model, certain in candidates[:MOST]:
        try:
            usable.append(opened(named, model, room, context, certain))
        except A3BError as error:
            passed.append(f"{model.program} has {model.name} ({model.path}), which is of no use: {error}")
    usable.sort(key=lambda one: (one.certain, one.choice.found.stored_bytes))
    return (usable[-1] if usable else None), passed


def is_wanted(named: NamedModel, model: FoundModel) -> bool | None:
    """Whether a model on the disk is the one that is named: True by its repository, False by the name of its file only,
    None if it is not."""
    if is_gguf(model.path) and model.path.suffix == ".gguf" and not is_model(model.path.name):
        return None
    if named.file:
        same = model.name.lower() == str(named.repo).lower() and model.path.name == named.file.rsplit("/", 1)[-1]
        return True if same else None
    if named.quant and not is_gguf(model.path):
        return None
    if named.preset and is_gguf(model.path):
        return None
    if named.repo and model.name.lower() == named.repo.lower():
        return True
    if named.known is None:
        return None
    if model.name.lower() in (repo.lower() for repo in named.known.repositories) or _known(model.name) is named.known:
        return True
    stem = model.path.name.rpartition("_")[0] and model.path.name.partition("_")[2]  # OWNER_NAME.gguf
    return False if named.known in (_known(model.path.name), _known(stem)) else None


def opened(named: NamedModel, model: FoundModel, room: Room, context: int | None, certain: bool) -> LocalSource:
    """Open a model and decide how it would be packed. Raises A3BError if it cannot be, or does not fit."""
    if named.quant and named.quant not in _types(model) and named.quant != quant_of(model.path):
        raise UsageError(f"its types are {quant_of(model.path)}; {named.quant} was asked for")
    source = open_source(model.path)
    return LocalSource(model, source, choice_for(source, named.title, room, named.preset, context), certain)


def choice_for(source: Source, title: str, room: Room, preset: str | None, context: int | None) -> PresetChoice:
    """The preset of an open source: a choice, or none if its integers are kept. Raises A3BError."""
    if not source.keeps_types:
        return choose(source.config, title, room, preset, context)
    if preset:
        raise UsageError(f"{title}: its matrices are quantised already and are kept, so it has no preset {preset!r}")
    plan = make_plan(source.config, source.weights, None)
    config, found = as_packed(source.config, plan.tensors)
    found = replace(found, token_bytes=bytes_per_token(source.config, plan.tensors))
    return check_own_types(config, title, found, room, context)


def quant_of(path: Path) -> str:
    """What the types of a GGUF file are called, by its metadata; "gguf" if it does not say."""
    from a3b.formats.gguf import GgufFile

    found = GgufFile(path).metadata.get("general.file_type")
    return FILE_TYPES.get(found, "gguf") if isinstance(found, int) else "gguf"


def with_template(source: Source, template: bytes) -> Source:
    """A source whose files lack a chat template, with one."""
    return replace(source, files={**source.files, "chat_template.jinja": template})


def _known(text: str) -> object:
    try:
        short = known_model(text.rsplit("/", 1)[-1])
    except UsageError:  # the name of another model, made from it
        return None
    return short.model if short else None


def _types(model: FoundModel) -> str:
    """Words among which are the types, as file names have them."""
    return f"{model.path.name} {model.name}".lower().replace("-", "_")
