"""Makes standard streams usable as a process may find them: closed, full, without a reader, of another encoding.

Call `usable_streams` first; `all_written` around a command turns failures to write into a status and one line.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator

from a3b.printable import say


def usable_streams() -> None:
    """Replace streams that are None, and let none fail for a character that it cannot show.

    A closed stdin has ended, a closed stdout refuses what is written, a closed stderr swallows it."""
    for name, flags in (("stdin", os.O_RDONLY), ("stdout", os.O_RDONLY), ("stderr", os.O_WRONLY)):
        if getattr(sys, name) is None:  # in this order the lowest free number is the stream's own
            handle = os.open(os.devnull, flags)
            setattr(sys, name, open(handle, "r" if name == "stdin" else "w", encoding="utf-8", closefd=False))
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


class Outcome:
    """The status that `all_written` derives from a failure; None without one."""

    status: int | None = None


@contextlib.contextmanager
def all_written(name: str) -> Iterator[Outcome]:
    """Flush stdout at the end; if that or the body cannot write, say so in one line on stderr: status 1.

    A reader that has left, as `head` does, is not a failure: status 0."""
    outcome = Outcome()
    try:
        try:
            yield outcome
        finally:
            sys.stdout.flush()  # here, where a failure can still be told
    except BrokenPipeError:
        outcome.status = 0
        _give_up()
    except OSError as error:
        outcome.status = 1
        _give_up()
        where = error.filename if error.filename is not None else "cannot write the output"
        with contextlib.suppress(OSError):
            say(f"{name}: {str(where)[:500]}: {error.strerror or error}")


def _give_up() -> None:
    """Drop what cannot be written, so that the interpreter does not try again when it ends."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())
            os.close(null)


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM, and SIGHUP of a terminal that closes, end the body as an exception does, with status 143 or 129:
    temporary files are removed, and a server that was started for a client ends too."""
    here = threading.current_thread() is threading.main_thread()
    numbers = [n for n in (signal.SIGTERM, signal.SIGHUP) if here and signal.getsignal(n) is signal.SIG_DFL]

    def stop(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    for number in numbers:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)
