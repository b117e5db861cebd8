"""What a server of a packed model may take, so that it lives on the machine it is started on.

Weights are mapped and count as free memory until they are read, so the sum is made beforehand. Enter at
`fit_to_memory`."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from a3b.commands.choice import LEAST_CONTEXT
from a3b.commands.dialogue import drafts
from a3b.commands.sizes import Sizes, Use, as_packed, gb, longest_context, memory_bytes
from a3b.engine.local import MAX_CACHE, MIN_CACHE
from a3b.formats.packed import MANIFEST, Manifest
from a3b.machine import Machine
from a3b.model.config import ModelConfig
from a3b.model.config_reader import read_config
from a3b.printable import say
from a3b.units import counted


def fit_to_memory(args: Namespace, directory: Path) -> None:
    """Leave context and sessions the room that the memory has, unless options say otherwise; tell what does not fit."""
    if not (directory / MANIFEST).is_file():
        return
    memory, use = Machine.read().memory_bytes, Use(args.parallel, drafts(args), args.runtime.kv)
    config, found = as_packed(read_config(directory), Manifest.read(directory).tensors.values())
    context, sessions = room_to_serve(config, found, memory, use)
    args.cache_ram = sessions if args.cache_ram is None else args.cache_ram
    if args.context is None and context is not None:
        args.context = context
        say(f"context {context:,} of {config.max_context:,} tokens, as {memory / 1e9:.1f} GB of memory are available")
    wanted = args.context or config.max_context
    needed = memory_bytes(config, found, wanted, use) + args.cache_ram
    if needed > memory:
        say(
            f"warning: weights, {wanted:,} tokens in all, {counted(use.answers, 'answer')} at once and "
            f"{gb(args.cache_ram)} of sessions take {gb(needed)}, and "
            f"{gb(memory)} are available: the system may end this server; end other programs, or give a smaller "
            "--context, --cache-ram or --parallel, or --drafts off, or pack a smaller preset (a3b plan)"
        )


def room_to_serve(config: ModelConfig, found: Sizes, memory: int, use: Use) -> tuple[int | None, int]:
    """(context, bytes for sessions) that a server of a packed model has room for; None is the native length."""
    left = memory - memory_bytes(config, found, 0, use)
    sessions = min(MAX_CACHE, max(MIN_CACHE, left // 4))
    fits = longest_context(config, found, memory - sessions, use=use)
    least = min(LEAST_CONTEXT, config.max_context)
    return None if fits >= config.max_context else max(fits // 1024 * 1024, least), sessions
