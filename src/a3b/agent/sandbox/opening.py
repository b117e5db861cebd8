"""Opens the sandbox that works on this machine: bubblewrap, else Landlock, else none. Enter at `open_sandbox`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from a3b.agent.approvals import Approver
from a3b.agent.sandbox.addresses import HostRule
from a3b.agent.sandbox.bubblewrap import find_programs
from a3b.agent.sandbox.environment import path_outside
from a3b.agent.sandbox.help import last_line, way_to_bubblewrap
from a3b.agent.sandbox.kinds import BubblewrapSandbox, LandlockSandbox, NoSandbox, Surroundings
from a3b.agent.sandbox.places import check_workspace
from a3b.agent.sandbox.private_directory import PrivateDirectory
from a3b.agent.sandbox.restrictions import LEAST_VERSION, landlock_version
from a3b.agent.sandbox.sandbox import Sandbox, SandboxPolicy
from a3b.errors import SandboxUnavailable
from a3b.settings import RuntimeConfig, process_environment

KINDS = ("bubblewrap", "landlock")  # best first
QUICK_S = 1.0  # what fails so soon is tried again by every opening: it may have been the workspace, or the moment
PAUSE_S = 60.0  # before another try of what failed slowly; MCP servers are opened one after the other
_slow: dict[str, tuple[str, float]] = {}  # what failed slowly in this process: why, and when it is tried again


def open_sandbox(
    policy: SandboxPolicy,
    *,
    yolo: bool = False,
    approver: Approver | None = None,
    home: Path | None = None,
    environment: Mapping[str, str] | None = None,
    kinds: tuple[str, ...] = KINDS,
) -> Sandbox:
    """The best sandbox that works here; close it at the end.

    yolo: none at all; approver: is asked about hosts that the policy does not name, and about protected files; home:
    A3B_HOME; environment: of the user, of which commands get a plain part; kinds: to choose from. Raises
    SandboxUnavailable if nothing can hold commands here, or not in this workspace, and UsageError for a host that is
    none."""
    environment = process_environment() if environment is None else environment
    state = (home or Path(RuntimeConfig.from_env(environment).home)).expanduser().resolve()
    policy = replace(
        policy,
        workspace=policy.workspace.resolve(),
        writable=tuple(path.resolve() for path in policy.writable),
        readable=tuple(path.resolve() for path in policy.readable),
        hidden=tuple(path.resolve() for path in policy.hidden),
    )
    rules = tuple(HostRule.parse(host) for host in policy.hosts)
    if not policy.workspace.is_dir():
        raise SandboxUnavailable(f"{policy.workspace} is no directory")
    user_home = Path(environment.get("HOME") or "/root").resolve()
    for path in () if yolo else (policy.workspace, *policy.writable):
        check_workspace(path, user_home, state)
    programs = path_outside(environment.get("PATH", ""), (policy.workspace, *policy.writable))
    try:
        private = PrivateDirectory.make(state, {**environment, "PATH": programs})
    except OSError as error:
        raise SandboxUnavailable(
            f"{state}: {error.strerror or error}; commands get their files there, give another A3B_HOME"
        ) from None
    around = Surroundings(environment, state, private, approver)
    try:
        return NoSandbox(policy, around) if yolo else _best(policy, around, rules, kinds, programs)
    except BaseException:
        private.close()
        raise


def _best(
    policy: SandboxPolicy,
    around: Surroundings,
    rules: tuple[HostRule, ...],
    kinds: tuple[str, ...],
    path: str,
) -> Sandbox:
    """path: where bubblewrap may be, which runs outside of it."""
    failures = dict.fromkeys(find_programs(path), "")
    for program in failures if "bubblewrap" in kinds else ():
        found = _tried(program, partial(BubblewrapSandbox, policy, around, program, rules))
        if not isinstance(found, str):
            return found
        failures[program] = found
    obstacle, command = way_to_bubblewrap(failures)
    obstacles = [obstacle]
    if "landlock" in kinds and landlock_version() < LEAST_VERSION:
        obstacles.append("the kernel has no Landlock of version 3, which came with Linux 6.2")
    elif "landlock" in kinds:
        note = f"{obstacle}; for the full sandbox: {command}"
        found = _tried("landlock", partial(LandlockSandbox, policy, around, rules, note))
        if not isinstance(found, str):
            return found
        obstacles.append(f"Landlock: {last_line(found)}")
    raise SandboxUnavailable(
        f"no sandbox works here: {'; '.join(obstacles)}. What helps: {command}\nOr run without a sandbox: --yolo"
    )


def _tried(name: str, make: Callable[[], Sandbox]) -> Sandbox | str:
    """What `make` gives, or why it does not work."""
    why, pause_ends = _slow.get(name, ("", 0.0))
    began = time.monotonic()
    if began < pause_ends:
        return why
    try:
        return make()
    except SandboxUnavailable as error:
        why, ended = str(error), time.monotonic()
    if ended - began > QUICK_S:
        _slow[name] = why, ended + PAUSE_S
    return why
