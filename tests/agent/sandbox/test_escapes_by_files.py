"""Commands that try to read or write what lies outside of the workspace."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.agent.sandbox.conftest import SECRET
from tests.support.sandboxes import SYSTEM_PATH, files_below, opened, ran

pytestmark = pytest.mark.slow


def test_homes_and_the_state_of_a3b_cannot_be_read(sandbox, base):
    (base / "state" / "token").write_text(SECRET)
    text, _ = ran(
        sandbox, f"cat {base}/home/.ssh/* {base}/home/.aws/* {base}/home/src/other-project/.env {base}/state/*"
    )
    assert SECRET not in text
    text, _ = ran(sandbox, f"ls -R {base}/home/.ssh {base}/state; find {base} -name id_ed25519")
    assert "id_ed25519\n" not in text


@pytest.mark.parametrize(
    "attempt",
    [
        "ln -s {other} link && echo evil > link/file",
        "ln -s ../../../other link && echo evil > link/file",
        "ln -s {other} a; ln -s a b; ln -s b/file c; echo evil > c",
        "echo evil > ../../../other/file",
        "echo evil > {other}/new",
        "ln {other}/file hard && echo evil > hard",
        "mv {other}/file stolen",
        "rm -rf {other}",
        "cp /bin/sh {other}/sh",
        "truncate -s 0 {other}/file",
        "dd if=/dev/zero of={other}/file bs=1 count=1 conv=notrunc",
        "cd /proc/self/root{other} && echo evil > file",
        "exec 3<{other}; echo evil > /proc/self/fd/3/file",
        "echo evil > /proc/$PPID/cwd{other}/file; echo evil > /proc/1/root{other}/file",
        "mkdir up; mount --bind {other} up && echo evil > up/file",
        "unshare -Urm sh -c 'mount -o remount,rw / ; echo evil > {other}/file'",
        "tar -C / -cf x.tar {other} --transform 's,^,../../../..,' && tar -Pxf x.tar && echo evil > {other}/file",
    ],
)
def test_nothing_outside_of_the_workspace_changes(sandbox, base, attempt):
    before = files_below(base / "other")
    ran(sandbox, attempt.format(other=base / "other"))
    assert files_below(base / "other") == before


def test_bubblewrap_keeps_the_modes_and_times_of_files_outside(base):
    """Landlock does not, and says so."""
    sandbox = opened(base, {})
    before = (base / "other/file").stat()
    ran(sandbox, f"chmod 777 {base}/other/file; touch -d 1990-01-01 {base}/other/file; chown 1 {base}/other/file")
    after = (base / "other/file").stat()
    sandbox.close()
    assert (after.st_mode, after.st_mtime, after.st_uid) == (before.st_mode, before.st_mtime, before.st_uid)


def test_a_swapped_directory_is_no_way_out_while_a_tool_writes(sandbox, base):
    """What a check before each use would miss: the kernel judges the file that is really opened."""
    script = """
import os, time
os.makedirs("real", exist_ok=True)
os.symlink(OTHER, "link")
end = time.monotonic() + 1
if os.fork():
    while time.monotonic() < end:
        for a, b in (("real", "dir"), ("link", "dir")):
            try:
                os.rename(a, b); os.rename(b, a)
            except OSError: pass
else:
    hits = 0
    while time.monotonic() < end:
        for name in ("dir/file", "dir/new"):
            try:
                open(name, "w").write("evil"); hits += 1
            except OSError: pass
    print("wrote", hits > 0, flush=True)
    os._exit(0)
os.wait()
"""
    before = files_below(base / "other")
    text, _ = ran(sandbox, ["python3", "-c", script.replace("OTHER", repr(str(base / "other")))])
    assert "wrote True" in text  # into the real one
    assert files_below(base / "other") == before


def test_no_program_gets_the_rights_of_its_owner(sandbox):
    """Also not later, when somebody outside runs what was left in the workspace."""
    attempts = "cp /bin/sh s; chmod u+s s; chmod 6755 s; install -m 4755 /bin/sh t; python3 -c 'import os; "
    ran(sandbox, attempts + 'os.close(os.open("u", os.O_CREAT | os.O_WRONLY, 0o4755))\'')
    modes = [path.stat().st_mode for path in sandbox.policy.workspace.iterdir()]
    assert modes and not any(mode & 0o6000 for mode in modes)


def test_devices_can_neither_be_made_nor_read(sandbox):
    disk = next((line.split()[3] for line in Path("/proc/partitions").read_text().splitlines()[2:]), "vda")
    text, _ = ran(
        sandbox,
        f"mknod d b 254 0 && echo made; head -c 1 /dev/{disk} && echo read; head -c 1 /dev/mem && echo read; ls; "
        "head -c 1 /proc/kcore | wc -c",
    )
    assert "made" not in text and "read\n" not in text
    assert text.split()[-1] == "0"
    assert not [path for path in sandbox.policy.workspace.iterdir() if not path.is_file()]


@pytest.mark.parametrize("directory", ["/", "/etc", "/usr/bin", "/var/lib", "/opt", "/dev", "/sys/fs/cgroup", "/mnt"])
def test_nothing_can_be_made_in_the_system(sandbox, directory):
    text, _ = ran(sandbox, f"mkdir {directory}/a3b-test-evil && echo made")
    made = Path(directory, "a3b-test-evil")
    if made.exists():
        made.rmdir()
    assert "made" not in text


@pytest.mark.parametrize(
    "name",
    [
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/kernel/domainname",
        "/proc/sys/vm/swappiness",
        "/sys/kernel/mm/ksm/run",
    ],
)
def test_settings_of_the_kernel_cannot_be_written(sandbox, name):
    """Not even as they are; root needs no capability for most of them."""
    text, _ = ran(sandbox, f"value=$(cat {name}) && echo read && echo $value > {name} && echo wrote")
    assert text.startswith("read")
    assert "wrote" not in text


def test_the_passwords_of_the_system_cannot_be_read(sandbox):
    text, _ = ran(sandbox, "cat /etc/shadow /etc/gshadow /etc/ssh/ssh_host_*_key; cat /etc/passwd")
    assert "root:x:" in text
    assert "root:*:" not in text and "root:!" not in text and "PRIVATE KEY" not in text


def test_the_directory_of_programs_above_commands_cannot_be_reached(sandbox, base):
    """It has the code that runs outside, and the settings of the next command."""
    ran(sandbox, f"find {base}/state -name '*.py' -exec sh -c 'echo evil >> $1' sh {{}} \\;; rm -rf {base}/state/agent")
    text, outcome = ran(sandbox, "echo fine")
    assert (text, outcome.status) == ("fine\n", 0)


def test_no_path_into_the_workspace_leaves_it_when_hidden_places_are_linked(sandbox, base):
    (sandbox.policy.workspace / "keys").symlink_to(base / "home" / ".ssh")
    text, _ = ran(sandbox, "cat keys/id_ed25519; cp -rL keys copied; cat copied/*")
    assert SECRET not in text


@pytest.mark.parametrize("kind", ["bubblewrap", "landlock"])
def test_programs_on_path_work_also_below_tmp(base, tmp_path, kind):
    """Of which commands have their own: an environment that was made there is shown all the same."""
    program = tmp_path / "env" / "bin" / "tool"
    program.parent.mkdir(parents=True)
    (tmp_path / "secret").write_text("hidden")
    program.write_text("#!/bin/sh\necho works\n")
    program.chmod(0o755)
    sandbox = opened(base, {"PATH": f"{program.parent}:/usr/bin:/bin"}, kind)
    text, _ = ran(sandbox, f"tool; cat {tmp_path / 'secret'}")
    sandbox.close()
    assert text.startswith("works\n")
    assert kind == "landlock" or "hidden" not in text


@pytest.mark.parametrize("kind", ["bubblewrap", "landlock"])
def test_places_that_a_policy_hides_hold_nothing_but_what_it_shows_in_them(base, kind):
    answers = base / "other" / "answers"
    for name in ("mine/file", "theirs/file"):
        (answers / name).parent.mkdir(parents=True, exist_ok=True)
        (answers / name).write_text(f"{name} was read\n")
    (base / "other" / "solution").write_text("the solution was read\n")
    hidden = (answers, base / "other" / "solution", base / "not-there")
    sandbox = opened(base, {}, kind, hidden=hidden, readable=(answers / "mine",))
    text, _ = ran(
        sandbox, f"cat {answers}/mine/file; cat {answers}/theirs/file {base}/other/solution {base}/other/file"
    )
    sandbox.close()
    assert "mine/file was read" in text and "outside" in text
    assert "theirs/file was read" not in text and "solution was read" not in text


def test_programs_of_the_home_work_and_their_credentials_do_not_show(base):
    cargo = base / "home/.cargo/bin"
    cargo.mkdir(parents=True)
    (cargo / "tool").write_text("#!/bin/sh\necho it works\n")
    (cargo / "tool").chmod(0o755)
    (cargo.parent / "credentials.toml").write_text(SECRET)
    node = base / "home/.nvm/versions/node/v22"
    for name in ("bin", "lib", "etc"):
        (node / name).mkdir(parents=True)
    (node / "etc/.npmrc").write_text(SECRET)
    (node / "lib/part").write_text("part\n")
    path = f"{cargo}:{node}/bin:/usr/bin:/bin"
    for kind in ("bubblewrap", "landlock"):
        sandbox = opened(base, {"PATH": path}, kind)
        try:
            text, _ = ran(sandbox, f"tool; cat {node}/lib/part {node}/etc/.npmrc {cargo}/../credentials.toml")
            assert "it works\npart\n" in text
            assert SECRET not in text
            text, _ = ran(sandbox, f"echo evil > {cargo}/tool; rm {node}/lib/part")
            assert (cargo / "tool").read_text() != "evil\n" and (node / "lib/part").exists()
        finally:
            sandbox.close()


@pytest.mark.parametrize("kind", ["bubblewrap", "landlock"])
@pytest.mark.parametrize("name", [".venv", "venv", "env", "tools"])
def test_links_in_the_workspace_do_not_choose_what_is_shown_of_a_home(base, kind, name):
    """A repository brings them, or a command makes them for the next session."""
    secrets = base / "home" / "kept" / "bin"
    secrets.mkdir(parents=True, exist_ok=True)
    (secrets / "key").write_text(SECRET)
    programs = base / "home" / "src" / "project" / name / "bin"
    programs.mkdir(parents=True, exist_ok=True)
    for link, target in (("tool", secrets / "key"), ("python", secrets / "key"), ("all", secrets)):
        (programs / link).unlink(missing_ok=True)
        (programs / link).symlink_to(os.path.relpath(target, programs))
    sandbox = opened(base, {"PATH": f"{SYSTEM_PATH}:{programs}"}, kind)
    text, _ = ran(sandbox, f"cat {secrets}/key; echo done")
    sandbox.close()
    assert SECRET not in text and "done" in text
    shutil.rmtree(programs)
    programs.symlink_to(os.path.relpath(secrets, programs.parent))
    sandbox = opened(base, {"PATH": f"{SYSTEM_PATH}:{programs}"}, kind)
    text, _ = ran(sandbox, f"cat {secrets}/key; echo done")
    sandbox.close()
    programs.unlink()
    assert SECRET not in text and "done" in text


@pytest.mark.parametrize("kind", ["bubblewrap", "landlock"])
def test_the_python_of_an_environment_in_the_workspace_is_shown(base, kind):
    python = base / "home" / "pythons" / "3.11"
    for part in ("bin", "lib/python3.11"):
        (python / part).mkdir(parents=True, exist_ok=True)
    (python / "lib/python3.11/os.py").write_text("shown")
    (python / "bin/python3.11").write_text("#!/bin/sh\n")
    programs = base / "home" / "src" / "project" / ".venv" / "bin"
    programs.mkdir(parents=True, exist_ok=True)
    (programs / "python").symlink_to(python / "bin/python3.11")
    sandbox = opened(base, {}, kind)
    text, _ = ran(sandbox, f"cat {python}/lib/python3.11/os.py")
    sandbox.close()
    (programs / "python").unlink()
    assert text == "shown"
