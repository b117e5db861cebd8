"""How many threads NumPy's BLAS may use.

OpenBLAS splits products that are far too small for it: with a3b-nano on two idle cores a second thread gains a few
percent, and beside one busy neighbour its waiting makes the model 5 to 20 times slower (compare `--threads 1` and
`--threads 2` of bench/nano_speed.py). So a process that runs a small model should ask for one thread. This sets the
whole process; nothing happens on import.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy  # noqa: F401  loads its BLAS

SETTERS = ("scipy_openblas_set_num_threads64_", "openblas_set_num_threads64_", "openblas_set_num_threads")


def set_blas_threads(num: int) -> bool:
    """Limit the OpenBLAS that NumPy has loaded; False if there is none to be found (another BLAS, not Linux)."""
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
