"""Cores and memory that a process may use, on fake machines made of files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from a3b.machine import Machine, OtherWork, cache_bytes, processor_name

GIB = 1 << 30


class Tree:
    """A root directory with the files that the kernel would show."""

    def __init__(self, root: Path, cgroup: str, mounts: list[str], available: int = 20 * GIB):
        self.root = root
        self.write(
            "proc/meminfo", f"MemTotal: {24 * GIB // 1024} kB\nMemFree: 1 kB\nMemAvailable: {available // 1024} kB\n"
        )
        self.write("proc/self/cgroup", cgroup)
        self.write("proc/self/mountinfo", "\n".join(mounts))

    def write(self, path: str, text: str | int) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")

    def machine(self, cpus=(0, 1, 2, 3)) -> Machine:
        return Machine.read(self.root, cpus)


V2 = ["31 23 0:28 / /sys/fs/cgroup rw,relatime - cgroup2 cgroup2 rw"]
V1 = [
    "32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime shared:5 - cgroup cgroup rw,cpu,cpuacct",
    "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory",
]


def v2(tmp_path) -> Tree:
    return Tree(tmp_path, "0::/user.slice/job", V2)


def v1(tmp_path) -> Tree:
    return Tree(tmp_path, "4:memory:/job\n3:cpu,cpuacct:/job\n0::/", V1)


def test_without_limits_the_machine_is_what_the_kernel_says(tmp_path):
    found = v2(tmp_path).machine()
    assert (found.num_cpus, found.cpu_quota, found.memory_bytes, found.total_memory_bytes) == (
        4,
        None,
        20 * GIB,
        24 * GIB,
    )
    assert found.memory_limit is None and found.num_threads == 4


def test_version_2_limits_count_at_every_level(tmp_path):
    tree = v2(tmp_path)
    tree.write("sys/fs/cgroup/user.slice/job/memory.max", "max")
    tree.write("sys/fs/cgroup/user.slice/job/memory.current", GIB)
    tree.write("sys/fs/cgroup/user.slice/memory.max", 8 * GIB)
    tree.write("sys/fs/cgroup/user.slice/memory.current", 3 * GIB)
    tree.write("sys/fs/cgroup/user.slice/job/cpu.max", "300000 100000")
    tree.write("sys/fs/cgroup/user.slice/cpu.max", "250000 100000")
    found = tree.machine()
    assert found.memory_bytes == 5 * GIB and found.memory_limit.endswith("user.slice")
    assert found.cpu_quota == 2.5 and found.num_threads == 2


def test_version_1_limits(tmp_path):
    tree = v1(tmp_path)
    tree.write("sys/fs/cgroup/memory/job/memory.limit_in_bytes", 6 * GIB)
    tree.write("sys/fs/cgroup/memory/job/memory.usage_in_bytes", 4 * GIB)
    tree.write("sys/fs/cgroup/memory/memory.limit_in_bytes", 9223372036854771712)
    tree.write("sys/fs/cgroup/memory/memory.usage_in_bytes", 4 * GIB)
    tree.write("sys/fs/cgroup/cpu/job/cpu.cfs_quota_us", 50_000)
    tree.write("sys/fs/cgroup/cpu/job/cpu.cfs_period_us", 100_000)
    tree.write("sys/fs/cgroup/cpu/cpu.cfs_quota_us", -1)
    tree.write("sys/fs/cgroup/cpu/cpu.cfs_period_us", 100_000)
    found = tree.machine()
    assert found.memory_bytes == 2 * GIB and found.cpu_quota == 0.5 and found.num_threads == 1


@pytest.mark.parametrize("version", [1, 2])
def test_files_in_memory_count_as_free(tmp_path, version):
    """A mapped model fills a container's memory; the kernel drops it when something else is needed."""
    tree = v1(tmp_path) if version == 1 else v2(tmp_path)
    group = "sys/fs/cgroup/memory/job/" if version == 1 else "sys/fs/cgroup/user.slice/job/"
    limit, used, prefix = (
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")
        if version == 1
        else ("memory.max", "memory.current", "")
    )
    tree.write(group + limit, 10 * GIB)
    tree.write(group + used, 9 * GIB)
    tree.write(
        group + "memory.stat", f"{prefix}inactive_file {5 * GIB}\n{prefix}active_file {2 * GIB}\n{prefix}anon {2 * GIB}"
    )
    assert tree.machine().memory_bytes == 8 * GIB


def test_a_limit_above_what_is_free_does_not_bind(tmp_path):
    tree = v2(tmp_path)
    tree.write("sys/fs/cgroup/user.slice/memory.max", 100 * GIB)
    tree.write("sys/fs/cgroup/user.slice/memory.current", 0)
    found = tree.machine()
    assert found.memory_bytes == 20 * GIB and found.memory_limit is None


def test_a_group_that_is_over_its_limit_leaves_nothing(tmp_path):
    tree = v2(tmp_path)
    tree.write("sys/fs/cgroup/user.slice/memory.max", GIB)
    tree.write("sys/fs/cgroup/user.slice/memory.current", 2 * GIB)
    assert tree.machine().memory_bytes == 0


def test_a_container_that_sees_only_its_own_group_reads_it(tmp_path):
    tree = Tree(tmp_path, "0::/kubepods/pod1", ["31 23 0:28 /kubepods/pod1 /sys/fs/cgroup rw - cgroup2 cgroup rw"])
    tree.write("sys/fs/cgroup/memory.max", 4 * GIB)
    tree.write("sys/fs/cgroup/memory.current", GIB)
    assert tree.machine().memory_bytes == 3 * GIB


def test_a_path_outside_the_mount_falls_back_to_the_mount(tmp_path):
    tree = Tree(tmp_path, "0::/../elsewhere", ["31 23 0:28 /mine /sys/fs/cgroup rw - cgroup2 cgroup rw"])
    tree.write("sys/fs/cgroup/memory.max", 4 * GIB)
    tree.write("sys/fs/cgroup/memory.current", GIB)
    assert tree.machine().memory_bytes == 3 * GIB


def test_two_processors_of_one_core_are_one_thread(tmp_path):
    tree = v2(tmp_path)
    for cpu, siblings in enumerate(["0,2", "1,3", "0,2", "1,3"]):
        tree.write(f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list", siblings)
    assert (tree.machine().num_cpus, tree.machine().num_cores, tree.machine().num_threads) == (4, 2, 2)
    assert tree.machine(cpus=(1, 3)).num_cores == 1


def test_files_that_are_missing_or_strange_are_no_limit(tmp_path):
    found = Machine.read(tmp_path, [0])
    assert found.memory_bytes > 0 and found.num_threads == 1
    tree = v2(tmp_path)
    tree.write("sys/fs/cgroup/user.slice/memory.max", "lots")
    tree.write("sys/fs/cgroup/user.slice/cpu.max", "0 0")
    tree.write("proc/self/mountinfo", "short\n1 2 - cgroup2\n" + V2[0])
    assert tree.machine().memory_bytes == 20 * GIB and tree.machine().cpu_quota is None


def test_the_processor_is_called_as_it_calls_itself(tmp_path):
    tree = v2(tmp_path)
    assert processor_name(tree.root) == ""
    tree.write("proc/cpuinfo", "processor\t: 0\nCPU implementer\t: 0x41\n")
    assert processor_name(tree.root) == ""
    tree.write("proc/cpuinfo", "processor\t: 0\nmodel name\t: A: B 9\n\nprocessor\t: 1\nmodel name\t: C\n")
    assert processor_name(tree.root) == "A: B 9"


def test_this_machine_can_be_read():
    found = Machine.read()
    assert 1 <= found.num_threads <= found.num_cpus and 0 < found.memory_bytes <= found.total_memory_bytes


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [(["48K", "2048K", "491520K"], 480 << 20), (["32K", "36M"], 36 << 20), (["", "K", "much"], 0), ([], 0)],
)
def test_the_last_cache_is_the_largest_that_the_system_names(tmp_path, sizes, expected):
    for index, size in enumerate(sizes):
        directory = tmp_path / f"sys/devices/system/cpu/cpu0/cache/index{index}"
        directory.mkdir(parents=True)
        (directory / "size").write_text(f"{size}\n")
    assert cache_bytes(tmp_path) == expected


TICKS = os.sysconf("SC_CLK_TCK")


def stat(*seconds):
    """/proc/stat, with what each processor has worked and what its host took from it."""
    rows = [f"cpu{i} {work * TICKS} 0 0 999 5 0 0 {taken * TICKS} 0 0" for i, (work, taken) in enumerate(seconds)]
    return "\n".join(["cpu  1 2 3 4 5 6 7 8 0 0", *rows, "intr 5 0 0"])


def share_of_others(tree, before, after, own=0.0, passed=10.0, cpus=(0, 1)):
    owned, times = iter([7.0, 7.0 + own]), iter([100.0, 100.0 + passed])
    tree.write("proc/stat", before)
    others = OtherWork(tree.root, cpus, lambda: next(owned), lambda: next(times))
    tree.write("proc/stat", after)
    return others.share()


BEFORE = stat((10, 1), (10, 1))


@pytest.mark.parametrize(
    ("after", "own", "share"),
    [
        (stat((20, 1), (20, 1)), 20.0, 0.0),  # all of it this process
        (stat((20, 1), (16, 1)), 10.0, 0.3),
        (stat((10, 5), (10, 1)), 0.0, 0.2),  # another guest of the host
        (stat((11, 1), (10, 1)), 1.02, 0.0),  # ticks are coarse
        (stat((90, 1), (90, 1)), 0.0, 1.0),
    ],
)
def test_what_others_use_of_the_processors_is_what_this_process_does_not(tmp_path, after, own, share):
    assert share_of_others(v2(tmp_path), BEFORE, after, own) == pytest.approx(share)


def test_processors_that_this_process_may_not_use_do_not_count(tmp_path):
    assert share_of_others(v2(tmp_path), BEFORE, stat((18, 1), (12, 1)), cpus=(1,)) == pytest.approx(0.2)


@pytest.mark.parametrize("after", ["", "cpu0 a b c d e f g h\ncpu1", "cpu0 1 2 3 4", stat((20, 1))])
def test_a_system_that_does_not_tell_what_its_processors_do_tells_nothing_of_others(tmp_path, after):
    assert share_of_others(v2(tmp_path), BEFORE, after) is None
    assert share_of_others(v2(tmp_path), after, BEFORE) is None


def test_too_short_a_look_says_nothing(tmp_path):
    assert share_of_others(v2(tmp_path), BEFORE, stat((20, 1), (20, 1)), passed=0.9) is None
    assert OtherWork(tmp_path / "nothing").share() is None
    assert OtherWork().share() is None
