"""What a directory has, in a form to compare, and random changes to it by a real shell. Enter at `tree_of`."""

from __future__ import annotations

import os
import random
import stat
import subprocess
from pathlib import Path

NAMES = ("a", "b", "sub", "x.py", "dé", "with blank", "-n", "tab\there")


def tree_of(root: Path) -> dict[str, tuple[str, int, bytes]]:
    """Kind, permissions and content of every path; for links, their target."""
    out: dict[str, tuple[str, int, bytes]] = {}
    for directory, names, files in os.walk(root):
        for name in names + files:
            path = Path(directory) / name
            mode = path.lstat().st_mode
            key = str(path.relative_to(root))
            if stat.S_ISLNK(mode):
                out[key] = ("link", 0, os.fsencode(os.readlink(path)))
            elif stat.S_ISDIR(mode):
                out[key] = ("directory", mode & 0o7777, b"")
            else:
                out[key] = ("file", mode & 0o7777, path.read_bytes())
    return out


def shell(root: Path, script: str) -> None:
    """Runs a script in a directory; commands in it may fail."""
    subprocess.run(["bash", "-c", script], cwd=root, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def random_script(rng: random.Random, root: Path, length: int) -> str:
    """Commands that change what is in a directory: files, directories, links, permissions, moves."""
    there = sorted(tree_of(root)) or ["a"]
    lines = []
    for _ in range(length):
        one, other = rng.choice(there), rng.choice(there)
        new = "/".join(rng.choice(NAMES) for _ in range(rng.randint(1, 3)))
        where = os.path.dirname(new) or "."
        lines.append(
            rng.choice(
                [
                    f"mkdir -p './{where}' && printf '%s' {rng.random()} > './{new}'",
                    f"printf '%s' {rng.random()} >> './{one}'",
                    f"rm -rf './{one}'",
                    f"mv './{one}' './{new}'",
                    f"mv './{one}' './{other}'",
                    f"mkdir -p './{new}'",
                    f"ln -sf '{rng.choice([one, '/proc/version', '../..', 'nowhere'])}' './{new}'",
                    f"chmod {rng.choice(['600', '755', '700', '640'])} './{one}'",
                    f"cp -r './{one}' './{new}'",
                    f"rm -rf './{one}' && mkdir './{one}'",
                    f"truncate -s {rng.randint(0, 50)} './{one}'",
                ]
            )
        )
    return "\n".join(lines)
