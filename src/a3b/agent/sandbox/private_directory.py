"""The sandbox's own directory on disk: an empty home, /tmp, and a copy of the code that runs above each command.

It lies in the state of a3b, which commands do not see, lives as long as the sandbox, and is removed with it; what a
killed process left is removed by the next. Enter at `PrivateDirectory.make`."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from a3b.files import private_directory

CODE = ("holder", "planted", "repositories", "restrictions", "supervisor", "tree", "watchlist")
PACKAGES = ("a3b", "a3b/agent", "a3b/agent/sandbox")
HOLDER = f"{PACKAGES[-1]}/holder.py"  # beside the program above each command
LOCK = "lock"
GIT_IDENTITY = r"^(user\.(name|email)|init\.defaultbranch|core\.autocrlf|pull\.(rebase|ff)|push\.default)$"


class PrivateDirectory:
    """path: has `home`, `tmp` and `launches`; code: the program above each command."""

    def __init__(self, path: Path, lock: int):
        self.path, self._lock = path, lock
        self.code = path / "code" / "run.py"

    @classmethod
    def make(cls, state: Path, environment: Mapping[str, str]) -> PrivateDirectory:
        """state: A3B_HOME. Raises OSError."""
        above = state / "agent" / "sandboxes"
        private_directory(above)
        _remove_left_over(above)
        path = above / secrets.token_hex(6)
        path.mkdir(mode=0o700)
        lock = os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        for name in ("home", "tmp", "launches", "code"):
            (path / name).mkdir(mode=0o700)
        (path / "tmp").chmod(0o1777)
        made = cls(path, lock)
        made._write_code()
        made._write_git_identity(environment)
        return made

    def _write_code(self) -> None:
        """A copy, so that commands that may change a3b's sources cannot change what runs outside."""
        here = Path(__file__).parent
        for package in PACKAGES:
            (self.path / "code" / package).mkdir()
            (self.path / "code" / package / "__init__.py").touch()
        for name in CODE:
            shutil.copyfile(here / f"{name}.py", self.path / "code" / PACKAGES[-1] / f"{name}.py")
        self.code.write_text(
            "import sys\n"
            f"sys.path.insert(0, {str(self.path / 'code')!r})\n"
            "from a3b.agent.sandbox.supervisor import main\n"
            "main(sys.argv[1], sys.argv[2:])\n",
            encoding="utf-8",
        )

    def _write_git_identity(self, environment: Mapping[str, str]) -> None:
        """Commits carry the user's name; of the user's settings only these go in."""
        command = ["git", "config", "--global", "--includes", "-z", "--get-regexp", GIT_IDENTITY]
        kept = {name: environment[name] for name in ("HOME", "PATH", "XDG_CONFIG_HOME") if name in environment}
        pairs = [("safe.directory", "*")]
        with suppress(OSError, subprocess.TimeoutExpired):
            done = subprocess.run(
                command, cwd="/", stdin=subprocess.DEVNULL, capture_output=True, timeout=10, check=False, env=kept
            )
            entries = done.stdout.decode("utf-8", "surrogateescape").split("\0")
            pairs += [(entry.partition("\n")[0], entry.partition("\n")[2]) for entry in entries if entry]
        lines = []
        for name, value in pairs:
            section, _, key = name.partition(".")
            quoted = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
            lines.append(f'[{section}]\n\t{key} = "{quoted}"\n')
        (self.path / "home" / ".gitconfig").write_text("".join(lines), encoding="utf-8", errors="surrogateescape")

    def close(self) -> None:
        """Removes the directory."""
        _remove(self.path)
        with suppress(OSError):
            os.close(self._lock)


def _remove_left_over(above: Path) -> None:
    for path in above.iterdir():
        with suppress(OSError):
            handle = os.open(path / LOCK, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(path)
            finally:
                os.close(handle)


def _remove(path: Path) -> None:
    """Removes a tree in which commands may have taken away their own rights, as Go's module cache does."""

    def make_writable(_: object, name: str, __: object) -> None:
        with suppress(OSError):
            os.chmod(os.path.dirname(name), 0o700)
            os.chmod(name, 0o700, follow_symlinks=False) if os.path.islink(name) else os.chmod(name, 0o700)

    for _ in range(2):
        shutil.rmtree(path, onerror=make_writable)
        if not path.exists():
            return
