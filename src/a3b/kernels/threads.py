"""A limit on the threads of NumPy's BLAS."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy  # noqa: F401  loads its BLAS

SETTERS = ("scipy_openblas_set_num_threads64_", "openblas_set_num_threads64_", "openblas_set_num_threads")


def set_blas_threads(num: int) -> bool:
    """Limit the OpenBLAS that NumPy has loaded, for the whole process; False if it is not found.

    OpenBLAS splits products that are far too small for it, and next to a busy process its waiting makes a small model
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
