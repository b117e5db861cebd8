"""docs/agent.svg: a picture of `a3b code` in a terminal, from its recording docs/agent.ansi.

    python -m bench.agent_picture             draws docs/agent.ansi
    python -m bench.agent_picture --record    types `STEPS` into a shell and records it first

The server computes all tokens with nano and is told what to say (`bench.scripted_serve`); agent, sandbox, tools and
figures are the real ones. The package is that of `a3b code --demo`. To record takes pyte (the extra `bench`)."""

from __future__ import annotations

import argparse
import json
import os
import pty
import re
import select
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from a3b.agent.demo import BROKEN, MENDED, TASK, write_demo
from bench.terminal_picture import COLUMNS, DOCS, coded, draw

ROWS = 76  # more than the session takes: nothing scrolls out of the picture
LONGEST_S = 120  # of one step
SCRIPT: dict[str, object] = {
    "thinking": [
        "The tests say what is wrong, so I run them first.",
        "count_value gives 1 where 3 is expected. I look at the function.",
        "The comparison is the wrong way round: values above 6 are to be counted.",
        "Now the tests have to say whether that was all.",
        "All tests pass.",
    ],
    "commands": [
        "python3 test.py",
        {"tool": "read", "path": "book_list.py", "offset": 10, "limit": 8},
        {"tool": "edit", "path": "book_list.py", "old": BROKEN.strip(), "new": MENDED.strip()},
        "python3 test.py",
    ],
    "answer": "`count_value` compared the wrong way round. It is repaired in `book_list.py`, and all tests pass.",
}
STEPS = (  # what is typed, and what the screen shows when it is done
    ("", r"\$ $"),
    ("a3b code", r"> *\nready\n"),
    (TASK, r"done: 5 turns[^~]*\nready\n"),
    ("/think show 3", r"\[thinking 3\][^~]*\nready\n"),
    ("/undo", r"Taken back[^~]*\nready\n"),
    ("/cost", r"written[^~]*\nready\n"),
)


@contextmanager
def served(directory: Path, home: Path, script: dict[str, object]) -> Iterator[int]:
    """The port of a server that says what the script has."""
    (directory / "script.json").write_text(json.dumps(script), encoding="utf-8")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    command = [sys.executable, "-m", "bench.scripted_serve", str(directory / "script.json")]
    with open(directory / "log", "w+b") as log:
        process = subprocess.Popen(
            [*command, "--port", str(port), "--context", "8k"],
            stdout=log,
            stderr=log,
            env=os.environ | {"A3B_HOME": str(home)},
        )
        try:
            for _ in range(LONGEST_S * 10):
                if process.poll() is not None:
                    sys.exit((directory / "log").read_text(encoding="utf-8"))
                try:
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
                    break
                except OSError:
                    time.sleep(0.1)
            yield port
        finally:
            process.terminate()
            process.wait()


def record() -> str:
    """What a shell shows after `STEPS`."""
    import pyte

    screen = pyte.Screen(COLUMNS, ROWS)
    stream = pyte.ByteStream(screen)
    with tempfile.TemporaryDirectory() as root:
        work, home = Path(root) / "books", Path(root) / "home"
        work.mkdir()
        write_demo(work)
        with served(Path(root), home, SCRIPT) as port:
            child, descriptor = pty.fork()
            if child == 0:
                os.chdir(work)
                kept = {name: value for name, value in os.environ.items() if name in ("PATH", "PYTHONPATH")}
                env = {**kept, "HOME": root, "A3B_HOME": str(home), "A3B_PORT": str(port), "PS1": "$ "}
                env |= {"TERM": "xterm-256color", "LANG": "C.UTF-8", "LINES": str(ROWS), "COLUMNS": str(COLUMNS)}
                os.execvpe("bash", ["bash", "--norc", "--noprofile", "-i"], env)
            subprocess.run(["stty", "rows", str(ROWS), "cols", str(COLUMNS)], stdin=descriptor, check=True)
            for line, pattern in STEPS:
                os.write(descriptor, line.encode() + (b"\r" if line else b""))
                _wait(descriptor, stream, screen, pattern)
            rows = [coded(screen.buffer[y], COLUMNS) for y in range(ROWS)]
            os.write(descriptor, b"/exit\r")
            os.write(descriptor, b"exit\r")
            os.close(descriptor)
            os.waitpid(child, 0)
    return "\n".join(rows).rstrip() + "\n"


def _wait(descriptor: int, stream: object, screen: object, pattern: str) -> None:
    """Feeds the screen until it shows the pattern and nothing more comes. Exits with what it shows if that fails."""
    end, is_shown = time.monotonic() + LONGEST_S, False
    while not is_shown or select.select([descriptor], [], [], 0.5)[0]:
        if time.monotonic() > end:
            sys.exit("\n".join(screen.display).rstrip() + f"\n\nno {pattern!r} in {LONGEST_S} s")  # type: ignore[attr-defined]
        if select.select([descriptor], [], [], 0.5)[0]:
            stream.feed(os.read(descriptor, 1 << 16).replace(b"\x1b[2m", b"\x1b[90m"))  # type: ignore[attr-defined]  # pyte knows no faint text
        shown = "\n".join(row.rstrip() for row in screen.display)  # type: ignore[attr-defined]
        is_shown = re.search(pattern, shown.rstrip() + ("\n" if "ready" in shown else " ")) is not None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", action="store_true", help="type the session first")
    args = parser.parse_args()
    source = DOCS / "agent.ansi"
    if args.record:
        source.write_text(record(), encoding="utf-8")
    (DOCS / "agent.svg").write_text(draw(source.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
