"""`a3b up [NAME]`: from a name to a running server. Plans for this machine, says what it takes, asks once, then fetches
and packs, and serves. Every step continues after a kill; what is here already is neither fetched nor asked about.

Enter at `run`, or at `obtain` for a model without a server."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from a3b.commands import serve
from a3b.commands.ask import agreed
from a3b.commands.dialogue import drafts
from a3b.commands.model_home import ModelHome, StoredModel, used
from a3b.commands.model_names import NamedModel, meaning, stored_model
from a3b.commands.model_sources import ModelJob, Setting, from_disk, from_hub, on_this_disk, pattern_of
from a3b.commands.options import PARALLEL
from a3b.commands.server_answers import Asker, url_of
from a3b.commands.sizes import Use
from a3b.engine.engine import nano_directory
from a3b.engine.stored_models import Record
from a3b.errors import A3BError, CheckpointError, UsageError
from a3b.formats.packed import MANIFEST
from a3b.kernels.threads import set_blas_threads
from a3b.model.known_models import KNOWN_MODELS, by_repository
from a3b.packing.stream import clear
from a3b.printable import say
from a3b.settings import RuntimeConfig

DEFAULT = "qwen3.6"


@dataclass(frozen=True)
class Wish:
    """What the user wants besides the name. command: what would agree, where nobody can be asked."""

    yes: bool = False
    preset: str | None = None
    context: int | None = None
    download: bool = False  # also if the model is on this disk
    command: str = ""
    use: Use = field(default_factory=Use)


def run(args: Namespace) -> int:
    name = args.name or args.runtime.model or DEFAULT
    use = Use(args.parallel, drafts(args), args.runtime.kv)
    check_port(args.host or args.runtime.host, args.runtime.port if args.port is None else args.port)
    wish = Wish(args.yes, args.preset, args.context, args.download, agreeing(name, args), use)
    directory = obtain(name, wish, args.runtime)
    if directory is None:
        return 1
    args.model = str(directory)
    args.held.enter_context(used(directory))
    return serve.run(args, next_step(name))


def agreeing(name: str, args: Namespace) -> str:
    """The command that agrees to what was planned, with the options that decide about it; other commands have some."""
    options = {option: getattr(args, option, None) for option in ("preset", "context", "drafts", "parallel")}
    if options["parallel"] == PARALLEL:
        del options["parallel"]
    given = [f"--{option} {value}" for option, value in options.items() if value is not None]
    return " ".join(["a3b up", name, *given, "--yes"])


def check_port(host: str, port: int) -> None:
    """Refuse a port that is taken, before a download and not after it. Raises UsageError, which names the model that
    another a3b serves there."""
    try:
        serve.bound(host, port).close()
    except UsageError as error:
        try:
            served = Asker(url_of(host, port)).model().name
        except A3BError:
            raise error from None
        raise UsageError(
            f"{served} is served at {url_of(host, port)} already, where a3b launch claude finds it; "
            "stop that first, or give another --port"
        ) from None


def next_step(name: str) -> str:
    again = "" if name == DEFAULT else f" {name}"
    return f"Next, in another terminal: a3b launch claude   (again another day: a3b up{again})"


def obtain(name: str, wish: Wish, runtime: RuntimeConfig) -> Path | None:
    """The directory of a model that can be run, made first if it is not here; None if the user does not want that.

    Raises A3BError for what cannot be had, or does not fit, before anything large is fetched."""
    home = ModelHome(runtime.home)
    listed = next((m for m in home.stored() if name.lower() == m.record.name.lower() and not m.leaving), None)
    named = with_preset(of_record(name, listed.record) if listed else meaning(name), wish.preset)
    ready = nano_directory() if named.nano else named.place
    if ready and (wish.download or (wish.preset and (named.nano or (ready / MANIFEST).is_file()))):
        option = "--download" if wish.download else f"--preset {wish.preset}"
        raise UsageError(f"{option}: {name} is on this disk, as it is; leave the option out")
    if ready and (named.nano or (ready / MANIFEST).is_file()):
        return ready
    if here := listed if listed and listed.complete else stored(named, home, complete=True):
        clear(here.folder)  # what a run that was killed in its last step has left
        return here.folder
    set_blas_threads(1)  # the workers run in parallel
    with disk_errors(home.models), ExitStack() as stack:
        home.models.mkdir(parents=True, exist_ok=True)
        setting = Setting(home, runtime, wish.context, wish.use, stack)
        stopped = listed or stored(named, home, complete=False)
        job = resumed(named, stopped, setting) if stopped else begun(named, wish, setting)
        if job is None:
            say("nothing was fetched or packed")
            return None
        job.run(home)
    say(f"{job.record.name}: packed, in {job.folder}")
    return job.folder


def with_preset(named: NamedModel, preset: str | None) -> NamedModel:
    """A NAME with the preset of an option. Raises UsageError if its tag says something else."""
    if preset is None or named.preset == preset:
        return named
    if named.preset or named.quant or named.file.endswith(".gguf"):
        other = named.preset or "the types of a GGUF file"
        raise UsageError(f"--preset {preset}: {named.text!r} names {other} already; give one of both")
    return replace(named, preset=preset)


def of_record(name: str, record: Record) -> NamedModel:
    """A name as `a3b list` shows it, which needs no other meaning."""
    known = by_repository(record.source) or next((m for m in KNOWN_MODELS if m.name == record.model), None)
    if record.source.startswith("/"):
        return NamedModel(name, place=Path(record.source), preset=record.preset or None, known=known)
    return NamedModel(name, repo=record.source, file=record.file, preset=record.preset or None, known=known)


def stored(named: NamedModel, home: ModelHome, complete: bool) -> StoredModel | None:
    """The model of a NAME in A3B_HOME."""
    if named.place:
        source = os.path.abspath(named.place)
        found = [m for m in home.stored() if m.complete == complete and not m.leaving and m.record.source == source]
        return next((m for m in found if named.preset in (None, m.record.preset)), None)
    if named.file:
        found = [m for m in home.stored() if m.complete == complete and not m.leaving and m.record.source == named.repo]
        return next((m for m in found if m.record.file == pattern_of(named.file)), None)
    tag = named.preset or named.quant.removeprefix("ud_")
    base = named.known.name if named.known else str(named.repo)
    return stored_model(f"{base}:{tag}" if tag else base, home, complete)


def resumed(named: NamedModel, stopped: StoredModel, setting: Setting) -> ModelJob:
    """What a stopped run had agreed to, to be continued without another question."""
    record = stopped.record
    say(f"{record.name}: continues with what is here")
    if not record.source.startswith("/"):
        return from_hub(replace(named, repo=record.source), setting, record)
    if not Path(record.source).exists():
        raise CheckpointError(
            f"{record.name}: was packed from {record.source}, which is gone; a3b rm {record.name} removes what is here"
        )
    return from_disk(named, Path(record.source), setting, record=record)


def begun(named: NamedModel, wish: Wish, setting: Setting) -> ModelJob | None:
    """A model that is not here, once the user has agreed to what it takes; None if not."""
    if named.place:
        job = from_disk(named, named.place, setting)
        return job if confirmed(job, "Go ahead?", wish) else None
    if not wish.download and (found := on_this_disk(named, setting)):
        job, certain = found
        path = job.record.source
        if not certain and wish.yes:
            say(f"{path} is passed over: only its name says that it is {named.title}; a3b up {path} takes it")
        elif confirmed(
            job, f"Use it{'' if certain else ', although only its name says so'}, without a download?", wish
        ):
            return job
        setting.stack.close()
    job = from_hub(named, setting)
    return job if confirmed(job, "Go ahead?", wish) else None


def confirmed(job: ModelJob, question: str, wish: Wish) -> bool:
    for line in job.lines:
        say(line)
    return agreed(question, wish.yes, wish.command)


@contextmanager
def disk_errors(place: Path) -> Iterator[None]:
    """Say what to do if the place of models cannot be used."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"{error.filename or place}: {error.strerror or error}; set A3B_HOME to a place that can be written"
        ) from None
