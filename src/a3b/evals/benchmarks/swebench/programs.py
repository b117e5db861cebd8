"""Programs of this machine that are asked for something and answer soon. Enter at `run_program`."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path


def run_program(
    command: Sequence[str],
    seconds: float = 120,
    *,
    cwd: str | Path = "/",
    environment: Mapping[str, str] | None = None,
    given: str | None = None,
) -> subprocess.CompletedProcess[str]:
    """Runs a program with `given` on its stdin. Bytes that are no UTF-8 are escaped as in names of files.

    Raises OSError and subprocess.TimeoutExpired, after which it is gone."""
    return subprocess.run(
        command,
        input=given or "",
        capture_output=True,
        encoding="utf-8",
        errors="surrogateescape",
        timeout=seconds,
        check=False,
        cwd=cwd,
        env=environment,
    )
