"""A program that a model wrote passes only if it came to its end, in the sandbox, within its limits."""

from __future__ import annotations

import asyncio

import pytest

from a3b.agent.sandbox.sandbox import SandboxLimits
from a3b.evals.benchmarks.sandboxed_programs import run_program

pytestmark = pytest.mark.slow  # sandboxes
SMALL = SandboxLimits(memory=1 << 30, seconds=20, processes=32, output=1 << 16, file=1 << 20, disk=1 << 22)


def passed(program: str, limits: SandboxLimits = SMALL) -> tuple[bool, str]:
    verdict = asyncio.run(run_program(program, limits))
    return verdict.passed, verdict.why


def test_assertions_that_hold_pass():
    assert passed("print('x')\nassert 1 + 1 == 2\nprint('y')") == (True, "")


@pytest.mark.parametrize(
    ("program", "why"),
    [
        ("assert 1 + 1 == 3", "AssertionError"),
        ("raise SystemExit(0)", "status 0"),
        ("import os; os._exit(0)", "status 0"),
        ("def f(:", "SyntaxError"),
        ("print('x' * 1_000_000)", "printed more than"),
        ("open('/etc/a3b-test', 'w')", "Error"),
        ("import socket; socket.create_connection(('127.0.0.1', 9), 2)", "Error"),
    ],
)
def test_whatever_does_not_come_to_its_end_has_not_passed(program, why):
    ok, said = passed(program)
    assert not ok and why in said


def test_an_endless_program_is_ended():
    ok, said = passed("while True: pass", SandboxLimits(memory=1 << 30, seconds=0.5, output=1 << 16))
    assert not ok and "longer than 0.5 s" in said
