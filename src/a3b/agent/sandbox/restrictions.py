"""What a process does to itself where bubblewrap does not work: Landlock, a filter of system calls, no capabilities.

By raw system calls, standard library only. Source: the kernel's Documentation/userspace-api/landlock.rst. Enter at
`restrict`."""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from collections.abc import Sequence

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
LANDLOCK_VERSION = 1
RULE_PATH = 1
PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, PR_CAPBSET_DROP = 22, 38, 24
SECCOMP_MODE_FILTER = 2
CAPSET = {"x86_64": 126, "aarch64": 91}
CAPABILITIES_VERSION = 0x20080522

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1, 2, 4, 8
REMOVE_DIR, REMOVE_FILE, MAKE_CHAR, MAKE_DIR, MAKE_REG, MAKE_SOCK, MAKE_FIFO, MAKE_BLOCK, MAKE_SYM = (
    1 << bit for bit in range(4, 13)
)
REFER, TRUNCATE, IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
READ = EXECUTE | READ_FILE | READ_DIR
MAKE = REMOVE_DIR | REMOVE_FILE | MAKE_DIR | MAKE_REG | MAKE_SOCK | MAKE_FIFO | MAKE_SYM
WRITE = READ | MAKE | WRITE_FILE | REFER | TRUNCATE
OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV
ALL_RIGHTS = (1 << 16) - 1
TCP = 0b11  # bind and connect
SCOPES = 0b11  # abstract sockets and signals
LEAST_VERSION = 3  # before it, files could be truncated

libc = ctypes.CDLL(None, use_errno=True)


def landlock_version() -> int:
    """0 where the kernel has no Landlock."""
    return max(int(libc.syscall(CREATE_RULESET, None, ctypes.c_size_t(0), LANDLOCK_VERSION)), 0)


def restrict(readable: Sequence[str], writable: Sequence[str], devices: Sequence[str], program: bytes) -> None:
    """Leaves this process and all that it starts only the named places, and no system call that `program` refuses.

    devices: files that can be read and written. Raises OSError."""
    _check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    version = landlock_version()
    handled = ALL_RIGHTS if version >= 5 else ALL_RIGHTS & ~IOCTL_DEV
    fields = struct.pack("=QQQ", handled, TCP if version >= 4 else 0, SCOPES if version >= 6 else 0)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    ruleset = _check(libc.syscall(CREATE_RULESET, fields, ctypes.c_size_t(size), 0), "Landlock")
    for places, rights in (readable, READ), (writable, WRITE), (devices, READ_FILE | WRITE_FILE | TRUNCATE | IOCTL_DEV):
        for place in places:
            _allow(ruleset, place, rights & handled)
    _drop_capabilities()
    _check(libc.syscall(RESTRICT_SELF, ruleset, 0), "Landlock")
    os.close(ruleset)
    buffer = ctypes.create_string_buffer(program, len(program))
    filter_ = struct.pack("@HP", len(program) // 8, ctypes.addressof(buffer))
    _check(libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, filter_, 0, 0), "seccomp")


def _allow(ruleset: int, place: str, rights: int) -> None:
    try:
        handle = os.open(place, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # gone meanwhile, or out of reach anyhow
    try:
        if not stat.S_ISDIR(os.fstat(handle).st_mode):
            rights &= OF_FILES
        rule = struct.pack("=Qi", rights, handle)
        _check(libc.syscall(ADD_RULE, ruleset, RULE_PATH, rule, 0), f"Landlock rule for {place}")
    finally:
        os.close(handle)


def _drop_capabilities() -> None:
    """Root keeps its name and the files that belong to it, but no power over others."""
    for capability in range(64):
        libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
    header = struct.pack("=Ii", CAPABILITIES_VERSION, 0)
    _check(libc.syscall(CAPSET[os.uname().machine], header, bytes(24)), "capset")


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result
