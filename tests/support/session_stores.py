"""Stores of sessions for tests: filled with conversations of `cached_states`, and what they give back."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import closing
from functools import cache
from pathlib import Path

from a3b.cache.disk_index import Index
from a3b.cache.disk_store import Store
from a3b.cache.identity import root_id
from a3b.cache.index_rows import Row
from a3b.cache.prefix_cache import PrefixCache
from tests.support.cached_states import IDENTITY, content, feed, new_state, numbers, reached
from tests.support.paths import ROOT

STOPS = [40, 100, 128, 300, 420]


def cache_of(store: Store, ram_bytes: int = 0) -> PrefixCache:
    return PrefixCache(IDENTITY, new_state, ram_bytes, store)


def fill(store: Store, ids: list[int], stops: list[int], namespace: str = "n", kind: str = "turn") -> list[bytes]:
    """Store the snapshots of a conversation; ids of nodes."""
    cache, state, out = cache_of(store), new_state(), []
    for stop in stops:
        feed(state, ids[state.num_tokens : stop])
        out.append(cache.add(namespace, ids[:stop], state.snapshot(), kind))
        assert store.flush()
    return out


def reused(store: Store, ids: list[int], namespace: str = "n") -> int:
    """Tokens restored for a prompt that continues `ids`, after a check of what they restored."""
    match = cache_of(store).sync(namespace, [*ids, 1])
    assert content(match.state) == cold(tuple(ids[: match.reused]))
    return match.reused


@cache
def cold(ids: tuple[int, ...]) -> str:
    return content(reached(ids))


MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # hundreds of small stores wear a disk and wait for it


def forget(directory: Path, id: bytes) -> set[bytes]:
    """Forget the session of a node as `a3b cache forget` does, next to a server; returns the ids that are gone."""
    with closing(Index.open(directory)) as index:
        return index.remove(index.session(id), with_records=True)


def store_two(directory: Path) -> tuple[Path, list[int], list[int]]:
    """Store a conversation and a fork of it after 128 tokens; (directory, conversation, fork)."""
    ids = numbers(420)
    fork = ids[:128] + numbers(100, seed=1)
    with Store(directory) as store:
        fill(store, ids, STOPS)
        fill(store, fork, [128, 150, 228])
        store.put_record("n", b"turn", b"ids of a turn")
    return directory, ids, fork


def cache_rows(store: Store) -> list[Row]:
    """The nodes that `store_two` stored."""
    return store.rows(root_id(IDENTITY, "n"))


def run_python(code: str, *args: str, **kwargs) -> subprocess.Popen:
    env = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", code, *args, str(ROOT)], stdout=subprocess.PIPE, text=True, env=env, **kwargs
    )
