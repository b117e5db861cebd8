"""What the same work costs in several coding agents: one dictated task of 20 commands, tokens and time.

    python -m bench.beside [MODEL] [--dir DIR] [--only NAME,...] [--turns 20] [--lines 40] [--json]

Each agent gets a server with an empty store, and a directory with as many files as there are commands. The model
computes all tokens and is told what to say (`bench.scripted_serve`): think, call the shell with the next command, read
what it printed. So the work is equal, and what differs is the agent: the size of its prompts, its requests, what it
makes the server read again. MODEL: a packed directory; default the embedded model with a longer context, whose counts
of tokens are those of a small vocabulary. DIR is where `python -m bench.clients.install` put the agents.

The server has read its weights before an agent starts: it answers one question of other words first.

Columns: tokens of the first prompt; requests; tokens of all prompts, how many of them were computed, and how many had
been read or written before; tokens written; seconds from start to end of the agent."""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.clients.roster import HOMES, STRETCHED
from bench.clients.server import KEY, ROOT, Server, Traced, stretched_model
from bench.turns import WORDS

RUN_S = 3600.0
TASK = "Read the parts of this project one after the other, then say that you are done."
LAUNCHED = {
    "mini-swe-agent": ["--task", TASK, "--yolo", "--exit-immediately"],
    "qwen": ["--yolo", "-p", TASK],
    "pi": ["-p", TASK],
}
HOME_OF = {"qwen": "qwen-code"}
SUBMIT = "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT"  # how mini-swe-agent is told that the task is done


@dataclass
class Row:
    agent: str
    first: int = 0
    requests: int = 0
    prompts: int = 0
    computed: int = 0
    again: int = 0
    written: int = 0
    seconds: float = 0.0


def project(directory: Path, parts: int, lines: int) -> None:
    """Files of plain words, the same for every agent."""
    directory.mkdir(parents=True)
    rng = random.Random(7)
    for part in range(parts):
        text = "".join(" ".join(rng.choices(WORDS, k=8)) + "\n" for _ in range(lines))
        (directory / f"part_{part:02}.txt").write_text(text, encoding="utf-8")


def script(parts: int) -> dict[str, object]:
    commands = [f"cat part_{part:02}.txt" for part in range(parts)]
    return {"thinking": "Now the next part of the project.", "commands": [*commands, SUBMIT], "answer": "I am done."}


def shared(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def computed_again(answers: list[Traced]) -> int:
    """Tokens that a prompt has in common with something read or written before, and that were computed."""
    known: list[tuple[int, ...]] = []
    total = 0
    for answer in answers:
        total += max(max((shared(one, answer.prompt) for one in known), default=0) - answer.cached, 0)
        known.append(answer.prompt + answer.sampled)
    return total


def environment(root: Path, installed: Path) -> dict[str, str]:
    bins = [installed / "node" / "bin", *(installed / name / "node_modules/.bin" for name in HOMES)]
    bins += [installed / name / "bin" for name in HOMES]
    kept = {name: os.environ[name] for name in ("LANG",) if name in os.environ}
    (root / "home").mkdir()
    return {
        "PATH": os.pathsep.join([*map(str, bins), "/usr/local/bin", "/usr/bin", "/bin"]),
        "HOME": str(root / "home"),
        "A3B_HOME": str(root / "a3b"),
        "A3B_API_KEY": KEY,
        "PYTHONPATH": str(ROOT / "src"),
        "TERM": "dumb",
        "NO_COLOR": "1",
        **kept,
    }


def wake(server: Server) -> None:
    """Have the server read a long question, so that the first agent's turn does not wait for the disk."""
    words = " ".join(random.Random(8).choices(WORDS, k=600))
    body = {"messages": [{"role": "user", "content": words}], "max_tokens": 1}
    head = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
    request = urllib.request.Request(f"{server.url}/v1/chat/completions", json.dumps(body).encode(), head)
    with urllib.request.urlopen(request, timeout=RUN_S) as answer:
        answer.read()


def measured(name: str, model: str, root: Path, installed: Path, parts: int, lines: int) -> Row:
    root.mkdir()
    project(root / "project", parts, lines)
    (root / "script.json").write_text(json.dumps(script(parts)), encoding="utf-8")
    command = ("bench.scripted_serve", str(root / "script.json"), model)
    with Server(root, command=command) as server:
        words = ["code", "-p", TASK, "--base-url", server.url]
        if name != "a3b":
            words = ["launch", name, "--base-url", server.url, "--", *LAUNCHED[name]]
        wake(server)
        begin = time.monotonic()
        with (root / "agent.log").open("wb") as log:
            done = subprocess.run(
                [sys.executable, "-P", "-m", "a3b", *words],
                cwd=root / "project",
                env=environment(root, installed),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                timeout=RUN_S,
            )
        row, answers = Row(name, seconds=round(time.monotonic() - begin, 1)), server.answers()[1:]
    if done.returncode or not answers:
        print(f"{name}: exit status {done.returncode}; see {root / 'agent.log'}", file=sys.stderr)
    long = [answer for answer in answers if len(answer.prompt) > 64]
    row.first = next((len(answer.prompt) for answer in long if len(answer.sampled) > 20), 0)
    row.requests, row.prompts = len(answers), sum(len(answer.prompt) for answer in answers)
    row.computed = sum(len(answer.prompt) - answer.cached for answer in answers)
    row.again, row.written = computed_again(answers), sum(len(answer.sampled) for answer in answers)
    return row


def table(rows: list[Row]) -> str:
    head = "agent, first prompt, requests, all prompts, computed, computed again, written, s"
    lines = [f"| {' | '.join(head.split(', '))} |", "|---" * 8 + "|"]
    for row in rows:
        cells = [f"{value:,}" for value in list(asdict(row).values())[1:]]
        lines.append(f"| {' | '.join([row.agent, *cells])} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", metavar="MODEL")
    parser.add_argument("--dir", type=Path, default=Path("build/clients"), help="where the agents were installed")
    parser.add_argument("--only", metavar="NAME,...", help=", ".join(["a3b", *LAUNCHED]))
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--lines", type=int, default=40, help="lines of 8 words that a command prints")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep traces and logs there")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(prefix="a3b-beside-", ignore_cleanup_errors=True) as directory:
        root = (args.keep or Path(directory)).resolve()
        root.mkdir(parents=True, exist_ok=True)
        model = args.model or str(stretched_model(root, STRETCHED))
        for name in args.only.split(",") if args.only else ["a3b", *LAUNCHED]:
            home = HOMES.get(HOME_OF.get(name, name))
            if home and home.program(args.dir.resolve()) is None:
                print(f"{name}: not installed: {home.how}", file=sys.stderr)
                continue
            rows.append(measured(name, model, root / name, args.dir.resolve(), args.turns, args.lines))
            print(table(rows[-1:]).splitlines()[-1], file=sys.stderr, flush=True)
    print(json.dumps({"beside": [asdict(row) for row in rows]}, indent=1) if args.json else table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
