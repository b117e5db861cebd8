"""`a3b cache list|verify|prune|forget`: the conversations that servers keep on disk.

Works beside a running server, which notices what is gone."""

from __future__ import annotations

import json
import os
import time
from argparse import Namespace
from contextlib import closing
from pathlib import Path
from typing import Any

from a3b.cache import index_checks
from a3b.cache.directory_lock import is_served
from a3b.cache.disk_index import Index
from a3b.cache.index_database import FAILURES, INDEX, BadIndex, clear_data, remove_aside, set_aside
from a3b.cache.index_rows import Row
from a3b.commands.cache_directories import kept, root
from a3b.commands.info import size
from a3b.commands.progress import MB, Progress
from a3b.errors import StoreError, UsageError
from a3b.printable import printable, report, say

SHORT = 12  # digits of an id that are shown


def run(args: Namespace) -> int:
    parent = args.dir.expanduser() if args.dir else root(args.runtime.home)
    check(args)
    directories = kept(parent)
    if len(directories) > 1:
        return in_all(args, parent, directories)
    return in_one(args, directories[0] if directories else parent)


def in_all(args: Namespace, parent: Path, directories: list[Path]) -> int:
    """Run the action in the directories of all models; --max-bytes is divided in proportion to their sizes."""
    held, status = {}, 0
    for directory in directories:
        try:
            with closing(Index.open(directory)) as index:
                held[directory] = (index.num_bytes(), index.rows()[0], index.holdings())
        except (StoreError, *FAILURES) as error:
            say(f"a3b cache: {error}" if isinstance(error, StoreError) else f"a3b cache: {directory}: {error}")
            status = 1
    if args.action != "forget" or not args.all:  # what cannot be read can still be forgotten
        directories = list(held)
    if args.action == "list" and args.json:
        found = [{**s, "directory": str(directory)} for directory, (_, rows, _) in held.items() for s in sessions(rows)]
        found.sort(key=lambda s: -s["last_used"])
        report(
            json.dumps(
                {"directory": str(parent), "num_bytes": sum(num for num, *_ in held.values()), "sessions": found},
                indent=2,
            )
        )
        return status
    if not directories:
        return status
    if args.action == "forget" and args.id:
        ids = [
            (directory, id)
            for directory, (*_, ids) in held.items()
            for id in ids
            if id.hex().startswith(args.id.lower())
        ]
        directories = [directory for directory, _ in ids] or directories[:1]  # in_one says what is wrong
        if len(ids) > 1 and len(set(directories)) > 1:
            raise UsageError(f"{args.id[:40]}: {len(ids)} ids begin with that; give more digits")
        return in_one(args, directories[0])
    total = sum(num for num, *_ in held.values())
    for directory in directories:
        own = Namespace(**vars(args))
        if args.action == "prune" and args.max_bytes is not None and total > args.max_bytes:
            own.max_bytes = args.max_bytes * held.get(directory, (0,))[0] // total
        status = max(status, in_one(own, directory))
    return status


def in_one(args: Namespace, directory: Path) -> int:
    if not os.path.lexists(directory / INDEX):
        if args.action == "list" and args.json:
            report(json.dumps({"directory": str(directory), "num_bytes": 0, "sessions": []}))
            return 0
        if args.action == "forget" and args.id:
            raise StoreError(f"{directory}: no sessions are kept here; a3b serve keeps them, --dir names another place")
        say(f"{directory}: no sessions are kept here")
        return 0
    try:
        index = Index.open(directory)
    except BadIndex as error:
        if args.action == "forget" and args.all and not is_served(directory):
            return start_over(directory)
        raise StoreError(
            f"{error}; start over with 'a3b cache forget --all', or let the next server set it aside"
        ) from None
    try:
        return {"list": show, "verify": verify, "prune": prune, "forget": forget}[args.action](args, index)
    except FAILURES as error:
        raise StoreError(
            f"{directory / INDEX}: {error}; try again, or start over with 'a3b cache forget --all'"
        ) from None
    finally:
        index.close()


def check(args: Namespace) -> None:
    if args.action == "prune" and args.max_bytes is None and args.older_than is None:
        raise UsageError("prune: expected --max-bytes SIZE, --older-than AGE or both")
    if args.action == "forget" and bool(args.id) == args.all:
        raise UsageError("forget: expected an ID, as 'a3b cache list' shows it, or --all")


def show(args: Namespace, index: Index) -> int:
    rows, bad = index.rows()
    found = sessions(rows)
    if args.json:
        report(
            json.dumps({"directory": str(index.directory), "num_bytes": index.num_bytes(), "sessions": found}, indent=2)
        )
    elif found:
        report(f"{'ID':<{SHORT}}  {'TOKENS':>9}  {'TURNS':>5}  {'SIZE':>9}  {'USED':>8}  {'OWNER':<8}  LABEL")
        for s in found:
            report(
                f"{s['id'][:SHORT]}  {s['tokens']:>9,}  {s['turns']:>5}  "
                f"{size(s['num_bytes']):>9}  {ago(s['age_s']):>8}  "
                f"{printable(s['namespace'])[:8]:<8}  {printable(s['label'])}".rstrip()
            )
        report(f"{len(found)} conversations, {size(index.num_bytes())}: {index.directory}")
    else:
        say(f"{index.directory}: no sessions are kept here")
    if bad:
        say(f"{len(bad)} entries are damaged and will not be used; 'a3b cache verify' drops them")
    return 0


def sessions(rows: list[Row]) -> list[dict[str, Any]]:
    """The ends of conversations, latest first; num_bytes includes what they share with others."""
    by_id, parents = {row.id: row for row in rows}, {row.parent for row in rows}
    out = []
    for leaf in rows:
        if leaf.id not in parents:
            chain = [leaf]
            while (row := by_id.get(chain[-1].parent)) is not None:
                chain.append(row)
            out.append(
                {
                    "id": leaf.id.hex(),
                    "tokens": leaf.num_tokens,
                    "turns": sum(row.kind == "turn" for row in chain),
                    "num_bytes": sum(row.num_bytes for row in chain),
                    "created": leaf.created,
                    "last_used": leaf.last_used,
                    "age_s": max(int(time.time()) - leaf.last_used, 0),
                    "namespace": leaf.namespace,
                    "kind": leaf.kind,
                    "label": leaf.label,
                }
            )
    return sorted(out, key=lambda s: (-s["last_used"], s["id"]))


def verify(args: Namespace, index: Index) -> int:
    total = index.num_bytes()
    with Progress("verifying", total, "MB", scale=MB) as progress:
        wrong = index_checks.verify(index, progress.add)
    for sentence in wrong:
        say(f"{index.directory}: dropped {sentence}")
    if wrong:
        say(f"{index.directory}: what was damaged is dropped and will be recomputed")
        return 1
    report(f"{index.directory}: every byte is as it was written ({size(total)})")
    return 0


def prune(args: Namespace, index: Index) -> int:
    before = index.num_bytes()
    gone: set[bytes] = set()
    thinned: set[bytes] = set()
    if args.older_than is not None:
        gone |= index.expire(int(time.time()) - args.older_than)
    if args.max_bytes is not None:
        more, thinned = index.shrink(args.max_bytes)
        gone |= more
    after = index.num_bytes()
    report(
        f"{index.directory}: {len(gone)} entries dropped, {len(thinned)} thinned, "
        f"{size(before - after)} free; {size(after)} are kept"
    )
    return 0


def forget(args: Namespace, index: Index) -> int:
    if args.all:
        num = len(index.remove(index.holdings(), with_records=True))
        index.records.drop()
        report(f"{index.directory}: {num} entries forgotten")
        return 0
    found = [id for id in index.holdings() if id.hex().startswith(args.id.lower())]
    if len(found) != 1:
        many = (
            f"{len(found)} ids begin with that; give more digits"
            if found
            else "no such session; 'a3b cache list' shows them"
        )
        raise UsageError(f"{args.id[:40]}: {many}")
    gone = index.remove(index.session(found[0]), with_records=True)
    report(f"{index.directory}: {len(gone)} entries forgotten")
    return 0


def start_over(directory: Path) -> int:
    """Forget everything although the index is not readable."""
    remove_aside(set_aside(directory))
    clear_data(directory)
    report(f"{directory}: the index was damaged; it and all files are removed")
    return 0


def ago(seconds: int) -> str:
    for unit, length in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{seconds // length}{unit} ago"
    return f"{seconds}s ago"
