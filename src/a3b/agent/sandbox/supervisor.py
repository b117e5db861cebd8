"""The process above each command: it enters the sandbox, watches what the command uses up, and kills all of it.

Runs as `python -I -S` outside the sandbox, from a private copy, and imports nothing but the standard library and its
neighbours. It dies with the process that started it, and the command dies with it. Enter at `main`."""

from __future__ import annotations

import ctypes
import json
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn

from a3b.agent.sandbox import repositories, tree
from a3b.agent.sandbox.planted import KnownPlaces
from a3b.agent.sandbox.restrictions import restrict
from a3b.agent.sandbox.watchlist import Watchlist

TICK = 0.05  # seconds between two looks at the tree
DISK_TICK = 1.0
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
THREADS_A_PROCESS = 16  # on average, where the kernel counts threads
START_FAILED = 125
COVERS = {"--ro-bind": 3, "--perms": 6, "--remount-ro": 2}  # words of a mount, the place last; --perms .. --tmpfs PLACE

libc = ctypes.CDLL(None, use_errno=True)


def main(config_path: str, command: list[str]) -> NoReturn:
    """Runs `command` as the configuration says, and exits with its status."""
    with open(config_path, encoding="utf-8") as file:
        config: dict[str, Any] = json.load(file)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if config["parent"] and os.getppid() != config["parent"]:  # it died before the line above
        os._exit(START_FAILED)
    status = config["status_fd"]
    if status is not None:
        os.set_inheritable(status, False)
    outcome = Supervisor(config, command).run()
    if status is not None:
        with suppress(OSError):
            os.write(status, json.dumps(outcome).encode())
    os._exit(outcome["status"] & 0xFF if outcome["ended_by"] == "exit" else 128 + signal.SIGKILL)


class Supervisor:
    """One command. config: see `launching.Launcher.config`."""

    def __init__(self, config: dict[str, Any], command: list[str]):
        self.config, self.command, self.limits = config, command, config["limits"]
        self.root = os.getpid()  # the tree is everything below
        self.ended: int | None = None
        self.disk_at_start = {path: _disk_used(path) for path in config["disk_paths"]}
        self.next_disk_look = 0.0
        self.watched = [Watchlist(entry["root"], entry["paths"], entry["fixed"]) for entry in config["watch"]]
        self.known = [(entry["root"], KnownPlaces.of(entry)) for entry in config["watch"]]
        self.began = time.time()

    def run(self) -> dict[str, Any]:
        """The outcome: status, ended_by and detail."""
        libc.prctl(PR_SET_CHILD_SUBREAPER, 1)
        with suppress(OSError):  # root may: what it watches must never leave it without a processor
            os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(1))
        wake, wake_writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_writer, warn_on_full_buffer=False)
        stops: list[int] = []
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, lambda got, _: None if got == signal.SIGCHLD else stops.append(got))
        child = self._spawn()
        began = time.monotonic()
        reason, detail = "exit", ""
        while True:
            if child in (ended := tree.reap()[0]):
                self.ended = ended[child]
                break
            if stops:
                reason = "stop"
            elif self.limits["seconds"] is not None and time.monotonic() - began > self.limits["seconds"]:
                reason, detail = "time", f"it took longer than {self.limits['seconds']:g} s"
            else:
                reason, detail = self._look()
            if reason != "exit":
                break
            select.select([wake], [], [], TICK)
            with suppress(BlockingIOError):
                os.read(wake, 4096)
        tree.kill_all(child)
        status = self._status() if reason == "exit" else -signal.SIGKILL
        if put_back := self._put_back():
            reason, detail = (
                ("protected", put_back) if reason in ("exit", "protected") else (reason, f"{detail}; {put_back}")
            )
        return {"status": status, "ended_by": reason, "detail": detail}

    def _put_back(self) -> str:
        """Undoes changes of what acts outside of the sandbox; says what it undid, "" if nothing."""
        displaced = self.config["displaced"]
        done: list[str] = []
        restored = [watchlist.restore(displaced) for watchlist in self.watched]
        for (root, known), paths in zip(self.known, restored, strict=True):
            done += [*paths, *repositories.tame(root, self.began, displaced, known.without(paths))]
        if not done:
            return ""
        kept = f"; what stood there is in {displaced}" if os.path.isdir(displaced) else ""
        return f"put back, since it acts outside of the sandbox and is protected: {', '.join(done[:10])}{kept}"

    def _status(self) -> int:
        code = os.waitstatus_to_exitcode(self.ended) if self.ended is not None else START_FAILED
        return code if code >= 0 else 128 - code

    def _spawn(self) -> int:
        info_reader, info_writer = os.pipe2(os.O_CLOEXEC)
        block_reader, block_writer = os.pipe2(os.O_CLOEXEC)
        child = os.fork()
        if not child:
            try:
                Entry(self.config, self.command, info_writer, block_reader).enter()
            except BaseException as error:  # a forked Python must not go on
                with suppress(OSError):
                    os.write(2, f"sandbox: {error}\n".encode("utf-8", "backslashreplace"))
            os._exit(START_FAILED)
        os.close(info_writer)
        os.close(block_reader)
        with suppress(OSError):  # what runs above has to keep up with what it ends
            os.setpriority(os.PRIO_PROCESS, 0, -10)
        if self.config["mode"] == "bubblewrap":
            self._limit_processes(info_reader)
        with suppress(OSError):
            os.write(block_writer, b"x")
        os.close(block_writer)
        os.close(info_reader)
        return child

    def _limit_processes(self, info: int) -> None:
        """Bounds processes where the new namespace counts its own; before Linux 5.14 all of the user's would count."""
        text = b""
        while piece := os.read(info, 4096):
            text += piece
        with suppress(ValueError, KeyError, OSError):
            pid = int(json.loads(text)["child-pid"])
            if _kernel() >= (5, 14):
                most = self.limits["processes"] * THREADS_A_PROCESS
                resource.prlimit(pid, resource.RLIMIT_NPROC, (most, most))

    def _look(self) -> tuple[str, str]:
        """("exit", "") if all is well, else why the tree has to end."""
        most = self.limits["processes"]
        pids, threads = tree.descendants(self.root, most + 2)
        if len(pids) > most + 2 or threads > most * THREADS_A_PROCESS:  # bubblewrap itself is two
            return "processes", f"it started more than {most} processes"
        memory, taken = self.limits["memory"], tree.resident(pids)
        if taken > memory // 4:
            tree.offer_to_the_kernel(pids)
        if taken > memory and (len(pids) == 1 or tree.proportional(pids) > memory):
            return "memory", f"it took more than {_size(memory)} of memory"
        if _memory_free(self.config["memory_groups"]) < self.config["memory_floor"]:
            return "memory", f"it left less than {_size(self.config['memory_floor'])} of this machine's memory"
        if any(watchlist.changed() for watchlist in self.watched):
            return "protected", ""
        if time.monotonic() > self.next_disk_look:
            self.next_disk_look = time.monotonic() + DISK_TICK
            return self._look_at_disks()
        return "exit", ""

    def _look_at_disks(self) -> tuple[str, str]:
        """Private files are measured only if the file system has filled meanwhile, since that takes long."""
        for path, at_start in self.disk_at_start.items():
            used, free = _disk_used(path), _disk_free(path)
            if used - at_start > self.config["disk_floor"] and free < self.config["disk_floor"]:
                return "disk", f"it left less than {_size(self.config['disk_floor'])} of disk"
            if used - at_start > self.limits["disk"] // 4 and path in self.config["private_paths"]:
                if _tree_size(path, self.limits["disk"]) > self.limits["disk"]:
                    return "disk", f"its home and /tmp took more than {_size(self.limits['disk'])} of disk"
        return "exit", ""


class Entry:
    """What the forked child does to itself before it becomes the command."""

    def __init__(self, config: dict[str, Any], command: list[str], info: int, block: int):
        self.config, self.command, self.info, self.block = config, command, info, block
        self.supervisor = os.getppid()

    def enter(self) -> None:
        """Becomes the command. Raises OSError."""
        self._restore_signals()
        self._set_limits()
        if self.config["namespaces"] is not None:
            _join(self.config["namespaces"])
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != self.supervisor:
            os._exit(START_FAILED)
        modes: dict[str, Callable[[], None]] = {
            "bubblewrap": self._bubblewrap,
            "landlock": self._landlock,
            "none": self._plain,
        }
        modes[self.config["mode"]]()

    def _restore_signals(self) -> None:
        signal.set_wakeup_fd(-1)
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            with suppress(OSError, ValueError):
                signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])

    def _set_limits(self) -> None:
        limits = self.config["limits"]
        bounds = {
            resource.RLIMIT_CORE: 0,
            resource.RLIMIT_FSIZE: limits["file"],
            resource.RLIMIT_NOFILE: limits["open_files"],
            resource.RLIMIT_MEMLOCK: 64 << 20,
        }
        if self.config["mode"] == "landlock":  # without namespaces, all that the user runs counts; root is not bound
            most = limits["processes"] * THREADS_A_PROCESS
            bounds[resource.RLIMIT_NPROC] = tree.threads_of(os.getuid()) + most
        for kind, most in bounds.items():
            hard = resource.getrlimit(kind)[1]
            most = most if hard == resource.RLIM_INFINITY else min(most, hard)
            resource.setrlimit(kind, (most, most))
        tree.offer_to_the_kernel([os.getpid()])

    def _bubblewrap(self) -> None:
        arguments = mounts_that_can_be(self.config["arguments"])
        arguments += ["--info-fd", str(self.info), "--block-fd", str(self.block)]
        with open(self.config["seccomp"], "rb") as file:
            arguments += ["--seccomp", str(_memory_file(file.read()))]
        for name, value in self.config["env"].items():
            arguments += ["--setenv", name, value]
        arguments += ["--chdir", self.config["cwd"]]
        handle = _memory_file(b"".join(os.fsencode(word) + b"\0" for word in arguments))
        _close_others({self.info, self.block, handle, int(arguments[arguments.index("--seccomp") + 1])})
        os.execve(self.config["program"], ["bwrap", "--args", str(handle), "--", *self.command], {})

    def _landlock(self) -> None:
        with open(self.config["seccomp"], "rb") as file:
            program = file.read()
        restrict(self.config["readable"], self.config["writable"], self.config["devices"], program)
        self._plain()

    def _plain(self) -> None:
        os.setsid()
        os.chdir(self.config["cwd"])
        _close_others(set())
        os.execvpe(self.command[0], self.command, self.config["env"])


def mounts_that_can_be(arguments: list[str]) -> list[str]:
    """The same without what covers files and directories that have gone since, such as sockets of other programs:
    bubblewrap would end there, and the command would not run. What lies in /dev is bubblewrap's own."""
    kept, at = [], 0
    while at < len(arguments):
        words = arguments[at : at + COVERS.get(arguments[at], 1)]
        if len(words) == 1 or words[-1].startswith("/dev/") or os.path.lexists(words[-1]):
            kept += words
        at += len(words)
    return kept


def _join(holder: int) -> None:
    """Enters the user and network namespaces of a process."""
    handles = [
        (os.open(f"/proc/{holder}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC), flag)
        for name, flag in (("user", CLONE_NEWUSER), ("net", CLONE_NEWNET))
    ]
    for handle, flag in handles:
        if libc.setns(handle, flag):
            raise OSError(ctypes.get_errno(), f"cannot join the sandbox: {os.strerror(ctypes.get_errno())}")


def _memory_file(data: bytes) -> int:
    handle = os.memfd_create("a3b", 0)
    os.write(handle, data)
    os.lseek(handle, 0, os.SEEK_SET)
    return handle


def _close_others(kept: set[int]) -> None:
    """Leaves standard streams and `kept` open for the program that follows, and nothing else."""
    for name in os.listdir("/proc/self/fd"):
        handle = int(name)
        if handle > 2:
            with suppress(OSError):
                os.set_inheritable(handle, handle in kept)


def _kernel() -> tuple[int, int]:
    parts = os.uname().release.split(".")
    return int(parts[0]), int("".join(c for c in parts[1] if c.isdigit()) or 0)


def _memory_free(groups: list[dict[str, Any]]) -> int:
    """Bytes that the machine and all control groups leave."""
    free = 1 << 62
    with suppress(OSError, ValueError, IndexError), open("/proc/meminfo", "rb") as file:
        free = next(int(line.split()[1]) * 1024 for line in file if line.startswith(b"MemAvailable:"))
    for group in groups:
        with suppress(OSError, ValueError), open(group["used"], "rb") as used, open(group["stat"], "rb") as stat:
            table = dict(line.split()[:2] for line in stat)
            droppable = sum(int(table.get(name.encode(), 0)) for name in group["droppable"])
            free = min(free, group["limit"] - max(int(used.read()) - droppable, 0))
    return free


def _disk_used(path: str) -> int:
    found = os.statvfs(path)
    return (found.f_blocks - found.f_bfree) * found.f_frsize


def _disk_free(path: str) -> int:
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize


def _tree_size(path: str, most: int) -> int:
    """Bytes on disk below a directory; stops beyond `most`."""
    total, waiting = 0, [path]
    while waiting and total <= most:
        with suppress(OSError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                with suppress(OSError):
                    total += entry.stat(follow_symlinks=False).st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
    return total


def _size(number: int) -> str:
    return f"{number / (1 << 30):.1f} GiB" if number >= 1 << 30 else f"{number >> 20} MiB"


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
