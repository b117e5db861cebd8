"""`a3b pack SRC DST`: writes a model in any readable layout as packed weights; a stopped run is resumed.

A repository of a hub is packed while it is downloaded (`streamed_pack`), or after it, with --keep-source."""

from __future__ import annotations

import os
import tempfile
from argparse import Namespace
from pathlib import Path

import numpy as np

from a3b.commands import add_mtp
from a3b.commands.calibration_text import read_text
from a3b.commands.choice import Room
from a3b.commands.info import size
from a3b.commands.model_names import NamedModel, meaning
from a3b.commands.model_sources import chosen_files
from a3b.commands.progress import MILLION, Progress
from a3b.commands.pull import pulled
from a3b.commands.streamed_pack import DEFAULT, finished_earlier, prepare
from a3b.errors import A3BError, UsageError
from a3b.formats.packed import Manifest
from a3b.hub.client import ADDRESS, checked_repo, is_repo
from a3b.kernels import open_kernels
from a3b.kernels.threads import set_blas_threads
from a3b.machine import Machine
from a3b.model.known_models import known_model
from a3b.model.tensor_names import is_mtp
from a3b.packing.importance import MAX_TOKENS, measure
from a3b.packing.open_source import open_source
from a3b.packing.plan import Plan, bytes_per_token, make_plan, num_weights
from a3b.packing.source import Source
from a3b.packing.writer import check_room, check_target, write, write_side_files
from a3b.printable import report, say
from a3b.prompt.chat_template import ChatTemplate
from a3b.prompt.tokenizer import Tokenizer
from a3b.settings import RuntimeConfig


def run(args: Namespace) -> None:
    set_blas_threads(1)  # the workers run in parallel
    if not Path(args.source).expanduser().exists() and (named := _named(args.source)):
        args.source, args.preset = named.repo, args.preset or named.preset
        args.include = args.include or chosen_files(named, Room(1 << 62, 1 << 62))
    if not is_here(args.source):
        return add_mtp.from_hub(args) if args.add_mtp else _from_hub(args)
    for option in ("revision", "include", "keep_source"):
        if getattr(args, option):
            raise UsageError(f"--{option.replace('_', '-')}: is for repositories; {args.source} is on this disk")
    path = Path(args.source).expanduser()
    return add_mtp.from_disk(args, path) if args.add_mtp else _from_disk(args, path)


def _named(source: str) -> NamedModel | None:
    """A short name, or a repository with a tag or a file."""
    try:
        named = meaning(source)
    except UsageError:
        return None  # told with the path
    return named if named.repo and (named.quant or named.preset or named.file or known_model(source)) else None


def is_here(source: str) -> bool:
    """Whether a source is a path; what is not on the disk and has the form OWNER/NAME is a repository."""
    path = Path(source).expanduser()
    return path.exists() or path.suffix == ".gguf" or not looks_like_repo(source)


def looks_like_repo(source: str) -> bool:
    return is_repo(ADDRESS.sub("", source.strip()).removesuffix("/"))


def _from_hub(args: Namespace) -> None:
    target = Path(os.path.abspath(args.target.expanduser()))
    if finished_earlier(target) == checked_repo(args.source) and args.preset in (None, Manifest.read(target).preset):
        return report(f"{args.target}: packed")
    if args.importance and not args.keep_source:
        raise UsageError(
            "--importance: reads the whole model first, which must be downloaded then: give --keep-source DIR"
        )
    if args.keep_source:
        check_target(target)
        return _from_disk(args, pulled(args.source, args.keep_source.expanduser(), args.revision, args.include))
    say(f"{args.source}: not a path here, so it is looked for on the hub; it is packed while it is downloaded")
    options = {name: getattr(args, name) for name in ("revision", "preset")}
    tokenizer = args.tokenizer and args.tokenizer.expanduser()
    options |= {"include": args.include or (), "tokenizer": tokenizer, "mtp": not args.no_mtp}
    with prepare(args.source, target, **options) as prepared:
        _describe(prepared.source, prepared.plan)
        here = f", {prepared.arrived_bytes / 1e9:.2f} GB of it here" if prepared.arrived_bytes else ""
        say(
            f"{prepared.listing.repo} at {prepared.listing.commit[:12]}: {prepared.download_bytes / 1e9:.2f} GB "
            f"to fetch{here}; beside the packed model up to {prepared.spill_bytes / 1e9:.2f} GB of disk"
        )
        prepared.run(args.runtime.threads or Machine.read().num_threads)
    report(f"{args.target}: packed")


def _describe(source: Source, plan: Plan) -> None:
    for note in (*source.notes, *plan.notes):
        say(note)
    for kind, count in source.skipped.items():
        why = "not run yet" if kind == "vision" else "tokens are drafted without it"
        say(f"{kind}: {count / MILLION:,.1f} M parameters are left out: {why}")
    drafts = [tensor for tensor in plan.tensors if is_mtp(tensor.name)]
    if drafts:
        say(
            f"mtp: {num_weights(drafts) / MILLION:,.1f} M parameters are packed for drafts: "
            f"{size(sum(tensor.num_bytes for tensor in drafts))}"
        )
    read = bytes_per_token(source.config, plan.tensors)
    say(f"{plan.preset or 'own types'}: {size(plan.num_bytes)}, {size(read)} of weights read per decoded token")


def _from_disk(args: Namespace, path: Path) -> None:
    source = open_source(path, args.tokenizer and args.tokenizer.expanduser(), not args.no_mtp)
    plan = make_plan(source.config, source.weights, args.preset or (None if source.keeps_types else DEFAULT))
    if args.preset and not plan.num_chosen:
        raise UsageError(
            f"--preset {args.preset}: every matrix of {args.source} is quantised already and is kept; leave it out"
        )
    _describe(source, plan)
    target, importance = Path(os.path.abspath(args.target.expanduser())), None
    check_target(target)
    if args.importance:
        check_room(target, plan.num_bytes)  # before a text is read for minutes
        if not plan.num_chosen:
            raise UsageError(
                f"--importance: every matrix of {args.source} is quantised already and is kept; leave it out"
            )
        importance = _measured(source, args.importance, args.runtime)
    total = num_weights(plan.tensors)
    with Progress("packing", total, "M weights", scale=MILLION) as progress:
        threads = args.runtime.threads or Machine.read().num_threads
        write(source, plan, target, threads=threads, done=progress.add, importance=importance)
    report(f"{args.target}: packed")


def _measured(source: Source, path: Path, runtime: RuntimeConfig) -> dict[str, np.ndarray]:
    """The importance of the columns of a source's matrices, measured on the text of a file."""
    if "tokenizer.json" not in source.files:
        raise UsageError(f"--importance: {source.path} has no tokenizer to read {path} with; give one: --tokenizer DIR")
    with tempfile.TemporaryDirectory() as directory:
        write_side_files(source, Path(directory))
        try:
            tokenizer, template = Tokenizer.read(directory), ChatTemplate.read(directory)
        except A3BError as error:
            reason = str(error).replace(f"{directory}/", "").replace(directory, str(source.path))
            raise UsageError(
                f"--importance: {source.path}: {reason}; --tokenizer DIR takes both from elsewhere"
            ) from None
    pieces, room = [], MAX_TOKENS
    for piece in read_text(path, tokenizer, template):
        pieces.append(np.array(piece.ids[:room], np.int64))
        room -= len(pieces[-1])
        if not room:
            break
    if not sum(map(len, pieces)):
        raise UsageError(f"{path}: holds no text; give one like what the model will read and write")
    num_threads = runtime.threads or Machine.read().num_threads
    with Progress("reading the text", source.config.num_layers, "layers") as progress:
        return measure(source, pieces, open_kernels(runtime.isa, num_threads), num_threads, progress)
