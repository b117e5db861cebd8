"""System calls that no command gets, as a program for the kernel's filter. Enter at `filter_program`.

Refused are those that reach other processes, change mounts and namespaces, load code into the kernel, or open sockets
of families that lead around the network namespace. A refused call fails with EPERM; calls whose arguments lie in
memory, where a filter cannot look, fail with ENOSYS, so that libraries fall back to older ones. Numbers: the kernel's
tables of system calls for x86-64, and its generic table for aarch64."""

from __future__ import annotations

import errno
import platform
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass

from a3b.errors import SandboxUnavailable

ALLOW, KILL, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
LOAD, EQUAL, ABOVE, ANY_BIT, AND, RETURN = 0x20, 0x15, 0x25, 0x45, 0x54, 0x06
NUMBER, ARCHITECTURE = 0, 4  # offsets in struct seccomp_data
X32_BIT = 0x40000000
NAMESPACES = 0x7E020080  # all CLONE_NEW... flags
SET_ID_BITS = 0o6000
O_CREAT, O_TMPFILE = 0o100, 0o20000000
TIOCSTI, TIOCLINUX = 0x5412, 0x541C

REFUSED: dict[str, tuple[int, int]] = {  # name: (x86-64, aarch64); -1 where there is none
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "pidfd_getfd": (438, 438),
    "kcmp": (312, 272),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "open_tree_attr": (467, 467),
    "setns": (308, 268),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "fanotify_init": (300, 262),
    "open_by_handle_at": (304, 265),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "syslog": (103, 116),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "adjtimex": (159, 171),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "iopl": (172, -1),
    "ioperm": (173, -1),
    "vhangup": (153, 58),
    "nfsservctl": (180, 42),
    "lookup_dcookie": (212, 18),
}
ABSENT: dict[str, tuple[int, int]] = {
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "clone3": (435, 435),
    "openat2": (437, 437),
}
CLONE, UNSHARE, SOCKET, SOCKETPAIR, IOCTL = (56, 220), (272, 97), (41, 198), (53, 199), (16, 29)
MODE_ARGUMENTS: dict[str, tuple[tuple[int, int], int]] = {  # calls that may set the bits of set-user-ID programs
    "chmod": ((90, -1), 1),
    "fchmod": ((91, 52), 1),
    "fchmodat": ((268, 53), 2),
    "fchmodat2": ((452, 452), 2),
    "creat": ((85, -1), 1),
    "mknod": ((133, -1), 1),
    "mknodat": ((259, 33), 2),
}
OPENING: dict[str, tuple[tuple[int, int], int]] = {"open": ((2, -1), 1), "openat": ((257, 56), 2)}  # flags; then mode
ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column above, AUDIT_ARCH_...


@dataclass(frozen=True)
class _Jump:
    """One instruction: after it, on true, skip `true` instructions, on false `false`."""

    code: int
    value: int
    true: int = 0
    false: int = 0


def refusal(number: int) -> int:
    """The verdict that makes a call fail with an errno."""
    return ERRNO | number


def filter_program(has_own_network: bool, machine: str | None = None) -> bytes:
    """The filter as an array of struct sock_filter.

    has_own_network: whether commands have a network namespace of their own, so that sockets lead nowhere; without one
    they get no sockets but pairs. Raises SandboxUnavailable for an unknown processor."""
    machine = machine or platform.machine()
    if machine not in ARCHITECTURES:
        raise SandboxUnavailable(f"no filter of system calls for {machine}; known are {', '.join(ARCHITECTURES)}")
    column, architecture = ARCHITECTURES[machine]
    program = [
        _Jump(LOAD, ARCHITECTURE),
        _Jump(EQUAL, architecture, 1, 0),
        _Jump(RETURN, KILL),
        _Jump(LOAD, NUMBER),
    ]
    if machine == "x86_64":
        program += [_Jump(ANY_BIT, X32_BIT, 0, 1), _Jump(RETURN, refusal(errno.ENOSYS))]

    def rule(numbers: tuple[int, int], body: Callable[[], list[_Jump]]) -> None:
        if numbers[column] >= 0:
            steps = [*body(), _Jump(RETURN, ALLOW)]
            program.extend([_Jump(EQUAL, numbers[column], 0, len(steps)), *steps])

    for table, number in (REFUSED, errno.EPERM), (ABSENT, errno.ENOSYS):
        for numbers in table.values():
            rule(numbers, lambda number=number: [_Jump(RETURN, refusal(number))])  # type: ignore[misc]  # its default
    rule(CLONE, lambda: _refuse_bits(0, NAMESPACES))
    rule(UNSHARE, lambda: _refuse_bits(0, NAMESPACES))
    rule(IOCTL, lambda: _refuse_values(1, TIOCSTI, TIOCLINUX))
    rule(SOCKET, lambda: _socket_rule(has_own_network))
    rule(SOCKETPAIR, lambda: _only_values(0, socket.AF_UNIX))
    for numbers, argument in MODE_ARGUMENTS.values():
        rule(numbers, lambda argument=argument: _refuse_bits(argument, SET_ID_BITS))  # type: ignore[misc]  # its default
    for numbers, flags in OPENING.values():
        rule(numbers, lambda flags=flags: _opening_rule(flags))  # type: ignore[misc]  # its default
    program.append(_Jump(RETURN, ALLOW))
    return b"".join(struct.pack("=HBBI", step.code, step.true, step.false, step.value) for step in program)


def _low(argument: int) -> _Jump:
    """Loads the lower half of an argument, which is all that the kernel reads of flags and modes."""
    return _Jump(LOAD, 16 + 8 * argument)


def _refuse_bits(argument: int, bits: int) -> list[_Jump]:
    return [_low(argument), _Jump(ANY_BIT, bits, 0, 1), _Jump(RETURN, refusal(errno.EPERM))]


def _refuse_values(argument: int, *values: int) -> list[_Jump]:
    steps = [_low(argument)]
    for value in values:
        steps += [_Jump(EQUAL, value, 0, 1), _Jump(RETURN, refusal(errno.EPERM))]
    return steps


def _only_values(argument: int, *values: int) -> list[_Jump]:
    steps = [_low(argument)]
    for value in values:
        steps += [_Jump(EQUAL, value, 0, 1), _Jump(RETURN, ALLOW)]
    return [*steps, _Jump(RETURN, refusal(errno.EACCES))]


def _socket_rule(has_own_network: bool) -> list[_Jump]:
    """Without a network of their own, commands could reach the world, and the sockets of other programs by path."""
    if not has_own_network:
        return [_Jump(RETURN, refusal(errno.EACCES))]
    # programs ask the routing socket for the machine's addresses; here it knows of the loopback only
    route = [_low(0), _Jump(EQUAL, socket.AF_NETLINK, 0, 3), _low(2), _Jump(EQUAL, 0, 0, 1), _Jump(RETURN, ALLOW)]
    return [*route, *_only_values(0, socket.AF_UNIX, socket.AF_INET, socket.AF_INET6)]


def _opening_rule(flags: int) -> list[_Jump]:
    return [
        _low(flags),
        _Jump(ANY_BIT, O_CREAT | O_TMPFILE, 0, 3),
        _low(flags + 1),
        _Jump(ANY_BIT, SET_ID_BITS, 0, 1),
        _Jump(RETURN, refusal(errno.EPERM)),
    ]
