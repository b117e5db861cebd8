"""`a3b code sessions` and `a3b code forget`: earlier sessions of this directory. Enter at `run_words`, `resumed`."""

from __future__ import annotations

import json
import sys
import time
from argparse import Namespace
from dataclasses import asdict
from pathlib import Path

from a3b.agent.options import SessionNode
from a3b.agent.sessions import ProjectSessions
from a3b.errors import UsageError
from a3b.printable import printable, report, say

MATCHES = 10
WORDS = ("sessions", "forget")
MOST_OFFERED = 20


def run_words(args: Namespace, sessions: ProjectSessions, home: Path) -> int:
    """Runs what stands behind `a3b code`. Raises UsageError."""
    what, *rest = args.words
    check_words(args, what)
    if what == "forget":
        from a3b.commands.code_forget import forget  # loads what reads the files of servers

        return forget(sessions, home, rest, args.all, args.forks, args.yes)
    if rest:
        raise UsageError(f"sessions: {rest[0][:40]!r} is not expected; --search WORDS finds some, --resume ID goes on")
    if args.json:
        for node in sessions.nodes():
            print(json.dumps(asdict(node)))
    else:
        report(listing(sessions) if args.search is None else found(sessions, args.search))
    return 0


def check_words(args: Namespace, what: str = "") -> None:
    """Raises UsageError for an option that belongs to another word than `what`, or not to this one."""
    for option, is_given, owner in (
        ("--search", args.search is not None, "sessions"),
        ("--all", args.all, "forget"),
        ("--forks", args.forks, "forget"),
        ("--yes", args.yes, "forget"),
    ):
        if is_given and owner != what:
            raise UsageError(f"{option}: belongs to 'a3b code {owner}'")
    lists = args.resume == "" and not what
    if what or lists:
        for option, is_given in (
            ("-p", args.prompt is not None),
            ("--acp", args.acp),
            ("--continue", args.go_on),
            ("--resume", args.resume is not None and not lists),
            ("--from-turn", args.from_turn is not None),
            ("--json", args.json and (what != "sessions" or args.search is not None)),
        ):
            if is_given and lists:
                raise UsageError(f"--resume: expected the ID of a session with {option}; a3b code sessions lists them")
            if is_given:
                raise UsageError(f"{option}: has no place with 'a3b code {what}'")


def resumed(args: Namespace, sessions: ProjectSessions) -> str | None:
    """The session to go on with, a copy of it if a turn was named. Raises UsageError."""
    if args.go_on and args.resume:
        raise UsageError("--continue and --resume ID: each names a session; expected one of them")
    id = sessions.latest() if args.go_on else sessions.find(args.resume) if args.resume else None
    if args.from_turn is None:
        return id
    if id is None:
        raise UsageError("--from-turn: expected --resume ID or --continue with it")
    return sessions.fork(id, args.from_turn)


def chosen_session(sessions: ProjectSessions) -> str | None:
    """The session that the user chooses by its number in a list, or by its ID; None if he takes none."""
    found = [node for node in sessions.nodes() if node.kind != "sub-agent"]
    nodes = found[:MOST_OFFERED]
    if not nodes:
        say(listing(sessions))
        return None
    say("\n".join(f"{number:>3}  {session_line(node)}" for number, node in enumerate(nodes, 1)))
    if len(found) > len(nodes):
        say(f"     and {len(found) - len(nodes):,} more; a3b code sessions lists them, and their ID does here too")
    while True:
        say(f"which one, 1 to {len(nodes)}? Enter for none: ", end="")
        line = sys.stdin.readline()
        word = line.strip()
        if not word:
            say("" if line else "\n", end="")
            return None
        try:
            if not (word.isascii() and word.isdigit() and len(word) <= 3):
                return sessions.find(word)
            if 1 <= int(word) <= len(nodes):
                return nodes[int(word) - 1].id
            say(f"{word}: expected 1 to {len(nodes)}")
        except UsageError as error:
            say(error)


def listing(sessions: ProjectSessions) -> str:
    """The sessions of a directory, the last used first."""
    nodes = [node for node in sessions.nodes() if node.kind != "sub-agent"]
    others = sum(not sessions.is_own(id) for id in sessions.ids())
    hidden = f"{others:,} more were made with another API key; --api-key shows them" if others else ""
    if not nodes:
        return f"no session of {sessions.workspace} yet; a3b code begins one" + (f"\n{hidden}" if hidden else "")
    lines = [f"{'session':<20} {'age':>6} {'turns':>5} {'tokens':>8}  first words"]
    lines += [session_line(node) for node in nodes]
    return "\n".join([*lines, *([hidden] if hidden else ()), "", "a3b code --resume ID goes on with one"])


def session_line(node: SessionNode) -> str:
    marks = (" (open)" if node.is_open else "") + (f" (fork of {node.parent})" if node.kind == "fork" else "")
    words = printable(node.words[:60])
    return f"{node.id:<20} {age(time.time() - node.changed):>6} {node.turns:>5} {node.tokens:>8,}  {words}{marks}"


def age(seconds: float) -> str:
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return f"{max(int(seconds), 0)} s"


def found(sessions: ProjectSessions, words: str) -> str:
    """What earlier sessions said of some words, each with where it stands. Raises StoreError, UsageError."""
    from a3b.agent.recall.search_index import SearchIndex
    from a3b.agent.tools.recall import recalled

    if not any(character.isalnum() for character in words):
        raise UsageError(f"--search: {words[:40]!r} has no word")
    return printable(recalled(SearchIndex(sessions).search(words, MATCHES)), lines=True)
