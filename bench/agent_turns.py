"""What the turns of `a3b code` cost: a dictated task on a real server, turn by turn, from the server's own report.

    python -m bench.agent_turns [MODEL] [--turns 40] [--lines 20] [--json]

The model computes all tokens and is told what to say (`bench.scripted_serve`). MODEL: a packed directory; default the
embedded model with a longer context. Columns: tokens of the prompt; how many were cached and how many computed; of
those, how many had been read or written before; tokens written. Below it a session in which the user steers and a
sub-agent is started, whose rows are indented; last what the server's trace says of all requests together."""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from a3b.agent.events import Steered, ToolFinished, ToolOutput, TurnFinished
from a3b.agent.options import AgentOptions
from a3b.agent.session import open_session
from bench.beside import TASK, environment, project, shared
from bench.clients.roster import STRETCHED
from bench.clients.server import KEY, Server, Traced, stretched_model

RUN_S = 3600.0
CHILD = re.compile(r"\[([\d,]+) read, ([\d,]+) cached(?:, ([\d,]+) again)?, ([\d,]+) written\]")
STEER_AT, AGENT_AT, FORKED_TURNS = 2, 4, 7
STEERED = "Please also look at the last part of the project before you are done."


@dataclass
class Row:
    what: str
    prompt: int
    cached: int
    computed: int
    recomputed: int
    written: int


def dictating(root: Path, model: str, script: Mapping[str, Any]) -> Server:
    """A server that dictates; its files are in `root`."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "script.json").write_text(json.dumps(script), encoding="utf-8")
    return Server(root, command=("bench.scripted_serve", str(root / "script.json"), model))


def agent_command(url: str, task: str, *more: str) -> list[str]:
    return [sys.executable, "-P", "-m", "a3b", "code", "-p", task, "--json", "--base-url", url, *more]


def reading(parts: int) -> list[Any]:
    return [f"cat part_{part:02}.txt" for part in range(parts)]


def computed_again(answers: list[Traced]) -> int:
    """Tokens that were computed although they stand at the same place of a prompt or an answer before. The last token
    of an answer was written and never read; what a broken off answer had is lost."""
    known: list[tuple[int, ...]] = []
    total = 0
    for answer in answers:
        total += max(max((shared(one, answer.prompt) for one in known), default=0) - answer.cached, 0)
        known += [answer.prompt + answer.sampled[:-1]] if answer.reason != "cancelled" else []
    return total


def turns(root: Path, model: str, parts: int, lines: int) -> tuple[list[Row], int]:
    """A task of the real command, and how many tokens were computed again by the server's trace."""
    root.mkdir()
    project(root / "project", parts, lines)
    script = {"thinking": "Now the next part of the project.", "commands": reading(parts - 1), "answer": "I am done."}
    with dictating(root / "server", model, script) as server:
        done = subprocess.run(
            agent_command(server.url, TASK),
            cwd=root / "project",
            env=environment(root, root),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            timeout=RUN_S,
        )
        answers = server.answers()
    events = [json.loads(line) for line in done.stdout.splitlines()]
    rows = [row_of(str(e["turn"]), e["usage"], e["recomputed"]) for e in events if e["type"] == "turn_finished"]
    if done.returncode or len(rows) != parts:
        print(f"a3b code: exit status {done.returncode} after {len(rows)} turns", file=sys.stderr)
    return rows, computed_again(answers)


def row_of(what: str, usage: Mapping[str, int], recomputed: int | None) -> Row:
    read, cached = usage["read"], usage["cached"]
    return Row(what, read + cached, cached, read, recomputed or 0, usage["written"])


def forks(root: Path, model: str, lines: int) -> tuple[list[Row], int]:
    """A session that is steered in the middle, and starts a sub-agent that reads two parts."""
    root.mkdir()
    project(root / "project", FORKED_TURNS, lines)
    commands = reading(FORKED_TURNS - 2)
    commands.insert(AGENT_AT - 1, {"tool": "agent", "task": "Read two parts and say what is in them."})
    last = [f"cat part_{part:02}.txt" for part in (FORKED_TURNS - 2, FORKED_TURNS - 1)]
    script = {"thinking": "Now the next part.", "commands": commands, "answer": "I am done.", "agent_commands": last}
    with dictating(root / "server", model, script) as server:
        options = AgentOptions(root / "project", root / "a3b", server.url, KEY)
        rows = asyncio.run(_steered(options))
        return rows, computed_again(server.answers())


async def _steered(options: AgentOptions) -> list[Row]:
    rows: list[Row] = []
    async with open_session(options, None) as session:
        async for event in session.run(TASK):
            match event:
                case TurnFinished(turn, _, usage, recomputed):
                    rows.append(row_of(str(turn), asdict(usage), recomputed))
                case ToolFinished() if len(rows) == STEER_AT:
                    session.steer(STEERED)
                case Steered():
                    rows[-1].what += ", then steered"
                case ToolOutput(text=text) if found := CHILD.search(text):
                    read, cached, again, written = (int((part or "0").replace(",", "")) for part in found.groups())
                    usage = {"read": read, "cached": cached, "written": written}
                    rows.append(row_of("- sub-agent", usage, again))
    return rows


def table(rows: list[Row]) -> str:
    head = "| turn | prompt | cached | computed | recomputed | written |\n|---|---|---|---|---|---|"
    lines = [" | ".join(f"{value:,}" for value in list(asdict(row).values())[1:]) for row in rows]
    return "\n".join([head, *(f"| {row.what} | {line} |" for row, line in zip(rows, lines, strict=True))])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", metavar="MODEL")
    parser.add_argument("--turns", type=int, default=40)
    parser.add_argument("--lines", type=int, default=20, help="lines of 8 words that a command prints")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="a3b-turns-", ignore_cleanup_errors=True) as directory:
        root = Path(directory).resolve()
        model = args.model or str(stretched_model(root, STRETCHED))
        rows, again = turns(root / "turns", model, args.turns, args.lines)
        forked, forked_again = forks(root / "forks", model, args.lines)
    if args.json:
        print(json.dumps({"turns": list(map(asdict, rows)), "forks": list(map(asdict, forked))}, indent=1))
    else:
        print(f"{table(rows)}\n\n{table(forked)}")
        print(
            f"\nBy the server's trace, {again:,} tokens were computed again in the first session, and {forked_again:,} "
            "in the second: the marks with which the messages of parent and sub-agent begin alike."
        )
    return 1 if again else 0


if __name__ == "__main__":
    sys.exit(main())
