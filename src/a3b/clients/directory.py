"""The files of a client, below a directory of its own that nobody else may read; nothing outside it is ever written.

Settings that the client or its user changed stay. Enter at `write`."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from a3b.clients.setup import JsonFile, Setup
from a3b.errors import UsageError
from a3b.files import open_private, private_directory, read_text

MAX_SETTINGS = 16 << 20  # bytes of a file of settings: Claude Code keeps projects in it


def write(setup: Setup, directory: Path) -> None:
    """Make the directory hold what the setup asks for. Raises UsageError that names what cannot be written."""
    try:
        private_directory(directory)
        for name, text in rendered(setup, directory).items():
            _write(directory / name, text)
        for name, target in setup.links.items():
            _link(directory / name, target)
    except OSError as error:
        where = error.filename or directory
        raise UsageError(f"{where}: {error.strerror or error}; give a writable directory with A3B_HOME") from None


def rendered(setup: Setup, directory: Path | None = None) -> dict[str, str]:
    """The text of each file; directory: whose settings stay, if there are some. Raises UsageError, OSError."""
    return {
        name: content if isinstance(content, str) else _settings(content, directory and directory / name)
        for name, content in setup.files.items()
    }


def _settings(file: JsonFile, path: Path | None) -> str:
    return json.dumps(file.merged(_found(path) if path else {}), indent=2, ensure_ascii=False) + "\n"


def _found(path: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(read_text(path, MAX_SETTINGS))
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise UsageError(f"{path}: expected a JSON object; repair it, or remove it to begin with new settings")
    return found


def _write(path: Path, text: str) -> None:
    """Write a file whole or not at all; one that holds the text already stays as it is."""
    with suppress(OSError, UnicodeDecodeError):
        if not path.is_symlink() and path.read_text(encoding="utf-8") == text:
            return
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with open(fresh, "x", encoding="utf-8", opener=open_private, errors="surrogatepass") as file:
            file.write(text)
        os.replace(fresh, path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise


def _link(path: Path, target: str) -> None:
    if path.is_symlink() and os.readlink(path) == target:
        return
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    os.symlink(target, fresh)
    os.replace(fresh, path)
