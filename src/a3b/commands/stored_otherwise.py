"""Sessions on disk of which a server can use no state, as it reads otherwise than the one that kept them.

Keys that were read with another scaling of RoPE are those of other positions, and what an MTP module needs is in all
states of a server or in none. Enter at `read_otherwise`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from a3b.cache.disk_store import DAY, Store
from a3b.cache.identity import cache_identity
from a3b.commands.info import size
from a3b.engine.engine import Engine
from a3b.model.config import YARN_FACTORS, RopeConfig, with_context
from a3b.model.config_reader import read_config
from a3b.settings import DRAFTS
from a3b.units import counted

UNUSED = "kept but not used by this server"


@dataclass(frozen=True)
class _Reading:
    """How tokens are read. context: a --context that has such positions."""

    rope: RopeConfig
    mtp: bool
    context: int = 0

    def beside(self, other: _Reading) -> tuple[str, str]:
        """(what is different here, the options that make it so)."""
        words, options = [], []
        if self.rope != other.rope:
            words.append(f"with {self.rope.scaling}")
            options.append(f"--context {self.context}")
        if self.mtp != other.mtp:
            words.append(f"{'with' if self.mtp else 'without'} the MTP module")
            options.append(f"--drafts {DRAFTS[not self.mtp]}")
        return " and ".join(words), " ".join(options)


def read_otherwise(engine: Engine, directory: Path, store: Store, where: str = "") -> Iterator[str]:
    """A line for each kind of them, with what uses and what removes them. where: the options by which `a3b cache` finds
    the store."""
    config, model, native = engine.config, engine.model, read_config(directory)
    own = _Reading(config.rope, model.mtp is not None)
    ropes = {config.rope: 0}
    if native.rope.type == "default":
        contexts = [int(factor * native.max_context) for factor in (1, *YARN_FACTORS)]
        ropes |= {with_context(native, context)[0].rope: context for context in contexts}
    for (rope, context), mtp in product(ropes.items(), (True, False)):
        other = _Reading(rope, mtp, context)
        words, options = other.beside(own)
        if not words:
            continue
        identity = cache_identity(replace(config, rope=rope), directory, model.kv, model.isa, mtp=mtp)
        num, num_bytes = store.stored(identity)
        if num:
            yield (
                f"{counted(num, 'conversation')} on disk ({size(num_bytes)}): read {words}, so {UNUSED}, which reads "
                f"{own.beside(other)[0]}. Serve with {options} to use them; a3b cache list{where} shows them, "
                f"a3b cache forget{where} ID removes one; unused, they go after {store.max_age_s / DAY:g} days"
            )
