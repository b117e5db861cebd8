"""Checks the files of a session directory against its index, and drops what does not match.

`sweep` compares names and lengths when a server starts; `verify` reads every byte, for `a3b cache verify`."""

from __future__ import annotations

import stat
from collections.abc import Callable

from a3b.cache.disk_index import Index
from a3b.cache.index_database import DATA
from a3b.cache.index_rows import Row
from a3b.cache.snapshot_files import Damaged, check_file, kv_blocks, state_blocks


def sweep(index: Index) -> None:
    """Remove files without a row, and nodes whose files are missing or have another length. Only the server may call
    it: a file that is being written has no row yet."""
    rows, bad = index.rows()
    known = {index.file(row.id, "kv").name: row.kv_bytes for row in rows}
    known |= {index.file(row.id, "state").name: row.state_bytes for row in rows if row.has_state}
    found = {}
    for path in (index.directory / DATA).iterdir():
        try:
            status = path.lstat()
        except FileNotFoundError:  # another process has just dropped it
            continue
        if path.name in known and stat.S_ISREG(status.st_mode):
            found[path.name] = status.st_size
            if status.st_mode & 0o077:
                path.chmod(0o600)
        elif not stat.S_ISDIR(status.st_mode):
            path.unlink(missing_ok=True)
    for row in rows:
        if found.get(index.file(row.id, "kv").name) != row.kv_bytes:
            bad.append(row.id)
        elif row.has_state and found.get(index.file(row.id, "state").name) != row.state_bytes:
            index.thin(row.id)
    if bad:
        index.remove(bad)


def verify(index: Index, done: Callable[[int], None] = lambda num_bytes: None) -> list[str]:
    """Check every byte of every file and row, and drop what is wrong; one sentence for each thing dropped.

    done: called from time to time with the number of bytes read."""
    rows, drop = index.rows()
    wrong = [f"{_short(id)}: its row in the index was altered, or the node it continues is gone" for id in drop]
    thin = []
    for row in rows:
        if fault := _fault_of_kv(index, row, done):
            if index.row(row.id):  # otherwise another process has dropped it meanwhile
                drop.append(row.id)
                wrong.append(f"{_short(row.id)}: {fault}")
        elif row.has_state and (fault := _fault_of_state(index, row, done)):
            if (now := index.row(row.id)) and now.has_state:
                thin.append(row.id)
                wrong.append(f"{_short(row.id)}: {fault}")
    index.thin(*thin)
    num_gone = len(index.remove(drop)) if drop else 0
    if num_gone > len(drop):
        wrong.append(f"{num_gone - len(drop)} more that continue these")
    if num_records := index.records.drop_changed():
        wrong.append(f"{num_records} remembered turns")
    return wrong


def _fault_of_kv(index: Index, row: Row, done: Callable[[int], None]) -> Damaged | None:
    try:
        blocks = kv_blocks(row.start, row.num_tokens, row.kv_bytes)
        check_file(index.file(row.id, "kv"), row.id, b"kv", row.kv_sums, blocks, done)
    except Damaged as error:
        return error
    return None


def _fault_of_state(index: Index, row: Row, done: Callable[[int], None]) -> Damaged | None:
    try:
        check_file(index.file(row.id, "state"), row.id, b"state", row.state_sums, state_blocks(row.state_bytes), done)
    except Damaged as error:
        return error
    return None


def _short(id: object) -> str:
    return id.hex()[:12] if isinstance(id, bytes) else str(id)[:12]
