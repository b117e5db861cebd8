"""The two files of a node: written in full before they get their names, and read back along the chain above the node.

Knows rows, but not which of them exist; the index does. Enter at `NodeFiles` and `read_snapshot`."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from a3b.cache.index_rows import Row
from a3b.cache.snapshot_files import Damaged, read_kv, read_state, write_kv, write_state
from a3b.files import open_private
from a3b.model.state import SEGMENT_LEN, Snapshot, State, advancing

FileOf = Callable[[bytes, str], Path]  # `Index.file`


class DamagedNode(Exception):
    """A file of the chain is not what was written. row: whose keys and values they are; None: the node's own state."""

    def __init__(self, fault: Damaged, row: Row | None):
        super().__init__(str(fault))
        self.row = row


class NodeFiles:
    """The files of one node while they are being written, under names that no reader looks for."""

    def __init__(self, file: FileOf, id: bytes):
        self._id = id
        self._names = {kind: file(id, kind) for kind in ("kv", "state")}
        self._partial = {kind: path.with_suffix(f".{kind}.part") for kind, path in self._names.items()}

    def write(self, row: Row, snapshot: Snapshot) -> Row:
        """Write both files; returns the row with their sizes and checksums. Raises OSError."""
        kv_bytes, kv_sums = _write_file(self._partial["kv"], lambda f: write_kv(f, self._id, snapshot, row.start))
        state_bytes, state_sums = _write_file(self._partial["state"], lambda f: write_state(f, self._id, snapshot))
        return replace(row, kv_bytes=kv_bytes, kv_sums=kv_sums, state_bytes=state_bytes, state_sums=state_sums)

    def publish(self) -> None:
        """Give both files their names."""
        for kind, path in self._partial.items():
            path.rename(self._names[kind])

    def discard(self) -> None:
        """Remove what has not been published."""
        for path in self._partial.values():
            with suppress(OSError):
                path.unlink(missing_ok=True)


def read_snapshot(
    chain: Sequence[Row],
    file: FileOf,
    new_state: Callable[[], State],
    base: Snapshot | None = None,
    num_common: int = 0,
) -> tuple[State, Snapshot]:
    """The state at the last node of a chain, and its snapshot. Raises DamagedNode and MemoryError.

    base: a snapshot whose first `num_common` tokens are the same; full segments of those are shared, not read."""
    node, num_shared = chain[-1], num_common // SEGMENT_LEN
    state = new_state()
    if base is not None and num_shared:
        state.restore(replace(base, num_tokens=num_shared * SEGMENT_LEN, segments=base.segments[:num_shared]))
    try:
        hidden = np.empty_like(state.hidden)
        read_state(file(node.id, "state"), node.id, node.state_sums, (state.conv, state.delta, hidden))
    except Damaged as error:
        raise DamagedNode(error, None) from None
    with advancing([(state, node.num_tokens - state.num_tokens)]):
        pass
    state.set_hidden(hidden)
    snapshot = state.snapshot()
    for row in chain:
        if row.num_tokens > num_shared * SEGMENT_LEN:
            try:
                read_kv(
                    file(row.id, "kv"),
                    row.id,
                    row.kv_sums,
                    snapshot.segments,
                    row.start,
                    row.num_tokens,
                    num_shared,
                )
            except Damaged as error:
                raise DamagedNode(error, row) from None
    return state, snapshot


def _write_file(path: Path, write: Callable[[BinaryIO], tuple[int, bytes]]) -> tuple[int, bytes]:
    with open(path, "wb", opener=open_private) as file:
        result = write(file)
        file.flush()
        os.fsync(file.fileno())
    return result
