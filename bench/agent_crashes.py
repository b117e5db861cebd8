"""Kills `a3b code -p` with SIGKILL at random points, goes on with --continue, and looks at what that cost.

    python -m bench.agent_crashes [MODEL] [--points 20] [--seed 1]

One long session on a real server, whose answers are dictated (`bench.scripted_serve`): each command appends its number
to a file, slowly, so that some kills hit the middle of one. A kill comes after the nth event of a random kind, at once
or after a random pause: while a prompt is read, a thought or a call is written, a command runs, or between them. Judged
at the end:

- every command stands in the file at most once; one whose result the model has, once
- every call has one result, and a call without one was told to the model as aborted, before or while it ran
- tokens of the conversation that the server computed again, beside what a broken off answer had"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from a3b.agent.resuming import BROKEN_OFF, NOT_RUN
from a3b.agent.sessions import ProjectSessions
from a3b.agent.transcript import read_transcript
from bench.agent_turns import agent_command, computed_again, dictating
from bench.beside import environment
from bench.clients.roster import STRETCHED
from bench.clients.server import KEY, Server, stretched_model

EVENTS = "turn_started thinking_chunk call_progress turn_finished tool_started tool_finished".split()
MOST_EVENTS = 4  # of the kind that was chosen
MARKS = 2  # tokens with which any two messages begin: what follows an answer that came too late has them again
PAUSE_S = 0.3  # at most; none after every second
RUN_S = 600.0
COMMAND = "sleep 0.1; echo {number} >> done.txt; sleep 0.1; echo did {number}"
TASK, ON = "Run the commands one after the other.", "Go on."


@dataclass
class Found:
    """kills: the last event before each; aborted: calls that the model was told of; problems: what must not be."""

    kills: list[str] = field(default_factory=list)
    aborted: dict[str, int] = field(default_factory=dict)
    turns: int = 0
    again: int = 0
    problems: list[str] = field(default_factory=list)


def crashes(root: Path, model: str, points: int, seed: int) -> Found:
    """One session with that many kills; the last run ends by itself."""
    root.mkdir()
    (root / "project").mkdir()
    rng, found = random.Random(seed), Found()
    commands = [COMMAND.format(number=number) for number in range(2 * points + 4)]
    script = {"thinking": "Now the next command, and then another one.", "commands": commands, "answer": "I am done."}
    with dictating(root / "server", model, script) as server:
        env = environment(root, root)
        for point in range(points):
            found.kills.append(killed(root, server, env, point, rng))
            print(f"{point + 1}: killed {found.kills[-1]}", file=sys.stderr, flush=True)
        command = agent_command(server.url, ON, "--continue", "--max-turns", str(len(commands) + 4))
        subprocess.run(
            command, cwd=root / "project", env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, timeout=RUN_S
        )
        found.again = computed_again(server.answers())
    judge(root, found)
    return found


def killed(root: Path, server: Server, env: dict[str, str], point: int, rng: random.Random) -> str:
    """Starts or goes on with the session, and kills it; what it was doing."""
    command = agent_command(server.url, ON if point else TASK, *(["--continue"] if point else []))
    kind, nth, pause = rng.choice(EVENTS), rng.randint(1, MOST_EVENTS), rng.choice((0, rng.random() * PAUSE_S))
    last, has_begun = "nothing", point > 0
    with subprocess.Popen(
        command, cwd=root / "project", env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            last = json.loads(line)["type"]
            has_begun = has_begun or last == "turn_started"  # or there is nothing to go on with
            nth -= last == kind
            if nth <= 0 and has_begun:
                break
        time.sleep(pause)
        if process.poll() is not None:
            last += f", too late: it had ended ({process.returncode})"
        os.kill(process.pid, signal.SIGKILL)
    return f"after {last}" + (", and a pause" if pause else "")


def judge(root: Path, found: Found) -> None:
    sessions = ProjectSessions(root / "a3b", root / "project", KEY)
    (id,) = sessions.ids()
    _, state, _, problem = read_transcript(sessions.path(id))
    done = Counter((root / "project" / "done.txt").read_text(encoding="utf-8").split())
    results: dict[str, list[str]] = {}
    for message in state.messages:
        if message["role"] == "tool":
            results.setdefault(message["tool_call_id"], []).append(message["content"])
    calls: list[dict[str, Any]] = [call for m in state.messages for call in m.get("tool_calls", ())]
    for call in calls:
        number = call["function"]["arguments"].split("did ")[1].split('"')[0]
        told, times = results.get(call["id"], []), done[number]
        allowed = {NOT_RUN: (0,), BROKEN_OFF: (0, 1)}.get(told[0] if told else "", (1,))
        if len(told) != 1 or times not in allowed:
            found.problems.append(f"command {number}: ran {times} times, and the model was told {told}")
    found.problems += [problem] if problem else []
    found.problems += [f"command {number} ran {times} times" for number, times in done.items() if times > 1]
    every = [text for texts in results.values() for text in texts]
    found.aborted = {"before it ran": every.count(NOT_RUN), "while it ran": every.count(BROKEN_OFF)}
    found.turns = state.turn


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", metavar="MODEL")
    parser.add_argument("--points", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="a3b-crashes-", ignore_cleanup_errors=True) as directory:
        root = Path(directory).resolve()
        model = args.model or str(stretched_model(root, STRETCHED))
        found = crashes(root / "run", model, args.points, args.seed)
    print("| killed | times |\n|---|---|")
    for what, times in Counter(found.kills).most_common():
        print(f"| {what} | {times} |")
    aborted = ", ".join(f"{times} {when}" for when, times in found.aborted.items())
    print(f"\n{found.turns} turns; calls told as aborted: {aborted}; {found.again:,} tokens computed again.")
    print("\n".join(found.problems) or "No command ran twice, and every call has one result.")
    return 1 if found.problems or found.again > MARKS * args.points else 0


if __name__ == "__main__":
    sys.exit(main())
