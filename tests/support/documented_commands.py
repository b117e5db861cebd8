"""The commands and snippets that a reader would copy from a page, and which of them a new machine can run at once.

A block is fenced, or indented by four spaces. It is shell if it is tagged so, or if one of its lines begins with a
known program; each of its lines is then a command that can be pasted: what explains it follows `#`. It is Python if it
is tagged so, or begins with an import.

One rule says which commands are run (`Command.runs`): those without a placeholder (NAME, [OPTION], ...) whose programs
are all in `AT_HAND` and whose a3b command needs neither a download nor minutes (`NEEDS`). The others are only checked.
"""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from a3b.cli import build_parser, commands_of

AT_HAND = {"a3b", "curl", "export", "mkdir", "cat", "echo", "printf"}
ELSEWHERE = {  # what a command installs first, or what needs a checkout, a network or a system of its own
    *"python python3 pytest make pip pipx uv uvx npm npx node apt-get sudo docker podman systemctl loginctl".split(),
    *"git cp . pre-commit claude codex qwen opencode pi aider mini little-coder lm_eval llm".split(),
}
NEEDS = {  # commands of a3b that are only checked, and what they would need
    "bench": "minutes, and gigabytes of random weights",
    "plan": "a measurement of this machine",
    "pull": "a download",
    "pack": "a model to pack",
    "up": "a download",
    "warm": "a client that is installed",
}
MODELS = (None, "nano")  # those that need no download
SHELL, PYTHON = ("sh", "bash", "shell", "console"), ("python", "py")
PLACEHOLDER = re.compile(r"(?<![\w$./-])(?:[A-Z][A-Z0-9_]*(?:/[A-Z]+)*(?![\w=])|\[[^\]]+\]|\.\.\.)")
HEREDOC = re.compile(r"<<-?\s*['\"]?(\w+)['\"]?")


@dataclass(frozen=True)
class Block:
    """Consecutive lines of code. language: "sh", "python", or that of a fence, or ""."""

    line: int  # of the first one, from 1
    language: str
    lines: tuple[str, ...]

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


@dataclass(frozen=True)
class Command:
    """A command of a shell block, or a Python snippet as a whole."""

    line: int
    text: str
    is_python: bool = False

    @property
    def words(self) -> list[list[str]]:
        """The words of each of its simple commands, without assignments, redirections and comments."""
        lexer = shlex.shlex(self._bare, posix=True, punctuation_chars="|&;<>")
        lexer.whitespace_split, lexer.commenters = True, ""
        found: list[list[str]] = [[]]
        skips = False
        try:
            tokens = list(lexer)
        except ValueError:  # a quotation without an end: no command at all
            return [[self.text]]
        for word in tokens:
            if set(word) <= set("|&;"):
                found.append([])
            elif set(word) <= set("<>"):
                skips = True
            elif skips or (not found[-1] and re.match(r"\w+=", word)):
                skips = False
            else:
                found[-1].append(word)
        return [words for words in found if words]

    @property
    def programs(self) -> list[str]:
        return [words[0] for words in self.words]

    @property
    def _bare(self) -> str:
        """Without comments, and without the text that a command is given by `<<`."""
        return re.sub(r"(^|\s)#.*", "", HEREDOC.split(self.text)[0]).replace("\\\n", " ")

    @property
    def has_placeholder(self) -> bool:
        unquoted = re.sub(r"'[^']*'|\"[^\"]*\"", "", self._bare)
        return not self.is_python and PLACEHOLDER.search(unquoted) is not None

    @property
    def runs(self) -> bool:
        """Whether a new machine can run it at once."""
        if self.is_python:
            return True
        if self.has_placeholder or not set(self.programs) <= AT_HAND:
            return False
        return all(_is_at_hand(words[1:]) for words in self.words if words[0] == "a3b")

    @property
    def serves(self) -> bool:
        """Whether it is a server, which runs until it is stopped."""
        return any(words[:2] == ["a3b", "serve"] for words in self.words)


def _is_at_hand(arguments: list[str]) -> bool:
    try:
        args = parsed(arguments)
    except ValueError:  # which a test reports
        return False
    starts_client = args.command == "launch" and bool(args.client) and not args.print
    starts_client |= args.command == "code" and args.words[:1] not in (["sessions"], ["forget"])
    runs_benchmark = args.command == "eval" and args.kind not in ("list", "quality")  # minutes, and an extra
    return (
        args.command not in NEEDS and not (starts_client or runs_benchmark) and getattr(args, "model", None) in MODELS
    )


def parsed(arguments: list[str]) -> argparse.Namespace:
    """The arguments of a3b, without reading what they name. Raises ValueError with the error of a3b."""
    parser = build_parser()

    def error(message: str) -> None:
        raise ValueError(message)

    parsers: list[argparse.ArgumentParser] = [parser]
    for one in parsers:
        parsers += commands_of(one).values()
        one.error = error  # type: ignore[method-assign, assignment]
        for action in one._actions:
            action.type = None
    return parser.parse_args(arguments)


def blocks(page: str) -> Iterator[Block]:
    lines = page.splitlines()
    at = 0
    while at < len(lines):
        if match := re.match(r"(\s*)```(\w*)", lines[at]):
            end = next(i for i in range(at + 1, len(lines)) if lines[i].strip() == "```")
            found = tuple(line.removeprefix(match[1]) for line in lines[at + 1 : end])
            yield Block(at + 2, _language(match[2], found), found)
            at = end + 1
        elif re.match(r" {4}\S", lines[at]) and (at == 0 or not lines[at - 1].strip()):
            end = at
            while end < len(lines) and (lines[end].startswith("    ") or not lines[end].strip()):
                end += 1
            if not re.match(r" {4}(?:import|from) \w", lines[at]):  # only snippets have blank lines
                end = next((i for i in range(at, end) if not lines[i].strip()), end)
            found = tuple(line[4:] for line in "\n".join(lines[at:end]).rstrip().split("\n"))
            yield Block(at + 1, _language("", found), found)
            at = end
        else:
            at += 1


def _language(tag: str, lines: tuple[str, ...]) -> str:
    if tag in SHELL or (not tag and any(_first(line) in AT_HAND | ELSEWHERE for line in lines)):
        return "sh"
    if tag in PYTHON or (not tag and lines and re.match(r"(?:import|from) \w", lines[0])):
        return "python"
    return tag


def _first(line: str) -> str:
    words = [word for word in line.removeprefix("$ ").split() if not re.match(r"\w+=", word)]
    return words[0] if words else ""


def commands(page: str) -> list[Command]:
    """All commands and snippets of a page, in their order."""
    found = []
    for block in blocks(page):
        if block.language == "python":
            found.append(Command(block.line, block.text, is_python=True))
        elif block.language == "sh":
            found += _shell(block)
    return found


def _shell(block: Block) -> Iterator[Command]:
    lines = list(block.lines)
    at = 0
    while at < len(lines):
        begin, text = at, lines[at].removeprefix("$ ")
        while text.rstrip().endswith("\\") and at + 1 < len(lines):
            at += 1
            text += "\n" + lines[at]
        if match := HEREDOC.search(text):
            while at + 1 < len(lines) and lines[at].strip() != match[1]:
                at += 1
                text += "\n" + lines[at]
        at += 1
        if text.strip() and not text.startswith(("#", "/")):  # /words are typed in a chat
            yield Command(block.line + begin, text)


def pages(root: Path) -> list[Path]:
    """Those with commands for readers; the log tells of its days."""
    found = [root / "README.md", root / "CONTRIBUTING.md", *sorted((root / "docs").glob("*.md"))]
    return [path for path in found if path.name != "log.md"]
