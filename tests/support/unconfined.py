"""A sandbox that confines nothing, for tests of who asks for one and what is started in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from a3b.agent.sandbox.sandbox import SandboxPolicy
from tests.support.bare_sandbox import BareProcess, BareSandbox


class Unconfined(BareSandbox):
    """commands: command, directory and environment of each start; made: (policy, whether it confines nothing,
    environment) of those that were asked for."""

    def __init__(self, policy: SandboxPolicy):
        super().__init__(policy.workspace)
        self.policy = policy
        self.commands: list[tuple[list[str], Path, dict[str, str]]] = []
        self.made: list[tuple[SandboxPolicy, bool, Mapping[str, str]]] = []

    def make(self, policy: SandboxPolicy, yolo: bool, environment: Mapping[str, str]) -> Unconfined:
        self.made.append((policy, yolo, environment))
        return self

    def permit(self, path: str) -> None:
        pass

    def close(self) -> None:
        pass

    def argv(self, command: Sequence[str], *, cwd: Path, env: Mapping[str, str] | None = None) -> list[str]:
        return list(command)

    async def start(
        self, command: Sequence[str], *, cwd: Path, env: Mapping[str, str] | None = None, **options: Any
    ) -> BareProcess:
        self.commands.append((list(command), cwd, dict(env or {})))
        return await super().start(command, cwd=cwd, env=env, **options)
