"""What a sandbox allows, in lines for people. Enter at `describe`."""

from __future__ import annotations

from a3b.agent.sandbox.sandbox import Sandbox

YOLO = "no sandbox: commands can read, change, delete and send all that you can, with only time and memory limited"


def describe(sandbox: Sandbox) -> list[str]:
    """The policy that holds, a line for each kind of thing."""
    policy, limits = sandbox.policy, sandbox.policy.limits
    if sandbox.name == "none":
        return [YOLO]
    places = ", ".join(str(path) for path in (policy.workspace, *policy.writable))
    asked = "; others are asked about" if sandbox.name == "bubblewrap" else ""
    lines = [
        f"sandbox: {sandbox.name}",
        f"writes: {places}, and its own home and /tmp",
        "reads: the system, and toolchains on PATH; not homes, keys, sockets, and the state of a3b",
        f"protected: git hooks and settings, CI, editors, agents{_but(policy.permitted)}",
        f"network: {', '.join(policy.hosts) or 'none'}{asked}",
        f"limits: {limits.processes} processes, files of {limits.file >> 20:,} MiB, "
        + (f"{limits.memory >> 20:,} MiB of memory" if limits.memory else "memory that is free, less a reserve"),
    ]
    return [*lines, *sandbox.notes]


def _but(permitted: tuple[str, ...]) -> str:
    return f" (allowed: {', '.join(permitted)})" if permitted else ""
