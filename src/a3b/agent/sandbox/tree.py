"""A tree of processes: who belongs to it, what memory it takes, and how all of it is killed. Standard library only."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress

PAGE = os.sysconf("SC_PAGE_SIZE")


def descendants(root: int, most: int = 1 << 20) -> tuple[list[int], int]:
    """Processes below `root`, without itself, and the number of their threads; stops beyond `most` processes."""
    found: list[int] = []
    waiting, num_threads = [root], -1
    while waiting and len(found) <= most:
        children, threads = _children(waiting.pop())
        found += children
        waiting += children
        num_threads += threads
    return found, num_threads


def _children(pid: int) -> tuple[list[int], int]:
    found: list[int] = []
    tasks: list[str] = []
    with suppress(OSError, ValueError):
        tasks = os.listdir(f"/proc/{pid}/task")
        for task in tasks:
            with open(f"/proc/{pid}/task/{task}/children", "rb") as file:
                found += map(int, file.read().split())
    return found, len(tasks)


def resident(pids: list[int]) -> int:
    """Bytes of memory; what several processes share is counted for each."""
    total = 0
    for pid in pids:
        with suppress(OSError, ValueError, IndexError), open(f"/proc/{pid}/statm", "rb") as file:
            total += int(file.read().split()[1]) * PAGE
    return total


def proportional(pids: list[int]) -> int:
    """Bytes of memory, what is shared counted once; slower."""
    total = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
                total += next((int(line.split()[1]) for line in file if line.startswith(b"Pss:")), 0) * 1024
        except (OSError, ValueError):
            total += resident([pid])
    return total


def offer_to_the_kernel(pids: list[int]) -> None:
    """Short of memory, the kernel takes these first; they may have asked for the contrary meanwhile."""
    for pid in pids:
        with suppress(OSError), open(f"/proc/{pid}/oom_score_adj", "r+") as file:
            if file.read() != "1000\n":
                file.write("1000")


def kill_all(first: int) -> None:
    """Kills all processes below this one, which has to be the reaper of orphans; returns when none is left.

    first: its child, whose group is killed in one step, in which no process of it can fork. Of the others, each is
    stopped before any is killed, since what is stopped cannot fork. The kernel's lists of children may leave some out
    while others end, so only the lack of children to wait for counts."""
    while True:
        if any(_group(pid) == first for pid in descendants(os.getpid(), 1000)[0]):  # else the number may be another's
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(first, signal.SIGKILL)
        stopped: set[int] = set()
        while new := set(descendants(os.getpid())[0]) - stopped:
            for pid in new:
                _signal(pid, signal.SIGSTOP)
            stopped |= new
        for pid in stopped:
            _signal(pid, signal.SIGKILL)
        if reap()[1]:
            return
        time.sleep(0.002)


def _group(pid: int) -> int:
    with suppress(OSError):
        return os.getpgid(pid)
    return 0


def threads_of(user: int) -> int:
    """How many threads a user has."""
    count = 0
    for name in os.listdir("/proc"):
        with suppress(OSError):
            if name.isdigit() and os.stat(f"/proc/{name}").st_uid == user:
                count += len(os.listdir(f"/proc/{name}/task"))
    return count


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def reap() -> tuple[dict[int, int], bool]:
    """Wait statuses of all children that have ended, and whether no others are left."""
    ended = {}
    try:
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            ended[found[0]] = found[1]
    except ChildProcessError:
        return ended, True
    return ended, False
