"""`a3b pack --add-mtp SRC DIR`: adds the MTP module of a checkpoint to a packed directory that has none.

Of a repository only the headers, the module and a few small tensors are fetched."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from a3b.commands.info import size
from a3b.commands.progress import MB, MILLION, Progress
from a3b.commands.streamed_pack import called, fetch_small, model_files
from a3b.engine.engine import resolve
from a3b.errors import UsageError
from a3b.formats.checkpoint import INDEX
from a3b.hub.client import Hub
from a3b.hub.ranges import RangedFile
from a3b.machine import Machine
from a3b.packing.add_mtp import Target, add, planned
from a3b.packing.fetch_mtp import MtpFetch
from a3b.packing.open_source import open_source
from a3b.packing.plan import num_weights
from a3b.packing.source import Source
from a3b.printable import report, say

USELESS = ("preset", "importance", "tokenizer", "no_mtp", "keep_source")  # options of a whole packing

NEEDED = ("config.json", INDEX, ".safetensors", ".gguf")  # ends of the names of files that are looked into


def from_disk(args: Namespace, path: Path) -> None:
    target = _target(args)
    _add(args, target, open_source(path))


def from_hub(args: Namespace) -> None:
    target = _target(args)
    hub = Hub(args.source, args.revision)
    listing = hub.listing()
    chosen = [file for file in model_files(listing, args.include or ()) if file.path.endswith(NEEDED)]
    name = listing.repo.rpartition("/")[2]
    with MtpFetch.open(target, name) as fetch, called(listing.repo, fetch.directory):
        weights = fetch_small(hub, listing, chosen, fetch.directory)
        fetch.judge([RangedFile(hub, file, listing.commit) for file in weights], say)
        say(
            f"{listing.repo} at {listing.commit[:12]}: {size(fetch.num_bytes)} of {size(fetch.total_bytes)} to fetch; "
            "checksums are of whole files, so none is compared"
        )
        with Progress("fetching", fetch.num_bytes, "MB", scale=MB) as progress:
            fetch.run(progress.add, say)
        _add(args, target, fetch.source())


def _target(args: Namespace) -> Target:
    for name in USELESS:
        if getattr(args, name):
            raise UsageError(f"--{name.replace('_', '-')}: has no meaning with --add-mtp, which takes what DIR has")
    return Target.open(resolve(args.target))


def _add(args: Namespace, target: Target, source: Source) -> None:
    plan = planned(target, source)
    count = num_weights(plan.tensors)
    say(
        f"mtp: {count / MILLION:,.1f} M parameters as {target.manifest.preset or 'own types'}: "
        f"{size(plan.num_bytes)} on disk"
    )
    with Progress("packing", count, "M weights", scale=MILLION) as progress:
        add(target, source, plan, threads=args.runtime.threads or Machine.read().num_threads, done=progress.add)
    report(f"{args.target}: MTP module added")
