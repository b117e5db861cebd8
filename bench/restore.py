"""How long a session takes to come back from disk, at the shape of the 35B model.

    python -m bench.restore [--tokens 100000] [--turns 20] [--directory DIR] [--json]

Keys, values and recurrent states are random bytes, as nothing is computed here; all else is what `a3b serve` does:
every turn is kept, the store is closed, the system forgets its files, and a new cache reads the last turn. Every byte
is compared. Takes about 2.5 GB of disk and of memory."""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import numpy as np

from a3b.cache.disk_store import Store
from a3b.cache.prefix_cache import PrefixCache
from a3b.kernels import PAGE_LEN
from a3b.model.config import ATTENTION, ModelConfig
from a3b.model.config_reader import config_from_dict
from a3b.model.state import SEGMENT_PAGES, State, advancing
from a3b.packing.random_weights import shape_config

IDENTITY, LARGE = b"bench", 1 << 40


def advance(state: State, num_new: int, num_layers: int, rng: np.random.Generator) -> None:
    """As if the model had read `num_new` tokens: new pages and the recurrent state hold other bytes."""
    first = state.num_tokens // PAGE_LEN
    state.delta[...] = rng.random(state.delta.shape, np.float32)
    with advancing([(state, num_new)]):
        stop = -(-(state.num_tokens + num_new) // PAGE_LEN)
        for layer in range(num_layers):
            for i, arrays in enumerate(state.segments(layer)):
                part = slice(max(first - i * SEGMENT_PAGES, 0), max(stop - i * SEGMENT_PAGES, 0))
                for array in arrays:
                    array[part] = rng.integers(0, 256, array[part].shape, np.uint8)


def keep(directory: Path, config: ModelConfig, ids: np.ndarray, num_turns: int) -> tuple[State, float]:
    """Write a conversation as the server does, turn by turn; its state, and seconds until all was on disk."""
    rng, state, seconds = np.random.default_rng(0), State(config, "q8"), 0.0
    with Store(directory) as store:
        cache = PrefixCache(IDENTITY, lambda: State(config, "q8"), LARGE, store)
        for turn in range(num_turns):
            advance(
                state, len(ids) * (turn + 1) // num_turns - state.num_tokens, config.layer_types.count(ATTENTION), rng
            )
            began = time.perf_counter()
            cache.add("", ids[: state.num_tokens], state.snapshot(), "turn")
            if not store.flush(600):
                raise SystemExit(f"{directory}: not written within ten minutes: {store.trouble}")
            seconds += time.perf_counter() - began
    return state, seconds


def forget_files(directory: Path) -> int:
    """Make the system read them from disk again; their bytes."""
    total = 0
    for path in directory.rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            total += path.stat().st_size
    return total


def same(a: State, b: State) -> bool:
    """Every byte of all full pages, and the recurrent state. What follows the last token means nothing."""
    if a.num_tokens != b.num_tokens or not (np.array_equal(a.conv, b.conv) and np.array_equal(a.delta, b.delta)):
        return False
    left = a.num_tokens // PAGE_LEN
    for x, y in zip(a.snapshot().segments, b.snapshot().segments, strict=True):
        full = slice(min(left, SEGMENT_PAGES))
        if not (
            np.array_equal(x.keys[:, full], y.keys[:, full]) and np.array_equal(x.values[:, full], y.values[:, full])
        ):
            return False
        left = max(left - SEGMENT_PAGES, 0)
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=100_000)
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--directory", type=Path)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    config = config_from_dict(shape_config("35b-a3b"))
    ids = np.random.default_rng(1).integers(0, config.vocab_size, args.tokens)
    with tempfile.TemporaryDirectory(dir=args.directory) as made:
        directory = Path(made)
        state, write_s = keep(directory, config, ids, args.turns)
        num_bytes = forget_files(directory)
        began = time.perf_counter()
        with Store(directory) as store:
            cache = PrefixCache(IDENTITY, lambda: State(config, "q8"), LARGE, store)
            opened_s = time.perf_counter() - began
            match = cache.sync("", [*ids.tolist(), 0])
            read_s = time.perf_counter() - began
            if match.reused != args.tokens or not same(state, match.state):
                raise SystemExit(f"{match.reused} tokens came back ({match.miss}), or other bytes")
            began = time.perf_counter()
            cache.sync("", [*ids.tolist(), 0])
            again_s = time.perf_counter() - began
    facts = {
        "tokens": args.tokens,
        "turns": args.turns,
        "disk_bytes": num_bytes,
        "kv_bytes": match.state.snapshot().num_kv_bytes,
        "write_s": write_s,
        "open_s": opened_s,
        "restore_s": read_s,
        "from_memory_s": again_s,
    }
    print(
        json.dumps(facts, indent=2)
        if args.json
        else f"{args.tokens:,} tokens, {args.turns} turns, {num_bytes / 1e9:.2f} "
        f"GB on disk: written in {write_s:.1f} s; "
        f"back in {read_s:.2f} s ({facts['kv_bytes'] / read_s / 1e9:.2f} GB/s); from memory {again_s:.3f} s"
    )


if __name__ == "__main__":
    main()
