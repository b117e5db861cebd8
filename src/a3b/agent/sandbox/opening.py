"""Opens the sandbox that works on this machine: bubblewrap, else Landlock, else none. Enter at `open_sandbox`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from a3b.agent.approvals import Approver
from a3b.agent.sandbox.addresses import HostRule
from a3b.agent.sandbox.bubblewrap import find_programs
from a3b.agent.sandbox.environment import path_outside
from a3b.agent.sandbox.help import way_to_bubblewrap
from a3b.agent.sandbox.kinds import BubblewrapSandbox, LandlockSandbox, NoSandbox, Surroundings
from a3b.agent.sandbox.places import check_workspace
from a3b.agent.sandbox.private_directory import PrivateDirectory
from a3b.agent.sandbox.restrictions import LEAST_VERSION, landlock_version
from a3b.agent.sandbox.sandbox import Sandbox, SandboxPolicy
from a3b.errors import SandboxUnavailable
from a3b.settings import RuntimeConfig, process_environment

KINDS = ("bubblewrap", "landlock")  # best first
_failed: dict[str, str] = {}  # what did not work in this process, and why


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
    programs = find_programs(path)
    for program in programs if "bubblewrap" in kinds else ():
        if program not in _failed:
            try:
                return BubblewrapSandbox(policy, around, program, rules)
            except SandboxUnavailable as error:
                _failed[program] = str(error)
    obstacle, command = way_to_bubblewrap(programs[0] if programs else None)
    if said := "; ".join(f"{program}: {_failed[program]}" for program in programs if program in _failed):
        obstacle = f"{obstacle} ({said})"
    if "landlock" in kinds and "landlock" not in _failed:
        try:
            if landlock_version() < LEAST_VERSION:
                raise SandboxUnavailable("the kernel has no Landlock of version 3, which came with Linux 6.2")
            return LandlockSandbox(policy, around, rules, f"{obstacle}; for the full sandbox: {command}")
        except SandboxUnavailable as error:
            _failed["landlock"] = str(error)
    raise SandboxUnavailable(
        f"no sandbox works here: {obstacle}; {_failed.get('landlock', '')}. "
        f"What helps: {command}\nOr run without a sandbox: --yolo"
    )
