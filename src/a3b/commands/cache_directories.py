"""Where sessions are kept: `serve` chooses a directory for its model, `cache` finds all of them.

Below `sessions` each model has its own directory, and one more, named by its port, for each further server that runs
the same model at the same time. An index in `sessions` itself, from an earlier version, is still used by the first
server that starts. Enter at `open_store` and `kept`."""

from __future__ import annotations

import os
import re
from argparse import Namespace
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path

from a3b.cache.directory_lock import InUse
from a3b.cache.disk_store import Store
from a3b.cache.index_database import INDEX
from a3b.engine.engine import nano_directory, resolve
from a3b.errors import StoreError
from a3b.files import private_directory

MOST = 16  # servers of one model that share no port number


def root(cache: str) -> Path:
    return Path(cache).expanduser() / "sessions"


def name_of(model: str | None) -> str:
    """A model's name for its sessions: the last part of its path, and a digest, as many are called `packed`."""
    path = resolve(model).resolve()
    if path == nano_directory().resolve():
        return "a3b-nano"
    digest = blake2b(bytes(path), digest_size=3).hexdigest()
    return f"{re.sub('[^A-Za-z0-9._-]', '_', path.name)[:60].lstrip('.')}-{digest}"


def places(root: Path, name: str, port: int) -> Iterator[Path]:
    """Candidates, of which a server takes the first that is free: the one its port had before, the model's, a new
    one."""
    own = root / f"{name}.{port}"
    if port and own.is_dir():
        yield own
    if (root / INDEX).is_file():
        yield root
    yield root / name
    if port:
        yield own
    yield from (root / f"{name}.{i}" for i in range(2, MOST + 1))


def open_store(args: Namespace) -> Store:
    """Open the sessions of a server. Raises StoreError naming the option that helps."""
    limits = args.cache_disk, args.session_days * 86400
    if args.cache_dir:
        try:
            return Store(args.cache_dir, *limits)
        except StoreError as error:
            raise StoreError(f"--cache-dir {args.cache_dir}: {error}; or serve with --no-persist") from None
    parent = root(args.runtime.home)
    try:
        private_directory(parent)
    except OSError as error:
        raise StoreError(
            f"{parent}: {error.strerror}; give a writable directory with --cache-dir, or --no-persist"
        ) from None
    for directory in places(parent, name_of(args.model), args.port):
        try:
            return Store(directory, *limits)
        except InUse:
            continue
    raise StoreError(
        f"{parent}: {MOST} servers of this model are running; give this one "
        "a directory with --cache-dir, or --no-persist"
    )


def kept(parent: Path) -> list[Path]:
    """The directories with sessions: `parent` and those in it."""
    inner = sorted(path for path in parent.iterdir() if path.is_dir()) if parent.is_dir() else []
    return [path for path in (parent, *inner) if os.path.lexists(path / INDEX)]
