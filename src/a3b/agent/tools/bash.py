"""The tool that runs commands. Enter at `bash_text`, `BashTool`."""

from __future__ import annotations

import signal
from contextlib import suppress

from a3b.agent.sandbox.sandbox import CommandOutcome


def bash_text(printed: str, outcome: CommandOutcome, seconds: float = 0.0) -> str:
    """What the model reads of a command. printed: its clean output, cut; seconds: the time limit it had."""
    ended = ended_text(outcome, seconds)
    printed = printed.removesuffix("\n")
    return "\n".join(part for part in (printed, ended) if part) or "[no output]"


def ended_text(outcome: CommandOutcome, seconds: float = 0.0) -> str:
    """How a command ended, in brackets; "" for one that succeeded."""
    if outcome.ended_by == "time":
        return f"[stopped after {seconds:g} s; a longer timeout or background lets it go on]"
    if outcome.ended_by == "memory":
        return "[killed: out of the memory that a command may use]"
    if outcome.ended_by == "output":
        return "[stopped: it printed more than a command may]"
    if outcome.ended_by == "stop":
        return "[stopped by the user]"
    if outcome.status == 0:
        return ""
    number = -outcome.status if outcome.status < 0 else outcome.status - 128
    with suppress(ValueError):
        name = signal.Signals(number).name
        return f"[ended by {name}]" if outcome.status < 0 else f"[exit status {outcome.status}, {name}]"
    return f"[exit status {outcome.status}]"
