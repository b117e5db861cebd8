"""Commands that try to reach other processes, to stay behind, or to take everything."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from a3b.agent.sandbox import kinds
from a3b.agent.sandbox.places import Places
from a3b.agent.sandbox.sandbox import SandboxLimits
from tests.agent.sandbox.conftest import SECRET
from tests.support.sandboxes import opened, ran

pytestmark = pytest.mark.slow
MiB = 1 << 20


def python(code: str) -> list[str]:
    return ["python3", "-c", code]


@pytest.fixture
def outsider():
    """A process of the same user, with a secret in its environment."""
    process = subprocess.Popen(["sleep", "300"], env={"SECRET": SECRET}, start_new_session=True)
    yield process
    process.kill()
    process.wait()


def test_no_token_of_the_user_is_in_the_environment(sandbox):
    text, _ = ran(sandbox, "env; cat /proc/self/environ; cat /proc/*/environ 2>/dev/null")
    assert "PATH=" in text
    assert SECRET not in text


def test_a_variable_that_is_given_goes_in(sandbox):
    text, _ = ran(sandbox, "echo $EXTRA", env={"EXTRA": "given"})
    assert text == "given\n"


def test_the_environment_and_memory_of_other_processes_cannot_be_read(sandbox, outsider):
    pid = outsider.pid
    text, _ = ran(
        sandbox,
        f"cat /proc/{pid}/environ; cat /proc/{pid}/maps; ls -l /proc/{pid}/fd/; cat /proc/{pid}/root/etc/hostname; "
        f"for p in /proc/[0-9]*; do cat $p/environ; done; head -c 9 /proc/{pid}/mem",
    )
    assert SECRET not in text
    assert "/usr/bin/sleep" not in text


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGSTOP])
def test_signals_do_not_reach_other_processes(sandbox, outsider, number):
    text, _ = ran(
        sandbox, python(f"import os\ntry: os.kill({outsider.pid}, {int(number)})\nexcept OSError as e: print(e)")
    )
    assert "Errno" in text
    assert outsider.poll() is None
    assert Path(f"/proc/{outsider.pid}/stat").read_text().split()[2] == "S"


def test_the_process_above_a_command_cannot_be_ended_from_inside(sandbox):
    text, outcome = ran(sandbox, "kill -9 $PPID; kill -9 -1; kill -9 1; echo alive")
    assert outcome.ended_by == "exit"


@pytest.mark.parametrize(
    "code",
    [
        "libc.ptrace(16, {pid}, 0, 0)",
        "libc.ptrace(0x4206, {pid}, 0, 0)",
        "libc.process_vm_readv({pid}, buffer, 1, buffer, 1, 0)",
        "libc.syscall(438, libc.syscall(434, {pid}, 0), 0, 0)",
        "libc.unshare(0x10000000)",
        "libc.unshare(0x00020000)",
        "libc.setns(3, 0)",
        "libc.mount(b'none', b'/mnt', b'tmpfs', 0, 0)",
        "libc.chroot(b'.')",
        "libc.syscall(425, 8, buffer)",
        "libc.syscall(321, 0, buffer, 8)",
        "libc.syscall(298, buffer, 0, -1, -1, 0)",
        "libc.syscall(250, 0, -3, 0)",
        "libc.syscall(323, 0)",
        "libc.syscall(435, buffer, 88)",
        "libc.syscall(304, -100, buffer, 0)",
        "libc.syscall(0x40000000 + 101, 16, {pid}, 0, 0)",
        "libc.ioctl(0, 0x5412, b'x')",
        "libc.ioctl(0, ctypes.c_ulong(0x100005412), b'x')",
        "libc.ioctl(0, 0x541C, b'x')",
    ],
)
def test_system_calls_that_reach_beyond_are_refused(sandbox, outsider, code):
    text, _ = ran(
        sandbox,
        python(
            "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\nbuffer = ctypes.create_string_buffer(256)\n"
            f"print({code.format(pid=outsider.pid)}, ctypes.get_errno())"
        ),
    )
    assert text in ("-1 1\n", "-1 38\n"), text  # EPERM, ENOSYS


@pytest.mark.parametrize("family", ["AF_PACKET", "AF_VSOCK", "AF_ALG", "AF_BLUETOOTH", "AF_CAN", "AF_TIPC"])
def test_sockets_of_other_families_are_refused(sandbox, family):
    code = f"import socket\nfor kind in (1, 2, 3, 5):\n try: socket.socket(socket.{family}, kind); print('made')\n"
    text, _ = ran(sandbox, python(code + " except OSError as e: print(e.errno)"))
    assert text == "13\n" * 4


@pytest.mark.parametrize("protocol", [2, 9, 15])
def test_of_netlink_only_the_routes_can_be_asked(sandbox, protocol):
    text, _ = ran(sandbox, python(f"import socket; socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, {protocol})"))
    assert "PermissionError" in text


@pytest.mark.parametrize("kind", ["bubblewrap", "landlock"])
def test_sockets_that_hidden_places_hold_cannot_be_reached(base, kind):
    directory = base / "runtime"
    directory.mkdir(exist_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        (directory / "bus").unlink(missing_ok=True)
        listener.bind(str(directory / "bus"))
        listener.listen()
        sandbox = opened(base, {"XDG_RUNTIME_DIR": str(directory)}, kind)
        code = f"import socket\nsocket.socket(socket.AF_UNIX).connect({str(directory / 'bus')!r})\nprint('connected')"
        text, _ = ran(sandbox, python(code))
        sandbox.close()
    assert "connected" not in text


@pytest.mark.parametrize("kind", ["bubblewrap", "landlock"])
def test_sockets_that_programs_listen_on_elsewhere_cannot_be_reached(base, kind):
    place = base / "open"
    place.mkdir(exist_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        (place / f"{kind} db.sock").unlink(missing_ok=True)
        listener.bind(str(place / f"{kind} db.sock"))
        listener.listen()
        (place / "file").write_text("readable")
        sandbox = opened(base, {}, kind)
        code = f"import socket\nprint(open({str(place / 'file')!r}).read())\n"
        code += f"socket.socket(socket.AF_UNIX).connect({str(place / f'{kind} db.sock')!r})\nprint('connected')"
        text, _ = ran(sandbox, python(code))
        sandbox.close()
    assert "readable" in text
    assert "connected" not in text


def test_sockets_that_come_and_go_while_the_sandbox_is_open_are_hidden_and_break_nothing(base):
    path = base / "later.sock"
    code = f"import socket\nprint('begun')\nsocket.socket(socket.AF_UNIX).connect({str(path)!r})\nprint('connected')"
    path.unlink(missing_ok=True)
    first, second = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
    with first, second:
        first.bind(str(path))
        first.listen()
        sandbox = opened(base, {}, "bubblewrap")
        path.unlink()
        assert "begun" in ran(sandbox, python(code))[0]
        second.bind(str(path))
        second.listen()
        text, _ = ran(sandbox, python(code))
        sandbox.close()
    assert "begun" in text and "connected" not in text


def test_a_directory_of_programs_that_goes_breaks_no_later_command(base):
    tools = base / "tools" / "bin"
    tools.mkdir(parents=True, exist_ok=True)
    environment = {"HOME": str(base), "PATH": f"{tools}:{os.environ['PATH']}"}
    sandbox = opened(base, environment, "bubblewrap")
    assert tools in sandbox._places.shown
    shutil.rmtree(tools.parent)
    text, _ = ran(sandbox, "echo works")
    sandbox.close()
    assert text == "works\n"


@pytest.mark.parametrize("times", [1, 2])
def test_a_socket_that_goes_while_a_sandbox_is_opened_is_not_taken_for_one_that_does_not_work(base, monkeypatch, times):
    is_late, present = iter([True, False] * times), Places.present  # when it mounts, and when it looks again

    def late(self: Places) -> Places:
        found = present(self)
        return replace(found, hidden=(*found.hidden, base / "gone.sock")) if next(is_late, False) else found

    monkeypatch.setattr(Places, "present", late)
    sandbox = opened(base, {}, "bubblewrap")
    text, _ = ran(sandbox, "echo works")
    sandbox.close()
    assert sandbox.name == "bubblewrap" and text == "works\n"


def test_a_socket_that_goes_just_before_a_command_starts_does_not_keep_it_from_running(base, monkeypatch):
    sandbox, present = opened(base, {}, "bubblewrap"), Places.present

    def late(self: Places) -> Places:
        found = present(self)
        return replace(found, hidden=(*found.hidden, base / "gone.sock"))

    monkeypatch.setattr(Places, "present", late)
    text, outcome = ran(sandbox, "echo works")
    sandbox.close()
    assert text == "works\n" and outcome.status == 0


def test_a_hidden_directory_that_goes_just_before_a_command_starts_does_not_keep_it_from_running(base, monkeypatch):
    sandbox, present, plan = opened(base, {}, "bubblewrap"), Places.present, kinds.mount_arguments
    going = base / "going"

    def late(self: Places) -> Places:
        found = present(self)
        return replace(found, hidden=(*found.hidden, going))

    def planned(layout) -> list[str]:
        going.mkdir()
        arguments = plan(layout)
        going.rmdir()
        return arguments

    monkeypatch.setattr(Places, "present", late)
    monkeypatch.setattr(kinds, "mount_arguments", planned)
    text, outcome = ran(sandbox, "echo works")
    sandbox.close()
    assert text == "works\n" and outcome.status == 0


def test_abstract_sockets_of_other_programs_cannot_be_reached(sandbox):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("\0a3b-test-abstract")
        listener.listen()
        text, _ = ran(sandbox, python("import socket\nsocket.socket(socket.AF_UNIX).connect('\\0a3b-test-abstract')"))
    assert "Error" in text


def test_ports_of_this_machine_cannot_be_reached(sandbox):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        text, _ = ran(sandbox, python(f"import socket\nsocket.create_connection(('127.0.0.1', {port}), 5)"))
    assert "Error" in text


@pytest.mark.parametrize(
    "command",
    [
        "setsid sleep 917.25 & disown",
        "(nohup sleep 917.25 >/dev/null 2>&1 &)",
        "python3 -c 'import os\nif os.fork(): os._exit(0)\nos.setsid()\nif os.fork(): os._exit(0)\n"
        'os.closerange(0, 99)\nos.execlp("sleep", "sleep", "917.25")\'',
        "trap '' TERM HUP INT; (trap '' TERM; while :; do sleep 917.25; done) & disown",
        "exec 3>&1; for i in 1 2 3 4 5 6 7 8; do setsid sh -c 'while :; do setsid sleep 917.25 & wait; done' & done",
    ],
)
def test_nothing_stays_behind_a_command(sandbox, command):
    mark = f"917.{os.getpid()}"  # other tests run beside this one
    ran(sandbox, command.replace("917.25", mark) + "\nsleep 0.2; echo done", limits=SandboxLimits(seconds=20))
    everything = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert f"sleep {mark}" not in everything


FORKS = """
import os, time
for _ in range(10):  # 1,024 processes, and no more
    os.fork()
    LEAVE
time.sleep(30)
"""


@pytest.mark.parametrize("leave", ["pass", "os.getpid() == os.getpgid(0) or os.setsid()"])
def test_a_fork_bomb_ends_and_takes_nothing_along(sandbox, outsider, leave):
    limits = SandboxLimits(seconds=60, processes=64)
    _, outcome = ran(sandbox, python(FORKS.replace("LEAVE", leave)), limits=limits)
    assert outcome.ended_by == "processes"
    assert outsider.poll() is None
    assert "time.sleep(30)" not in subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout


@pytest.mark.skipif(os.getuid() != 0, reason="only root may put a process before all others")
def test_a_command_has_an_ordinary_claim_to_the_processor_and_what_watches_it_the_first(sandbox):
    code = "import os\nprint(os.sched_getscheduler(0) == os.SCHED_OTHER)"
    text, _ = ran(sandbox, python(code))
    assert text == "True\n"
    if sandbox.name != "bubblewrap":  # which hides the processes above
        text, _ = ran(sandbox, python("import os\nprint(os.sched_getscheduler(os.getppid()) & 7 == os.SCHED_FIFO)"))
        assert text == "True\n"


@pytest.mark.parametrize(
    "code",
    [
        "x = []\nwhile True: x.append(bytearray(b'x' * (1 << 20)))",
        "import os\nfor _ in range(8): os.fork()\nx = bytearray(b'x' * (8 << 20))\nwhile True: x += x[:1 << 20]",
        "import mmap\nx = [mmap.mmap(-1, 1 << 22) for _ in range(999)]\nfor m in x: m.write(b'x' * (1 << 22))\ninput()",
    ],
)
def test_a_memory_bomb_kills_itself_and_nothing_else(sandbox, outsider, code):
    limits = SandboxLimits(seconds=60, memory=300 * MiB)
    _, outcome = ran(sandbox, python(code), limits=limits)
    assert (outcome.ended_by, outcome.detail) == ("memory", "it took more than 300 MiB of memory")
    assert outsider.poll() is None


def test_the_kernel_takes_commands_first_when_memory_is_short(sandbox):
    """Also one that has asked to be spared, once it takes much."""
    code = """
import time
name = "/proc/self/oom_score_adj"
first = open(name).read()
try: open(name, "w").write("0")
except OSError: pass
taken = bytearray(b"x" * (200 << 20))
end = time.monotonic() + 20
while open(name).read() != "1000\\n" and time.monotonic() < end: time.sleep(0.01)
print(first, open(name).read())
"""
    text, _ = ran(sandbox, python(code), limits=SandboxLimits(memory=600 * MiB))
    assert text.split() == ["1000", "1000"]


def test_a_command_gets_what_is_free_less_a_reserve(base):
    from a3b.machine import Machine

    sandbox = opened(base, {})
    config = sandbox._launcher.config(base, None, SandboxLimits(), None)
    sandbox.close()
    free = Machine.read().memory_bytes
    assert config["limits"]["memory"] < free
    assert 0 < config["memory_floor"] < free


def test_memory_that_no_process_maps_is_bounded_too(base):
    """Files in memory belong to no process; what counts is what the machine has left."""
    sandbox = opened(base, {})
    config = sandbox._launcher.config
    sandbox._launcher.config = lambda *given: {**config(*given), "memory_floor": 1 << 50}
    _, outcome = ran(sandbox, "sleep 30")
    sandbox.close()
    assert outcome.ended_by == "memory" and "of this machine's memory" in outcome.detail


def test_a_file_stays_within_its_limit(sandbox):
    ran(sandbox, "head -c 9000000 /dev/zero > big", limits=SandboxLimits(file=1 * MiB))
    assert (sandbox.policy.workspace / "big").stat().st_size <= MiB


def test_a_full_tmp_ends_the_command(sandbox):
    command = "for i in $(seq 400); do head -c 1000000 /dev/urandom > $TMPDIR/$i; done; sleep 30"
    _, outcome = ran(sandbox, command, limits=SandboxLimits(seconds=60, disk=20 * MiB))
    assert outcome.ended_by == "disk"


def test_shared_memory_is_bounded(base):
    sandbox = opened(base, {})
    text, _ = ran(
        sandbox, "head -c 400000000 /dev/zero > /dev/shm/a; head -c 9000000 /dev/zero > /dev/b; wc -c < /dev/shm/a"
    )
    sandbox.close()
    assert "No space left" in text and "Read-only" in text
    assert int(text.split()[-1]) <= 256 * MiB


def test_no_core_is_dumped(sandbox):
    text, _ = ran(sandbox, "ulimit -c; ulimit -c unlimited; kill -SEGV $$")
    assert text.split()[0] == "0"
    assert list(sandbox.policy.workspace.iterdir()) == []


def test_huge_output_ends_the_command_and_is_told(sandbox):
    text, outcome = ran(sandbox, "yes x", limits=SandboxLimits(output=100_000))
    assert (len(text), outcome.ended_by, outcome.detail) == (100_000, "output", "it printed more than 100,000 bytes")


def test_a_command_has_no_terminal_to_write_into(sandbox):
    text, _ = ran(sandbox, "echo evil > /dev/tty && echo wrote; tty; ps -o tty= -p $$")
    assert "wrote" not in text


def test_everything_ends_with_the_agent_when_that_is_killed(base):
    """By SIGKILL, which leaves no time to clean up."""
    for kind in ("bubblewrap", "landlock"):
        code = f"""
import asyncio, sys
from pathlib import Path
from tests.support.sandboxes import opened
async def main():
    sandbox = opened(Path({str(base)!r}), {{}}, {kind!r})
    command = ["sh", "-c", "setsid sleep 918.5 & echo up; sleep 918.5"]
    process = await sandbox.start(command, cwd=sandbox.policy.workspace)
    print(await process.stdout.readline(), flush=True)
    await process.wait()
asyncio.run(main())
"""
        agent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        assert agent.stdout is not None
        assert "up" in agent.stdout.readline()
        agent.kill()
        agent.wait()
        agent.stdout.close()
        assert _is_gone("sleep 918.5"), kind


def _is_gone(words: str) -> bool:
    for _ in range(200):
        if words not in subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout:
            return True
        time.sleep(0.05)
    return False


def test_the_next_sandbox_removes_what_a_killed_agent_left(base):
    sandbox = opened(base, {})
    left = sandbox._around.private
    with suppress(OSError):
        os.close(left._lock)  # as the kernel does for a killed process
    opened(base, {}).close()
    assert not left.path.exists()
    sandbox._network.close()
