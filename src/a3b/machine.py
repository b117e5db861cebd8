"""What this machine lets a process use: cores and memory, after affinity and control groups of version 1 and 2, and
what of its processors others take meanwhile.

A container is limited at every level of its group's path, so all visible levels are read. Files that the kernel can
drop, mapped weights among them, count as free. Everything is read below `root`, so that tests can build a machine.
Measures no speed. Enter at `Machine.read`, `OtherWork`."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

NO_LIMIT = 1 << 62  # version 1 writes about this number for no limit
LEAST_LOOK_S = 1.0  # ticks of the kernel say nothing of less
TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Machine:
    """Cores and memory: the smaller of what exists and what is allowed."""

    num_cpus: int  # logical processors the process may run on
    num_cores: int  # cores that these belong to
    cpu_quota: float | None  # CPU time granted by a control group, in processors
    memory_bytes: int  # available without taking memory from other processes
    total_memory_bytes: int
    memory_limit: str | None  # path of the control group that sets memory_bytes, if one does

    @classmethod
    def read(cls, root: Path = Path("/"), cpus: Sequence[int] | None = None) -> Machine:
        """Read the machine. cpus: those of the affinity mask; None asks the kernel."""
        cpus = sorted(os.sched_getaffinity(0) if cpus is None else cpus)
        free, total = _meminfo(root)
        limit = None
        for group, headroom in memory_limits(root):
            if headroom < free:
                free, limit = headroom, str(group)
        quota = min(cpu_quotas(root), default=None)
        return cls(len(cpus), _num_cores(root, cpus), quota, max(free, 0), total, limit)

    @property
    def num_threads(self) -> int:
        """Threads for kernels bound by memory or vector units: one per core, at most the quota."""
        granted = self.num_cores if self.cpu_quota is None else int(self.cpu_quota)
        return max(1, min(self.num_cores, granted))


def cache_bytes(root: Path = Path("/")) -> int:
    """Of the last cache before memory, which cores and other guests may share; 0 where the system does not say."""
    sizes = (root / "sys/devices/system/cpu/cpu0/cache").glob("index*/size")
    return max((_cache_size(size) for size in sizes), default=0)


def _cache_size(path: Path) -> int:
    try:
        text = path.read_text(encoding="ascii").strip()
        return int(text.removesuffix("K").removesuffix("M")) << {"K": 10, "M": 20}.get(text[-1:], 0)
    except (OSError, ValueError):
        return 0


def processor_name(root: Path = Path("/")) -> str:
    """What the processor calls itself, "" where the kernel does not tell, as on ARM."""
    rows = (line.partition(":") for line in _text(root / "proc/cpuinfo").splitlines())
    return next((name.strip()[:100] for key, _, name in rows if key.strip() == "model name"), "")


def own_seconds() -> float:
    """Processor time of this process and of its children that have ended."""
    return sum(os.times()[:4])


class OtherWork:
    """What others take, from now on, of the processors that this process may run on: other processes, and other guests
    of a shared machine."""

    def __init__(
        self,
        root: Path = Path("/"),
        cpus: Sequence[int] | None = None,
        own: Callable[[], float] = own_seconds,
        clock: Callable[[], float] = time.monotonic,
    ):
        """cpus: as in `Machine.read`; own, clock: seconds that this process has worked, and that have passed."""
        self._root, self._own, self._clock = root, own, clock
        self._cpus = sorted(os.sched_getaffinity(0) if cpus is None else cpus)
        self._began = self._look()

    def share(self) -> float | None:
        """Of these processors, from 0 to 1; None where the system does not tell, or too little time has passed."""
        began, now = self._began, self._look()
        if began is None or now is None:
            return None
        worked, own, passed = (after - before for before, after in zip(began, now, strict=True))
        if passed < LEAST_LOOK_S:
            return None
        return min(max((worked - own) / (passed * len(self._cpus)), 0.0), 1.0)

    def _look(self) -> tuple[float, float, float] | None:
        worked = _seconds_worked(self._root, self._cpus)
        return None if worked is None else (worked, self._own(), self._clock())


def _seconds_worked(root: Path, cpus: Sequence[int]) -> float | None:
    """By some processors since the system started; what a host took from a guest counts."""
    rows = {row[0]: row[1:9] for row in map(str.split, _text(root / "proc/stat").splitlines()) if row}
    try:
        times = [tuple(map(int, rows[f"cpu{cpu}"])) for cpu in cpus]
        return sum(u + n + s + irq + soft + steal for u, n, s, _, _, irq, soft, steal in times) / TICKS_A_SECOND
    except (KeyError, ValueError):
        return None


@dataclass(frozen=True)
class MemoryGroup:
    """A control group with a limit, in bytes: files that say what is used, and what of it the kernel can drop."""

    path: str
    limit: int
    used: str
    stat: str
    droppable: tuple[str, ...]  # rows of `stat`


def memory_groups(root: Path = Path("/")) -> Iterator[MemoryGroup]:
    """Every level that has a limit."""
    for version, group in _groups(root, "memory"):
        limit_name, used_name, prefix = (
            ("memory.max", "memory.current", "")
            if version == 2
            else ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")
        )
        limit, used = _number(group / limit_name), group / used_name
        if limit is not None and limit < NO_LIMIT and _number(used) is not None:
            rows = prefix + "inactive_file", prefix + "active_file"
            yield MemoryGroup(str(group), limit, str(used), str(group / "memory.stat"), rows)


def memory_limits(root: Path) -> Iterator[tuple[Path, int]]:
    """(group, bytes below its limit that are not in use) for every level that has a limit."""
    for group in memory_groups(root):
        stat = _table(Path(group.stat))
        droppable = sum(stat.get(row, 0) for row in group.droppable)
        yield Path(group.path), group.limit - max((_number(Path(group.used)) or 0) - droppable, 0)


def cpu_quotas(root: Path) -> Iterator[float]:
    """CPU time granted by each level that has a quota, in processors."""
    for version, group in _groups(root, "cpu"):
        if version == 2:
            quota, _, period = _text(group / "cpu.max").partition(" ")
        else:
            quota, period = _text(group / "cpu.cfs_quota_us"), _text(group / "cpu.cfs_period_us")
        if quota.isdigit() and period.isdigit() and int(quota) > 0 and int(period) > 0:  # not "max", not -1
            yield int(quota) / int(period)


def _groups(root: Path, controller: str) -> Iterator[tuple[int, Path]]:
    """(version, directory) of this process's group for a controller and of all groups above it."""
    paths = {}
    for line in _text(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        version = 2 if number == "0" and not names else 1
        if version == 2 or controller in names.split(","):
            paths[version] = path
    for line in _text(root / "proc/self/mountinfo").splitlines():
        left, _, right = line.partition(" - ")
        fields, kind = left.split(), right.split()
        if len(fields) < 5 or len(kind) < 3 or kind[0] not in ("cgroup", "cgroup2"):
            continue
        version = 2 if kind[0] == "cgroup2" else 1
        if version not in paths or (version == 1 and controller not in kind[2].split(",")):
            continue
        mount, inside = root / fields[4].lstrip("/"), _below(paths[version], fields[3])
        for level in (inside, *inside.parents):
            if (mount / level).is_dir():  # a namespace may hide the levels above
                yield version, mount / level


def _below(path: str, mounted: str) -> PurePosixPath:
    """A group's path below the group that is mounted; the mount itself if it is elsewhere."""
    try:
        return PurePosixPath(path).relative_to(mounted)
    except ValueError:
        return PurePosixPath(".")


def _meminfo(root: Path) -> tuple[int, int]:
    """(available, total) bytes; half of what the system has, if it does not say what is available."""
    table = _table(root / "proc/meminfo")
    total = table.get("MemTotal:", 0) * 1024 or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return (table["MemAvailable:"] * 1024 if "MemAvailable:" in table else total // 2), total


def _num_cores(root: Path, cpus: Sequence[int]) -> int:
    """The number of cores of logical processors: siblings share one core's units."""
    siblings = (
        _text(root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list") or str(cpu) for cpu in cpus
    )
    return max(len(set(siblings)), 1)


def _text(file: Path) -> str:
    try:
        return file.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _number(file: Path) -> int | None:
    text = _text(file)
    return int(text) if text.isdigit() else None


def _table(file: Path) -> dict[str, int]:
    """A file with a name and a number on each line."""
    rows = (line.split() for line in _text(file).splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdigit()}
