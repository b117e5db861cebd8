"""Rows of the index as they were written, or not at all: any value in any column may be wrong.

A row is sealed with a checksum of its values and their types. The checksum is no secret, so the values are checked too:
no row may make a reader loop, overflow or allocate without bound. Enter at `row_of` and `record_of`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from a3b.cache.identity import ID_BYTES, TOKENS

KINDS = ("system", "turn", "end")
MAX_NUMBER = 1 << 48  # of any number in a row: bytes, tokens, seconds
SEALED = (
    "id",
    "parent",
    "root",
    "identity",
    "namespace",
    "kind",
    "label",
    "start",
    "tokens",
    "created",
    "kv_bytes",
    "state_bytes",
    "kv_sums",
    "state_sums",
)
COLUMNS = ", ".join((*SEALED, "seal", "has_state", "last_used"))
TEXTS = [i for i, name in enumerate(SEALED) if name in ("namespace", "kind", "label")]


@dataclass(frozen=True)
class Row:
    """A stored node: the end of a sequence of tokens.

    tokens: those since its parent on disk, which ends at token `start`."""

    id: bytes
    parent: bytes  # the root, or a node
    root: bytes
    identity: bytes
    namespace: str
    kind: str
    label: str
    start: int
    tokens: bytes  # TOKENS, at least one
    created: int  # seconds since 1970, as last_used
    kv_bytes: int
    state_bytes: int
    kv_sums: bytes
    state_sums: bytes
    has_state: bool = True  # False: thinned; its keys and values still serve the nodes below it
    last_used: int = 0

    @property
    def num_tokens(self) -> int:
        """Tokens from the root on."""
        return self.start + len(self.tokens) // TOKENS.itemsize

    @property
    def num_bytes(self) -> int:
        """Bytes of its files."""
        return self.kv_bytes + self.state_bytes * self.has_state

    @property
    def sealed(self) -> tuple[Any, ...]:
        """The values that the seal covers."""
        return tuple(getattr(self, name) for name in SEALED)

    @property
    def seal(self) -> bytes:
        """The seal of these values."""
        return seal(self.sealed)

    @property
    def ids(self) -> np.ndarray:
        """The tokens since its parent; TOKENS."""
        return np.frombuffer(self.tokens, TOKENS)

    @property
    def is_sound(self) -> bool:
        """Whether all values can be those of a node."""
        blobs = (self.id, self.parent, self.root, self.identity, self.tokens, self.kv_sums, self.state_sums)
        counts = (self.start, self.created, self.kv_bytes, self.state_bytes)
        return (
            all(type(value) is bytes for value in blobs)
            and all(type(value) is int and 0 <= value < MAX_NUMBER for value in counts)
            and len(self.id) == len(self.parent) == len(self.root) == ID_BYTES
            and self.kind in KINDS
            and len(self.tokens) > 0 == len(self.tokens) % TOKENS.itemsize
        )


def row_of(values: Sequence[Any]) -> Row | None:
    """The row that was written as these values of COLUMNS; None if they are not what was written."""
    *fields, sealed, has_state, last_used = values
    try:
        for i in TEXTS:
            fields[i] = fields[i].decode()
        last_used = last_used if type(last_used) is int and 0 <= last_used < MAX_NUMBER else 0
        row = Row(**dict(zip(SEALED, fields, strict=True)), has_state=bool(has_state), last_used=last_used)
        return row if row.is_sound and row.seal == sealed else None
    except (AttributeError, TypeError, ValueError):
        return None


def record_of(values: Sequence[Any]) -> tuple[bytes, bytes] | None:
    """(key, value) of the record that was written as these values; None if they are not what was written."""
    namespace, key, value, node, created, sealed = values
    try:
        return (key, value) if seal((namespace.decode(), key, value, node, created)) == sealed else None
    except (AttributeError, TypeError, ValueError):
        return None


def seal(values: Iterable[Any]) -> bytes:
    """A digest of values and of their types."""
    total = hashlib.blake2b(digest_size=ID_BYTES)
    for value in values:
        data = value if isinstance(value, bytes) else str(value).encode(errors="surrogatepass")
        total.update(f"{type(value).__name__}{len(data)}:".encode())
        total.update(data)
    return total.digest()
