"""Runs mini-swe-agent on one task, in the Python that it is installed in; its commands go through a given command line.

Reads a configuration from stdin, which `mini.py` writes; prints the submission. Standard library and minisweagent."""

from __future__ import annotations

import importlib
import json
import os
import select
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

MAX_OUTPUT = 4 << 20  # bytes of one command; the agent shows its model 10,000 characters
FULL = "ContextWindowExceededError"  # what litellm says when a conversation no longer fits: an end like any other
DONE = "COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT"


class SandboxEnvironment:
    """mini-swe-agent's protocol of an environment. prefix: a command line that runs what follows in the sandbox."""

    def __init__(self, prefix: list[str], cwd: str, seconds: float):
        self.prefix, self.cwd, self.seconds = prefix, cwd, seconds

    def execute(self, action: dict[str, Any], cwd: str = "", *, timeout: float | None = None) -> dict[str, Any]:
        """Runs action["command"]. Raises minisweagent's Submitted when the agent hands in."""
        command = str(action.get("command", ""))
        if cwd:
            command = f"cd -- {shlex.quote(cwd)} && {command}"
        status, output, trouble = self._run(command, timeout or self.seconds)
        lines = output.lstrip().splitlines(keepends=True)
        if lines and lines[0].strip() == DONE and status == 0:
            submitted = importlib.import_module("minisweagent.exceptions").Submitted
            text = "".join(lines[1:])
            raise submitted(
                {"role": "exit", "content": text, "extra": {"exit_status": "Submitted", "submission": text}}
            )
        return {"output": output, "returncode": status, "exception_info": trouble}

    def _run(self, command: str, seconds: float) -> tuple[int, str, str]:
        try:
            process = subprocess.Popen(
                [*self.prefix, command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )
        except (OSError, ValueError) as error:  # too long, or with a NUL
            return -1, "", f"The command cannot be started: {error}"
        pieces, size, trouble, end = [], 0, "", time.monotonic() + seconds
        assert process.stdout is not None
        handle = process.stdout.fileno()
        while not trouble:
            ready, _, _ = select.select([handle], [], [], max(0.0, end - time.monotonic()))
            piece = os.read(handle, 1 << 16) if ready else b""
            if not ready:
                trouble = f"The command was stopped after {seconds:g} seconds."
            elif not piece:
                break
            pieces.append(piece)
            size += len(piece)
            if size > MAX_OUTPUT:
                trouble = f"The command was stopped after {MAX_OUTPUT:,} bytes of output."
        if trouble:
            process.send_signal(signal.SIGTERM)  # the process above the command ends all of it
        process.stdout.close()
        status = process.wait()
        return -1 if trouble else status, b"".join(pieces)[:MAX_OUTPUT].decode("utf-8", "replace"), trouble

    def get_template_vars(self, **kwargs: Any) -> dict[str, Any]:
        """What templates may name."""
        system = os.uname()
        named = {"system": system.sysname, "release": system.release, "version": system.version}
        return {"cwd": self.cwd, "timeout": self.seconds, "machine": system.machine, **named, **kwargs}

    def serialize(self) -> dict[str, Any]:
        """For the trajectory."""
        return {"info": {"config": {"environment": {"cwd": self.cwd}, "environment_type": "a3b"}}}


def main() -> None:
    """Prints {"submission": ..., "exit_status": ...} as the last line."""
    asked = json.load(sys.stdin)
    given = importlib.import_module("minisweagent.config").get_config_from_spec("swebench.yaml")
    agent = dict(given["agent"])
    agent["instance_template"] = agent["instance_template"].replace("/testbed", asked["cwd"])
    agent |= {"step_limit": asked["steps"], "wall_time_limit_seconds": asked["seconds"], "cost_limit": 0.0}
    agent["output_path"] = Path(asked["trajectory"])
    kwargs = {**given["model"].get("model_kwargs", {}), **asked["kwargs"]}
    model = {**given["model"], "model_name": f"openai/{asked['model']}", "model_kwargs": kwargs}
    model["cost_tracking"] = "ignore_errors"
    environment = SandboxEnvironment(asked["prefix"], asked["cwd"], asked["command_s"])
    made = importlib.import_module("minisweagent.models").get_model(config=model)
    solver = importlib.import_module("minisweagent.agents.default").DefaultAgent(made, environment, **agent)
    try:
        found = solver.run(asked["task"])
    except Exception as error:
        if type(error).__name__ != FULL:
            raise
        found = {"exit_status": FULL}
    print(json.dumps({"submission": found.get("submission") or "", "exit_status": found.get("exit_status") or ""}))


if __name__ == "__main__":
    main()
