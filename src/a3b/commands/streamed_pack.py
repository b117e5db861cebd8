"""A repository of a hub as a packed directory, packed while it is downloaded.

Headers and small files come first, and everything is judged before a large file is fetched. Enter at `prepare`."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from a3b.commands.progress import MB, Progress
from a3b.commands.pull import check_architecture, gguf_models, included, usable
from a3b.errors import A3BError, CheckpointError, DownloadError, UsageError
from a3b.formats.checkpoint import ADDED, INDEX, SINGLE, shards_in
from a3b.formats.gguf import UnreadableTypes
from a3b.formats.packed import Manifest
from a3b.hub.client import Hub, HubFile, Listing
from a3b.hub.download import Folder
from a3b.hub.ranges import RangedFile
from a3b.model.config import ModelConfig
from a3b.packing.conductor import StreamProgress
from a3b.packing.open_source import open_source
from a3b.packing.plan import Plan, make_plan
from a3b.packing.source import SIDE_FILES, Source
from a3b.packing.stream import StreamedPack, clear
from a3b.printable import say
from a3b.units import span

DEFAULT = "balanced"
LINE_S = 30.0  # between two lines of progress where no terminal shows one that changes
MAX_FILES = 400  # of weights; each is held open. The largest models have 200
MAX_SMALL = 256 << 20  # bytes of a file that is read whole
READABLE = ("Q4_K_M", "Q4_K_S", "Q5_K_M", "Q5_K_S", "Q6_K", "Q8_0", "Q4_0", "Q4_1", "BF16", "F16")


@dataclass(frozen=True)
class Prepared:
    """A model that can be packed: what it is, and what it takes. Nothing large has been fetched yet."""

    listing: Listing
    target: Path
    source: Source
    plan: Plan
    pack: StreamedPack

    @property
    def config(self) -> ModelConfig:
        return self.source.config

    @property
    def packed_bytes(self) -> int:
        return self.plan.num_bytes

    @property
    def download_bytes(self) -> int:
        """Of all files, those that are here included."""
        return self.pack.download_bytes

    @property
    def arrived_bytes(self) -> int:
        """Of them, what an earlier run has fetched."""
        return self.pack.arrived_bytes

    @property
    def spill_bytes(self) -> int:
        """What waits on the disk beside the packed model, at most."""
        return self.pack.spill_bytes

    @property
    def notes(self) -> tuple[str, ...]:
        return (*self.source.notes, *self.plan.notes)

    def run(self, threads: int) -> Manifest:
        """Fetch and pack, with a line of progress. Raises DownloadError, CheckpointError or KeyboardInterrupt; the same
        command continues."""
        with _Meter(self) as meter:
            try:
                with called(self.listing.repo, self.pack.directory):
                    return self.pack.run(threads, meter)
            except KeyboardInterrupt:
                meter.line.close()
                say(
                    f"\nstopped with {self.arrived_bytes / 1e9:.2f} of {self.download_bytes / 1e9:.2f} GB fetched and "
                    f"{meter.packed_bytes / 1e9:.2f} GB packed; the same command continues from there",
                    end="",
                )
                raise


@contextmanager
def prepare(
    repo: str,
    target: Path,
    *,
    revision: str | None = None,
    include: Sequence[str] = (),
    preset: str | None = None,
    tokenizer: Path | None = None,
    mtp: bool = True,
) -> Iterator[Prepared]:
    """Read headers and small files of a repository and judge them. DST.part is locked meanwhile, and removed at the end
    unless `run` has begun.

    include: patterns, to choose among several models. preset: None is "balanced" where nothing is quantised yet. mtp:
    with the MTP module. Raises UsageError, DownloadError or CheckpointError for what cannot be packed, and for a disk
    that is too small."""
    hub = Hub(repo, revision)
    listing = hub.listing()
    chosen = model_files(listing, include)
    with StreamedPack.open(target, listing.repo, listing.commit) as pack, called(listing.repo, pack.directory):
        weights = indexed(fetch_small(hub, listing, chosen, pack.directory), pack.directory)
        pack.expect([RangedFile(hub, file, listing.commit) for file in weights], listing.commit)
        pack.fetch_headers(say)
        ggufs = [file.path for file in pack.files if file.path.suffix == ".gguf"]

        def opened(deferred: list[str] | None) -> Source:
            return open_source(ggufs[0] if ggufs else pack.directory, tokenizer, mtp, deferred, late=True)

        def planned(source: Source) -> Plan:
            return make_plan(source.config, source.weights, preset or (None if source.keeps_types else DEFAULT))

        try:
            source, plan = pack.judge(opened, planned)
        except UnreadableTypes as error:
            raise CheckpointError(str(error) + _instead(listing)) from None
        if preset and not plan.num_chosen:
            raise UsageError(f"--preset {preset}: every matrix of {listing.repo} is quantised already; leave it out")
        pack.check_disk()
        yield Prepared(listing, target, source, plan, pack)


def finished_earlier(target: Path) -> str | None:
    """Clean up after a run that was killed when all was packed; the repository that it had packed, None without one."""
    return clear(target)


def model_files(listing: Listing, include: Sequence[str]) -> list[HubFile]:
    """The files of one model: a GGUF model's, or safetensors with what belongs to them. Raises UsageError if the choice
    is not clear."""
    chosen = included(listing, include) if include else usable(listing)
    for file in chosen:
        if is_weights(file) and file.algorithm != "sha256":
            raise UsageError(
                f"{listing.repo}: the hub gives no SHA-256 for {file.path}, so it cannot be packed while it arrives; "
                "--keep-source DIR downloads it first"
            )
    models = gguf_models(Listing(listing.repo, listing.commit, tuple(chosen)))
    tensors = [file for file in chosen if file.path.endswith(".safetensors")]
    if len(models) + bool(tensors) != 1:
        found = ", ".join([*models, *(["safetensors"] if tensors else [])][:8]) or "no weights"
        raise UsageError(f"--include: matches {found}; choose one model of {listing.repo}")
    if models:
        return sorted(next(iter(models.values())), key=lambda file: file.path)
    folder = next((file.path.rpartition("/")[0] for file in tensors if "/" in file.path), None)
    if folder:
        raise UsageError(
            f"{folder}: safetensors in a folder of a repository cannot be packed while they arrive; fetch them with "
            f"a3b pull {listing.repo} --include '{folder}/*', then pack that folder"
        )
    beside = {file.path: file for file in listing.files if file.path in (*SIDE_FILES, "config.json", INDEX)}
    return [*beside.values(), *sorted(tensors, key=lambda file: file.path)]


def fetch_small(hub: Hub, listing: Listing, chosen: Sequence[HubFile], directory: Path) -> list[HubFile]:
    """Fetch what is needed whole before anything is judged; the files that remain."""
    large, small = [file for file in chosen if is_weights(file)], [file for file in chosen if not is_weights(file)]
    for file in small:
        if file.num_bytes > MAX_SMALL:
            raise DownloadError(
                f"{listing.repo}: {file.path} has {file.num_bytes:,} bytes; expected {MAX_SMALL:,} at most"
            )
    if not small:
        return large
    with Folder.open(directory, listing) as folder:
        missing = folder.missing(small)
        for file in sorted(missing, key=lambda file: file.path != "config.json"):
            folder.fetch(hub, [file], lambda event: None)
            if file.path == "config.json":
                check_architecture(directory, listing)
    return large


def is_weights(file: HubFile) -> bool:
    return file.path.endswith((".safetensors", ".gguf"))


def indexed(weights: list[HubFile], directory: Path) -> list[HubFile]:
    """The files that the index names: others are of no use, such as the same weights in another form. Without a usable
    index all of them. Raises UsageError for too many."""
    named = set(shards_in(directory)) or {SINGLE, ADDED}
    found = [file for file in weights if file.path in named] or weights
    if len(found) > MAX_FILES:
        raise UsageError(f"{len(found):,} files of weights; expected {MAX_FILES} at most; --include takes some of them")
    return found


def _instead(listing: Listing) -> str:
    """The models of a repository whose name promises types that can be read."""
    found = [name for name in gguf_models(listing) if any(kind in name.upper() for kind in READABLE)]
    return f"; {listing.repo} also holds {', '.join(found[:6])}: --include takes one of them" if found else ""


@contextmanager
def called(repo: str, directory: Path) -> Iterator[None]:
    """Errors about files in a directory name the repository that they are fetched from."""
    try:
        yield
    except A3BError as error:
        error.args = (str(error).replace(f"{directory}/", f"{repo}/").replace(str(directory), repo),)
        raise


class _Meter:
    """Progress of both fetching and packing: one changing line on a terminal, otherwise a line now and then."""

    def __init__(self, prepared: Prepared):
        self.prepared, self.packed_bytes = prepared, 0
        self.first: StreamProgress | None = None
        self.start = self.said = time.monotonic()
        self.line = Progress("fetching", prepared.download_bytes)
        self.lines = not sys.stderr.isatty()

    def __enter__(self) -> _Meter:
        return self

    def __exit__(self, *_: object) -> None:
        self.line.close()

    def __call__(self, progress: StreamProgress) -> None:
        arrived, self.packed_bytes = progress.arrived_bytes, progress.packed_bytes
        now = time.monotonic()
        is_waiting = self.first is not None and self.first.arrived_bytes >= arrived < self.prepared.download_bytes
        if self.first is None or is_waiting:  # the clock begins with the first byte
            self.first, self.start = progress, now
        if progress.note:
            self.line.close()
            say(progress.note)
        text, share, left = progress_line(self.prepared, self.first, progress, now - self.start)
        if self.lines and now - self.said >= LINE_S and left is not None:
            self.said = now
            say(f"{text}, {span(left)} left")
        self.line.draw(text, share, left)


def progress_line(
    task: Prepared, first: StreamProgress, now: StreamProgress, seconds: float
) -> tuple[str, float, float | None]:
    """(text, share of the work done, seconds left) since `first`, `seconds` ago. The end of the slower of both counts:
    packing goes on when all has been fetched."""
    fetched = f"fetched {now.arrived_bytes / 1e9:.2f} of {task.download_bytes / 1e9:.2f} GB"
    fetching = _left(first.arrived_bytes, now.arrived_bytes, task.download_bytes, seconds)
    if now.arrived_bytes >= task.download_bytes:
        fetched, fetching = f"fetched {task.download_bytes / 1e9:.2f} GB", 0.0
    elif now.arrived_bytes > first.arrived_bytes:
        fetched += f", {(now.arrived_bytes - first.arrived_bytes) / MB / max(seconds, 1e-3):.1f} MB/s"
    packing = _left(first.packed_bytes, now.packed_bytes, task.packed_bytes, seconds)
    known = [left for left in (fetching, packing) if left is not None]
    share = (now.arrived_bytes + now.packed_bytes) / max(task.download_bytes + task.packed_bytes, 1)
    packed = f"packed {now.packed_bytes / 1e9:.2f} of {task.packed_bytes / 1e9:.2f} GB"
    return f"{fetched}, {packed}", share, max(known) if any(known) else None


def _left(first: int, now: int, total: int, seconds: float) -> float | None:
    """How long the rest takes at the rate until now; None before anything has happened."""
    return max(total - now, 0) * seconds / (now - first) if now > first else None
