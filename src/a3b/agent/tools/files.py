"""Runs the file tools inside the sandbox, one short process a call, and keeps in mind which files were read.

So the kernel holds commands and file tools to one policy, and nothing is checked here and used there.
Enter at `FileCalls`."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from a3b.agent.sandbox.sandbox import CommandOutcome, Sandbox, SandboxLimits, SandboxProcess
from a3b.agent.tools import file_tool
from a3b.agent.tools.cut import cut
from a3b.agent.tools.tool import ToolError

MAX_ANSWER = 8 << 20  # bytes
LIMITS = SandboxLimits(memory=1 << 30, seconds=30.0, processes=64, output=MAX_ANSWER, file=1 << 30)
PYTHON = os.path.realpath(sys.executable)  # of a virtual environment too, the one that it was made from


def search_program() -> str:
    """ripgrep: on PATH, or beside this interpreter, where its wheel puts it; "" if there is none."""
    return shutil.which("rg") or shutil.which("rg", path=str(Path(sys.executable).parent)) or ""


def readable_paths() -> tuple[Path, ...]:
    """What the file tools need to see in the sandbox, wherever it is installed."""
    rg = search_program()
    paths = [Path(sys.base_prefix), Path(file_tool.__file__).parent, *([Path(os.path.realpath(rg))] if rg else [])]
    return tuple(dict.fromkeys(paths))


@dataclass(frozen=True)
class FileAnswer:
    """text: for the model; diff: for people; syntax: of a changed file, None if nobody could tell."""

    text: str
    diff: str = ""
    syntax: str | None = None


class FileCalls:
    """The file tools of one session."""

    def __init__(self, sandbox: Sandbox):
        self._sandbox = sandbox
        self._seals: dict[str, str] = {}

    async def call(self, name: str, arguments: dict[str, Any]) -> FileAnswer:
        """One call in the workspace. Raises ToolError."""
        key = os.path.normpath(os.path.join(self._sandbox.policy.workspace, str(arguments.get("path", ""))))
        if name not in ("write", "edit"):
            return await self._called(name, arguments, key)
        arguments = {**arguments, "seal": self._seals.get(key, "")}
        policy = self._sandbox.policy

        async def preview() -> str:
            return (await self._called(name, {**arguments, "is_dry": True}, "")).diff

        try:
            if refusal := await self._sandbox.ask_to_change(str(arguments.get("path", "")), preview):
                raise ToolError(refusal)
            return await self._called(name, arguments, key)
        finally:
            self._sandbox.policy = policy  # a yes is for this change

    async def _called(self, name: str, arguments: dict[str, Any], key: str) -> FileAnswer:
        """key: of the file whose state is kept in mind, "" to forget it."""
        printed, complaint, outcome = await self._run(json.dumps({"call": name, "arguments": arguments}).encode())
        answers = []
        for line in printed.splitlines():
            with suppress(ValueError):
                answers.append(json.loads(line))
        if not answers or outcome.ended_by != "exit":  # also what was done, and undone from outside
            raise ToolError(_broken(name, complaint, outcome))
        if "error" in answers[0]:
            raise ToolError(cut(_clean(answers[0]["error"]), ""))
        if answers[0].get("seal") and key:
            self._seals[key] = answers[0]["seal"]
        syntax = answers[1]["syntax"] if len(answers) > 1 else None
        return FileAnswer(_clean(answers[0]["text"]), _clean(answers[0]["diff"]), syntax and _clean(syntax))

    async def _run(self, call: bytes) -> tuple[bytes, bytes, CommandOutcome]:
        """What the process printed to stdout and to stderr, and how it ended."""
        process = await self._sandbox.start(
            [PYTHON, "-I", "-S", file_tool.__file__],
            cwd=self._sandbox.policy.workspace,
            limits=LIMITS,
            merge=False,
            has_stdin=True,
        )
        try:
            _, printed, complaint, outcome = await asyncio.gather(
                _send(process, call),
                _read(process.stdout, MAX_ANSWER),
                _read(process.stderr, 64 << 10),
                process.wait(),
            )
        except BaseException:
            await process.stop()
            raise
        return printed, complaint, outcome


async def _send(process: SandboxProcess, call: bytes) -> None:
    assert process.stdin is not None
    with suppress(ConnectionError):
        process.stdin.write(call)
        await process.stdin.drain()
    process.stdin.close()


async def _read(stream: asyncio.StreamReader | None, most: int) -> bytes:
    """All of a stream, of which `most` bytes are kept."""
    data = bytearray()
    while stream is not None and (piece := await stream.read(1 << 16)):
        data += piece[: most - len(data)]
    return bytes(data)


def _broken(name: str, complaint: bytes, outcome: CommandOutcome) -> str:
    why = outcome.detail or f"it ended with status {outcome.status}"
    last = complaint.decode("utf-8", "replace").strip().rpartition("\n")[2][:300]
    changed = " The file may have been changed: read it." if name in ("write", "edit") else ""
    return f"{name} gave no answer: {why}{f' ({last})' if last else ''}.{changed}"


def _clean(text: str) -> str:
    """Text without lone surrogates, which stand for undecodable bytes of names."""
    return text.encode("utf-8", "backslashreplace").decode()
