"""The prefix cache: the longest part of a prompt that need not be recomputed, and why it is not longer.

Owns which snapshots stay in memory and when the disk is asked. The tree of known sequences is `a3b.cache.prefix_tree`,
what a snapshot holds `a3b.model.state`, the disk `a3b.cache.disk_store`. A node whose snapshot is gone stays for a
while, so that a miss can be explained. Used by one thread. Enter at `PrefixCache`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from a3b.cache.disk_store import Store
from a3b.cache.identity import TOKENS
from a3b.cache.index_rows import KINDS
from a3b.cache.prefix_tree import KnownPrefix, NamespaceTree, Node, PrefixTree, find, num_common
from a3b.cache.shares import Holding, next_to_give
from a3b.errors import UsageError
from a3b.interface.events import CacheReport, MissReason
from a3b.model.state import Snapshot, State

TRIVIAL = 16  # fewer tokens in common mean nothing: any two prompts begin alike
SUPERSEDES = 4  # tokens: a snapshot so shortly after the end of a turn replaces the one at that end
CONTEXT_LEN = 16  # ids reported on either side of a divergence
MAX_NODES = 8192  # known sequences, with or without a snapshot
IDLE_S = 3600.0  # a namespace that was idle for this long loses its share of the memory
RELOAD = 0.02  # cost of reading a token from disk, relative to computing it


@dataclass(frozen=True)
class Match:
    """What `sync` found. `state` has read `reused` tokens of the prompt, of which `position` are known, reused or not.

    miss: as in CacheReport. expected_ids, found_ids: the known tokens and those of the prompt from `position` on, if
    they differ there."""

    state: State
    reused: int
    miss: MissReason
    position: int
    expected_ids: tuple[int, ...] = ()
    found_ids: tuple[int, ...] = ()

    @property
    def report(self) -> CacheReport:
        """The report for a client, without the texts at a divergence."""
        return CacheReport(self.reused, self.miss, self.position)


@dataclass
class OnDisk:
    """A snapshot that `sync` would have to read from disk. `read` may be called once, in any thread, and takes seconds
    for a long one."""

    id: bytes
    load: Callable[[], tuple[State, Snapshot] | None]
    found: tuple[State, Snapshot] | None = None

    def read(self) -> None:
        """Read the snapshot, for `sync` to take."""
        self.found = self.load()


@dataclass(frozen=True)
class CacheStats:
    """Counts since the start, for metrics."""

    nodes: int
    snapshots: int  # in memory
    ram_bytes: int
    disk_bytes: int
    hits: int  # prompts that reused something
    misses: int
    evictions: int  # snapshots evicted because memory was full


class PrefixCache:
    """Snapshots by the tokens that led to them: in memory within `ram_bytes`, and in a store on disk."""

    def __init__(
        self,
        identity: bytes,
        new_state: Callable[[], State],
        ram_bytes: int,
        store: Store | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        """identity: what a state depends on, from `cache_identity`. store: stays the caller's to close."""
        self.identity, self.ram_bytes, self.store = identity, ram_bytes, store
        self._new_state, self._clock = new_state, clock
        self._tree = PrefixTree(identity)
        self._tick = self._hits = self._misses = self._evictions = 0

    def on_disk(self, namespace: str, ids: Sequence[int]) -> OnDisk | None:
        """What `sync` would read from disk for these tokens, so that another thread can do it first; None if nothing.

        Changes nothing but what the store dropped."""
        self._follow_store()
        for node in find(self._space(namespace), np.asarray(ids, TOKENS)).node.path():
            if node.num_tokens < len(ids):
                if node.snapshot is not None:
                    return None
                if self.store is not None and self.store.holds(node.id):
                    return OnDisk(node.id, partial(self.store.load, node.id, self._new_state, *_relative(node)))
        return None

    def sync(self, namespace: str, ids: Sequence[int], read: OnDisk | None = None) -> Match:
        """A state that has read the longest prefix of `ids` that can be restored, and why it is not longer. At least
        one token is left to compute.

        The state belongs to the caller; advancing it changes nothing here. Reads from disk if that reaches further than
        memory and than `read`, a snapshot of `on_disk` that has been read."""
        self._follow_store()
        self._tick += 1
        tokens = np.asarray(ids, TOKENS)
        space = self._used_space(namespace)
        prefix = find(space, tokens)
        path = prefix.node.path()
        for node in path:
            node.used = self._tick
        if self.store:
            self.store.touch(node.id for node in path)
        state, reused, lost = self._deepest(path, len(tokens), read)
        self._hits, self._misses = self._hits + (reused > 0), self._misses + (reused == 0)
        known = prefix.unshared
        differs = prefix.num_known < len(tokens) and len(known) > 0
        miss: MissReason = "evicted" if lost else self._miss(prefix, reused, differs, tokens)
        expected: tuple[int, ...] = ()
        found: tuple[int, ...] = ()
        if differs and miss != "new":
            expected, found = _shown(known), _shown(tokens[prefix.num_known :])
        return Match(self._new_state() if state is None else state, reused, miss, prefix.num_known, expected, found)

    def _deepest(self, path: Sequence[Node], num_tokens: int, read: OnDisk | None) -> tuple[State | None, int, bool]:
        """(state at the deepest node of a path that has one, its tokens, whether a deeper one lost its state)."""
        lost = False
        for node in path:
            if node.num_tokens < num_tokens:
                state = self._restored(node, read)
                if state is not None:
                    return state, node.num_tokens, lost
                lost = lost or not node.thinned
        return None, 0, lost

    def _miss(self, prefix: KnownPrefix, reused: int, differs: bool, tokens: np.ndarray) -> MissReason:
        """Why no more was reused, unless something was lost."""
        if reused == 0 and prefix.num_known < min(TRIVIAL, len(tokens)):
            return "settings" if self._known_elsewhere(prefix.node.space, tokens) else "new"
        return "diverged" if differs else "none"

    def add(
        self,
        namespace: str,
        ids: Sequence[int],
        snapshot: Snapshot,
        kind: str,
        *,
        persist: bool = True,
        label: str = "",
    ) -> bytes:
        """Remember the snapshot of a state that has read exactly `ids`; returns the node's id.

        kind: "system" (ends what many conversations begin with), "turn" (a point where the conversation may branch) or
        "end" (of an answer). A node that is known already only counts as used. persist: whether it may go to disk.
        Raises UsageError for another kind, and for a snapshot of another number of tokens."""
        tokens = np.array(ids, TOKENS)
        if kind not in KINDS:
            raise UsageError(f"kind: {kind!r}; expected one of {', '.join(KINDS)}")
        if not len(tokens) or len(tokens) != snapshot.num_tokens:
            raise UsageError(
                f"snapshot: {snapshot.num_tokens} tokens; expected those of the ids, {len(tokens)}, at least 1"
            )
        self._tick += 1
        node = self._tree.place(self._used_space(namespace), tokens, kind)
        node.label = label or node.label
        if kind == "system":  # also if a conversation ended there first
            node.kind = kind
        for n in (node, *node.above()):
            n.used = self._tick
        if node.snapshot is None and not self._is_superseded(node):
            node.thinned = False
            node.hold(snapshot)
        superseded = _thin_before(node)
        if persist and self.store:
            self._persist(self.store, node, tokens, snapshot, superseded)
        self._shrink()
        return node.id

    def clear(self) -> None:
        """Forget all sequences, in memory and on disk; records stay."""
        self._tree = PrefixTree(self.identity)
        if self.store:
            self.store.clear()

    def stats(self) -> CacheStats:
        """Counts for metrics. May be called from any thread."""
        nodes = list(self._tree.nodes.values())
        disk = self.store.num_bytes if self.store else 0
        return CacheStats(
            len(nodes),
            sum(node.snapshot is not None for node in nodes),
            self._ram_used(),
            disk,
            self._hits,
            self._misses,
            self._evictions,
        )

    # finding nodes

    def _space(self, namespace: str) -> NamespaceTree:
        """The tree of a namespace, filled from the store on first use."""
        space = self._tree.spaces.get(namespace)
        if space is None:
            space = self._tree.new_space(namespace)
            paths: dict[bytes, np.ndarray] = {}
            for row in self.store.rows(space.root.id) if self.store else ():
                above = paths.get(row.parent)
                paths[row.id] = row.ids if above is None else np.concatenate((above, row.ids))
                node = self._tree.place(space, paths[row.id], row.kind)
                node.label = row.label
                _thin_before(node)
        return space

    def _used_space(self, namespace: str) -> NamespaceTree:
        space = self._space(namespace)
        space.used = self._clock()
        return space

    def _known_elsewhere(self, space: NamespaceTree, tokens: np.ndarray) -> bool:
        """Whether a conversation that begins like this one was stored under other settings."""
        tops = self.store.tops(space.name, space.root.id) if self.store else ()
        return any(num_common(top, tokens) == len(top) for top in tops)

    def _is_superseded(self, node: Node) -> bool:
        """Whether a node just below it has taken the place of its snapshot."""
        return node.thinned and any(
            child.num_tokens - node.num_tokens <= SUPERSEDES and (child.snapshot or self._is_stored(child))
            for child in node.children.values()
        )

    # the store

    def _is_stored(self, node: Node) -> bool:
        """Whether the node can be restored from disk."""
        return self.store is not None and self.store.holds(node.id)

    def _follow_store(self) -> None:
        """Forget nodes that expired or that another process dropped, and those below them that are in memory only."""
        if self.store is None:
            return
        for id in self.store.gone():
            node = self._tree.nodes.get(id)
            if node is not None:
                self._tree.remove([n.id for n in node.below() if n is node or not self.store.knows(n.id)])

    def _persist(
        self, store: Store, node: Node, tokens: np.ndarray, snapshot: Snapshot, superseded: bytes | None
    ) -> None:
        if store.knows(node.id) and (node.thinned or store.holds(node.id) or store.is_pending(node.id)):
            store.touch([node.id, *(n.id for n in node.above())])
            return
        parent = next((n for n in node.above() if store.knows(n.id)), node.space.root)
        store.save(
            self.identity,
            node.space.name,
            node.kind,
            node.label,
            node.id,
            parent.id,
            parent.num_tokens,
            tokens[parent.num_tokens :],
            snapshot,
            superseded,
        )

    def _restored(self, node: Node, read: OnDisk | None) -> State | None:
        """An independent state at a node, from memory, from `read` or from disk; None if there is none."""
        if node.snapshot is not None:
            state = self._new_state()
            state.restore(node.snapshot)
            return state
        if self.store is None or not self.store.holds(node.id):
            return None
        if read is not None and read.id == node.id:
            loaded = read.found
        else:
            loaded = self.store.load(node.id, self._new_state, *_relative(node))
        if loaded is None:
            return None
        state, snapshot = loaded
        node.hold(snapshot)
        self._shrink()
        return state

    # the memory

    def _shrink(self) -> None:
        """Drop snapshots until the rest fits, and nodes without one if there are too many.

        `next_to_give` chooses the namespace. Within it, the middles of conversations go first, their ends and system
        prompts last."""
        while self._ram_used() > self.ram_bytes:
            holdings = {
                name: Holding(space.held.num_bytes, space.held.num, space.used)
                for name, space in self._tree.spaces.items()
            }
            name = next_to_give(holdings, self.ram_bytes, self._clock() - IDLE_S)
            if name is None:
                break
            space = self._tree.spaces[name]
            held = [(n, n.snapshot) for n in self._tree.nodes.values() if n.space is space and n.snapshot is not None]
            last = _last_two([node for node, _ in held])
            node, _ = min(held, key=lambda pair: (pair[0].kind == "system" or pair[0] in last, self._worth(*pair)))
            node.drop_snapshot()
            self._evictions += 1
        self._drop_idle_nodes()

    def _drop_idle_nodes(self) -> None:
        nodes = self._tree.nodes
        if len(nodes) > MAX_NODES:
            idle = [n for n in nodes.values() if not n.children and n.snapshot is None and not self._is_stored(n)]
            idle.sort(key=lambda node: node.used)
            self._tree.remove([node.id for node in idle[: len(nodes) - MAX_NODES + MAX_NODES // 16]])

    def _ram_used(self) -> int:
        return sum(space.held.num_bytes for space in list(self._tree.spaces.values()))  # other threads read it too

    def _worth(self, node: Node, snapshot: Snapshot) -> float:
        """Tokens to recompute per byte freed; less for a node on disk, or one not used lately."""
        restart = next((n.num_tokens for n in node.above() if n.snapshot or self._is_stored(n)), 0)
        cost = (node.num_tokens - restart) * (RELOAD if self._is_stored(node) else 1.0)
        return cost / max(node.space.held.freed_by(snapshot), 1) / (1 + self._tick - node.used)


def _shown(tokens: np.ndarray) -> tuple[int, ...]:
    return tuple(map(int, tokens[:CONTEXT_LEN]))


def _thin_before(node: Node) -> bytes | None:
    """Drop the snapshot at the end of a turn just above `node`, which replaces it; returns the id of that end."""
    for n in node.above():
        if node.num_tokens - n.num_tokens > SUPERSEDES:
            return None
        if n.kind == "end":
            n.drop_snapshot()
            n.thinned = True
            return n.id
    return None


def _relative(node: Node) -> tuple[Snapshot | None, int]:
    """(a snapshot in memory that begins with the same tokens as `node`, how many are the same)."""
    for n in (node, *node.above()):
        other = next((o.snapshot for o in n.below() if o.snapshot), None)
        if other is not None:
            return other, n.num_tokens
    return None, 0


def _last_two(nodes: list[Node]) -> set[Node]:
    """The last two nodes with a snapshot of every conversation."""
    before = {node: next((n for n in node.above() if n.snapshot), None) for node in nodes}
    last = set(nodes) - set(before.values())
    return last | {above for node in last if (above := before[node])}
