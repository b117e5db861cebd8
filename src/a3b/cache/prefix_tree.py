"""Sequences of tokens as a tree per namespace: finding the deepest node of a prompt, adding and removing nodes.

A node is the end of a sequence of tokens; its id is the hash of those tokens and of the root, which stands for model,
arithmetic and namespace. So equal conversations are one node, forks share what they have in common, and namespaces
share nothing. Does not decide which snapshots are kept; `a3b.cache.prefix_cache` does. Enter at `PrefixTree`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from a3b.cache.identity import TOKENS, path_hash, root_id
from a3b.cache.snapshot_bytes import SnapshotBytes
from a3b.model.state import Snapshot


@dataclass(eq=False)
class Node:
    """The end of a sequence of tokens, with or without a snapshot in memory."""

    id: bytes
    parent: Node | None  # None: a root, or removed
    tokens: np.ndarray  # TOKENS, those since the parent
    num_tokens: int  # from the root on
    kind: str
    space: NamespaceTree
    used: int = 0  # tick of the last use
    snapshot: Snapshot | None = None
    thinned: bool = False  # its state was superseded by a node just below it, so nothing is lost
    label: str = ""
    children: dict[bytes, Node] = field(default_factory=dict)

    def below(self) -> Iterator[Node]:
        """Itself and all nodes below it."""
        left = [self]
        while left:
            node = left.pop()
            yield node
            left += node.children.values()

    def above(self) -> Iterator[Node]:
        """The nodes above it, nearest first, without the root."""
        node = self.parent
        while node is not None and node.parent is not None:
            yield node
            node = node.parent

    def path(self) -> list[Node]:
        """Itself and the nodes above it, deepest first, without the root."""
        return [node for node in (self, *self.above()) if node.parent is not None]

    def hold(self, snapshot: Snapshot) -> None:
        """Keep a snapshot in memory."""
        self.snapshot = snapshot
        self.space.held.add(snapshot)

    def drop_snapshot(self) -> None:
        """Drop the snapshot in memory, if there is one."""
        if self.snapshot is not None:
            self.space.held.remove(self.snapshot)
            self.snapshot = None


class NamespaceTree:
    """The tree of a namespace, what its snapshots hold in memory, and when it was used last."""

    def __init__(self, name: str, root: bytes):
        self.name, self.held, self.used = name, SnapshotBytes(), 0.0
        self.root = Node(root, None, np.zeros(0, TOKENS), 0, "system", self)


class KnownPrefix(NamedTuple):
    """Where a sequence of tokens leaves a tree."""

    node: Node  # the deepest one on its path
    num_known: int  # tokens that the tree knows; at least those up to `node`
    branch: Node | None  # the child of `node` that shares the rest of the known tokens

    @property
    def unshared(self) -> np.ndarray:
        """The tokens of the branch from `num_known` on: what the tree expected instead; TOKENS."""
        return self.branch.tokens[self.num_known - self.node.num_tokens :] if self.branch else np.zeros(0, TOKENS)


class PrefixTree:
    """The nodes of all namespaces under one identity."""

    def __init__(self, identity: bytes):
        """identity: from `cache_identity`."""
        self.identity = identity
        self.spaces: dict[str, NamespaceTree] = {}
        self.nodes: dict[bytes, Node] = {}

    def new_space(self, namespace: str) -> NamespaceTree:
        """Create the tree of a namespace."""
        space = self.spaces[namespace] = NamespaceTree(namespace, root_id(self.identity, namespace))
        return space

    def place(self, space: NamespaceTree, tokens: np.ndarray, kind: str) -> Node:
        """The node at the end of `tokens`, made if it is missing; an existing one keeps its kind."""
        parent = find(space, tokens).node
        if parent.num_tokens == len(tokens):
            return parent
        total = path_hash(space.root.id)
        total.update(tokens.data)
        node = Node(total.digest(), parent, tokens[parent.num_tokens :].copy(), len(tokens), kind, space)
        for child in list(parent.children.values()):  # those that continue from the new node
            if num_common(child.tokens, node.tokens) == len(node.tokens):
                del parent.children[child.id]
                child.parent, child.tokens = node, child.tokens[len(node.tokens) :]
                node.children[child.id] = child
        parent.children[node.id] = self.nodes[node.id] = node
        return node

    def remove(self, ids: Iterable[bytes]) -> None:
        """Remove nodes with their snapshots; children that stay are attached to the parent."""
        for id in ids:
            node = self.nodes.pop(id, None)
            if node is None or node.parent is None:
                continue
            node.drop_snapshot()
            parent = node.parent
            del parent.children[id]
            for child in node.children.values():
                child.parent, child.tokens = parent, np.concatenate((node.tokens, child.tokens))
                parent.children[child.id] = child
            node.parent, node.children = None, {}


def find(space: NamespaceTree, tokens: np.ndarray) -> KnownPrefix:
    """Follow tokens down a tree as far as it knows them."""
    node = space.root
    while True:
        rest, best, most = tokens[node.num_tokens :], None, 0
        for child in node.children.values():
            num = num_common(child.tokens, rest)
            if num == len(child.tokens):
                node = child
                break
            if best is None or num > most:
                best, most = child, num
        else:
            return KnownPrefix(node, node.num_tokens + most, best)


def num_common(a: np.ndarray, b: np.ndarray) -> int:
    """The length of the common prefix of two sequences of tokens."""
    num = min(len(a), len(b))
    for start, stop in ((0, min(64, num)), (64, num)):  # most differ early
        differs = a[start:stop] != b[start:stop]
        if differs.any():
            return start + int(differs.argmax())
    return num
