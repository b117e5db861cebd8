"""Searches files for a regex: with ripgrep, or by itself where there is none. Runs inside the sandbox: standard library
only.

Both ways honour .gitignore, look into hidden files but not into .git, follow no links and skip binary files.
Enter at `search_files`."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from a3b.agent.tools import text_file
from a3b.agent.tools.cut import MAX_CHARACTERS, cut_line
from a3b.agent.tools.text_file import FileToolError

MAX_MATCHES = 100  # that are shown
MAX_COUNTED = 10_000
MAX_LINE = 300  # characters of a match
MAX_FILE = 16 << 20  # bytes of a file that the search without ripgrep looks into
SECONDS = 20.0

Match = tuple[str, int, str]  # path, line, text


def search_files(pattern: str, path: str = ".", glob: str = "", rg: str = "", root: str = ".") -> str:
    """Lines `path:line: text`, and how many there are. rg: the program, "" for none. Raises FileToolError."""
    full = text_file.located(path, root)
    try:
        kind = os.stat(full).st_mode
    except FileNotFoundError:
        raise FileToolError(text_file.missing(path, root)) from None
    except OSError as error:
        raise FileToolError(f"{path}: {text_file.reason(error)}.") from None
    if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
        raise FileToolError(f"{path} is neither a file nor a directory.")
    is_text = (pattern + glob).encode("utf-8", "ignore").decode() == pattern + glob
    if "\n" in pattern or "\0" in pattern + glob or not pattern or not is_text:
        raise FileToolError("pattern has to be a regex for one line.")
    search = _Search(time.monotonic() + SECONDS)
    by = _with_ripgrep if rg and os.access(rg, os.X_OK) else None
    matches = by(rg, pattern, path, root, search) if by else _by_itself(pattern, path, root, search)
    return search.text(_chosen(matches, glob.removeprefix("./"), root) if glob else matches)


def _chosen(matches: Iterator[Match], glob: str, root: str) -> Iterator[Match]:
    """Matches in files that fit a glob. ripgrep's own option would take in what .gitignore leaves out."""
    try:
        wanted = _glob_regex(glob.removeprefix("!"))
    except re.error as error:
        raise FileToolError(f"glob is none: {error}.") from None
    fits: dict[str, bool] = {}
    for match in matches:
        name = match[0]
        if name not in fits:
            relative = os.path.relpath(os.path.join(root, name), root)
            fits = {name: bool(wanted.search(relative)) != glob.startswith("!")}
        if fits[name]:
            yield match


@dataclass
class _Search:
    """deadline: on the monotonic clock; is_complete: whether everything was looked at."""

    deadline: float
    is_complete: bool = True

    def is_over(self) -> bool:
        if time.monotonic() > self.deadline:
            self.is_complete = False
        return not self.is_complete

    def text(self, matches: Iterator[Match]) -> str:
        shown: list[str] = []
        count = room = 0
        for name, line, found in matches:
            count += 1
            text = f"{name.removeprefix('./')}:{line}: {cut_line(found.rstrip(), MAX_LINE)}"
            room += len(text) + 1
            if len(shown) < MAX_MATCHES and room <= MAX_CHARACTERS:
                shown.append(text)
            if count >= MAX_COUNTED:
                self.is_complete = False
                break
        number = f"{count:,}" if self.is_complete else f"at least {count:,}"
        if not count:
            return "[no matches]" if self.is_complete else f"[no matches in {SECONDS:g} s; narrow the search]"
        if len(shown) < count:
            return "\n".join([*shown, f"[{len(shown)} of {number} matches; narrow pattern, path or glob]"])
        return "\n".join([*shown, f"[{number} match{'' if number == '1' else 'es'}]"])


def _with_ripgrep(rg: str, pattern: str, path: str, root: str, search: _Search) -> Iterator[Match]:
    command = [rg, "--no-config", "--color=never", "--no-heading", "--with-filename", "--line-number", "--null"]
    command += ["--hidden", "--no-require-git", "--no-messages", "--sort=path", "--engine=auto"]
    command += [f"--max-columns={4 * MAX_LINE}", "--max-columns-preview", "--glob=!.git", "-e", pattern, "--", path]
    process = subprocess.Popen(
        command, cwd=root, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    timer = threading.Timer(SECONDS, process.kill)
    timer.start()
    try:
        assert process.stdout is not None and process.stderr is not None
        while row := process.stdout.readline(1 << 16):
            name, _, rest = row.partition(b"\0")
            number, _, text = rest.partition(b":")
            if number.isdigit():
                yield os.fsdecode(name), int(number), text.decode("utf-8", "replace")
        complaint = process.stderr.read(4000).decode("utf-8", "replace")
        process.wait()
        if search.is_over():
            return
        if process.returncode == 2 and ("regex" in complaint or "PCRE2" in complaint):
            why = complaint.strip().rpartition("\n")[2].removeprefix("error: ")
            raise FileToolError(_no_regex(pattern, why))
    finally:
        timer.cancel()
        process.kill()
        process.communicate()


def _no_regex(pattern: str, why: str) -> str:
    return f"pattern is no regex: {why[:300]}. To find the text itself, search for {cut_line(re.escape(pattern), 200)}"


def _by_itself(pattern: str, path: str, root: str, search: _Search) -> Iterator[Match]:
    try:
        regex = re.compile(pattern.encode("utf-8", "surrogateescape"))
    except (re.error, RecursionError, OverflowError) as error:
        raise FileToolError(_no_regex(pattern, str(error))) from None
    for name in _names(path, root, search):
        yield from _matches(regex, name, root, search)
        if search.is_over():
            return


def _matches(regex: re.Pattern[bytes], name: str, root: str, search: _Search) -> Iterator[Match]:
    try:
        file, found = text_file.opened(name, root)
        with file:
            data = file.read(MAX_FILE) if found.st_size <= MAX_FILE else b"\0"
    except (FileToolError, OSError):
        return
    if b"\0" in data[: text_file.SNIFFED]:
        return
    for number, line in enumerate(data.split(b"\n"), 1):
        if regex.search(line):
            yield name, number, line[: 8 * MAX_LINE].decode("utf-8", "replace")
        if number % 256 == 0 and search.is_over():
            return


def _names(path: str, root: str, search: _Search) -> Iterator[str]:
    """Files below a path that no .gitignore leaves out, in order."""
    if os.path.isfile(os.path.join(root, path)):
        yield path
        return
    start = os.path.normpath(os.path.join(root, path))
    rules = {os.path.dirname(start): _rules_above(start, os.path.normpath(root))}
    for directory, directories, files in os.walk(start):
        inherited = rules.get(os.path.dirname(directory), [])
        own = _ignore_rules(directory)
        rules[directory] = [*inherited, *own] if own else inherited
        directories[:] = sorted(
            name
            for name in directories
            if name != ".git" and not _is_ignored(rules[directory], os.path.join(directory, name), True)
        )
        for name in sorted(files):
            full = os.path.join(directory, name)
            if not os.path.islink(full) and not _is_ignored(rules[directory], full, False):
                yield os.path.normpath(os.path.relpath(full, root)) if not os.path.isabs(path) else full
        if search.is_over():
            return


@dataclass(frozen=True)
class _IgnoreRule:
    """A line of a .gitignore. base: the directory of the file."""

    base: str
    regex: re.Pattern[str]
    is_negated: bool
    only_directories: bool


def _rules_above(start: str, root: str) -> list[_IgnoreRule]:
    """The rules of the directories from the workspace down to the one above `start`."""
    above: list[str] = []
    while start != root and os.path.dirname(start) != start:
        start = os.path.dirname(start)
        above.insert(0, start)
    if above[:1] != [root]:  # a place outside the workspace
        return []
    return [rule for directory in above for rule in _ignore_rules(directory)]


def _ignore_rules(directory: str) -> list[_IgnoreRule]:
    found: list[_IgnoreRule] = []
    for name in (".gitignore", ".ignore"):
        try:
            lines = text_file.load(name, directory).text.splitlines()[:5000]
        except FileToolError:
            continue
        for line in lines:
            line = line.strip()
            if not line or line.startswith("#") or len(line) > 1000:
                continue
            negated, line = line.startswith("!"), line.removeprefix("!").removeprefix("\\")
            with suppress(re.error):
                found.append(_IgnoreRule(directory, _glob_regex(line.rstrip("/")), negated, line.endswith("/")))
    return found


def _is_ignored(rules: list[_IgnoreRule], path: str, is_directory: bool) -> bool:
    """Whether the last rule that fits leaves the path out."""
    for rule in reversed(rules):
        if (is_directory or not rule.only_directories) and rule.regex.search(os.path.relpath(path, rule.base)):
            return not rule.is_negated
    return False


def _glob_regex(glob: str) -> re.Pattern[str]:
    """A glob as git has it: without a slash inside it fits the name in any directory."""
    anchored = "/" in glob.rstrip("/")
    pattern = "".join(map(_part_regex, re.findall(r"\*\*/|/\*\*$|\*+|\?|\[[^\]]*\]|\{[^}]*\}|\\?.", glob.lstrip("/"))))
    return re.compile(rf"\A{pattern}\Z" if anchored else rf"(?:\A|/){pattern}\Z")


def _part_regex(part: str) -> str:
    if part == "**/":
        return "(?:.*/)?"
    if part == "/**":
        return "/.*"
    if part.startswith("*"):
        return "[^/]*"
    if part == "?":
        return "[^/]"
    if part.startswith("[") and len(part) > 2:
        inner = part[1:-1].replace("\\", "\\\\").replace("[", "\\[")
        return f"[^{inner[1:]}]" if inner[0] in "!^" and inner[1:] else f"[{inner}]"
    if part.startswith("{") and part.endswith("}") and len(part) > 1:
        return "(?:" + "|".join(map(re.escape, part[1:-1].split(","))).replace(r"\*", "[^/]*") + ")"
    return re.escape(part[-1] if part.startswith("\\") else part)
