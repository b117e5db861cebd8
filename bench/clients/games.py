"""Games for the players: *secret* and chains of two lookups, played in the client's environment, judged by the trace.

Enter at `run_games`. `Row` is a line of the table, for agents too.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from a3b.evals.families import lookup, secret
from a3b.evals.families.common import rng_for
from bench.clients.proof import Proof, Reader, recalls
from bench.clients.roster import Client
from bench.clients.server import KEY, MODEL, ROOT, Server

GAME_S = 120.0  # for one game; the start of the client is in the first
TOOL_GAMES = 2
SLOW_GAMES = 3  # of *secret*, for a client that starts a process for each turn


@dataclass
class Row:
    """works: None if the client is not installed."""

    name: str
    version: str = ""
    works: bool | None = None
    proof: Proof = field(default_factory=Proof)
    right: int = 0
    played: int = 0  # games of *secret* whose answer only the thinking knows
    seconds: float = 0.0
    note: str = ""
    must_keep: bool = True

    @property
    def failed(self) -> bool:
        """Whether the client was there and what was promised did not hold."""
        p = self.proof
        lost = p.kept < p.turns or p.reused < p.later if self.must_keep else p.kept > 0
        return self.works is not None and (not self.works or lost or not p.later)

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "failed": self.failed}


@dataclass(frozen=True)
class Played:
    """A game and how to judge it: `told`, of a game of *secret*, is the number told first; `end` is that of a chain."""

    game: dict[str, Any]
    told: str = ""
    end: str = ""


def secret_game(index: int) -> Played:
    """The case of this number of the evaluation's unseen cases, with a seed of its own."""
    case = secret.case(rng_for("test", "secret", index))
    system = case.opening[0]["content"] if case.opening else None
    return Played({"says": [case.ask, case.reveal], "seed": index, "system": system}, told=case.told)


def lookup_game(index: int) -> Played:
    case = lookup.case(rng_for("test", "lookup", index), hops=2)
    system = case.opening[0]["content"] if case.opening else None
    table = dict(pairwise(case.keys))
    return Played({"says": [case.ask], "system": system, "tools": case.tools, "table": table}, end=case.keys[-1])


class Script:
    """A process with players, fed game by game; a game that takes too long is ended."""

    def __init__(self, client: Client, program: Path, url: str, log: Path):
        command = [str(program), "-m", f"bench.clients.{client.module}", client.player, url, KEY, MODEL]
        environment = {
            key: value for key, value in os.environ.items() if not key.startswith(("OPENAI_", "ANTHROPIC_", "A3B_"))
        }
        environment |= {"PYTHONPATH": str(ROOT), "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
        with log.open("wb") as errors:
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )

    def play(self, game: dict[str, Any]) -> dict[str, Any]:
        watch = threading.Timer(GAME_S, self.process.kill)
        watch.start()
        try:
            print(json.dumps(game), file=self.process.stdin, flush=True)
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            watch.cancel()
        return json.loads(line) if line else {"error": f"ended by itself, or was stopped after {GAME_S:.0f} s"}

    def close(self) -> None:
        self.process.stdin.close()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()


def run_games(client: Client, program: Path, server: Server, num_games: int, reader: Reader, log: Path) -> Row:
    row = Row(client.name, works=True, must_keep=client.keeps)
    plays = [secret_game(index) for index in range(min(num_games, SLOW_GAMES) if client.is_slow else num_games)]
    plays += [lookup_game(index) for index in range(TOOL_GAMES)] if client.has_tools else []
    start = time.monotonic()
    script = Script(client, program, server.url, log)
    try:
        for played in plays:
            since = len(server.answers())
            told = script.play(played.game)
            if problem := judge(row, played, told, server, since, reader):
                row.works, row.note = False, problem
                break
    finally:
        script.close()
    row.seconds = round(time.monotonic() - start, 1)
    return row


def judge(row: Row, played: Played, told: dict[str, Any], server: Server, since: int, reader: Reader) -> str | None:
    """Adds to the row what the trace says; what went wrong, if anything did."""
    answers = server.answers(since)
    row.proof += reader.prove(answers, is_chain=True)
    if "error" in told:
        return told["error"]
    messages = [reader.message(answer) for answer in answers]
    if not messages or told["answers"][-1].strip() != messages[-1]["content"]:
        return f"was told {told['answers']}, and the server sampled {messages}"
    if played.told:
        if len(answers) != len(played.game["says"]):
            return f"{len(answers)} requests for {len(played.game['says'])} turns"
        row.played += 1
        row.right += recalls(played.told, *messages)
    elif played.end not in messages[-1]["content"] or len(answers) != len(played.game["table"]) + 1:
        return f"tools: {len(answers)} requests; expected {played.end}, found {messages[-1]['content']!r}"
    return None
