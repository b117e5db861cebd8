"""Where a model that is not here comes from: files on this disk, or a repository of the hub, packed while it arrives.

A `ModelJob` says what will be done and does it; nothing large is read or fetched before its `run`. Enter at
`from_disk`, `from_hub` and `on_this_disk`."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from a3b.commands import plan as machine_plan
from a3b.commands.choice import PackingWork, PresetChoice, Room, choose, promise
from a3b.commands.local_sources import best_source, choice_for, quant_of, with_template
from a3b.commands.model_home import ModelHome
from a3b.commands.model_names import NamedModel
from a3b.commands.progress import MILLION, Progress
from a3b.commands.pull import gguf_models
from a3b.commands.sizes import Use
from a3b.commands.streamed_pack import prepare
from a3b.engine.stored_models import Record
from a3b.errors import A3BError, CheckpointError, DownloadError, UsageError
from a3b.files import read_text
from a3b.formats.gguf import is_gguf
from a3b.hub.client import Hub, Listing
from a3b.hub.on_disk import found_models
from a3b.machine import Machine
from a3b.model.config import ModelConfig
from a3b.model.known_shapes import shape
from a3b.model.parameters import count_parameters
from a3b.packing.open_source import open_source
from a3b.packing.plan import make_plan
from a3b.packing.source import Source
from a3b.packing.stream import MAX_SPILL
from a3b.packing.writer import write
from a3b.printable import say
from a3b.settings import RuntimeConfig, model_places

TEMPLATE = "chat_template.jinja"
MAX_TEMPLATE_BYTES = 1 << 20
PREFERRED = ("q8_0", "q6_k", "q5_k_m", "q4_k_xl", "q4_k_m", "q4_1", "q4_0")  # types of GGUF files, the best first
NOTED_BYTES = 100_000_000  # headers are fetched before anything is agreed to
WORK_BYTES = 2 << 30  # of memory beside the weights


@dataclass(frozen=True)
class ModelJob:
    """A model to be made in A3B_HOME. lines: what it takes and how it differs from others of its kind, for the user."""

    record: Record
    folder: Path
    lines: Sequence[str]
    work: Callable[[], object]

    def run(self, home: ModelHome) -> None:
        """Make it. Its record comes first, so that a kill at any later moment is continued."""
        home.remember(self.folder, self.record)
        self.work()


@dataclass(frozen=True)
class Setting:
    """Where jobs are made: the home, how to run, the tokens that must fit, what a model is made for, and what is closed
    at the end."""

    home: ModelHome
    runtime: RuntimeConfig
    context: int | None
    use: Use
    stack: ExitStack

    @property
    def threads(self) -> int:
        return self.runtime.threads or Machine.read().num_threads

    def room(self, spill: int = 0) -> Room:
        """Memory and disk for another model."""
        place = next(path for path in (self.home.models, *self.home.models.parents) if path.is_dir())
        return Room(Machine.read().memory_bytes, shutil.disk_usage(place).free, spill, self.use)

    def lines(self, task: PackingWork, choice: PresetChoice, config: ModelConfig) -> list[str]:
        return promise(task, choice, config, self.room(), predicted(config, self.runtime))

    def lock(self, folder: Path) -> None:
        self.stack.enter_context(self.home.making(folder))


def predicted(config: ModelConfig, runtime: RuntimeConfig) -> machine_plan.Speed | None:
    """What this machine can do, measured in some seconds."""
    sample = machine_plan.DENSE_SAMPLE if config.dense else machine_plan.SAMPLE
    return machine_plan.measure(runtime, Machine.read(), None, None, sample)[0]


# -- files on this disk


def on_this_disk(named: NamedModel, setting: Setting) -> tuple[ModelJob, bool] | None:
    """The best model on this disk that is the one named, and whether its program says so itself; None if there is
    none."""
    models = list(found_models(model_places(), Path.cwd()))
    found, passed = best_source(named, models, setting.room(), setting.context)
    for line in passed:
        say(line)
    if found is None:
        return None
    say(f"{found.found.program} has {found.found.name} on this disk: {found.found.path}")
    return from_disk(named, found.found.path, setting, found.source, found.choice), found.certain


def from_disk(
    named: NamedModel,
    path: Path,
    setting: Setting,
    source: Source | None = None,
    choice: PresetChoice | None = None,
    record: Record | None = None,
) -> ModelJob:
    """A job for a directory or a GGUF file. record: that of a stopped run. Raises A3BError for what cannot be packed or
    does not fit."""
    path = Path(os.path.abspath(path))
    source = source or open_source(path)
    if source.kind == "gguf" and TEMPLATE not in source.files:  # as in most of Ollama's
        if named.known is None:
            raise CheckpointError(
                f"{path}: has no chat template; a3b up with the short name of its model takes that of the model's "
                f"repository, or pack it yourself: a3b pack {path} DIR --tokenizer DIR"
            )
        source = with_template(source, template_of(named.known.weights, path))
    if record:
        packed = make_plan(source.config, source.weights, record.preset or None)
        lines: list[str] = []
    else:
        choice = choice or choice_for(source, named.title, setting.room(), named.preset, setting.context)
        record = Record(
            _local_name(named, path, choice.preset),
            str(path),
            preset=choice.preset or "",
            model=named.known.name if named.known else path.stem,
            begun=time.time(),
        )
        packed = make_plan(source.config, source.weights, choice.preset)
        task = PackingWork(named.title, str(path), 0, 0, str(setting.home.models), setting.threads)
        lines = [*setting.lines(task, choice, source.config), *source.notes, *packed.notes]
    folder, opened = setting.home.folder(_folder_name(record)), source
    setting.lock(folder)

    def work() -> None:
        with Progress("packing", count_parameters(opened.config).total, "M weights", scale=MILLION) as progress:
            write(opened, packed, folder, threads=setting.threads, done=progress.add)

    return ModelJob(record, folder, lines, work)


def template_of(repo: str, path: Path) -> bytes:
    """The chat template of a repository, for a file that has none. Raises A3BError."""
    hub = Hub(repo)
    try:
        return small_file(hub, hub.listing(), TEMPLATE)
    except A3BError as error:
        raise CheckpointError(
            f"{path}: has no chat template, and that of {repo} cannot be fetched: {error}; or pack it yourself: "
            f"a3b pack {path} DIR --tokenizer DIR"
        ) from None


def small_file(hub: Hub, listing: Listing, path: str) -> bytes:
    """A file that is read whole, its checksum right. Raises DownloadError."""
    file = next((file for file in listing.files if file.path == path), None)
    if file is None or file.num_bytes > MAX_TEMPLATE_BYTES:
        raise DownloadError(f"{listing.repo}: holds no {path} of at most {MAX_TEMPLATE_BYTES:,} bytes")
    content, digest = b"", file.digest()
    for _, piece in hub.read(file, listing.commit, 0):
        content += piece
        if len(content) > file.num_bytes:
            break
    digest.update(content)
    if digest.hexdigest() != file.sum:
        raise DownloadError(f"{listing.repo}: {path} is not what the hub announces; try again")
    return content


# -- a repository of the hub


def lacks(source: Source) -> str:
    """What a model cannot be served without and does not have, in words."""
    if "tokenizer.json" not in source.files:
        return "tokenizer.json"
    if TEMPLATE in source.files or "chat_template.json" in source.files:
        return ""
    settings = source.files.get("tokenizer_config.json", b"{}")
    try:
        value = json.loads(read_text(settings) if isinstance(settings, Path) else settings)
    except (OSError, ValueError, RecursionError):
        value = None
    return "" if isinstance(value, dict) and value.get("chat_template") else "chat template"


def from_hub(named: NamedModel, setting: Setting, record: Record | None = None) -> ModelJob:
    """A job for a repository. record: that of a stopped run, whose commit and choice are kept. Raises A3BError for what
    cannot be had or packed, or does not fit."""
    assert named.repo is not None
    if record:
        include, preset = [record.file] if record.file else [], record.preset or None
        return _streamed(named, setting, include, preset, record)
    include = chosen_files(named, setting.room())
    preset = named.preset
    if named.known and not include:  # what does not fit is refused without a word to the hub
        config, room = shape(named.known.shape), setting.room(MAX_SPILL)
        preset = choose(config, named.title, room, preset, setting.context).preset
    return _streamed(named, setting, include, preset, None)


def _streamed(
    named: NamedModel,
    setting: Setting,
    include: list[str],
    preset: str | None,
    record: Record | None,
    may_change: bool = True,
) -> ModelJob:
    """may_change: whether another preset may be taken once the headers have said what the model is."""
    assert named.repo is not None
    revision = record.revision or None if record else named.revision
    name = record.name if record else _hub_name(named, include, preset)
    folder = setting.home.folder(_folder_name(record) if record else name)
    setting.lock(folder)
    if may_change and not record:
        say(f"reading what {named.repo} holds")
    prepared = setting.stack.enter_context(
        prepare(named.repo, folder, revision=revision, include=include, preset=preset)
    )
    lines: list[str] = []
    if record is None:
        if missing := lacks(prepared.source):
            raise CheckpointError(
                f"{named.repo}: holds no {missing}, so it could not answer; pack it with those of the model that it "
                f"was made from: a3b pack {named.repo} DIR --tokenizer DIR"
            )
        room = setting.room(prepared.spill_bytes)
        asked = named.preset if may_change else preset
        choice = choice_for(prepared.source, named.title, room, asked, setting.context)
        if choice.preset != prepared.plan.preset:  # another one suits this machine better than what was assumed
            setting.stack.close()
            return _streamed(named, setting, include, choice.preset, None, may_change=False)
        task = PackingWork(
            named.title,
            named.repo,
            prepared.download_bytes,
            prepared.arrived_bytes if prepared.arrived_bytes > NOTED_BYTES else 0,
            str(setting.home.models),
            setting.threads,
        )
        lines = [*setting.lines(task, choice, prepared.config), *prepared.notes]
        record = Record(
            name,
            named.repo,
            include[0] if include else "",
            choice.preset or "",
            named.known.name if named.known else named.repo,
            prepared.listing.commit,
            time.time(),
        )
    return ModelJob(record, folder, lines, lambda: prepared.run(setting.threads))


def chosen_files(named: NamedModel, room: Room) -> list[str]:
    """A pattern for the GGUF model that is meant, if the repository holds any that must be chosen; else nothing."""
    assert named.repo is not None
    if named.file:
        return [pattern_of(named.file)]
    is_gguf_repo = named.known is not None and named.repo == named.known.gguf
    if not named.quant and named.known and not is_gguf_repo:
        return []
    listing = Hub(named.repo, named.revision).listing()
    models = gguf_models(listing)
    if not named.quant:
        if not models or any(file.path.endswith(".safetensors") for file in listing.files):
            return []
        if len(models) == 1:
            return list(models)
    sizes = {name: sum(file.num_bytes for file in files) for name, files in models.items()}
    if named.quant:
        found = [name for name in models if _types_in(name, named.quant)]
        if not found:
            held = ", ".join(list(models)[:12]) or "none"
            raise UsageError(f"{named.repo} holds no file of types {named.quant[:40]!r}; it holds {held}")
        return [min(found, key=len)]
    for quant in PREFERRED:
        for name in sorted((name for name in models if _types_in(name, quant)), key=len):
            if sizes[name] + WORK_BYTES <= room.memory and sizes[name] <= room.disk:
                return [name]
    smallest = min(models, key=sizes.__getitem__)
    return [next((name for name in models if any(_types_in(name, quant) for quant in PREFERRED)), smallest)]


def pattern_of(file: str) -> str:
    """A pattern for all files of a GGUF model, given by any of them."""
    return re.sub(r"-\d{5}-of-\d{5}\.gguf$", "-*.gguf", file)


def _types_in(name: str, quant: str) -> bool:
    """Whether a file or a directory in the path of a GGUF model is called after these types."""
    flat = re.sub(r"[-.]", "_", name.lower())
    return re.search(rf"(?:^|[_/]){re.escape(quant.removeprefix('ud_'))}(?:_\*)?_gguf$", flat) is not None


def _hub_name(named: NamedModel, include: list[str], preset: str | None) -> str:
    tag = preset or named.quant.removeprefix("ud_") or _types_of(include) or "balanced"
    return f"{named.known.name if named.known else named.repo}:{tag}"


def _types_of(include: list[str]) -> str:
    for name in include:
        for quant in PREFERRED:
            if _types_in(name, quant):
                return quant
        return re.sub(r"[^a-z0-9]+", "_", Path(name).name.lower().removesuffix(".gguf").removesuffix("-*"))
    return ""


def _local_name(named: NamedModel, path: Path, preset: str | None) -> str:
    tag = preset or (quant_of(path) if is_gguf(path) else "own")
    return f"{named.known.name}:{tag}" if named.known else f"{path.stem}:{tag}"


def _folder_name(record: Record) -> str:
    """Of a path, with a digest, as many are called the same; of a name of its own, that."""
    if record.source.startswith("/") and record.model == Path(record.source).stem:
        return f"{record.name}-{blake2b(record.source.encode(), digest_size=3).hexdigest()}"
    return record.name
