"""What the first prompt of a client costs on this machine, and what is known of it below A3B_HOME/clients.

    clients/CLIENT/        the client's own settings
    clients/CLIENT.warm    the requests that `a3b warm` read, and of which program
    clients/speed.json     tokens that each model read in a second when it last served a client

Enter at `cost_line`, `remember_speed` and `remember_requests`."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from a3b.clients.capture import Captured
from a3b.clients.setup import Client
from a3b.commands.client_server import Served
from a3b.commands.server_answers import is_count
from a3b.errors import A3BError
from a3b.files import open_private, private_directory, read_text

MAX_RECORD = 64 << 20  # bytes
LOOK_S = 60.0  # for the server to look into its store
SPEEDS = "speed.json"
MOST_MODELS = 100  # whose speed is kept


@dataclass(frozen=True)
class FirstPrompt:
    """tokens: of the whole prompt; left: of these, to be read. measured: by this server, from the client's own request;
    otherwise what was counted when the recipe was written."""

    tokens: int
    left: int
    measured: bool


def first_prompt(client: Client, served: Served, directory: Path, program: str, terminal: bool) -> FirstPrompt:
    """What the server knows of the client's first prompt, or what the recipe says."""
    for requests in _known(directory, program, terminal):
        with suppress(A3BError, LookupError, TypeError):
            told = served.asker.json("/v1/warm", {"requests": requests, "read": False}, LOOK_S)
            tokens, cached = told["prompt_tokens"][0], told["cached_tokens"]
            if is_count(tokens) and is_count(cached):
                return FirstPrompt(tokens, max(tokens - cached, 0), True)
    return FirstPrompt(client.tokens, client.tokens, False)


def cost_line(client: Client, prompt: FirstPrompt, speed: float | None) -> str:
    """One sentence: how much is to be read before the first answer, and for how long."""
    long = f", {duration(prompt.left / speed)}" if speed else ""
    if prompt.left < prompt.tokens // 2:
        return (
            f"{client.title}'s instructions are in the store: {prompt.left:,} of {prompt.tokens:,} tokens are left to "
            f"read{long}"
        )
    about = "" if prompt.measured else "about "
    return (
        f"{client.title}'s first prompt: {about}{prompt.left:,} tokens{long}, once; "
        f"'a3b warm {client.name}' reads them ahead of time"
    )


def duration(seconds: float) -> str:
    """A time for people."""
    if seconds < 90:
        return f"about {max(round(seconds), 1)} s"
    return f"about {round(seconds / 60)} minutes" if seconds < 5400 else f"about {seconds / 3600:.1f} hours"


# -- what is kept


def known_speed(served: Served, clients: Path) -> float | None:
    """Tokens a second: of this server, or of this model when it last served a client."""
    with suppress(A3BError):
        if speed := served.asker.speed():
            return speed
    found = _record(clients / SPEEDS).get(served.model.name)
    return float(found) if isinstance(found, int | float) and 0 < found < 1e9 else None


def remember_speed(served: Served, clients: Path) -> None:
    """Keep how fast the server read, for the next time."""
    with suppress(A3BError, OSError):
        if speed := served.asker.speed():
            kept = {name: value for name, value in _record(clients / SPEEDS).items() if name != served.model.name}
            kept = dict(list(kept.items())[-MOST_MODELS:]) | {served.model.name: round(speed, 3)}
            _write(clients / SPEEDS, kept)


def remember_requests(directory: Path, program: str, ways: Sequence[tuple[str, bool, Sequence[Captured]]]) -> None:
    """Keep what was read of a client: (name of the way, whether in a terminal, requests) of each way."""
    found = [
        {"way": name, "terminal": terminal, "requests": [vars(one) for one in requests]}
        for name, terminal, requests in ways
    ]
    _write(_warm_file(directory), {"program": _program(program), "ways": found})


def _known(directory: Path, program: str, terminal: bool) -> list[Any]:
    """Requests that were read, those of the wanted kind of session first; none if the program is another one now."""
    record = _record(_warm_file(directory))
    ways = record.get("ways")
    if record.get("program") != _program(program) or not isinstance(ways, list):
        return []
    sound = [way for way in ways if isinstance(way, dict) and isinstance(way.get("requests"), list)]
    return [way["requests"] for way in sorted(sound, key=lambda way: way.get("terminal") is not terminal)]


def _program(program: str) -> list[Any]:
    """What tells one version of a program from another."""
    path = Path(os.path.realpath(program))
    package = next((parent / "package.json" for parent in path.parents if (parent / "package.json").is_file()), path)
    return [str(path), package.stat().st_mtime_ns]


def _warm_file(directory: Path) -> Path:
    return directory.with_name(directory.name + ".warm")


def _record(path: Path) -> dict[str, Any]:
    """What a file of ours holds; nothing if it cannot be read."""
    try:
        found = json.loads(read_text(path, MAX_RECORD))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _write(path: Path, value: Any) -> None:
    private_directory(path.parent)
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with open(fresh, "x", encoding="utf-8", opener=open_private) as file:
            json.dump(value, file)
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)
