"""Agents of the command line, each given two turns: how it is told where the server is, and how a conversation is taken
up again.

What the embedded model says to them is nonsense. They count as working if all they asked was answered and they ended as
they should. Enter at `run_agent`; each agent is a function of `AGENTS` that writes its settings and gives the commands
of its turns."""

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

from bench.clients.games import Row
from bench.clients.proof import Reader
from bench.clients.roster import Client
from bench.clients.server import KEY, MODEL, Server

STEP_S = 300.0
TRIES = 6  # with instructions far beyond it the embedded model may not stop; then the agent begins again
FIRST, SECOND = "Think of two numbers from 0 to 999. Tell me only the first.", "What was the other number?"
LIMIT = 2000  # tokens of an answer, where an agent would ask for very many


@dataclass(frozen=True)
class Place:
    """program: the agent; home, work: empty directories, for HOME and for the project; url: of the server, without /v1;
    context: its tokens."""

    program: Path
    home: Path
    work: Path
    url: str
    context: int


@dataclass(frozen=True)
class Step:
    """One run of the agent."""

    arguments: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    typed: str = ""  # on its standard input
    status: int = 0  # with which it is to end


def mini_swe_agent(place: Place) -> list[Step]:
    """One run of three steps, each made to be a call: the model would not make one, and turns without are not sent
    back. What it wants to be run finds no programs."""
    options = {
        "agent.step_limit": 3,
        "agent.cost_limit": 0,
        "environment.env.PATH": "/nowhere",
        "model.model_kwargs.max_tokens": 300,
        "model.model_kwargs.temperature": 0,
        "model.model_kwargs.tool_choice": "required",
    }
    limits = ["-c", "mini.yaml", *(part for name, value in options.items() for part in ("-c", f"{name}={value}"))]
    environment = {
        "OPENAI_API_BASE": f"{place.url}/v1",
        "OPENAI_API_KEY": KEY,
        "MSWEA_COST_TRACKING": "ignore_errors",
        "MSWEA_CONFIGURED": "true",
        "MSWEA_SILENT_STARTUP": "1",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    }
    return [Step(["--model", f"openai/{MODEL}", "--task", FIRST, "--yolo", "--exit-immediately", *limits], environment)]


def aider(place: Place) -> list[Step]:
    """One run, both turns typed. It writes a reminder below the newest question, and leaves it out when that is no
    longer the newest: the model is to get it as a system message, which stays as it is."""
    settings = place.home / "settings.yml"
    settings.write_text(
        json.dumps([{"name": f"openai/{MODEL}", "reminder": "sys", "extra_params": {"max_tokens": 300}}])
    )
    quiet = [
        "--no-git",
        "--no-pretty",
        "--no-fancy-input",
        "--no-show-model-warnings",
        "--no-check-update",
        "--analytics-disable",
        "--no-auto-lint",
        "--no-suggest-shell-commands",
        "--map-tokens",
        "0",
        "--edit-format",
        "ask",
        "--yes-always",
        "--model-settings-file",
        str(settings),
    ]
    where = ["--openai-api-base", f"{place.url}/v1", "--openai-api-key", KEY, "--model", f"openai/{MODEL}"]
    return [Step([*where, *quiet], {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}, f"{FIRST}\n{SECOND}\n/exit\n")]


def qwen_code(place: Place) -> list[Step]:
    environment = {
        "OPENAI_BASE_URL": f"{place.url}/v1",
        "OPENAI_API_KEY": KEY,
        "OPENAI_MODEL": MODEL,
        "QWEN_TELEMETRY_ENABLED": "false",
    }
    arguments = ["--auth-type", "openai", "--chat-recording", "-o", "json"]
    return [Step([*arguments, "-p", FIRST], environment), Step([*arguments, "--continue", "-p", SECOND], environment)]


def opencode(place: Place) -> list[Step]:
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "name": "a3b",
        "options": {"baseURL": f"{place.url}/v1", "apiKey": KEY},
        "models": {MODEL: {"name": MODEL, "reasoning": True, "limit": {"context": 131072, "output": 400}}},
    }
    config = {
        "$schema": "https://opencode.ai/config.json",
        "provider": {"a3b": provider},
        "model": f"a3b/{MODEL}",
        "autoupdate": False,
        "share": "disabled",
    }
    (place.work / "opencode.json").write_text(json.dumps(config))
    model = ["--model", f"a3b/{MODEL}"]
    return [Step(["run", *model, FIRST]), Step(["run", *model, "--continue", SECOND])]


def codex(place: Place) -> list[Step]:
    """Speaks the Responses API only; keeps no state in the server, and sets no limit to an answer: the context is
    one."""
    settings = place.home / ".codex"
    settings.mkdir()
    (settings / "config.toml").write_text(
        f'model = "{MODEL}"\nmodel_provider = "a3b"\nmodel_context_window = {place.context}\n'
        f'[model_providers.a3b]\nname = "a3b"\nbase_url = "{place.url}/v1"\nwire_api '
        '= "responses"\nenv_key = "A3B_API_KEY"\n'
        "request_max_retries = 0\nstream_max_retries = 0\n"
    )
    environment = {"A3B_API_KEY": KEY, "CODEX_HOME": str(settings)}
    first = ["exec", "--skip-git-repo-check", "-s", "read-only", FIRST]
    return [Step(first, environment), Step(["exec", "resume", "--skip-git-repo-check", "--last", SECOND], environment)]


def claude_code(place: Place) -> list[Step]:
    """Its second turn is made to call a tool, which the embedded model would not do: it lists its tasks, twice, as all
    its answers must be that call, and ends at its limit of two."""
    environment = {
        "ANTHROPIC_BASE_URL": place.url,
        "ANTHROPIC_AUTH_TOKEN": KEY,
        "ANTHROPIC_MODEL": MODEL,
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "CLAUDE_CODE_MAX_OUTPUT_TOKENS": str(LIMIT),
    }
    forced = {"CLAUDE_CODE_EXTRA_BODY": json.dumps({"tool_choice": {"type": "tool", "name": "TaskList"}})}
    second = ["--continue", "-p", SECOND, "--max-turns", "2"]
    return [Step(["-p", FIRST], environment), Step(second, environment | forced, status=1)]


AGENTS: dict[str, Callable[[Place], list[Step]]] = {
    "mini-swe-agent": mini_swe_agent,
    "aider": aider,
    "qwen-code": qwen_code,
    "opencode": opencode,
    "codex": codex,
    "claude-code": claude_code,
}
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
    row, is_cut = Row(client.name, works=True), False
    since, begin, start = len(server.answers()), server.log.stat().st_size, time.monotonic()
    with tempfile.TemporaryDirectory(prefix="a3b-agent-", ignore_cleanup_errors=True) as directory:
        place = Place(program, Path(directory, "home"), Path(directory, "work"), server.url, client.context)
        place.home.mkdir()
        place.work.mkdir()
        for step in AGENTS[client.player](place):
            if problem := run_step(step, place, log):
                row.works, row.note = False, problem
            is_cut = client.player in UNCUT and any(answer.reason == "length" for answer in server.answers(since))
            if problem or is_cut:
                break
    row.seconds = round(time.monotonic() - start, 1)
    answers = server.answers(since)
    row.proof = reader.prove(answers)
    if refusals := server.refusals(begin):
        row.works, row.note = False, "; ".join([*refusals[:3], row.note])
    row.note = (
        row.note
        or f"{len(answers)} requests, {max((len(a.prompt) for a in answers), default=0):,} tokens in the longest prompt"
    )
    return row, is_cut


def run_step(step: Step, place: Place, log: Path) -> str | None:
    """What went wrong, if anything did. Its children end with it."""
    foreign = ("OPENAI_", "ANTHROPIC_", "CLAUDE", "A3B_", "PYTHON", "XDG_")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
    environment |= {
        "HOME": str(place.home),
        "PWD": str(place.work),
        "TERM": "dumb",
        "NO_COLOR": "1",
        **step.environment,
    }
    command = [str(place.program), *step.arguments]
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
        try:
            process.communicate(step.typed, timeout=STEP_S)
        except subprocess.TimeoutExpired:
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
