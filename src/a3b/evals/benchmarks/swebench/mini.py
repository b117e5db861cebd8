"""mini-swe-agent as a solver: it runs as a process of its own, where the user has installed it, with its configuration
for SWE-bench; its commands run in our sandbox. Enter at `find_mini`, `run_mini`."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from a3b.errors import A3BError, UsageError
from a3b.evals.benchmarks.swebench.box import Box
from a3b.evals.benchmarks.swebench.images import SweImage
from a3b.evals.benchmarks.swebench.places import last_lines
from a3b.evals.benchmarks.swebench.programs import run_program
from a3b.evals.options import EvalOptions
from a3b.evals.records import CaseCost
from a3b.files import read_text
from a3b.settings import process_environment

INSTALL = "uv tool install mini-swe-agent, or pip install mini-swe-agent in an environment of its own"
COMMAND_S = 60  # as in its configuration for SWE-bench
MAX_TRAJECTORY = 256 << 20
QUIET = {"PAGER": "cat", "MANPAGER": "cat", "LESS": "-R", "PIP_PROGRESS_BAR": "off", "TQDM_DISABLE": "1"}
ASK = "import minisweagent; print(minisweagent.__version__)"


class MiniFailed(A3BError):
    """mini-swe-agent ended without an answer: an error of the run, not a wrong answer."""


@dataclass(frozen=True)
class MiniAgent:
    """python: of the environment it is installed in."""

    python: Path
    version: str


@dataclass
class MiniRun:
    """submission: the patch that it handed in; messages: the conversation, as of chat completions."""

    submission: str
    cost: CaseCost = CaseCost()
    facts: dict[str, Any] = field(default_factory=dict)
    messages: list[dict[str, Any]] = field(default_factory=list)


def find_mini(given: str | None) -> MiniAgent:
    """mini-swe-agent, by a Python that has it, or by `mini` on PATH. Raises UsageError that says how to install it."""
    environment = process_environment()
    python = given or _behind(shutil.which("mini", path=environment.get("PATH")))
    if python is None:
        raise UsageError(f"mini-swe-agent is not on PATH: {INSTALL}; or name its Python: --set mini=/PATH/bin/python")
    try:
        with tempfile.TemporaryDirectory(prefix="a3b-mini-") as config:
            done = run_program([python, "-c", ASK], environment=_plain(environment, config))
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UsageError(f"{python} cannot be asked for mini-swe-agent: {error}") from None
    said = done.stdout.strip() if done.returncode == 0 else ""
    if not said:
        raise UsageError(f"{python} has no mini-swe-agent: {last_lines(done.stderr)[-300:]}; {INSTALL}")
    return MiniAgent(Path(python), said.split("\n")[-1][:40])


def _behind(program: str | None) -> str | None:
    """The Python that a script names in its first line."""
    if program is None:
        return None
    with suppress(OSError, UnicodeDecodeError):
        first = read_text(program, 1 << 20).split("\n")[0]
        if first.startswith("#!") and "python" in first:
            return first[2:].strip().split(" ")[0]
    return None


def _plain(environment: Mapping[str, str], config: str) -> dict[str, str]:
    kept = {name: value for name, value in environment.items() if name in ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR")}
    own = {"MSWEA_SILENT_STARTUP": "1", "MSWEA_COST_TRACKING": "ignore_errors", "NO_PROXY": "localhost,127.0.0.1,::1"}
    return {**kept, **own, "MSWEA_GLOBAL_CONFIG_DIR": config}  # the user's own settings do not count


async def run_mini(
    mini: MiniAgent,
    box: Box,
    image: SweImage,
    options: EvalOptions,
    sampling: Mapping[str, Any],
    seed: int,
    limits: tuple[int, int],
) -> MiniRun:
    """One task. limits: steps and seconds. Raises MiniFailed if it ends without an answer."""
    with tempfile.TemporaryDirectory(prefix="a3b-mini-") as name:
        trajectory = Path(name) / "trajectory.json"
        extra = {**options.fields(), "seed": seed}
        kwargs = {**sampling, "api_base": f"{options.base_url.rstrip('/')}/v1", "extra_body": extra}
        asked = {
            "prefix": box.sandbox.argv(["bash", "-c"], cwd=image.testbed, env=QUIET),
            "cwd": str(image.testbed),
            "command_s": COMMAND_S,
            "steps": limits[0],
            "seconds": limits[1],
            "model": options.model,
            "kwargs": kwargs,
            "task": image.instance.statement,
            "trajectory": str(trajectory),
        }
        environment = {**_plain(process_environment(), name), "OPENAI_API_KEY": options.api_key or "none"}
        said = await _driven(mini, json.dumps(asked), environment, limits[1])
        try:
            answer = json.loads(said.strip().split("\n")[-1])
            messages = _messages(trajectory)
        except (OSError, ValueError, IndexError) as error:
            raise MiniFailed(f"mini-swe-agent {mini.version} gave no answer ({error}): {last_lines(said)}") from None
    facts = {"status": str(answer["exit_status"]), "turns": sum(m["role"] == "assistant" for m in messages)}
    return MiniRun(str(answer["submission"]), _cost(messages), {**facts, "mini": mini.version}, messages)


async def _driven(mini: MiniAgent, asked: str, environment: Mapping[str, str], seconds: int) -> str:
    """What the driver prints. Ends it with everything it started."""
    driver = Path(__file__).with_name("mini_driver.py")
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        str(mini.python), str(driver), stdin=pipe, stdout=pipe, stderr=pipe, env=dict(environment), cwd="/"
    )
    try:
        done = process.communicate(asked.encode())
        out, errors = await asyncio.wait_for(done, seconds + 600)  # a request may be on its way when its time is over
    except TimeoutError:
        raise MiniFailed(f"mini-swe-agent did not end within {seconds + 600} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise MiniFailed(f"mini-swe-agent {mini.version} failed: {last_lines(errors.decode('utf-8', 'replace'))}")
    return out.decode("utf-8", "replace")


def _messages(trajectory: Path) -> list[dict[str, Any]]:
    found = json.loads(read_text(trajectory, MAX_TRAJECTORY)).get("messages", [])
    return [m for m in found if isinstance(m, dict) and m.get("role") in ("system", "user", "assistant", "tool")]


def _cost(messages: list[dict[str, Any]]) -> CaseCost:
    total = CaseCost()
    for message in messages:
        response = (message.get("extra") or {}).get("response")
        if isinstance(response, dict):
            usage = response.get("usage")
            usage = usage if isinstance(usage, dict) else {}
            prompt, written = (int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens"))
            cached = int((usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0)
            thinking = int((usage.get("completion_tokens_details") or {}).get("reasoning_tokens") or 0)
            total += CaseCost.of_request(max(prompt - cached, 0), cached, written, thinking)
    return total
