"""Opens the sandbox that works on this machine. Enter at `open_sandbox`."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from a3b.agent.sandbox.bubblewrap import MountPlan, find_program, mount_arguments
from a3b.agent.sandbox.environment import plain_environment
from a3b.agent.sandbox.launching import Command, Launcher
from a3b.agent.sandbox.places import Places, check_workspace
from a3b.agent.sandbox.private_directory import PrivateDirectory
from a3b.agent.sandbox.protection import Protection
from a3b.agent.sandbox.sandbox import Sandbox, SandboxLimits, SandboxPolicy
from a3b.agent.sandbox.seccomp import filter_program
from a3b.errors import SandboxUnavailable
from a3b.settings import RuntimeConfig, process_environment

PREFLIGHT_SECONDS = 20


def open_sandbox(
    policy: SandboxPolicy,
    *,
    yolo: bool = False,
    home: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Sandbox:
    """The sandbox for a policy; close it at the end.

    yolo: none at all; home: A3B_HOME; environment: of the user, of which commands get a plain part. Raises
    SandboxUnavailable if nothing can hold commands here, or not in this workspace, and OSError."""
    environment = process_environment() if environment is None else environment
    state = (home or Path(RuntimeConfig.from_env(environment).home)).expanduser().resolve()
    policy = replace(
        policy,
        workspace=policy.workspace.resolve(),
        writable=tuple(path.resolve() for path in policy.writable),
        readable=tuple(path.resolve() for path in policy.readable),
    )
    if yolo:
        return NoSandbox(policy, PrivateDirectory.make(state, environment), environment)
    user_home = Path(environment.get("HOME") or "/root").resolve()
    for path in (policy.workspace, *policy.writable):
        check_workspace(path, user_home, state)
    program = find_program(environment.get("PATH", ""))
    if program is None:
        raise SandboxUnavailable("no bwrap")
    return BubblewrapSandbox(policy, PrivateDirectory.make(state, environment), environment, state, program)


class _LaunchingSandbox:
    """What all sandboxes have in common: a launcher, and a private directory."""

    name = ""

    def __init__(self, policy: SandboxPolicy, private: PrivateDirectory, launcher: Launcher):
        self.policy, self._private, self._launcher = policy, private, launcher

    def argv(self, command: Sequence[str], *, cwd: Path, env: Mapping[str, str] | None = None) -> list[str]:
        """A command line that runs `command` here, wherever it is started from, while the sandbox is open."""
        return self._launcher.argv(command, cwd, env, replace(self.policy.limits, seconds=None, output=None))[0]

    async def start(
        self,
        command: Sequence[str],
        *,
        cwd: Path,
        env: Mapping[str, str] | None = None,
        limits: SandboxLimits | None = None,
        merge: bool = True,
        has_stdin: bool = False,
    ) -> Command:
        """Starts a command. Raises OSError if not even its supervisor can be started."""
        return await Command.start(self._launcher, command, cwd, env, limits or self.policy.limits, merge, has_stdin)

    def permit(self, path: str) -> None:
        """Lets commands that start from now on change a protected path, relative to the workspace."""
        self.policy = replace(self.policy, permitted=(*self.policy.permitted, path))
        self._configure()

    def close(self) -> None:
        """Removes the private files."""
        self._private.close()

    def _configure(self) -> None:
        raise NotImplementedError


class NoSandbox(_LaunchingSandbox):
    """Commands as the user himself would run them, but for limits on time, memory, processes and output."""

    name = "none"

    def __init__(self, policy: SandboxPolicy, private: PrivateDirectory, environment: Mapping[str, str]):
        super().__init__(policy, private, Launcher(private, "none", environment))
        self._configure()

    def _configure(self) -> None:
        self._launcher.settings = {"namespaces": None}


class BubblewrapSandbox(_LaunchingSandbox):
    """Commands in namespaces of their own, with mounts that show and hide."""

    name = "bubblewrap"

    def __init__(
        self,
        policy: SandboxPolicy,
        private: PrivateDirectory,
        environment: Mapping[str, str],
        state: Path,
        program: str,
    ):
        self._program = program
        self._places = Places.of(environment, state, policy.workspace)
        plain = plain_environment(environment, environment.get("HOME") or "/root", "/tmp")
        super().__init__(policy, private, Launcher(private, "bubblewrap", plain))
        (private.path / "seccomp").write_bytes(filter_program(has_own_network=True))
        self._configure()
        self._preflight()

    def _configure(self) -> None:
        roots = (self.policy.workspace, *self.policy.writable)
        protection = Protection.of(roots, self.policy.permitted)
        layout = MountPlan(roots, self.policy.readable, self._places, protection, self._private.path)
        self._launcher.settings = {
            "program": self._program,
            "arguments": [*mount_arguments(layout), "--unshare-net"],
            "seccomp": str(self._private.path / "seccomp"),
            "namespaces": None,
            "roots": [str(root) for root in roots],
        }

    def _preflight(self) -> None:
        command = self.argv(["true"], cwd=self.policy.workspace)
        done = subprocess.run(command, capture_output=True, timeout=PREFLIGHT_SECONDS, check=False, cwd="/")
        if done.returncode:
            raise SandboxUnavailable(f"bubblewrap does not work here: {done.stderr.decode(errors='replace')[:500]}")
