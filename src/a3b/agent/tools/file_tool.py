"""The work of read, write and edit: plain functions on paths, and the script that runs them in the sandbox.

As a script, `python -I -S file_tool.py` reads one call as JSON from stdin, {"call": "read", "arguments": {...}}, works
in its current directory and prints the outcome as a line of JSON; once a changed file is checked, a second one follows,
{"syntax": ...}. It uses the standard library only. Enter at `read_file`, `write_file`, `edit_file`."""

from __future__ import annotations

import sys

if not __package__:  # as a script: its siblings are found without loading the package around them
    from types import ModuleType

    for _name in ("a3b", "a3b.agent", "a3b.agent.tools"):
        sys.modules[_name] = ModuleType(_name)
    sys.modules["a3b.agent.tools"].__path__ = [__file__.rpartition("/")[0]]

import errno
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, BinaryIO

from a3b.agent.tools import text_file
from a3b.agent.tools.cut import MAX_CHARACTERS, MAX_LINE, cut_line
from a3b.agent.tools.text_file import FileToolError

READ_LINES = 300  # where no limit is given
WRITE_LINES = 300
LISTED = 200
MAX_DIFF_LINES = 2_000  # of a file that is compared whole
SECONDS = 5.0  # for counting the lines of a huge file
CHANGED = " It had changed since you read it."


@dataclass(frozen=True)
class FileOutcome:
    """text: for the model; diff: for people; seal: what tells the state of the file now from another."""

    text: str
    diff: str = ""
    seal: str = ""


def read_file(path: str, offset: int = 1, limit: int = READ_LINES, root: str = ".") -> FileOutcome:
    """Lines of a text file, or the names in a directory. Raises FileToolError."""
    if offset < 0 or limit < 1:
        raise FileToolError(f"offset and limit count lines from 1; found {offset} and {limit}.")
    if os.path.isdir(text_file.located(path, root)):
        return FileOutcome(_listing(path, root))
    file, found = text_file.opened(path, root)
    with file:
        try:
            head = file.read(text_file.SNIFFED)
            text_file.refuse_binary(path, head, found.st_size)
            file.seek(len(text_file.BOM) if head.startswith(text_file.BOM) else 0)
            lines, total, is_whole = _window(file, max(offset, 1), limit)
            file.seek(0)
            seal = text_file.seal(file.read(text_file.MAX_BYTES)) if found.st_size <= text_file.MAX_BYTES else ""
        except OSError as error:
            raise FileToolError(f"{path}: {text_file.reason(error)}.") from None
    if not total:
        text = f"[{path} is empty]"
    elif not lines:
        raise FileToolError(f"{path} has {total:,} lines; offset {offset} is beyond them.")
    else:
        text = _read_text(lines, max(offset, 1), total, is_whole)
    return FileOutcome(text, seal=seal)


def _read_text(lines: list[str], offset: int, total: int, is_whole: bool) -> str:
    """The lines, and below them in brackets what they do not show by themselves."""
    notes = []
    if any(map(text_file.FOREIGN.search, lines)):
        notes.append("[not UTF-8: other bytes are shown as \\xNN]")
        lines = [line.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace") for line in lines]
    if any(line.endswith("\r") for line in lines):
        notes.append("[line ends are CRLF; edit keeps them]")
        lines = [line.removesuffix("\r") for line in lines]
    last = offset + len(lines) - 1
    if last < total or not is_whole:
        more = "" if is_whole else "more than "
        notes.append(f"[lines {offset}-{last} of {more}{total}; go on with offset {last + 1}]")
    elif offset > 1:
        notes.append(f"[lines {offset}-{last} of {total}]")
    return "\n".join([*lines, *notes])


def _window(file: BinaryIO, offset: int, limit: int) -> tuple[list[str], int, bool]:
    """The wanted lines, as many as fit; how many lines there are; whether they could all be counted."""
    lines: list[str] = []
    number, room, deadline = 0, MAX_CHARACTERS, time.monotonic() + SECONDS
    for piece, length in _lines(file, deadline):
        number += 1
        if offset <= number < offset + limit and room > 0:
            line = piece.decode("utf-8", "surrogateescape")
            shown = cut_line(line) if len(piece) == length else cut_line(line[:MAX_LINE] + " " * (length - MAX_LINE))
            room -= len(shown) + 1
            if room >= 0 or not lines:
                lines.append(shown)
    return lines, number, time.monotonic() <= deadline


def _lines(file: BinaryIO, deadline: float) -> Iterator[tuple[bytes, int]]:
    """Lines without their end, with their length in bytes; of a very long one only the beginning."""
    while piece := file.readline(text_file.PIECE):
        length, is_open = len(piece), not piece.endswith(b"\n")
        while is_open and time.monotonic() < deadline and (more := file.readline(text_file.PIECE)):
            length += len(more)
            is_open = not more.endswith(b"\n")
            length -= not is_open
        yield (piece[:-1], length - 1) if piece.endswith(b"\n") else (piece, length)
        if time.monotonic() > deadline:
            return


def _listing(path: str, root: str) -> str:
    """The names in a directory, those of directories with a slash."""
    try:
        with os.scandir(os.path.join(root, path)) as entries:
            names = sorted(
                entry.name + ("/" if entry.is_dir(follow_symlinks=False) else "")
                for _, entry in zip(range(text_file.MAX_WALKED), entries, strict=False)
            )
    except OSError as error:
        raise FileToolError(f"{path}: {text_file.reason(error)}.") from None
    if not names:
        return f"[{path} is an empty directory]"
    count = f"{len(names):,}" if len(names) < text_file.MAX_WALKED else f"at least {len(names):,}"
    shown = [cut_line(name, 200) if name.isprintable() else repr(name) for name in names[:LISTED]]
    more = [f"[{LISTED} of {count} names; search or bash finds the others]"] if len(names) > LISTED else []
    return "\n".join([f"[{path} is a directory]", *shown, *more])


def write_file(
    path: str, content: str, append: bool = False, seal: str = "", root: str = ".", is_dry: bool = False
) -> FileOutcome:
    """Writes a file, or a further part of one, with the directories above it. Raises FileToolError.

    seal: of the file when it was last read or written, "" if it never was; is_dry: only say what would change."""
    lines = content.count("\n") + (not content.endswith("\n") and content != "")
    if lines > WRITE_LINES:
        raise FileToolError(
            f"content has {lines} lines, a call takes {WRITE_LINES}. Nothing was written. Write the first part, then "
            "go on in parts with append."
        )
    full = text_file.located(path, root)
    if path.endswith("/"):
        raise FileToolError(f"{path} names a directory; give a file. Directories above it are made.")
    real = os.path.realpath(full)
    old: text_file.TextFile | None = None
    if os.path.lexists(real):
        old = _replaced(path, root, append)
    before = old.text if old else ""
    newline = old.newline if old and append else "\n"
    if newline == "\r\n":
        content = content.replace("\r\n", "\n").replace("\n", newline)
    start = before + (newline if before and not before.endswith("\n") else "") if append else ""
    data = _encoded(path, start + content, old.has_bom if old and append else False)
    try:
        if not is_dry:
            _make_directory(os.path.dirname(real))
            text_file.save(real, data, old.mode if old else None)
    except OSError as error:
        raise FileToolError(f"{path}: {text_file.reason(error)}. Nothing was written.") from None
    done = f"Appended {_lines_of(lines)} to {path}." if append and before else f"Wrote {path}, {_lines_of(lines)}."
    changed = CHANGED if old and seal and seal != old.seal else ""
    return FileOutcome(done + changed + _guarded(old), _whole_diff(path, before, start + content), text_file.seal(data))


def _guarded(old: text_file.TextFile | None) -> str:
    return " It is marked read-only, and stays so." if old and not old.mode & 0o222 else ""


def _make_directory(path: str) -> None:
    try:
        os.makedirs(path, exist_ok=True)
    except FileExistsError:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from None


def _replaced(path: str, root: str, append: bool) -> text_file.TextFile:
    """The file that a write replaces; one that is no text is replaced all the same, but not continued."""
    try:
        return text_file.load(path, root)
    except FileToolError as error:
        file, found = text_file.opened(path, root)
        file.close()
        if append:
            raise error
        return text_file.TextFile(path, "", False, found.st_mode & 0o7777, "")


def edit_file(path: str, old: str, new: str, seal: str = "", root: str = ".", is_dry: bool = False) -> FileOutcome:
    """Replaces the one place where a text occurs; line ends and a byte order mark stay as they are. Raises
    FileToolError.

    seal: of the file when it was last read or written, "" if it never was; is_dry: only say what would change."""
    from a3b.agent.tools.closest import explain_miss
    from a3b.agent.tools.replace import place_of

    if not old:
        raise FileToolError("old is empty. Give a text that occurs in the file.")
    if old == new:
        raise FileToolError("old and new are the same text. Nothing was changed.")
    file = text_file.load(path, root)
    is_changed = bool(seal) and seal != file.seal
    try:
        place = place_of(path, file.text, old, new)
    except FileToolError as error:
        if is_changed:
            raise FileToolError(f"{path} has changed since you read it: read it again. {error}") from None
        raise
    into = place.new.replace("\r\n", "\n").replace("\n", file.newline) if file.newline == "\r\n" else place.new
    text = file.text[: place.start] + into + file.text[place.end :]
    if not file.is_utf8 and not new.isascii():
        raise FileToolError(f"{path} is not UTF-8, so new can only be ASCII. Convert the file in bash first: iconv")
    if place.said and _breaks(file.real, file.text, text):
        raise FileToolError(
            f"old is in {path} only with other indentation, and with new there it would not parse. "
            + explain_miss(file.text, old)
        )
    data = _encoded(path, text, file.has_bom)
    try:
        if not is_dry:
            text_file.save(file.real, data, file.mode)
    except OSError as error:
        raise FileToolError(f"{path}: {text_file.reason(error)}. Nothing was changed.") from None
    same = len(os.path.commonprefix([file.text[place.start : place.end], into]))
    line = file.text.count("\n", 0, place.start + same) + 1
    done = f"Edited {path}, line {line}.{CHANGED if is_changed else ''}{' ' if place.said else ''}{place.said}"
    done += _guarded(file)
    diff = _place_diff(path, file.text, place.start, place.end, into)
    return FileOutcome(done, diff, text_file.seal(data))


def _breaks(real: str, before: str, after: str) -> bool:
    from a3b.agent.tools.syntax import parsed

    return bool(parsed(real, after)) and parsed(real, before) == ""


def _encoded(path: str, text: str, has_bom: bool) -> bytes:
    try:
        return text_file.encoded(text, has_bom)
    except UnicodeError:
        raise FileToolError(f"the text for {path} has half a surrogate pair, which no file can hold.") from None


def _lines_of(count: int) -> str:
    return f"{count} line" if count == 1 else f"{count} lines"


def _whole_diff(path: str, old: str, new: str) -> str:
    a, b = old.splitlines(True), new.splitlines(True)
    if max(len(a), len(b)) > MAX_DIFF_LINES:
        return f"--- {path}\n+++ {path}\n@@ {len(a):,} lines before, {len(b):,} lines now @@\n"
    return _diff(path, a, b, 0)


def _place_diff(path: str, text: str, start: int, end: int, new: str) -> str:
    """The diff of one replaced place, whatever the size of the file."""
    first = text.rfind("\n", 0, start) + 1
    for _ in range(3):
        first = text.rfind("\n", 0, max(first - 1, 0)) + 1
    last = end - 1
    for _ in range(4):
        last = at if (at := text.find("\n", last + 1)) >= 0 else len(text)
    a, b = text[first:last], text[first:start] + new + text[end:last]
    return _diff(path, a.removesuffix("\n").split("\n"), b.removesuffix("\n").split("\n"), text.count("\n", 0, first))


def _diff(path: str, a: list[str], b: list[str], offset: int) -> str:
    import difflib

    out = []
    for line in difflib.unified_diff(a, b, path, path, lineterm=""):
        if line.startswith("@@"):
            line = re.sub(r"(?<=[-+])\d+", lambda found: str(int(found[0]) + offset), line)
        out.append(cut_line(line.rstrip("\r\n"), 500))
    return "\n".join(out[:MAX_DIFF_LINES])


def main() -> None:
    """Runs one call of the tools; see the beginning of this file."""
    call = json.load(sys.stdin)
    arguments: dict[str, Any] = call["arguments"]
    calls: dict[str, Callable[..., FileOutcome]] = {
        "read": read_file,
        "write": write_file,
        "edit": edit_file,
        "search": _search,
    }
    try:
        _say(asdict(calls[call["call"]](**arguments)))
    except FileToolError as error:
        return _say({"error": str(error)})
    except (OSError, MemoryError, RecursionError) as error:
        return _say({"error": f"{arguments.get('path', '')}: {error or type(error).__name__}."})
    if call["call"] in ("write", "edit") and not arguments.get(
        "is_dry"
    ):  # after the outcome is out: a parser may crash on what it is given
        with suppress(FileToolError):
            from a3b.agent.tools.syntax import syntax_of

            file = text_file.load(arguments["path"], ".")
            _say({"syntax": syntax_of(file.real, file.text)})


def _search(**arguments: Any) -> FileOutcome:
    from a3b.agent.tools.search_files import search_files

    return FileOutcome(search_files(**arguments))


def _say(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
