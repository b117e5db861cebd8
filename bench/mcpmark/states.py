"""Puts public data where MCPMark keeps the states of its tasks, for a clone whose own downloads cannot be had:

    python -m bench.mcpmark.states CLONE --chinook chinook.sql --threestudio DIR --votenet DIR

chinook.sql is of github.com/neondatabase-labs/postgres-sample-dbs; the directories are git clones of
threestudio-project/threestudio and facebookresearch/votenet. Two tasks begin from a fault that MCPMark planted, which
their descriptions and verifiers name; it is planted here the same way."""

from __future__ import annotations

import argparse
import io
import shutil
import subprocess
import tarfile
from pathlib import Path


def tree(clone: Path, repository: Path, name: str) -> Path:
    """The files of a repository's newest commit as the directory of a category."""
    target = clone / "test_environments" / name
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    names = subprocess.run(
        ["git", "-C", str(repository), "ls-tree", "-r", "--name-only", "HEAD"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    for name in names:  # one by one: a partial clone may lack the largest
        done = subprocess.run(["git", "-C", str(repository), "archive", "HEAD", name], capture_output=True, check=False)
        if done.returncode:
            print(f"left out, since the clone has no content for it: {name}")
            continue
        with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
            archive.extractall(target, filter="data")
    return target


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1, f"{path}: {old!r} stands {text.count(old)} times there"
    path.write_text(text.replace(old, new), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clone", type=Path)
    parser.add_argument("--chinook", type=Path, help="chinook.sql")
    parser.add_argument("--threestudio", type=Path, help="a git clone")
    parser.add_argument("--votenet", type=Path, help="a git clone")
    args = parser.parse_args()
    if args.chinook:
        (args.clone / "postgres_state").mkdir(exist_ok=True)
        shutil.copyfile(args.chinook, args.clone / "postgres_state" / "chinook.sql")
    if args.threestudio:
        path = tree(args.clone, args.threestudio, "threestudio") / "requirements.txt"
        text = path.read_text(encoding="utf-8")
        before, after = text.index("# for zero123\n"), text.index("#controlnet")
        path.write_text(text[:before] + text[after:], encoding="utf-8")
    if args.votenet:
        path = tree(args.clone, args.votenet, "votenet") / "models" / "backbone_module.py"
        replace(
            path, "self.fp2 = PointnetFPModule(mlp=[256+256,256,256])", "self.fp2 = PointnetFPModule(mlp=[256,256,256])"
        )


if __name__ == "__main__":
    main()
