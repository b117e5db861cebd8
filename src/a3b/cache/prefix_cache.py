"""The prefix tree: which token sequences have a snapshot, and the deepest one a new prompt can start from.

Owns who shares what, what leaves memory first, and why a prompt was not reused in full. What a snapshot holds is in
`a3b.model.state`, what lies on disk in `a3b.cache.disk_store`. Enter at `PrefixCache`. Used by one thread.

A node is a snapshot at the end of a sequence of tokens; its id is the hash of those tokens and of the root, which
stands for model, arithmetic and namespace. So equal conversations are one node, forks share what they have in common,
and namespaces nothing. A node whose snapshot is gone stays for a while, so that a miss can be explained."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from a3b.cache.disk_store import Store
from a3b.cache.identity import TOKENS, path_hash, root_id
from a3b.cache.rows import KINDS
from a3b.cache.shares import Holding, giver
from a3b.cache.snapshot_files import num_pages
from a3b.errors import UsageError
from a3b.interface.events import CacheReport
from a3b.model.state import SEGMENT_PAGES, Segment, Snapshot, State

TRIVIAL = 16  # tokens in common that mean nothing: any two prompts begin alike
SUPERSEDES = 4  # tokens: a snapshot this close behind the end of a turn replaces it
CONTEXT_LEN = 16  # ids shown on either side of a divergence
MAX_NODES = 8192  # known sequences, with or without a snapshot
IDLE_S = 3600.0  # a namespace that nobody used for that long is sure of no memory
RELOAD = 0.02  # what reading a token from disk costs, next to computing it


@dataclass(frozen=True)
class Match:
    """What `sync` found. `state` has read `reused` tokens of the prompt; `position` of them are known, reused or not.

    miss: as in CacheReport. expected_ids, found_ids: the known and the asked tokens from `position` on, if they differ
    there."""

    state: State
    reused: int
    miss: str
    position: int
    expected_ids: tuple[int, ...] = ()
    found_ids: tuple[int, ...] = ()

    @property
    def report(self) -> CacheReport:
        return CacheReport(self.reused, self.miss, self.position)


@dataclass
class OnDisk:
    """A snapshot that `sync` would have to read from disk. `read` may be called once, in any thread, and takes seconds
    for a long one."""

    id: bytes
    load: Callable[[], tuple[State, Snapshot] | None]
    found: tuple[State, Snapshot] | None = None

    def read(self) -> None:
        self.found = self.load()


@dataclass(frozen=True)
class CacheStats:
    nodes: int
    snapshots: int  # of them in memory
    ram_bytes: int
    disk_bytes: int
    hits: int  # prompts that reused something
    misses: int
    evictions: int  # snapshots that left memory for want of room


@dataclass(eq=False)
class _Node:
    id: bytes
    parent: _Node | None  # None: a root, or removed
    tokens: np.ndarray  # TOKENS, those since the parent
    num_tokens: int
    kind: str
    space: _Namespace
    used: int = 0  # tick of the last use
    snapshot: Snapshot | None = None
    thinned: bool = False  # gave its state up to a child; no loss
    label: str = ""
    children: dict[bytes, _Node] = field(default_factory=dict)

    def below(self) -> Iterator[_Node]:
        """Itself and all that grew from it."""
        left = [self]
        while left:
            node = left.pop()
            yield node
            left += node.children.values()

    def above(self) -> Iterator[_Node]:
        """What it grew from, nearest first, without the root."""
        node = self.parent
        while node is not None and node.parent is not None:
            yield node
            node = node.parent


class _Namespace:
    """The tree of a namespace, what its snapshots hold, and when it was used last."""

    def __init__(self, name: str, root: bytes):
        self.name, self.held, self.used = name, _Held(), 0.0
        self.root = _Node(root, None, np.zeros(0, TOKENS), 0, "system", self)


class PrefixCache:
    """Snapshots by the tokens that led to them, in memory within `ram_bytes`, and on disk behind."""

    def __init__(
        self,
        identity: bytes,
        new_state: Callable[[], State],
        ram_bytes: int,
        store: Store | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        """identity: what a state depends on, from `cache_identity`. The store stays the caller's to close."""
        self.identity, self.ram_bytes, self.store = identity, ram_bytes, store
        self._new_state, self._clock = new_state, clock
        self._spaces: dict[str, _Namespace] = {}
        self._nodes: dict[bytes, _Node] = {}
        self._tick = self._hits = self._misses = self._evictions = 0

    def on_disk(self, namespace: str, ids: Sequence[int]) -> OnDisk | None:
        """What `sync` would read from disk for these tokens, so that somebody else can do it before; None if memory has
        all."""
        self._follow_store()
        node, _, _ = _walk(self._space(namespace).root, np.asarray(ids, TOKENS))
        for n in (node, *node.above()):
            if n.parent is not None and n.num_tokens < len(ids):
                if n.snapshot is not None:
                    return None
                if self._is_stored(n):
                    return OnDisk(n.id, partial(self.store.load, n.id, self._new_state, *self._relative(n)))
        return None

    def sync(self, namespace: str, ids: Sequence[int], read: OnDisk | None = None) -> Match:
        """A state that has read the longest prefix of `ids` that can be had, and why it is not longer. At least one
        token remains.

        The state is the caller's; advancing it changes nothing that is kept here. Reads from disk if that reaches
        further than memory and `read`, which has been."""
        self._follow_store()
        self._tick += 1
        tokens = np.asarray(ids, TOKENS)
        space = self._used_space(namespace)
        node, common, branch = _walk(space.root, tokens)
        path = [n for n in (node, *node.above()) if n.parent is not None]  # deepest first
        state, reused, lost = None, 0, False
        for n in path:
            n.used = self._tick
        if self.store:
            self.store.touch(n.id for n in path)
        for n in path:
            if n.num_tokens < len(tokens):
                state = self._restored(n, read)
                if state is not None:
                    reused = n.num_tokens
                    break
                lost = lost or not n.thinned
        self._hits, self._misses = self._hits + (reused > 0), self._misses + (reused == 0)
        known = branch.tokens[common - node.num_tokens :] if branch else tokens[:0]
        differs = common < len(tokens) and len(known) > 0
        if lost:
            miss = "evicted"
        elif reused == 0 and common < min(TRIVIAL, len(tokens)):
            miss = "settings" if self._known_elsewhere(space, tokens) else "new"
        else:
            miss = "diverged" if differs else "none"
        shown = (
            [tuple(map(int, part[:CONTEXT_LEN])) for part in (known, tokens[common:])]
            if differs and miss != "new"
            else [(), ()]
        )
        return Match(self._new_state() if state is None else state, reused, miss, common, *shown)

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
        """Remember the snapshot of a state that has read exactly `ids`; the node's id.

        kind: "system" (ends what many conversations begin with), "turn" (a point where the conversation may branch) or
        "end" (of an answer). A node that is known already only counts as used. persist: whether it may go to disk."""
        tokens = np.array(ids, TOKENS)
        if kind not in KINDS:
            raise UsageError(f"kind: {kind!r}; expected one of {', '.join(KINDS)}")
        if not len(tokens) or len(tokens) != snapshot.num_tokens:
            raise UsageError(
                f"snapshot: {snapshot.num_tokens} tokens; expected those of the ids, {len(tokens)}, at least 1"
            )
        self._tick += 1
        space = self._used_space(namespace)
        node = self._place(space.root, tokens, kind)
        node.label = label or node.label
        if kind == "system":  # also if it was the end of some conversation first
            node.kind = kind
        for n in (node, *node.above()):
            n.used = self._tick
        if node.snapshot is None and not self._is_superseded(node):
            node.snapshot, node.thinned = snapshot, False
            space.held.add(snapshot)
        superseded = self._thin_before(node)
        if persist and self.store:
            self._persist(space, node, tokens, snapshot, superseded)
        self._shrink()
        return node.id

    def forget(self, prefix: str | bytes, namespace: str | None = None) -> int:
        """Forget the node whose id, in hexadecimal, begins so, all that grew from it, and their records; how many
        nodes.

        Also what only that conversation grew from, up to a system prompt or a fork. Raises UsageError if several begin
        so."""
        prefix = prefix.hex() if isinstance(prefix, bytes) else prefix.lower()
        found = {id for id in self._nodes if id.hex().startswith(prefix)}
        for space in self._spaces.values():
            found.discard(space.root.id)
        found |= self.store.find(prefix) if self.store and namespace is None else set()
        if namespace is not None:
            root = self._space(namespace).root
            found = {n.id for n in root.below() if n is not root and n.id.hex().startswith(prefix)}
        if len(found) > 1:
            raise UsageError(f"session {prefix[:40]!r}: {len(found)} begin so; give more digits")
        if not found:
            return 0
        id = found.pop()
        node = self._nodes.get(id)
        gone = {id}
        if node is not None:
            gone |= {n.id for n in node.below()}
            for n in node.above():
                if n.kind == "system" or any(child not in gone for child in n.children):
                    break
                gone.add(n.id)
        if self.store:
            gone |= self.store.session(id)
            self.store.forget(gone)
        self._remove(gone)
        return len(gone)

    def clear(self, namespace: str | None = None, with_records: bool = True) -> None:
        """Forget everything, or everything of one namespace, in memory and on disk, with its records if asked to."""
        for name in [namespace] if namespace is not None else list(self._spaces):
            space = self._spaces.pop(name, None)
            if space:
                self._remove({n.id for n in space.root.below() if n is not space.root})
        if self.store:
            self.store.forget_namespace(
                None if namespace is None else root_id(self.identity, namespace), namespace, with_records
            )

    def stats(self) -> CacheStats:
        snapshots = sum(n.snapshot is not None for n in list(self._nodes.values()))  # other threads ask, too
        disk = self.store.num_bytes if self.store else 0
        return CacheStats(
            len(self._nodes), snapshots, self._ram_used(), disk, self._hits, self._misses, self._evictions
        )

    # the tree

    def _space(self, namespace: str) -> _Namespace:
        """The tree of a namespace; what the store knows of it is put in when it is first asked for."""
        space = self._spaces.get(namespace)
        if space is None:
            space = self._spaces[namespace] = _Namespace(namespace, root_id(self.identity, namespace))
            root = space.root
            paths: dict[bytes, np.ndarray] = {}
            for row in self.store.rows(root.id) if self.store else ():
                above = paths.get(row.parent)
                paths[row.id] = row.ids if above is None else np.concatenate((above, row.ids))
                node = self._place(root, paths[row.id], row.kind)
                node.label = row.label
                self._thin_before(node)
        return space

    def _used_space(self, namespace: str) -> _Namespace:
        space = self._space(namespace)
        space.used = self._clock()
        return space

    def _place(self, root: _Node, tokens: np.ndarray, kind: str) -> _Node:
        """The node at the end of `tokens`, made if it is not there."""
        parent, _, _ = _walk(root, tokens)
        if parent.num_tokens == len(tokens):
            return parent
        total = path_hash(root.id)
        total.update(tokens)
        node = _Node(total.digest(), parent, tokens[parent.num_tokens :].copy(), len(tokens), kind, root.space)
        for child in list(parent.children.values()):  # those that go on from here
            if _common(child.tokens, node.tokens) == len(node.tokens):
                del parent.children[child.id]
                child.parent, child.tokens = node, child.tokens[len(node.tokens) :]
                node.children[child.id] = child
        parent.children[node.id] = self._nodes[node.id] = node
        return node

    def _remove(self, ids: Iterable[bytes]) -> None:
        """Take nodes out of the tree; what grew from them and stays joins what they grew from."""
        for id in ids:
            node = self._nodes.pop(id, None)
            if node is None:
                continue
            self._drop(node)
            parent = node.parent
            del parent.children[id]
            for child in node.children.values():
                child.parent, child.tokens = parent, np.concatenate((node.tokens, child.tokens))
                parent.children[child.id] = child
            node.parent, node.children = None, {}

    def _drop(self, node: _Node) -> None:
        if node.snapshot is not None:
            node.space.held.remove(node.snapshot)
            node.snapshot = None

    def _is_superseded(self, node: _Node) -> bool:
        return node.thinned and any(
            child.num_tokens - node.num_tokens <= SUPERSEDES and (child.snapshot or self._is_stored(child))
            for child in node.children.values()
        )

    def _is_stored(self, node: _Node) -> bool:
        """Whether the node can be restored from disk."""
        return self.store is not None and self.store.holds(node.id)

    def _thin_before(self, node: _Node) -> bytes | None:
        """The end of a turn just before `node` gives its state up; its id."""
        for n in node.above():
            if node.num_tokens - n.num_tokens > SUPERSEDES:
                return None
            if n.kind == "end":
                self._drop(n)
                n.thinned = True
                return n.id
        return None

    # the store

    def _follow_store(self) -> None:
        """Forget what others made the store forget, and what grew from it and is nowhere else."""
        gone = self.store.gone() if self.store else ()
        for id in gone:
            node = self._nodes.get(id)
            if node is not None:
                self._remove([n.id for n in node.below() if n is node or not self.store.knows(n.id)])

    def _persist(
        self, space: _Namespace, node: _Node, tokens: np.ndarray, snapshot: Snapshot, superseded: bytes | None
    ) -> None:
        if self.store.knows(node.id) and (node.thinned or self._is_stored(node) or self.store.is_pending(node.id)):
            self.store.touch([node.id, *(n.id for n in node.above())])
            return
        parent = next((n for n in node.above() if self.store.knows(n.id)), space.root)
        self.store.save(
            self.identity,
            space.name,
            node.kind,
            node.label,
            node.id,
            parent.id,
            parent.num_tokens,
            tokens[parent.num_tokens :],
            snapshot,
            superseded,
        )

    def _restored(self, node: _Node, read: OnDisk | None) -> State | None:
        """An independent state at a node, from memory, from `read` or from disk; None if there is none."""
        if node.snapshot is not None:
            state = self._new_state()
            state.restore(node.snapshot)
            return state
        if not self._is_stored(node):
            return None
        if read is not None and read.id == node.id:
            loaded = read.found
        else:
            loaded = self.store.load(node.id, self._new_state, *self._relative(node))
        if loaded is None:
            return None
        state, node.snapshot = loaded
        node.space.held.add(node.snapshot)
        self._shrink()
        return state

    def _relative(self, node: _Node) -> tuple[Snapshot | None, int]:
        """A snapshot in memory that begins with the same tokens as `node`, and how many."""
        for n in (node, *node.above()):
            other = next((o.snapshot for o in n.below() if o.snapshot), None)
            if other is not None:
                return other, n.num_tokens
        return None, 0

    def _known_elsewhere(self, space: _Namespace, tokens: np.ndarray) -> bool:
        """Whether a conversation that begins like this one was stored under other settings."""
        tops = self.store.tops(space.name, space.root.id) if self.store else ()
        return any(_common(top, tokens) == len(top) for top in tops)

    # the budget

    def _shrink(self) -> None:
        """Drop snapshots until what is held fits: first in the middle of conversations, last their ends and system
        prompts.

        Of which namespace, `giver` says."""
        while self._ram_used() > self.ram_bytes:
            holdings = {
                name: Holding(space.held.num_bytes, space.held.num, space.used) for name, space in self._spaces.items()
            }
            name = giver(holdings, self.ram_bytes, self._clock() - IDLE_S)
            if name is None:
                break
            space = self._spaces[name]
            nodes = [n for n in self._nodes.values() if n.space is space and n.snapshot is not None]
            last = _last_two(nodes)
            self._drop(min(nodes, key=lambda n: (n.kind == "system" or n in last, self._worth(n))))
            self._evictions += 1
        if len(self._nodes) > MAX_NODES:
            idle = [n for n in self._nodes.values() if not n.children and n.snapshot is None and not self._is_stored(n)]
            self._remove(
                n.id for n in sorted(idle, key=lambda n: n.used)[: len(self._nodes) - MAX_NODES + MAX_NODES // 16]
            )

    def _ram_used(self) -> int:
        return sum(space.held.num_bytes for space in list(self._spaces.values()))  # other threads ask, too

    def _worth(self, node: _Node) -> float:
        """Tokens to compute again per byte that would be free, less for what is on disk and for what was not used
        lately."""
        stands = next((n.num_tokens for n in node.above() if n.snapshot or self._is_stored(n)), 0)
        cost = (node.num_tokens - stands) * (RELOAD if self._is_stored(node) else 1.0)
        return cost / max(node.space.held.freed_by(node.snapshot), 1) / (1 + self._tick - node.used)


def _last_two(nodes: list[_Node]) -> set[_Node]:
    """Of every conversation the last two that have a snapshot."""
    before = {node: next((n for n in node.above() if n.snapshot), None) for node in nodes}
    last = set(nodes) - set(before.values())
    return last | {before[node] for node in last if before[node]}


class _Held:
    """Bytes of snapshots; a segment that several share counts once, and only with the pages that hold tokens."""

    def __init__(self):
        self.num_bytes = self.num = 0  # num: snapshots
        self._segments: dict[int, list] = {}  # id -> [segment, snapshots that have it, bytes]

    def add(self, snapshot: Snapshot) -> None:
        self.num += 1
        self.num_bytes += snapshot.num_bytes
        for segment, size in _used_bytes(snapshot):
            entry = self._segments.setdefault(id(segment), [segment, 0, 0])
            self.num_bytes += max(size - entry[2], 0)
            entry[1:] = entry[1] + 1, max(size, entry[2])

    def remove(self, snapshot: Snapshot) -> None:
        self.num -= 1
        self.num_bytes -= snapshot.num_bytes
        for segment, _ in _used_bytes(snapshot):
            entry = self._segments[id(segment)]
            entry[1] -= 1
            if not entry[1]:
                self.num_bytes -= entry[2]
                del self._segments[id(segment)]

    def freed_by(self, snapshot: Snapshot) -> int:
        return snapshot.num_bytes + sum(entry[2] for s in snapshot.segments if (entry := self._segments[id(s)])[1] == 1)


def _used_bytes(snapshot: Snapshot) -> Iterator[tuple[Segment, int]]:
    left = num_pages(snapshot.num_tokens)
    for segment in snapshot.segments:
        used = min(left, SEGMENT_PAGES)
        yield segment, (segment.keys.nbytes + segment.values.nbytes) * used // SEGMENT_PAGES
        left -= used


def _walk(root: _Node, tokens: np.ndarray) -> tuple[_Node, int, _Node | None]:
    """(deepest node whose tokens all begin `tokens`, how many tokens are known, the child of that node that knows the
    rest of these)."""
    node = root
    while True:
        rest, best, most = tokens[node.num_tokens :], None, 0
        for child in node.children.values():
            num = _common(child.tokens, rest)
            if num == len(child.tokens):
                node = child
                break
            if best is None or num > most:
                best, most = child, num
        else:
            return node, node.num_tokens + most, best


def _common(a: np.ndarray, b: np.ndarray) -> int:
    """How many tokens both begin with."""
    num = min(len(a), len(b))
    for start, stop in ((0, min(64, num)), (64, num)):  # most differ early
        differs = a[start:stop] != b[start:stop]
        if differs.any():
            return start + int(differs.argmax())
    return num
