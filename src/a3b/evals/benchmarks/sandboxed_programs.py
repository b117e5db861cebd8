"""Runs programs that a model wrote, each in a sandbox and a directory of its own. Enter at `run_program`."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import sys
import tempfile
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from a3b.agent.sandbox.opening import open_sandbox
from a3b.agent.sandbox.sandbox import SandboxLimits, SandboxPolicy, SandboxProcess

MAX_PROGRAM = 1 << 20  # characters
SHOWN = 2000  # characters of output that a verdict keeps
LIMITS = SandboxLimits(memory=1 << 30, seconds=20.0, processes=32, output=1 << 20, file=64 << 20, disk=128 << 20)
# The program comes by stdin and the mark is printed only when it has come to its end: a program that exits early, with
# whatever status, has not passed. What it printed itself is flushed later.
RUNNER = """
import json, os, sys
given = json.loads(sys.stdin.buffer.read())
out = os.dup(1)
exec(compile(given["program"], "program.py", "exec"), {"__name__": "program"})
os.write(out, given["mark"].encode())
"""


@dataclass(frozen=True)
class ProgramVerdict:
    """passed: whether the program ran to its end; why: what it printed last, or which limit it met."""

    passed: bool
    why: str = ""


def check_sandbox() -> None:
    """Raises SandboxUnavailable if nothing on this machine can hold a program."""
    with _directory() as name, closing(open_sandbox(_policy(name, LIMITS))):
        pass


async def run_program(program: str, limits: SandboxLimits = LIMITS) -> ProgramVerdict:
    """Runs a Python program, its assertions included, without network and with nothing writable but its own directory.

    Raises SandboxUnavailable where nothing can hold it: it is never run outside of a sandbox."""
    if len(program) > MAX_PROGRAM:
        return ProgramVerdict(False, f"the program has {len(program):,} characters")
    python = os.path.realpath(sys.executable)
    with _directory() as name:
        with closing(await asyncio.to_thread(open_sandbox, _policy(name, limits))) as sandbox:
            mark = secrets.token_hex(16)
            given = json.dumps({"program": program, "mark": mark}).encode()
            command = [python, "-I", "-c", RUNNER]
            process = await sandbox.start(command, cwd=sandbox.policy.workspace, has_stdin=True)
            try:
                return await _verdict(process, given, mark)
            except BaseException:
                await process.stop()
                raise


def _directory() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="a3b-program-", dir="/var/tmp", ignore_cleanup_errors=True)


def _policy(workspace: str, limits: SandboxLimits) -> SandboxPolicy:
    return SandboxPolicy(Path(workspace), readable=(Path(sys.base_prefix),), limits=limits)


async def _verdict(process: SandboxProcess, given: bytes, mark: str) -> ProgramVerdict:
    async def feed() -> None:
        assert process.stdin is not None
        with suppress(ConnectionError):
            process.stdin.write(given)
            await process.stdin.drain()
        process.stdin.close()

    printed, outcome, _ = await asyncio.gather(process.stdout.read(), process.wait(), feed())
    text = printed.decode("utf-8", "replace")
    if outcome.ended_by != "exit":
        return ProgramVerdict(False, outcome.detail or outcome.ended_by)
    if outcome.status == 0 and mark in text:
        return ProgramVerdict(True)
    return ProgramVerdict(False, text.replace(mark, "")[-SHOWN:].strip() or f"it ended with status {outcome.status}")
