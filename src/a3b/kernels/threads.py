"""How many threads may compute: cores this process may use, and a limit on those of NumPy's BLAS."""

from __future__ import annotations

import ctypes
import math
import os
from pathlib import Path

import numpy  # noqa: F401  loads its BLAS

SETTERS = ("scipy_openblas_set_num_threads64_", "openblas_set_num_threads64_", "openblas_set_num_threads")


def allowed_cores(root: Path = Path("/")) -> int:
    """Physical cores in this process's affinity mask, at most what the control group's time limit pays for."""
    cpus = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    cores = {_siblings(root, cpu) for cpu in cpus}
    return max(1, math.ceil(min(len(cores), cpu_quota(root))))


def cpu_quota(root: Path = Path("/")) -> float:
    """Cores' worth of time that the control group allows, version 1 or 2; infinite if it sets no limit."""
    quotas = [math.inf]
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = (line.split(":", 2) + ["", ""])[:3]
        if controllers == "":  # version 2: every level may set a limit
            base = root / "sys/fs/cgroup"
            for level in [base / path.strip("/"), *(base / path.strip("/")).parents]:
                quotas.append(_ratio(_text(level / "cpu.max").split()))
                if level == base:
                    break
        elif "cpu" in controllers.split(","):
            for base in (root / "sys/fs/cgroup/cpu" / path.strip("/"), root / "sys/fs/cgroup/cpu"):
                quotas.append(_ratio([_text(base / "cpu.cfs_quota_us").strip(), _text(base / "cpu.cfs_period_us").strip()]))
    return min(quotas)


def _ratio(words: list[str]) -> float:
    try:
        quota, period = (int(word) for word in words)
    except ValueError:
        return math.inf
    return quota / period if quota > 0 and period > 0 else math.inf


def _siblings(root: Path, cpu: int) -> str:
    """What tells a physical core: the list of its hardware threads."""
    return _text(root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").strip() or str(cpu)


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def set_blas_threads(num: int) -> bool:
    """Limit the OpenBLAS that NumPy has loaded, for the whole process; False if there is none to be found.

    OpenBLAS splits products that are far too small for it, and beside a busy neighbour its waiting makes a small model
    5 to 20 times slower."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return False
    found = False
    for path in sorted({line.split(maxsplit=5)[-1] for line in lines if "openblas" in line}):
        library = ctypes.CDLL(path)
        for name in SETTERS:
            if setter := getattr(library, name, None):
                setter.argtypes, setter.restype = (ctypes.c_int,), None
                setter(num)
                found = True
                break
    return found
