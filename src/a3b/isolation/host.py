"""The server's side of work in separate processes, which are `a3b.isolation.worker`. Enter at `Host.start`."""

from __future__ import annotations

import pickle
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from a3b.isolation import deadlines
from a3b.isolation.worker import COMMAND, KILL, START, Channel, has_input

QUIT_S = 0.5  # that the first process has to end its tasks


class TaskKilled(Exception):
    """A task exceeded its time or memory limit, or a library crashed."""


class TaskNotStarted(TaskKilled):
    """No process could be started for a task, or the first process ended: nothing is wrong with the task."""


class Task:
    """A process that runs one function. Used by one thread at a time."""

    def __init__(self, sock: socket.socket, kill: Callable[[], None] = lambda: None, is_starting: bool = False):
        """kill: ends the process. is_starting: its first message says that it has begun."""
        self._channel, self._kill, self._is_open = Channel(sock), kill, True
        self._is_starting = is_starting

    def send(self, message: Any) -> None:
        """Send the task a message. Raises TaskKilled."""
        try:
            self._channel.send(message)
        except OSError:
            self._see_begun()
            raise self._ended() from None

    def is_ready(self, seconds: float = 0) -> bool:
        """Whether a message, or the end, arrives within that time."""
        return not self._is_open or has_input(self._channel.socket, seconds)

    def receive(self, seconds: float) -> Any:
        """The next message of the task. Raises TaskKilled, also on timeout, and whatever ends the work of this
        thread."""
        until = time.monotonic() + seconds
        self._wait(until)
        if self._is_starting:
            self._see_begun()
            self._wait(until)
        try:
            return self._channel.receive()
        except (EOFError, OSError, pickle.UnpicklingError):
            raise self._ended() from None

    def _wait(self, until: float) -> None:
        while not self.is_ready(deadlines.CHECK_S):
            deadlines.check()
            if time.monotonic() > until:
                raise self._ended()

    def _see_begun(self) -> None:
        if self._is_starting:
            with suppress(EOFError, OSError, pickle.UnpicklingError):
                self._channel.receive()
                self._is_starting = False

    def _ended(self) -> TaskKilled:
        return TaskNotStarted() if self._is_starting else TaskKilled()

    def start_from(self) -> Task:
        """A copy of this task that continues from the same point; the task is sent "fork" and a socket. Raises
        TaskKilled."""
        ours, theirs = socket.socketpair()
        with theirs:
            self.send("fork")
            try:
                socket.send_fds(self._channel.socket, [b"f"], [theirs.fileno()])
            except OSError:
                ours.close()
                raise TaskKilled from None
        return Task(ours)

    def release(self) -> None:
        """Let the process end by itself once it has read what it was sent."""
        if self._is_open:
            self._is_open = False
            self._channel.socket.close()

    def close(self) -> None:
        """End the process, whatever it is doing."""
        if self._is_open:
            self._is_open = False
            self._channel.socket.close()
            self._kill()

    def __del__(self) -> None:
        self.close()


class Host:
    """Starts tasks that share what setup(*args) returns. The first process starts with the first task.

    growth: bytes of address space that a task may use beyond what is shared. Used by any thread."""

    def __init__(self, growth: int, setup: Callable[..., Any], *args: Any):
        self._growth, self._setup, self._args = growth, setup, args
        self._lock = threading.RLock()  # a task may be garbage collected while another one starts
        self._control: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._number = 0  # of the latest task
        self._is_closed = False

    def start(self, task: Callable[..., object], *args: Any) -> Task:
        """Run task(channel, shared, *args) in a new process. `task` and `setup` must be importable.

        Raises TaskNotStarted."""
        ours, theirs = socket.socketpair()
        with theirs, self._lock:
            self._number += 1
            number = self._number
            try:
                self._fork(number, theirs)
            except OSError:
                ours.close()
                raise TaskNotStarted from None
        started = Task(ours, lambda: self._tell(COMMAND.pack(KILL, number)), is_starting=True)
        started.send((task, args))
        return started

    def _fork(self, number: int, sock: socket.socket) -> None:
        """Have the first process fork a task that gets this socket. Raises OSError."""
        for is_last in (False, True):
            try:
                socket.send_fds(self._running(), [COMMAND.pack(START, number)], [sock.fileno()])
                return
            except OSError:
                self._end()  # it may have ended: start a new one
                if is_last:
                    raise

    def close(self) -> None:
        """End all tasks and the first process."""
        with self._lock:
            self._is_closed = True
            self._end()

    def _running(self) -> socket.socket:
        """The control socket of the first process, started if there is none. Raises OSError."""
        if self._is_closed:
            raise OSError("closed")
        if self._control is None:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
            self._control = ours
            code = (
                f"import sys; sys.path[:] = {sys.path!r}; from a3b.isolation.worker "
                f"import main; main({theirs.fileno()})"
            )
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-c", code],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,
                )
            Channel(ours).send((self._setup, self._args, self._growth))
        return self._control

    def _tell(self, command: bytes) -> None:
        with suppress(OSError), self._lock:
            if self._control is not None:
                self._control.sendall(command)

    def _end(self) -> None:
        """End the first process, if there is one."""
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._process is not None:
            try:
                self._process.wait(QUIT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def __del__(self) -> None:
        self._end()
