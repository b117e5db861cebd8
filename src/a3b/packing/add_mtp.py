"""Adds the MTP module of a checkpoint to a packed directory that was written without it.

The files that are there are not touched. New ones are complete and synced before the manifest is replaced, so that a
kill at any moment leaves the directory as it was, or with the whole module. Enter at `Target.open`, then `planned` and
`add`."""

from __future__ import annotations

import fcntl
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from a3b.errors import UsageError
from a3b.files import open_regular
from a3b.formats.checkpoint import Checkpoint
from a3b.formats.packed import MANIFEST, SHARD_BYTES, Manifest, Shard, new_checksum
from a3b.model.config import FIELD_OF, ModelConfig
from a3b.model.config_reader import read_config
from a3b.model.loader import load_weights
from a3b.model.tensor_names import Place, Tensor, is_mtp, tensors_of
from a3b.model.weights import ModelWeights, by_role
from a3b.packing.plan import Plan, make_plan
from a3b.packing.presets import PRESETS
from a3b.packing.source import Source
from a3b.packing.writer import ShardWriter, check_free, disk_errors, shards_of, sync_directory, write_file

MOST_APART = 1e-3  # of the spread of a small tensor: far above a rounding of the same number, below what training does
CLOSE = 1e-4  # of a constant: GGUF files hold them in float32
MAX_FACTS = 20  # about a source in a manifest


@dataclass(frozen=True)
class Target:
    """A packed directory without an MTP module."""

    directory: Path
    manifest: Manifest
    config: ModelConfig
    weights: ModelWeights

    @classmethod
    def open(cls, directory: Path) -> Target:
        """Raises UsageError if the module cannot be added, CheckpointError for a directory that does not load."""
        if not (directory / MANIFEST).exists():
            raise UsageError(
                f"{directory}: no {MANIFEST}, so it is not a packed model; 'a3b pack' takes the MTP module along"
            )
        checkpoint, manifest = Checkpoint.open(directory), Manifest.read(directory)
        if any(map(is_mtp, manifest.tensors)):
            raise UsageError(f"{directory}: has an MTP module already")
        preset = manifest.preset
        if preset is not None and preset not in PRESETS:
            raise UsageError(
                f"{directory}: its preset {preset[:40]!r} is unknown; this a3b has {', '.join(PRESETS)}: pack it again"
            )
        config = read_config(directory)
        return cls(directory, manifest, config, load_weights(checkpoint, config))


def planned(target: Target, source: Source) -> Plan:
    """The formats that the preset of the directory has for the module of a source.

    Raises UsageError if the source has none, or is another model."""
    plan = planned_by_headers(target, source)
    check_same_numbers(target, source)
    return plan


def planned_by_headers(target: Target, source: Source) -> Plan:
    """The same, before the numbers of the source are here."""
    check_same_config(target, source)
    if source.weights.mtp is None:
        why = "; ".join(note for note in source.notes if "MTP" in note)
        raise UsageError(f"{source.path}: nothing to add: {why}")
    plan = make_plan(source.config, source.weights, target.manifest.preset)
    items = tuple(item for item in plan.items if is_mtp(item.tensor.name))
    return replace(plan, items=items)


def add(
    target: Target,
    source: Source,
    plan: Plan,
    *,
    threads: int = 1,
    shard_bytes: int = SHARD_BYTES,
    done: Callable[[int], None] = lambda n: None,
) -> Manifest:
    """Write the module as `planned`. done: called with the number of weights written.

    Raises UsageError if another process changes the directory, CheckpointError if the disk is full."""
    directory, items = target.directory, {item.tensor.name: item for item in plan.items}
    shards, checksums = shards_of(plan, shard_bytes), dict[str, str]()
    with disk_errors(directory), _locked(directory):
        if Manifest.read(directory) != target.manifest:
            raise UsageError(f"{directory}: was changed meanwhile; run the same command again")
        if taken := next((shard.file for shard in shards if shard.file in target.manifest.files), None):
            raise UsageError(f"{directory}: {MANIFEST} names a file {taken} already; pack the model again")
        for left in (*directory.glob("mtp-*.safetensors.part"), directory / f"{MANIFEST}.part"):  # by a killed run
            left.unlink(missing_ok=True)
        check_free(directory, sum(shard.num_bytes for shard in shards))
        writer = ShardWriter(items, source, threads, {}, done)
        for shard in shards:
            checksums |= writer.write(shard, directory / shard.file)
        sync_directory(directory)
        old, name = target.manifest, {"mtp": source.path.name}
        manifest = replace(
            old,
            source=old.source | name if len(old.source) < MAX_FACTS else old.source,
            tensors=old.tensors | {t.name: t for shard in shards for t in shard.tensors},
            file_of=old.file_of | {t.name: shard.file for shard in shards for t in shard.tensors},
            checksums=old.checksums | checksums,
            files=old.files | {shard.file: (shard.num_bytes, _header_checksum(shard)) for shard in shards},
            skipped={kind: count for kind, count in old.skipped.items() if kind != "mtp"},
        )
        write_file(directory / MANIFEST, manifest.to_json().encode())
        sync_directory(directory)
    return manifest


def check_same_config(target: Target, source: Source) -> None:
    """Compare sizes and constants. Raises UsageError naming what differs."""
    for name, (mine, other) in _facts(target.config, source.config).items():
        if mine != other and not (isinstance(mine, float) and math.isclose(mine, other, rel_tol=CLOSE)):
            raise UsageError(
                f"{source.path}: is another model: its {name} is {str(other)[:80]}, "
                f"that of {target.directory} is {str(mine)[:80]}"
            )


def check_same_numbers(target: Target, source: Source) -> None:
    """Compare the small tensors of a few layers, which are stored as they are in most forms. Raises UsageError naming
    one that differs."""
    for tensor, layer in compared_tensors(target, source):
        mine, other = (_numbers(by_role(weights, layer)[tensor.role]) for weights in (target.weights, source.weights))
        apart = _rms(mine - other) / max(_rms(mine), 1e-12)
        if not apart <= MOST_APART:
            raise UsageError(
                f"{source.path}: holds other weights than {target.directory} was packed from: "
                f"{tensor.full_name(layer)} differs by {apart:.2%}; the drafts of another model or fine-tune would "
                "seldom be right: give the checkpoint that was packed, or one of the same weights in another form"
            )


def _facts(ours: ModelConfig, theirs: ModelConfig) -> dict[str, tuple[Any, Any]]:
    """What two configs of the same model agree in, by the names of config.json."""
    pairs: dict[str, tuple[Any, Any]] = {
        FIELD_OF[axis]: (mine, other)
        for axis, mine, other in zip(ours.axes._fields, ours.axes, theirs.axes, strict=True)
    }
    for name in ("num_layers", "layer_types", "norm_eps", "tie_word_embeddings"):
        pairs[name] = getattr(ours, name), getattr(theirs, name)
    for name in ("theta", "rotary_dim"):
        pairs[f"rope {name}"] = getattr(ours.rope, name), getattr(theirs.rope, name)
    return pairs


def compared_tensors(target: Target, source: Source) -> Iterator[tuple[Tensor, int | None]]:
    """Tensors of the first, middle and last layer, and outside the layers, that no preset rounds; of the delta net
    only if value heads are in the same order."""
    same_heads = target.weights.tiled_v_heads == source.weights.tiled_v_heads
    layers = (None, 0, target.config.num_layers // 2, target.config.num_layers - 1)
    for tensor, layer in tensors_of(target.config):
        if tensor.kind is None and layer in layers and (same_heads or tensor.place is not Place.DELTA):
            yield tensor, layer


def _numbers(value: Any) -> np.ndarray:
    return value if isinstance(value, np.ndarray) else np.asarray(value.f32_rows(0, value.shape[0]))


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))


def _header_checksum(shard: Shard) -> str:
    total = new_checksum()
    total.update(shard.header)
    return total.hexdigest()


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Let one process at a time add to a directory, and none while a server or a chat holds the manifest, which is
    replaced. A kill frees the lock."""
    with open_regular(directory / MANIFEST) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UsageError(
                f"{directory}: a server, a chat or another process that adds to it uses it; stop that first"
            ) from None
        yield
