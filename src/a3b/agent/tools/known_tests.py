"""Which command runs the tests of a project: what AGENTS.md says, or what the agent ran last. Enter at `KnownTests`."""

from __future__ import annotations

import re

MAX_COMMAND = 300  # characters
IN_AGENTS_MD = re.compile(r"^[ \t]*(?:[-*] )?tests?: *`?([^`\n]+?)`?[ \t]*$", re.MULTILINE | re.IGNORECASE)
ASSIGNMENT = re.compile(r"\w+=\S*")
BEFORE = {"env", "time", "nice", "exec", "npx", "bunx", "xvfb-run", "command"}
RUN = {"uv", "poetry", "hatch", "pdm", "pipenv", "rye"}  # uv run ...
RUNNERS = set("pytest py.test tox nox ctest jest vitest mocha rspec phpunit bats nose2".split())
MODULES = {*RUNNERS, "unittest", "doctest"}
PYTHON = re.compile(r"(?:python|pypy)[\d.]*")
INTERPRETERS = {"bash", "sh", "node", "ruby", "php", "lua", "deno", "bun"}
BUILDERS = set(
    "make just task rake ninja npm pnpm yarn bun deno cargo go dotnet swift zig cabal stack sbt flutter dart mvn mvnw "
    "gradle gradlew bazel mix composer".split()
)
CHECK = {"make", "ninja", "just", "gradle", "gradlew"}  # check is their name for tests
TARGET = re.compile(r"(?:run-)?tests?(?:[:_.-].*)?|nextest|.*[-_:]tests?")


class KnownTests:
    """The test command of a session. agents_md: text of AGENTS.md, in which a line `test: COMMAND` names one."""

    def __init__(self, agents_md: str = "") -> None:
        found = IN_AGENTS_MD.search(agents_md)
        self.command = found[1].strip()[:MAX_COMMAND] if found else ""

    def note(self, command: str) -> None:
        """Remembers a command of bash if it ran tests."""
        command = command.strip()
        if len(command) <= MAX_COMMAND and "\n" not in command and runs_tests(command):
            self.command = command


def runs_tests(command: str) -> bool:
    """Whether a part of the command is one that usually runs tests."""
    return any(_is_test(part.split()) for part in re.split(r"[;&|()]+", command))


def _is_test(words: list[str]) -> bool:
    while words and (words[0] in BEFORE or ASSIGNMENT.fullmatch(words[0])):
        words = words[1:]
    if words[:1] == ["timeout"]:
        return _is_test(_without_options(words[1:])[1:])
    if len(words) > 1 and words[0] in RUN and words[1] == "run":
        return _is_test(_without_options(words[2:]))
    if not words:
        return False
    name, rest = words[0].rpartition("/")[2], words[1:]
    if name in RUNNERS:
        return "--version" not in rest
    if PYTHON.fullmatch(name):
        if "-m" in rest[:-1]:
            return rest[rest.index("-m") + 1] in MODULES
        rest = _without_options(rest)
        return bool(rest) and (_names_test(rest[0]) or (rest[0].endswith("manage.py") and rest[1:2] == ["test"]))
    if name in BUILDERS and any(
        TARGET.fullmatch(word) or (word == "check" and name in CHECK) or (word == "t" and name == "npm")
        for word in rest
        if not word.startswith("-")
    ):
        return True
    if name in INTERPRETERS:
        return "--test" in rest or any(map(_names_test, _without_options(rest)[:1]))
    return words[0].startswith("./") and _names_test(words[0])


def _without_options(words: list[str]) -> list[str]:
    while words and words[0].startswith("-"):
        words = words[1:]
    return words


def _names_test(path: str) -> bool:
    """Whether a script is called test.sh, test_x.py, x_test.py, run-tests or the like."""
    return re.search(r"(?:^|[_.-])tests?(?:[_.-]|$)", path.rpartition("/")[2]) is not None
