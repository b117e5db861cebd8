"""What a client is started with: arguments, variables and files of its own, as plain data.

Knows no particular client and writes nothing. Enter at `Client`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from a3b.errors import UsageError

PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
ANY_NAME = "a3b"  # the served model answers under any name
KEY_VARIABLE = "KEY_FOR_A3B"  # of clients whose settings name a variable: no key is ever in a file
NO_KEY = "none"  # clients want some key, the server asks for none


@dataclass(frozen=True)
class Endpoint:
    """A server as a client sees it. url: without /v1."""

    url: str
    model: str
    context: int  # tokens, prompt and answer together
    key: str = ""

    @property
    def name(self) -> str:
        """The model's name where clients take it apart (provider/name:level) or quote it: plain, or one that is."""
        return self.model if PLAIN.fullmatch(self.model) else ANY_NAME

    @property
    def token(self) -> str:
        return self.key or NO_KEY

    @property
    def most_output(self) -> int:
        """Tokens that one answer may have: clients that are not told ask for all, or for too few."""
        return max(min(32_000, self.context // 4), 256)

    def first_of_context(self, share: float) -> int:
        """Tokens at which a client should shorten the conversation, with room for an answer."""
        return max(min(int(self.context * share), self.context - self.most_output), 1)


@dataclass(frozen=True)
class JsonFile:
    """A file of settings below the client's directory.

    ours: values that a launch depends on. defaults: values that the client or its user may change. Whatever else stands
    in the file stays."""

    ours: Mapping[str, Any] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)

    def merged(self, found: Mapping[str, Any]) -> dict[str, Any]:
        return _over(_over(self.defaults, found), self.ours)


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`below` with the values of `above`; objects are joined, and lists too."""
    out = dict(below)
    for key, value in above.items():
        old = out.get(key)
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            out[key] = _over(old, value)
        elif isinstance(value, list) and isinstance(old, list):
            out[key] = [*old, *(item for item in value if item not in old)]
        else:
            out[key] = value
    return out


@dataclass(frozen=True)
class Setup:
    """Everything that a client is started with.

    environment: variables that lead to the server. preferred: variables that the user may have set otherwise. unset:
    variables of the user's that would lead elsewhere. kept: variables of the user's, and the names under which their
    values stay known. files: by name below the client's directory, settings or text. links: by name, what they point
    to. arguments: before those of the user."""

    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    preferred: Mapping[str, str] = field(default_factory=dict)
    unset: tuple[str, ...] = ()
    kept: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, JsonFile | str] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Way:
    """A way to make a client send its first request by itself, as a session of that kind would.

    arguments: after those of the setup. terminal: whether it needs one. trusts: what makes it trust a directory that
    holds nothing, as settings for that directory."""

    name: str
    arguments: tuple[str, ...]
    terminal: bool = False
    trusts: Callable[[Path], Mapping[str, JsonFile]] = lambda work: {}


@dataclass(frozen=True)
class Client:
    """A client that can be launched. tokens: of its first prompt, less the question, as its `version` sends it."""

    name: str
    title: str
    program: str
    install: str  # one line for a shell
    setup: Callable[[Endpoint, Path], Setup]
    tokens: int
    version: str
    ways: tuple[Way, ...] = ()
    carried: tuple[str, ...] = ()  # what else in its directory may stand in its instructions


def environment_of(setup: Setup, users: Mapping[str, str]) -> dict[str, str]:
    """The variables of a client, from those of its user."""
    found = {name: value for name, value in users.items() if name not in setup.unset}
    found |= {saved: users[name] for name, saved in setup.kept.items() if name in users}
    found |= setup.environment
    for name, value in setup.preferred.items():
        found.setdefault(name, value)
    return found


def check_no_nul(texts: Mapping[str, str]) -> None:
    """Raises UsageError for a value that no process can be given."""
    for name, text in texts.items():
        if "\0" in text:
            raise UsageError(f"{name}: contains a NUL character; expected text")
