"""docs/terminal.svg: a picture of a session in a terminal, from its recording.

    python -m bench.terminal_picture            draws docs/terminal.ansi
    python -m bench.terminal_picture --record   types `SESSION`, or the LINEs given, into a shell and records it first

A recording is the text of the screen with codes for colours and nothing else. To record takes pyte, a terminal in
Python (the extra `bench`). Enter at `record` and `draw`."""

from __future__ import annotations

import argparse
import os
import pty
import re
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from xml.sax.saxutils import escape

DOCS = Path(__file__).resolve().parent.parent / "docs"
COLUMNS, ROWS = 96, 40
SESSION = (
    "a3b chat",
    "Think of two numbers from 0 to 999. Tell me only the first.",
    "And the other number?",
    "/exit",
)
PROMPTS = ("$", ">", "]", "?")  # ends of the line of the cursor when another line may be typed
SILENT_S, LONGEST_S = 0.5, 60  # after a prompt; of one answer
CELL, LINE, PAD = 7.8, 18, 16  # pixels of a letter and of a line at 13 px
COLOURS = {"90": "dim", "1": "bold", "32": "green", "36": "cyan", "33": "yellow", "31": "red"}
STYLE = """
rect { fill: #0d1117; stroke: #30363d } circle { fill: #484f58 }
text { font: 13px ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; fill: #e6edf3 }
text { white-space: pre } .dim { fill: #8b949e } .bold { font-weight: 700 } .green { fill: #3fb950 }
.cyan { fill: #39c5cf } .yellow { fill: #d29922 } .red { fill: #f85149 }
"""


def record(lines: tuple[str, ...] = SESSION) -> str:
    """What a shell shows after these lines were typed. Raises OSError if a3b is not on the path."""
    import pyte

    screen = pyte.Screen(COLUMNS, ROWS)
    stream = pyte.ByteStream(screen)
    with tempfile.TemporaryDirectory() as home:
        child, descriptor = pty.fork()
        if child == 0:
            os.chdir(home)
            env = {"PATH": os.environ["PATH"], "HOME": home, "TERM": "xterm-256color", "PS1": "$ ", "LANG": "C.UTF-8"}
            env |= {name: value for name, value in os.environ.items() if name.startswith(("PYTHONPATH", "A3B_", "HF_"))}
            env |= {"COLUMNS": str(COLUMNS), "LINES": str(ROWS), "PROMPT_TOOLKIT_NO_CPR": "1"}
            os.execvpe("bash", ["bash", "--norc", "--noprofile", "-i"], env)
        subprocess.run(["stty", "rows", str(ROWS), "cols", str(COLUMNS)], stdin=descriptor, check=True)
        for line in ("", *lines):
            os.write(descriptor, line.encode() + (b"\r" if line else b""))
            end = time.monotonic() + LONGEST_S
            while time.monotonic() < end:
                if select.select([descriptor], [], [], SILENT_S)[0]:
                    stream.feed(
                        os.read(descriptor, 1 << 16).replace(b"\x1b[2m", b"\x1b[90m")
                    )  # pyte knows no faint text
                elif screen.display[screen.cursor.y].rstrip().endswith(PROMPTS):
                    break
        os.close(descriptor)
        os.waitpid(child, 0)
    rows = [coded(screen.buffer[y], COLUMNS) for y in range(screen.cursor.y)]  # without the last prompt
    return "\n".join(rows).rstrip() + "\n"


def coded(row: object, columns: int) -> str:
    """A row of a pyte screen as text with codes."""
    names = {"brightblack": "90", "green": "32", "cyan": "36", "brown": "33", "red": "31"}
    told, now = "", ""
    for x in range(columns):
        char = row[x]  # type: ignore[index]
        code = names.get(char.fg, "1" if char.bold else "")
        if code != now and char.data != " ":
            told += ("\x1b[0m" if now else "") + (f"\x1b[{code}m" if code else "")
            now = code
        told += char.data
    return (told.rstrip() + "\x1b[0m" if now else told).rstrip()


def draw(recording: str) -> str:
    """The SVG. It is dark on every page, as terminals often are."""
    lines = recording.rstrip("\n").split("\n")
    width, height = round(COLUMNS * CELL + 2 * PAD), len(lines) * LINE + 2 * PAD + 20
    parts = [f'<rect x="0.5" y="0.5" width="{width - 1}" height="{height - 1}" rx="8"/>']
    parts += [f'<circle cx="{PAD + 4 + 18 * i}" cy="18" r="5"/>' for i in range(3)]
    for i, line in enumerate(lines):
        if spans := "".join(_spans(line)):
            parts.append(f'<text x="{PAD}" y="{PAD + 20 + LINE * (i + 1) - 5}" xml:space="preserve">{spans}</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-label="a3b in a terminal">\n<style>{STYLE}</style>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _spans(line: str) -> Iterator[str]:
    kind = ""
    for piece in re.split(r"(\x1b\[\d*m)", line):
        if match := re.fullmatch(r"\x1b\[(\d*)m", piece):
            kind = COLOURS.get(match[1], "")
        elif piece:
            yield f'<tspan class="{kind}">{escape(piece)}</tspan>' if kind else escape(piece)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", nargs="*", metavar="LINE", help="type these lines, or the session")
    args = parser.parse_args()
    source = DOCS / "terminal.ansi"
    if args.record is not None:
        if shutil.which("a3b") is None:
            sys.exit("a3b is not on the path; activate the environment that it is installed in")
        source.write_text(record(tuple(args.record) or SESSION), encoding="utf-8")
    (DOCS / "terminal.svg").write_text(draw(source.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
