"""A random packed model of a named shape in a directory: written once, then reused."""

from __future__ import annotations

import time
from pathlib import Path

from a3b.commands.info import size
from a3b.commands.progress import MILLION, Progress
from a3b.errors import UsageError
from a3b.formats.packed import MANIFEST, Manifest
from a3b.model.parameters import count_parameters
from a3b.packing.random_weights import random_source, shape_config
from a3b.packing.writer import write
from a3b.printable import say


def directory_name(shape: str, preset: str, num_layers: int | None = None) -> str:
    return f"{shape}-{preset}" + (f"-{num_layers}-layers" if num_layers else "")


def random_directory(parent: Path, shape: str, preset: str, num_layers: int | None = None, seed: int = 0) -> Path:
    """Below `parent`; written now unless it is there. Raises CheckpointError if the disk is too small for it."""
    value, target = shape_config(shape, num_layers), parent / directory_name(shape, preset, num_layers)
    source, plan = random_source(shape, value, preset, seed)
    if (target / MANIFEST).exists():
        manifest = Manifest.read(target)
        if (found := manifest.source.get("name")) != source.path.name:
            raise UsageError(
                f"{target}: holds {found!r}; expected {source.path.name!r}: remove it, or give another --dir"
            )
        if manifest.tensors != {tensor.name: tensor for tensor in plan.tensors}:
            raise UsageError(
                f"{target}: was written with other formats than {preset!r} has now: remove it, or give another --dir"
            )
        return target
    began, total = time.monotonic(), count_parameters(source.config).total
    with Progress(f"writing {target.name}", total, "M weights", scale=MILLION) as progress:
        write(source, plan, target, done=progress.add)
    say(f"{target}: {size(plan.num_bytes)} of random weights written in {time.monotonic() - began:.0f} s")
    return target
