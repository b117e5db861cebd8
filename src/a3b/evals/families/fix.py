"""fix: a package of two files and four functions with one bug; its tests name the function. Read, think, edit, run.

The conversations are those of `a3b code --tools read,edit,bash`: its system prompt, its schemas, its answers. Enter at
`example` and `case`."""

from __future__ import annotations

import ast
import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from a3b.agent.prompt import system_prompt
from a3b.agent.tools.closest import explain_miss
from a3b.agent.tools.edit import changed_text
from a3b.agent.tools.replace import place_of
from a3b.agent.tools.schemas import BASH, EDIT, READ
from a3b.agent.tools.syntax import parsed
from a3b.agent.tools.text_file import FileToolError
from a3b.evals.families.common import (
    CaseOutcome,
    Conversation,
    Generate,
    Message,
    assistant,
    calls_of,
    legal,
    tool_result,
    user,
)
from a3b.evals.families.fix_functions import FUNCTIONS
from a3b.evals.families.fix_package import COMMAND, Package, change_of, make_package, run_tests
from a3b.evals.families.fix_patterns import UNSEEN_KINDS

TOOLS = [
    {"type": "function", "function": {"name": t.name, "description": t.description, "parameters": t.parameters}}
    for t in (READ, EDIT, BASH)
]
ASK = {
    "train": [
        "Make the tests pass.",
        "The tests fail. Fix the bug.",
        "There is a bug in this project. Find it and fix it.",
        "Run the tests and fix what is wrong.",
        "One test fails. Please fix the code.",
        "Please make `python3 test.py` pass.",
        "`python3 test.py` fails. Find out why and fix it.",
        "Fix the failing test.",
        "Something is wrong in this package. Fix it so that the tests pass.",
        "The tests are red. Make them green.",
        "Can you fix the bug that the tests show?",
        "Repair this package. The test is `python3 test.py`.",
        "Why do the tests fail? Fix it.",
        "Find the bug.",
    ],
    "test": [
        "Please fix the bug so that all tests pass.",
        "`python3 test.py` shows an error. Fix it.",
        "A test fails here. Find the bug and fix the code.",
        "Fix this project.",
        "Get the tests to pass, please.",
    ],
}
LOOK_FIRST = {
    "train": ["Look at the files first. ", "List the files, then go on. ", "See which files there are. "],
    "test": ["Look which files there are first. "],
}
NEXT = {
    "train": ["I put other files here. ", "Now there are new files. ", "Next package. ", "Here is the next one. "],
    "test": ["There is another package now. "],
}
PLACES = {
    "train": "/home/user /home/ann /home/sam/dev /tmp /srv/code /root /home/li/src /data /home/me/git".split(),
    "test": "/home/kim /home/jo/dev /opt/code".split(),
}
DIRECTORIES = {
    "train": "app project code test1 my-app package repo shop lib tool site demo game server".split(),
    "test": "thing module2 my-code".split(),
}
MOST_TURNS = 16


def environment(rng: random.Random, split: str) -> str:
    """The block that begins the first message, as the agent writes it."""
    suffix = "-" + "".join(rng.choices("abcdefghijklmnopqrstuvwxyz0123456789_", k=8)) if rng.random() < 0.3 else ""
    directory = f"{rng.choice(PLACES[split])}/{rng.choice(DIRECTORIES[split])}{suffix}"
    date = f"{rng.randint(2025, 2028)}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}"
    git = "git: branch main\n" if rng.random() < 0.3 else ""
    return f"<environment>\ndirectory: {directory}\ndate: {date}\n{git}</environment>\n\n"


class Workspace:
    """A package on which calls act, and what they answer. has_run: whether the agent knows the test command."""

    def __init__(self, package: Package):
        self.package, self.files, self.has_run = package, dict(package.files), False

    def answer(self, name: str, arguments: dict[str, Any]) -> str:
        path = str(arguments.get("path", ""))
        if name == "bash":
            return self.bash(str(arguments.get("command", "")))
        if path not in self.files:
            return f"Error: {path} does not exist; paths start at the workspace."
        if name == "read":
            return self.files[path].rstrip("\n")
        return self.edit(path, str(arguments.get("old", "")), str(arguments.get("new", "")))

    def bash(self, command: str) -> str:
        if command == COMMAND:
            self.has_run = True
            return run_tests(self.files, self.package.tests)
        if command == "ls":
            return "\n".join(sorted(self.files))
        return f"bash: line 1: {command.split(' ')[0]}: command not found\n[exit status 127]"

    def edit(self, path: str, old: str, new: str) -> str:
        """As `a3b.agent.tools.file_tool.edit_file`, without a file; a test compares."""
        before = self.files[path]
        if not old or old == new:
            reason = "old and new are the same text. Nothing was changed."
            return f"Error: {reason if old else 'old is empty. Give a text that occurs in the file.'}"
        try:
            place = place_of(path, before, old, new)
        except FileToolError as error:
            return f"Error: {error}"
        after = before[: place.start] + place.new + before[place.end :]
        syntax = parsed(path, after)
        if place.said and syntax:
            why = f"old is in {path} only with other indentation, and with new there it would not parse."
            return f"Error: {why} {explain_miss(before, old)}"
        self.files[path] = after
        same = len(os.path.commonprefix([before[place.start : place.end], place.new]))
        line = before.count("\n", 0, place.start + same) + 1
        done = f"Edited {path}, line {line}.{' ' if place.said else ''}{place.said}"
        return changed_text(done, syntax, COMMAND if self.has_run else "")


def checked(lines: list[str], old: str, new: str, name: str) -> str:
    """The thought before an edit: the function line by line, up to the wrong one, and the right one."""
    wrong = old.split("\n")
    at = next(i for i in range(len(lines)) if lines[i : i + len(wrong)] == wrong)
    if new.endswith("\n" + old):
        return "\n".join([f"check {name}", *lines[:at], "no, missing", new[: -len(old) - 1]])
    return "\n".join([f"check {name}", *lines[: at + len(wrong)], "no, should be", new])


class Episode:
    """One repair as a conversation that grows by calls and their answers."""

    def __init__(self, package: Package):
        self.package, self.space = package, Workspace(package)
        self.messages: list[Message] = []

    def call(self, thinking: str, name: str, taught: bool = True, **arguments: str) -> str:
        message = assistant("", thinking, (name, arguments))
        if not taught:
            message["untaught"] = True
        result = self.space.answer(name, arguments)
        self.messages += [message, tool_result(result)]
        return result

    def tests(self) -> str:
        return self.call("run the tests", "bash", command=COMMAND)

    def read(self, thinking: str) -> None:
        self.call(thinking, "read", path=self.package.module + ".py")

    def edit(self, old: str, new: str, written_old: str | None = None, taught: bool = True) -> str:
        """written_old: what the call says instead of `old`, a slip."""
        bug = self.package.bug
        text = self.space.files[self.package.module + ".py"]
        start = text.index(f"def {bug.name}(")
        lines = text[start:].split("\n\n\n")[0].rstrip("\n").split("\n")
        thinking = checked(lines, old, new, bug.name)
        slip = old if written_old is None else written_old
        return self.call(thinking, "edit", taught, path=self.package.module + ".py", old=slip, new=new)


def another_mistake(rng: random.Random, package: Package) -> str | None:
    """A change of the broken lines that does not mend them: wrong names, numbers or operators in the right ones."""
    old, new = change_of(package.bug)
    swaps = [("+", "-"), ("-", "+"), (">", "<"), ("<", ">"), ("1", "2"), ("0", "1"), ("*", "+"), ("==", "!=")]
    rng.shuffle(swaps)
    path = package.module + ".py"
    for a, b in swaps:
        wrong = new.replace(a, b, 1)
        if wrong in (new, old) or a not in new:
            continue
        text = package.files[path].replace(old, wrong)
        if text.count(wrong) == 1:
            output = run_tests(package.files | {path: text}, package.tests)
            if "FAIL " + package.bug.name in output and output.count("\n") == 1:
                return wrong
    return None


def slip_of(rng: random.Random, old: str, new: str) -> str:
    """A text that is nearly `old`."""
    return rng.choice((new, old + ":", old.replace(" = ", " == "), old.replace("return ", "return  "), old[:-1] + "x"))


def repair(rng: random.Random, split: str, package: Package, opening: str, is_last: bool) -> list[Message]:
    """User and assistant turns of one repair; now and then with a slip or a wrong first thought."""
    episode, bug = Episode(package), package.bug
    ask, kind = rng.choice(ASK[split]), rng.random()
    if kind < 0.15:
        output = episode.space.bash(COMMAND).split("\n")[0]
        episode.space.has_run = False
        episode.messages.append(user(f"{opening}{ask}\n\n{output}"))
    elif kind < 0.3:
        episode.messages.append(user(opening + rng.choice(LOOK_FIRST[split]) + ask))
        episode.call("list the files", "bash", command="ls")
        episode.tests()
    else:
        episode.messages.append(user(opening + ask))
        episode.tests()
    episode.read(f"look at {bug.name}")
    old, new = change_of(bug)
    trouble = rng.random()
    slip = slip_of(rng, old, new)
    if trouble < 0.12 and slip not in package.files[package.module + ".py"]:
        episode.edit(old, new, written_old=slip, taught=False)
        episode.read(f"that was not exact, look at {bug.name}")
    elif trouble < 0.3 and (wrong := another_mistake(rng, package)):
        episode.edit(old, wrong, taught=False)
        episode.tests()
        episode.read(f"my fix was wrong, look at {bug.name}")
        old = wrong
    episode.edit(old, new)
    episode.tests()
    episode.messages.append(assistant(f"The bug was in {bug.name}. The tests pass now.", "all pass"))
    return episode.messages


def example(rng: random.Random, repairs: int | None = None) -> Conversation:
    """One to four repairs in a row."""
    count = repairs or rng.choice((1, 1, 1, 2, 2, 2, 3, 4))
    messages: list[Message] = [{"role": "system", "content": system_prompt(["read", "edit", "bash"])}]
    for index in range(count):
        opening = rng.choice(NEXT["train"]) if index else environment(rng, "train")
        messages += repair(rng, "train", make_package(rng), opening, index == count - 1)
    return Conversation(messages, TOOLS, context_weight=0.2)


@dataclass
class FixCase:
    package: Package
    messages: list[Message]

    def play(self, generate: Generate) -> CaseOutcome:
        space, messages, valid = Workspace(self.package), list(self.messages), True
        for _ in range(MOST_TURNS):
            message = generate(messages, TOOLS)
            messages.append(message)
            valid = valid and legal(message, TOOLS)
            calls = calls_of(message)
            if not calls or message.get("unfinished"):
                break
            messages.extend(tool_result(space.answer(name, arguments)) for name, arguments in calls)
        ok, why = judge(self.package, space.files)
        turns = sum(m["role"] == "assistant" for m in messages)
        return CaseOutcome(ok, valid, f"{self.package.bug.kind}, {turns} turns: {why}", messages)


def judge(package: Package, files: dict[str, str], tests: Callable[[], str] | None = None) -> tuple[bool, str]:
    """Whether the tests pass and nothing but the broken function has changed. tests: runs them; default, in this
    process."""
    path, bug = package.module + ".py", package.bug
    if set(files) != set(package.files):
        return False, "files were added or removed"
    if any(files[p] != text for p, text in package.files.items() if p != path):
        return False, "another file was changed"
    before, after = package.files[path].split(bug.broken)
    found = files[path]
    function = found[len(before) : len(found) - len(after)]
    if found != before + function + after:
        return False, "another function was changed"
    try:
        body = ast.parse(function).body
    except SyntaxError:
        return False, "syntax error"
    if len(body) != 1 or not isinstance(body[0], ast.FunctionDef) or body[0].name != bug.name:
        return False, "something else was added"
    result = (tests() if tests else run_tests(files, package.tests)).split("\n")[0]
    return result == "ok", "repaired" if result == "ok" else result


def case(rng: random.Random, kinds: list[str] | None = None) -> FixCase:
    package = make_package(rng, "test", kinds)
    text = environment(rng, "test") + rng.choice(ASK["test"])
    return FixCase(package, [{"role": "system", "content": system_prompt(["read", "edit", "bash"])}, user(text)])


def kinds_of_training() -> list[str]:
    return sorted({bug[0] for p in FUNCTIONS for bug in p.bugs} - set(UNSEEN_KINDS))
