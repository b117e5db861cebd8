"""Inside a client's environment: reads games as lines of JSON, lets the client play each, and writes the answers it
got.

Only the standard library; the judge is elsewhere. A player is made for each game and has `say(text, seed) -> text`: a
turn of the user, sampled at temperature 1 if there is a seed, otherwise greedy, with calls of tools answered on the
way. Run as `python -m bench.clients.MODULE PLAYER URL KEY MODEL`; enter at `main`."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

MOST_CALLS = 6  # in one turn of the user
MOST_TOKENS = 2048


@dataclass(frozen=True)
class At:
    """Where the server is."""

    url: str
    key: str
    model: str


@dataclass(frozen=True)
class Game:
    """says: what the user says, turn by turn; the first is sampled with `seed` if there is one."""

    says: list[str]
    seed: int | None = None
    system: str | None = None
    tools: list[dict] = field(default_factory=list)
    table: dict[str, str] = field(default_factory=dict)  # what the tool knows

    def look_up(self, arguments: Mapping[str, Any]) -> str:
        return next((self.table[value] for value in map(str, arguments.values()) if value in self.table), "not found")


class Player(Protocol):
    def __init__(self, at: At, game: Game): ...

    def say(self, text: str, seed: int | None = None) -> str: ...


def sampling(seed: int | None) -> dict[str, Any]:
    return {"temperature": 0.0} if seed is None else {"temperature": 1.0, "seed": seed}


def play(player: Player, game: Game) -> list[str]:
    return [player.say(text, None if i else game.seed) for i, text in enumerate(game.says)]


def main(players: Mapping[str, type[Player]]) -> None:
    name, url, key, model = sys.argv[1:]
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints is not an answer
    for line in sys.stdin:
        game = Game(**json.loads(line))
        try:
            told: dict[str, Any] = {"answers": play(players[name](At(url, key, model), game), game)}
        except Exception as error:
            traceback.print_exc()
            told = {"error": f"{type(error).__name__}: {error}"[:500]}
        print(json.dumps(told), file=out, flush=True)
