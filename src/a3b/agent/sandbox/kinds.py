"""The kinds of sandbox: bubblewrap, Landlock, none. `opening.open_sandbox` chooses one."""

from __future__ import annotations

import asyncio
import os
import shlex
import subprocess
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from a3b.agent.approvals import ApprovalRequest, Approver
from a3b.agent.sandbox.addresses import HostRule
from a3b.agent.sandbox.bubblewrap import MountPlan, mount_arguments
from a3b.agent.sandbox.describing import YOLO
from a3b.agent.sandbox.environment import plain_environment
from a3b.agent.sandbox.launching import Command, Launcher
from a3b.agent.sandbox.network import SandboxNetwork
from a3b.agent.sandbox.places import Places, open_places, own_code
from a3b.agent.sandbox.private_directory import HOLDER, PrivateDirectory
from a3b.agent.sandbox.protection import Protection
from a3b.agent.sandbox.sandbox import SandboxLimits, SandboxPolicy
from a3b.agent.sandbox.seccomp import filter_program
from a3b.errors import SandboxUnavailable, UsageError

PREFLIGHT_SECONDS, PREFLIGHT_TRIES = 20, 4
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty", "/dev/ptmx")


@dataclass(frozen=True)
class Surroundings:
    """environment: the user's variables; state: A3B_HOME; private: the sandbox's own directory; approver: None if
    there is nobody to ask."""

    environment: Mapping[str, str]
    state: Path
    private: PrivateDirectory
    approver: Approver | None = None

    @property
    def home(self) -> str:
        return self.environment.get("HOME") or "/root"


class LaunchingSandbox:
    """What all kinds have in common. notes: what this one does not hold, for the user."""

    name = ""
    mode = ""
    notes: tuple[str, ...] = ()

    def __init__(self, policy: SandboxPolicy, around: Surroundings, environment: Mapping[str, str]):
        self.policy, self._around, self._approver = policy, around, around.approver
        self._launcher = Launcher(around.private, self.mode, environment)

    def argv(self, command: Sequence[str], *, cwd: Path, env: Mapping[str, str] | None = None) -> list[str]:
        """A command line that runs `command` here, wherever it is started from, while the sandbox is open."""
        self._launcher.settings = self._settings()
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
        """Starts a command. Raises OSError if not even the process above it can be started, and SandboxUnavailable if
        the workspace is gone."""
        if not self.policy.workspace.is_dir():
            raise SandboxUnavailable(f"{self.policy.workspace} is gone: it is no directory any more")
        self._launcher.settings = await asyncio.to_thread(self._settings)  # looks through the workspace
        return await Command.start(self._launcher, command, cwd, env, limits or self.policy.limits, merge, has_stdin)

    async def ask_to_change(self, path: str, preview: Callable[[], Awaitable[str]] | None = None) -> str:
        """Asks the user if a path is protected, and shows him the change. "" if it may be changed from now on, else
        what the model is told."""
        workspace = self.policy.workspace
        protection = await asyncio.to_thread(self._protection)
        real = Path(os.path.realpath(workspace / path))
        protected = protection.covering(real) or protection.covering(Path(os.path.abspath(workspace / path)))
        if protected is None or not protected.is_relative_to(workspace):
            return ""
        name = str(protected.relative_to(workspace))
        request = ApprovalRequest(
            "protected_path",
            name,
            f"The agent changes {name}",
            why="it acts outside of the sandbox: on git, CI, editors, shells or agents",
            where=str(workspace),
            option=f"--allow-path {shlex.quote(name)}",
            diff="" if preview is None else await preview(),
            always=f"every later change of {name} by the agent, which you see only afterwards",
        )
        if self._approver is None or await self._approver.ask(request) == "no":
            return (
                f"{name} is protected, since {request.why}; the user has not allowed a change. "
                f"Tell the user what you would change; {request.option} allows it."
            )
        self.policy = replace(self.policy, permitted=(*self.policy.permitted, name))
        return ""

    def _protection(self) -> Protection:
        return Protection((), (), ())

    def close(self) -> None:
        """Removes the private files."""
        self._around.private.close()

    def _settings(self) -> dict[str, Any]:
        """Of the next launch: files of the workspace may have come and gone since the last."""
        return {"namespaces": None, "watch": [], "displaced": "", "roots": [str(self.policy.workspace)]}

    def _roots(self) -> tuple[Path, ...]:
        return (self.policy.workspace, *self.policy.writable)

    def _enclosing(self, has_mounts: bool) -> tuple[tuple[Path, ...], Protection, dict[str, Any]]:
        """The writable directories, what is protected in them, and settings to watch over it."""
        roots, protection = self._roots(), Protection.of(self._roots(), self.policy.permitted, own_code())
        settings = {
            "namespaces": None,
            "roots": [str(root) for root in roots],
            "watch": protection.watched(roots, has_mounts),
            "displaced": str(self._around.state / "agent" / "displaced" / self._launcher.next_name()),
        }
        return roots, protection, settings

    def _preflight(self) -> None:
        """Raises SandboxUnavailable if a command cannot run, or cannot write in the workspace."""
        command = self.argv(["sh", "-c", "test -w ."], cwd=self.policy.workspace)
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, timeout=PREFLIGHT_SECONDS, check=False, cwd="/"
            )
        except subprocess.TimeoutExpired:
            raise SandboxUnavailable(f"{self.name} did not start a command within {PREFLIGHT_SECONDS} s") from None
        except OSError as error:
            raise SandboxUnavailable(f"{command[0]}: {error.strerror or error}") from None
        said = (done.stdout + done.stderr).decode("utf-8", "replace").strip()[-500:]
        if done.returncode == 1 and not said:
            owner = self.policy.workspace.stat().st_uid
            raise UsageError(
                f"commands in the sandbox cannot write in {self.policy.workspace}, which belongs to user {owner}: "
                "start a3b code as that user, or change the owner"
            )
        if done.returncode:
            raise SandboxUnavailable(said or f"it ended with status {done.returncode}")


class NoSandbox(LaunchingSandbox):
    """Commands as the user himself would run them, but for limits on time, memory, processes and output."""

    name = mode = "none"
    notes = (YOLO,)

    def __init__(self, policy: SandboxPolicy, around: Surroundings):
        super().__init__(policy, around, around.environment)


class BubblewrapSandbox(LaunchingSandbox):
    """Commands in namespaces of their own, with mounts that show and hide."""

    name = mode = "bubblewrap"

    def __init__(
        self,
        policy: SandboxPolicy,
        around: Surroundings,
        program: str,
        rules: tuple[HostRule, ...],
    ):
        """Raises SandboxUnavailable if `program` cannot make what it has to."""
        self._program = program
        self._places = Places.of(around.environment, around.state, (policy.workspace, *policy.writable), policy.hidden)
        self._mounted = self._places
        self._network = SandboxNetwork(program, around.private.code.parent / HOLDER, rules, around.approver)
        plain = plain_environment(around.environment, around.home, "/tmp")
        super().__init__(policy, around, {**plain, **self._network.environment()})
        (around.private.path / "seccomp").write_bytes(filter_program(has_own_network=True))
        try:
            self._preflight()
        except BaseException:
            self._network.close()
            raise

    def _preflight(self) -> None:
        for tries_left in reversed(range(PREFLIGHT_TRIES)):
            try:
                return super()._preflight()
            except SandboxUnavailable:
                if not tries_left or self._mounted == self._places.present():
                    raise  # else something went while it was mounted over

    def _protection(self) -> Protection:
        return Protection.of(self._roots(), self.policy.permitted, own_code())

    def _settings(self) -> dict[str, Any]:
        roots, protection, settings = self._enclosing(has_mounts=True)
        private = self._around.private.path
        self._mounted = self._places.present()
        readable = tuple(path for path in self.policy.readable if path.exists())
        plan = MountPlan(roots, readable, self._mounted, protection, private)
        return {
            **settings,
            "program": self._program,
            "arguments": mount_arguments(plan),
            "seccomp": str(private / "seccomp"),
            "namespaces": self._network.pid,
        }

    async def start(self, *args: Any, **options: Any) -> Command:
        """As that of all kinds; questions about hosts are asked in the loop that this is called from."""
        self._network.listen_to(asyncio.get_running_loop())
        return await super().start(*args, **options)

    def close(self) -> None:
        """Ends the network, and removes the private files."""
        self._network.close()
        super().close()


class LandlockSandbox(LaunchingSandbox):
    """Commands that the kernel denies all but some places, in the namespaces of everybody."""

    name = mode = "landlock"

    def __init__(self, policy: SandboxPolicy, around: Surroundings, rules: tuple[HostRule, ...], obstacle: str):
        """obstacle: why it is not bubblewrap. Raises SandboxUnavailable if it does not work, UsageError for hosts."""
        if rules:
            raise UsageError(
                f"hosts cannot be allowed here, since this sandbox (Landlock) has no network of its own: {obstacle}"
            )
        self._places = Places.of(around.environment, around.state, (policy.workspace, *policy.writable), policy.hidden)
        private = around.private.path
        plain = plain_environment(around.environment, str(private / "home"), str(private / "tmp"))
        super().__init__(policy, around, plain)
        (private / "seccomp").write_bytes(filter_program(has_own_network=False))
        self._readable = [str(path) for path in open_places(self._places)]
        self.notes = (
            f"the weaker sandbox (Landlock), because {obstacle}",
            "with it, commands have no sockets at all; $TMPDIR stands for /tmp; protected files can be changed while a "
            "command runs, and are put back when it ends; names and sizes of hidden files, and the command lines of "
            "other processes, can be seen",
        )
        self._preflight()

    def _protection(self) -> Protection:
        return Protection.of(self._roots(), self.policy.permitted, own_code())

    def _settings(self) -> dict[str, Any]:
        roots, protection, settings = self._enclosing(has_mounts=False)
        private = self._around.private.path
        writable = [*roots, *protection.writable, private / "home", private / "tmp"]
        return {
            **settings,
            "seccomp": str(private / "seccomp"),
            "readable": [*self._readable, *map(str, self.policy.readable)],
            "writable": [str(path) for path in writable],
            "devices": list(DEVICES),
        }
