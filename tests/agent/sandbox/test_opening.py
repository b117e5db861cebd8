"""Sandboxes that work: what a command gets, and how it ends."""

from __future__ import annotations

import errno
import subprocess

import pytest

from a3b.agent.sandbox.sandbox import CommandOutcome, SandboxLimits
from a3b.errors import SandboxUnavailable
from tests.support.sandboxes import opened, ran

pytestmark = pytest.mark.slow


@pytest.fixture(params=["bubblewrap", "landlock", "none"])
def sandbox(request, tmp_path):
    sandbox = opened(tmp_path, {}, request.param)
    yield sandbox
    sandbox.close()


def test_a_command_works_in_the_workspace_and_tells_its_status(sandbox):
    text, outcome = ran(sandbox, "echo out; echo err >&2; echo data > file; exit 3")
    assert (text, outcome) == ("out\nerr\n", CommandOutcome(3))
    assert (sandbox.policy.workspace / "file").read_text() == "data\n"


def test_what_a_command_left_in_the_background_is_gone_when_it_has_ended(sandbox):
    text, outcome = ran(sandbox, "(setsid nohup sleep 917.5 >/dev/null 2>&1 &) ; sleep 917.5 & echo done")
    assert (text, outcome.ended_by) == ("done\n", "exit")
    everything = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert "sleep 917.5" not in everything


def test_a_command_that_takes_too_long_is_ended(sandbox):
    _, outcome = ran(sandbox, "sleep 60", limits=SandboxLimits(seconds=0.2))
    assert (outcome.ended_by, outcome.status) == ("time", -9)


def test_a_command_that_prints_too_much_is_ended(sandbox):
    text, outcome = ran(sandbox, "yes", limits=SandboxLimits(output=1000))
    assert (len(text), outcome.ended_by) == (1000, "output")


def test_closing_removes_the_private_files(tmp_path):
    sandbox = opened(tmp_path, {})
    ran(sandbox, "echo x > ~/file; echo y > /tmp/file; mkdir -p ~/locked/in; chmod 0 ~/locked")
    sandbox.close()
    assert list((tmp_path / "state/agent/sandboxes").iterdir()) == []


def test_a_home_is_no_workspace(tmp_path):
    with pytest.raises(SandboxUnavailable, match="is the home directory"):
        opened(tmp_path, {"HOME": str(tmp_path / "home/src/project")})


def test_programs_of_the_workspace_are_not_run_outside(tmp_path):
    programs = tmp_path / "home/src/project/.venv/bin"
    programs.mkdir(parents=True)
    (tmp_path / "link").symlink_to(programs)
    for name in ("git", "bwrap"):
        (programs / name).write_text(f"#!/bin/sh\necho {name} >> {tmp_path}/ran\n")
        (programs / name).chmod(0o755)
    sandbox = opened(tmp_path, {"PATH": f"{programs}:{tmp_path}/link:/usr/bin:/bin"})
    text, _ = ran(sandbox, "command -v git")
    sandbox.close()
    assert not (tmp_path / "ran").exists()
    assert text == f"{programs}/git\n"  # commands find them


def test_a_full_disk_is_named_with_the_place_that_is_full(tmp_path, monkeypatch):
    def full(source, target):
        raise OSError(errno.ENOSPC, "No space left on device", source)

    monkeypatch.setattr("shutil.copyfile", full)
    with pytest.raises(SandboxUnavailable, match=f"{tmp_path}/state: No space left on device; .* another A3B_HOME"):
        opened(tmp_path, {})
