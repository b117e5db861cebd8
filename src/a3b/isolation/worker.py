"""A process that forks another for each task, so that a task starts at once and can be killed on its own.

`host` starts it. The first process computes what all tasks share, then only forks. A task has a socket to its caller
and limits on its memory and, per unit of work, on its CPU time, which the kernel enforces. When the server ends
or closes the socket, everything here ends. Does not know what the tasks are. Enter at `main`."""

from __future__ import annotations

import os
import pickle
import resource
import select
import signal
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

_LENGTH = struct.Struct("<Q")
COMMAND = struct.Struct("<cQ")  # START comes with a socket
START, KILL = b"s", b"k"
TICK_S = 1.0  # between two checks for tasks that have ended


class Channel:
    """Pickled messages over a stream socket."""

    def __init__(self, sock: socket.socket):
        self.socket = sock

    def send(self, message: Any) -> None:
        """Raises OSError when the other side is gone."""
        data = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
        self.socket.sendall(_LENGTH.pack(len(data)) + data)

    def receive(self) -> Any:
        """The next message. Raises EOFError when the other side is gone."""
        return pickle.loads(self._exactly(_LENGTH.unpack(self._exactly(_LENGTH.size))[0]))

    def _exactly(self, num: int) -> bytes:
        data = bytearray()
        while len(data) < num:
            piece = self.socket.recv(min(num - len(data), 1 << 20))
            if not piece:
                raise EOFError
            data += piece
        return bytes(data)


def has_input(sock: socket.socket, seconds: float | None) -> bool:
    """Whether data or the end arrives within the timeout; None waits without one."""
    poll = select.poll()  # select() takes no handle above 1023
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(None if seconds is None else seconds * 1000))


@contextmanager
def processor_limit(seconds: float) -> Iterator[None]:
    """Kills this process if the block uses more CPU time."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def memory_used() -> int:
    """Bytes of memory that this process uses."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def fork(task: Callable[..., object], sock: socket.socket, *args: Any) -> int:
    """Run task(channel, *args) in a new process, and close the socket here; returns the process id, 0 if none can be
    started."""
    try:
        pid = os.fork()
    except OSError:  # the other end sees it closed
        sock.close()
        return 0
    if pid:
        sock.close()
        return pid
    status = 1
    try:
        with suppress(EOFError, ConnectionError):
            task(Channel(sock), *args)
        status = 0
    finally:
        os._exit(status)


def limit_memory(growth: int) -> None:
    """Limit this process to `growth` more bytes of address space than it has now, and make it the first to be killed
    when the machine runs out of memory."""
    with open("/proc/self/statm", "rb") as file:
        limit = int(file.read().split()[0]) * resource.getpagesize() + growth
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")


def main(fd: int) -> None:
    """Serve the control socket `fd`: first (setup, args, growth), then commands with the numbers of tasks."""
    for name in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):  # the server ends this process
        signal.signal(name, signal.SIG_IGN)
    sys.setrecursionlimit(5000)
    control = socket.socket(fileno=fd)
    setup, args, growth = Channel(control).receive()
    shared = setup(*args)
    # the host reports panics and failed allocations of libraries in its own words
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    running: dict[int, int] = {}
    while True:
        if has_input(control, TICK_S if running else None):
            data, fds, _, _ = socket.recv_fds(control, COMMAND.size, 1)
            if not data:
                break
            verb, number = COMMAND.unpack(data)
            if verb == START:
                if pid := fork(_run, socket.socket(fileno=fds[0]), control, growth, shared):
                    running[number] = pid
            elif number in running:
                os.kill(running[number], signal.SIGKILL)
        running = {number: pid for number, pid in running.items() if os.waitpid(pid, os.WNOHANG)[0] == 0}
    for pid in running.values():
        os.kill(pid, signal.SIGKILL)


def _run(channel: Channel, control: socket.socket, growth: int, shared: Any) -> None:
    control.close()
    channel.send("begun")
    limit_memory(growth)
    task, args = channel.receive()
    task(channel, shared, *args)
