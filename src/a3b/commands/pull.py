"""`a3b pull REPO [DIR]`: downloads the files of a model that a3b can use, each verified by its checksum.

Chooses files, checks that they are usable and fit on the disk before it fetches large ones, and says what to do next.
`a3b.hub.download` survives interruptions."""

from __future__ import annotations

import json
import re
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from a3b.commands.progress import Progress
from a3b.errors import DownloadError, UsageError
from a3b.files import read_text
from a3b.formats.gguf import is_model
from a3b.hub.client import Hub, HubFile, Listing, checked_repo
from a3b.hub.download import DownloadEvent, Folder
from a3b.model.config import MODEL_TYPES
from a3b.model.known_models import known_model
from a3b.printable import say

# at the top of a repository
USED = ("*.safetensors", "*.json", "*.jinja", "merges.txt", "LICENSE*", "NOTICE*", "README.md")
UNUSED = ("consolidated*", "adapter_*", "training_args*", "trainer_state*", "optimizer*")
SPLIT = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")
MAX_SHOWN = 40
MAX_REVISION = 200  # characters


def run(args: Namespace) -> None:
    checked_revision(args.revision)
    if named := known_model(args.repo):
        raise UsageError(
            f"REPO is {args.repo!r}; expected OWNER/NAME, such as {named.model.weights}. a3b up {args.repo} "
            "fetches that model, packs it meanwhile and serves it"
        )
    directory = Path(args.dir or checked_repo(args.repo).split("/")[1]).expanduser()
    chosen = _pull(args.repo, directory, args.revision, args.include)
    say(f"next: {next_step(directory, chosen)}")


def checked_revision(revision: str | None) -> str | None:
    """The revision itself. Raises UsageError for one that cannot be."""
    if revision is not None and not 0 < len(revision) <= MAX_REVISION:
        raise UsageError(
            f"--revision: {len(revision)} characters; expected a branch, tag or commit of at most {MAX_REVISION}"
        )
    return revision


def pulled(repo: str, directory: Path, revision: str | None, include: Sequence[str] | None) -> Path:
    """Download a model to be packed; the directory, or the first file of its one GGUF model."""
    chosen = _pull(repo, directory, checked_revision(revision), include)
    ggufs = sorted(f.path for f in chosen if f.path.endswith(".gguf"))
    return directory if any(f.path.endswith(".safetensors") for f in chosen) or not ggufs else directory / ggufs[0]


def _pull(repo: str, directory: Path, revision: str | None, include: Sequence[str] | None) -> list[HubFile]:
    """Download and verify files, with progress; which ones."""
    hub = Hub(repo, revision)
    listing = hub.listing()
    chosen = included(listing, include) if include else usable(listing)
    say(f"{listing.repo} at {listing.commit[:12]}: {len(chosen)} files, {total(chosen)} into {directory}")
    with Folder.open(directory, listing) as folder:
        missing = folder.missing(chosen)
        config = next((file for file in missing if file.path == "config.json"), None)
        try:
            if config and not include:
                folder.fetch(hub, [config], lambda event: None)
                missing.remove(config)
            if not include:
                check_architecture(directory, listing)
            folder.check_space(missing)
            with Meter(folder, missing) as meter:
                folder.fetch(hub, missing, meter)
        except KeyboardInterrupt:
            here = sum(f.num_bytes if (directory / f.path).exists() else folder.num_bytes_here(f) for f in chosen)
            say(f"\nstopped with {here / 1e9:.2f} GB here; the same command continues from there", end="")
            raise
    say(f"{len(chosen)} files complete, checksums right: {directory}")
    return chosen


def usable(listing: Listing) -> list[HubFile]:
    """The safetensors of a repository with their side files, or else its one GGUF model. Raises UsageError if the
    choice is not clear."""
    top = [f for f in listing.files if "/" not in f.path and not matches(f.path, UNUSED)]
    if any(f.path.endswith(".safetensors") for f in top):
        return [f for f in top if matches(f.path, USED)]
    models = gguf_models(listing)
    if len(models) == 1:
        return next(iter(models.values()))
    if models:
        for name, parts in list(models.items())[:MAX_SHOWN]:
            say(f"  {total(parts):>10}  {name}")
        example = next(iter(models))
        raise UsageError(
            f"{listing.repo} holds {len(models)} models; choose with --include, for instance --include '{example}'"
        )
    raise DownloadError(
        f"{listing.repo} holds neither safetensors nor GGUF files, which a3b reads; --include GLOB fetches others"
    )


def gguf_models(listing: Listing) -> dict[str, list[HubFile]]:
    """Pattern -> files, for every GGUF model; a split model has several files."""
    models: dict[str, list[HubFile]] = {}
    for file in listing.files:
        if is_model(file.path.rsplit("/", 1)[-1]):
            models.setdefault(SPLIT.sub("-*.gguf", file.path), []).append(file)
    return models


def included(listing: Listing, patterns: Sequence[str]) -> list[HubFile]:
    """The files whose path, last part or directory matches a pattern. Raises UsageError for a pattern without match."""
    out: dict[str, HubFile] = {}
    for pattern in patterns:
        found = [
            f
            for f in listing.files
            if matches(f.path, (pattern, pattern.rstrip("/") + "/*"))
            or ("/" not in pattern and matches(f.path.rsplit("/", 1)[-1], (pattern,)))
        ]
        if not found:
            some = ", ".join(f.path for f in listing.files[:6])
            raise UsageError(
                f"--include {pattern!r} matches none of the {len(listing.files)} files of {listing.repo}: {some} ..."
            )
        out |= {f.path: f for f in found}
    return list(out.values())


def matches(path: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(path, pattern) for pattern in patterns)


def check_architecture(directory: Path, listing: Listing) -> None:
    """Refuse a model that a3b cannot run before it is fetched. A repository of GGUF files has no config to check."""
    file = directory / "config.json"
    if not any(f.path == "config.json" for f in listing.files) or not file.exists():
        return
    try:
        kind = json.loads(read_text(file)).get("model_type")
    except (ValueError, AttributeError, RecursionError):
        kind = None
    if kind not in MODEL_TYPES:
        raise DownloadError(
            f"{listing.repo}: model_type is {json.dumps(kind)[:60]}; a3b runs {', '.join(MODEL_TYPES)}. "
            "Only config.json was fetched; --include '*' takes all the same"
        )


def next_step(directory: Path, chosen: Sequence[HubFile]) -> str:
    """The command that uses what was fetched."""
    models = sorted(f.path for f in chosen if f.path.endswith(".gguf"))
    if models and not any(f.path.endswith(".safetensors") for f in chosen):
        return f"a3b pack {directory / models[0]} {directory.name or 'model'}-packed"
    if any(f.path.endswith(".safetensors") for f in chosen):
        return f"a3b pack {directory} {directory.resolve().name}-balanced --preset balanced"
    return f"a3b info {directory}"


def total(files: Sequence[HubFile]) -> str:
    num_bytes = sum(f.num_bytes for f in files)
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= 1e8 else f"{num_bytes / 1e6:.2f} MB"


class Meter:
    """Progress: one changing line on a terminal, otherwise a line per file."""

    def __init__(self, folder: Folder, missing: Sequence[HubFile]):
        self.num_files, self.num_done, self.num_bytes = len(missing), 0, 0
        self.start = time.monotonic()
        left = sum(f.num_bytes - folder.num_bytes_here(f) for f in missing)
        self.line = Progress("pulling", round(left / 1e6), "MB")
        self.lines = not sys.stderr.isatty()

    def __enter__(self) -> Meter:
        return self

    def __exit__(self, *_: object) -> None:
        self.line.close()

    def __call__(self, event: DownloadEvent) -> None:
        self.num_bytes += event.num_bytes
        self.num_done += event.done
        rate = self.num_bytes / 1e6 / max(time.monotonic() - self.start, 1e-3)
        if event.note:
            self.line.close()
            say(f"{event.file.path}: {event.note}")
        elif event.done and self.lines:
            say(f"{self.num_done}/{self.num_files} {event.file.path} {total([event.file])}")
        self.line.label = f"pulling, {self.num_done}/{self.num_files} files, {rate:.1f} MB/s"
        self.line(round(self.num_bytes / 1e6))
