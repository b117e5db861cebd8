"""Sandboxes that work: what a command gets, and how it ends."""

from __future__ import annotations

import errno
import subprocess

import pytest

from a3b.agent.sandbox import opening
from a3b.agent.sandbox.bubblewrap import find_programs
from a3b.agent.sandbox.opening import PAUSE_S, QUICK_S
from a3b.agent.sandbox.sandbox import CommandOutcome, SandboxLimits
from a3b.errors import SandboxUnavailable
from tests.support.sandboxes import SYSTEM_PATH, opened, ran

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


@pytest.fixture
def program(tmp_path, monkeypatch):
    """A bubblewrap, the only one: a script whose text a test writes."""
    file = tmp_path / "bwrap"
    file.touch(0o755)
    monkeypatch.setattr(opening, "find_programs", lambda _: [str(file)])
    monkeypatch.setattr(opening, "QUICK_S", 1000.0)  # however busy this machine is
    return file


def test_what_bubblewrap_says_is_told_and_it_is_tried_again_by_the_next_opening(tmp_path, program):
    real, mended = find_programs(SYSTEM_PATH)[0], tmp_path / "mended"
    said = "bwrap: Can't find source path /mnt: Input/output error"
    program.write_text(f'#!/bin/sh\n[ -e {mended} ] && exec {real} "$@"\necho "{said}" >&2\nexit 1\n')
    with pytest.raises(SandboxUnavailable) as refused:
        opened(tmp_path, {})
    assert f"no sandbox works here: {program}: Can't find source path /mnt: Input/output error. " in str(refused.value)
    assert "namespaces" not in str(refused.value)
    mended.touch()
    opened(tmp_path, {}).close()


def test_a_bubblewrap_that_cannot_be_started_is_told(tmp_path, program):
    program.write_bytes(b"\x7fELF, but of another machine")
    with pytest.raises(SandboxUnavailable, match=f"{program}: it cannot be started: Exec format error"):
        opened(tmp_path, {})


class SlowFailures:
    """Fails, and moves the clock that stands in for the module `time`."""

    def __init__(self, seconds):
        self.seconds, self.now, self.tries = seconds, 100.0, 0

    def monotonic(self):
        return self.now

    def __call__(self):
        self.tries += 1
        self.now += self.seconds
        raise SandboxUnavailable(f"failed {self.tries}")


@pytest.mark.parametrize(("seconds", "tries"), [(QUICK_S / 2, 3), (QUICK_S * 2, 1)])
def test_what_fails_quickly_is_tried_again_at_once_and_what_fails_slowly_after_a_pause(seconds, tries, monkeypatch):
    failing = SlowFailures(seconds)
    monkeypatch.setattr(opening, "time", failing)
    monkeypatch.setattr(opening, "_slow", {})
    assert [opening._tried("bwrap", failing) for _ in range(3)][-1] == f"failed {tries}" and failing.tries == tries
    failing.now += PAUSE_S
    assert opening._tried("bwrap", failing) == f"failed {tries + 1}"


def test_landlock_and_bubblewrap_have_pauses_of_their_own(monkeypatch):
    failing = SlowFailures(QUICK_S * 2)
    monkeypatch.setattr(opening, "time", failing)
    monkeypatch.setattr(opening, "_slow", {})
    assert opening._tried("bwrap", failing) == "failed 1"
    assert opening._tried("landlock", failing) == "failed 2"
