"""Agents of the command line, started as `a3b launch` starts them and each given two turns: how a conversation is taken
up again.

What the embedded model says to them is nonsense. They count as working if all they asked was answered and they ended as
they should. Enter at `run_agent`; each agent is a function of `AGENTS` that gives the commands of its turns, and cuts
answers short where an agent would wait for very long ones."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from a3b.clients.catalogue import CLIENTS
from a3b.clients.directory import write
from a3b.clients.setup import Endpoint, Setup, environment_of
from bench.clients.games import Row
from bench.clients.proof import Reader
from bench.clients.roster import Client, node_of
from bench.clients.server import KEY, MODEL, Server

STEP_S = 300.0
TRIES = 6  # with instructions far beyond it the embedded model may not stop; then the agent begins again
FIRST, SECOND = "Think of two numbers from 0 to 999. Tell me only the first.", "What was the other number?"
# of one run, after which it is ended: where the model calls a tool again and again, an agent whose context is full sums
# up its conversation, and its next prompt begins otherwise
MOST_ANSWERS = 40
LIMIT = 2000  # tokens of an answer, where an agent would ask for very many


@dataclass(frozen=True)
class Place:
    """program: the agent; own: its directory, as `a3b launch` makes it; home, work: empty directories, for HOME and for
    the project; setup: how `a3b launch` starts it."""

    program: Path
    own: Path
    home: Path
    work: Path
    setup: Setup


@dataclass(frozen=True)
class Step:
    """One run of the agent: arguments after those of its setup."""

    arguments: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    typed: str = ""  # on its standard input
    status: int = 0  # with which it is to end


def mini_swe_agent(place: Place) -> list[Step]:
    """One run of three steps, each made to be a call: the model would not make one, and turns without are not sent
    back. What it wants to be run finds no programs."""
    options = {
        "agent.step_limit": 3,
        "environment.env.PATH": "/nowhere",
        "model.model_kwargs.max_tokens": 300,
        "model.model_kwargs.temperature": 0,
        "model.model_kwargs.tool_choice": "required",
    }
    limits = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
    return [Step(["--task", FIRST, "--yolo", "--exit-immediately", *limits])]


def aider(place: Place) -> list[Step]:
    """One run, both turns typed."""
    (settings,) = json.loads((place.own / "model-settings.yml").read_text(encoding="utf-8"))
    settings["extra_params"]["max_tokens"] = 300
    (place.own / "model-settings.yml").write_text(json.dumps([settings]))
    quiet = ["--no-git", "--no-pretty", "--no-fancy-input", "--no-auto-lint", "--no-suggest-shell-commands"]
    return [
        Step([*quiet, "--map-tokens", "0", "--edit-format", "ask", "--yes-always"], typed=f"{FIRST}\n{SECOND}\n/exit\n")
    ]


def qwen_code(place: Place) -> list[Step]:
    """One run, both turns typed: what it records for `--continue` lacks the date that it adds to the first question."""
    turns = [{"type": "user", "message": {"role": "user", "content": text}} for text in (FIRST, SECOND)]
    typed = "".join(json.dumps(turn) + "\n" for turn in turns)
    shown = ["--input-format", "stream-json", "-o", "stream-json"]
    return [Step(shown, {"QWEN_CODE_MAX_OUTPUT_TOKENS": str(LIMIT)}, typed)]


def opencode(place: Place) -> list[Step]:
    config = json.loads((place.own / "opencode.json").read_text(encoding="utf-8"))
    config["provider"]["a3b"]["models"][MODEL]["limit"]["output"] = 400
    (place.own / "opencode.json").write_text(json.dumps(config))
    return [Step(["run", FIRST]), Step(["run", "--continue", SECOND])]


def codex(place: Place) -> list[Step]:
    """Keeps no state in the server, and sets no limit to an answer: the context is one."""
    return [
        Step(["exec", "--skip-git-repo-check", "-s", "read-only", FIRST]),
        Step(["exec", "resume", "--skip-git-repo-check", "--last", SECOND]),
    ]


def pi(place: Place) -> list[Step]:
    return [Step(["-p", FIRST]), Step(["-p", "--continue", SECOND])]


def claude_code(place: Place) -> list[Step]:
    """Its second turn is made to call a tool, which the embedded model would not do: it lists the agents that run,
    twice, as all its answers must be that call, and ends at its limit of two."""
    few = {"CLAUDE_CODE_MAX_OUTPUT_TOKENS": str(LIMIT)}
    forced = {"CLAUDE_CODE_EXTRA_BODY": json.dumps({"tool_choice": {"type": "tool", "name": "ListAgents"}})}
    second = ["--continue", "-p", SECOND, "--max-turns", "2"]
    return [Step(["-p", FIRST], few), Step(second, few | forced, status=1)]


AGENTS: dict[str, Callable[[Place], list[Step]]] = {
    "mini-swe-agent": mini_swe_agent,
    "aider": aider,
    "qwen-code": qwen_code,
    "opencode": opencode,
    "codex": codex,
    "pi": pi,
    "claude-code": claude_code,
}
LAUNCHED = {"qwen-code": "qwen", "claude-code": "claude"}  # names for `a3b launch`, where they are others
UNCUT = {"qwen-code", "codex", "claude-code"}  # have all their instructions


def run_agent(client: Client, program: Path, server: Server, reader: Reader, log: Path) -> Row:
    """Agents of `UNCUT` begin again after an answer that was cut: they would tell the model to go on, or leave its turn
    out."""
    tries, row, is_cut = 1, *run_once(client, program, server, reader, log)
    while is_cut and tries < TRIES:
        tries, row, is_cut = tries + 1, *run_once(client, program, server, reader, log)
    if tries > 1:
        row.note += f", run {tries}, as the model did not stop before"
    return row


def run_once(client: Client, program: Path, server: Server, reader: Reader, log: Path) -> tuple[Row, bool]:
    """The row, and whether an answer to an agent of `UNCUT` ran into a limit, with which the run ends."""
    row, is_cut, is_ended = Row(client.name, works=True), False, False
    since, begin, start = len(server.answers()), server.log.stat().st_size, time.monotonic()
    with tempfile.TemporaryDirectory(prefix="a3b-agent-", ignore_cleanup_errors=True) as directory:
        home, work, own = (Path(directory, name) for name in ("home", "work", "own"))
        home.mkdir()
        work.mkdir()
        setup = CLIENTS[LAUNCHED.get(client.player, client.player)].setup(
            Endpoint(server.url, MODEL, client.context, KEY), own
        )
        write(setup, own)
        place = Place(program, own, home, work, setup)
        for step in AGENTS[client.player](place):
            told = len(server.answers())
            if problem := run_step(step, place, log, lambda told=told: len(server.answers(told)) > MOST_ANSWERS):
                row.works, row.note = False, problem
            is_ended |= len(server.answers(told)) > MOST_ANSWERS
            is_cut = client.player in UNCUT and any(answer.reason == "length" for answer in server.answers(since))
            if problem or is_cut:
                break
    row.seconds = round(time.monotonic() - start, 1)
    answers = server.answers(since)
    row.proof = reader.prove(answers)
    # an answer that is cut by the end of the run is none
    if refusals := [one for one in server.refusals(begin) if not (is_ended and one.endswith(" 499"))]:
        row.works, row.note = False, "; ".join([*refusals[:3], row.note])
    row.note = (
        row.note
        or f"{len(answers)} requests, {max((len(a.prompt) for a in answers), default=0):,} tokens in the longest prompt"
    )
    return row, is_cut


def run_step(step: Step, place: Place, log: Path, is_enough: Callable[[], bool]) -> str | None:
    """What went wrong, if anything did. Its children end with it, and all end when it is enough."""
    foreign = ("OPENAI_", "ANTHROPIC_", "CLAUDE", "A3B_", "PYTHON", "XDG_")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
    environment |= {"HOME": str(place.home), "PWD": str(place.work), "TERM": "dumb", "NO_COLOR": "1"}
    environment |= {"PATH": f"{node_of(place.program)}{os.pathsep}{os.environ.get('PATH', '')}", **step.environment}
    environment = environment_of(place.setup, environment)
    command = [str(place.program), *place.setup.arguments, *step.arguments]
    with log.open("ab") as out:
        out.write(f"$ {' '.join(command)}\n".encode())
        out.flush()
        process = subprocess.Popen(
            command,
            cwd=place.work,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        typed, until = step.typed, time.monotonic() + STEP_S
        try:
            while True:
                try:
                    process.communicate(typed, timeout=2)
                    break
                except subprocess.TimeoutExpired:
                    typed = ""  # it has been sent
                if is_enough():
                    return None
                if time.monotonic() > until:
                    return f"stopped after {STEP_S:.0f} s"
        finally:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.wait()
    if process.returncode != step.status:
        last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-3:]
        return f"exit status {process.returncode}: {' / '.join(last)[-300:]}"
    return None
