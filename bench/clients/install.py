"""Makes the environments of the clients: a venv for each family of Python, a Node.js from a wheel, and a prefix of
npm for each agent that runs on it.

    python -m bench.clients.install DIR [--only NAME,...]

About 3.7 GB with all. What is there already is left alone.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

from bench.clients.roster import HOMES, Home

TIMEOUT_S = 1200


def install(home: Home, directory: Path) -> None:
    """Raises CalledProcessError, OSError or TimeoutExpired; then nothing of the home is left."""
    target, environment = directory / home.name, dict(os.environ)
    try:
        if home.is_node:
            target.mkdir(parents=True, exist_ok=True)
            node = directory / "node" / "bin"
            environment["PATH"] = f"{node}{os.pathsep}{environment.get('PATH', '')}"
            command = [
                "npm",
                "install",
                "--no-fund",
                "--no-audit",
                "--loglevel=error",
                "--prefix",
                str(target),
                *home.packages,
            ]
        else:
            subprocess.run([sys.executable, "-m", "venv", str(target)], check=True, timeout=TIMEOUT_S)
            command = [str(target / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check", *home.packages]
        subprocess.run(command, check=True, timeout=TIMEOUT_S, env=environment)
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, metavar="DIR")
    parser.add_argument("--only", metavar="NAME,...", help=", ".join(HOMES))
    args = parser.parse_args()
    names = args.only.split(",") if args.only else list(HOMES)
    if unknown := [name for name in names if name not in HOMES]:
        parser.error(f"--only: {unknown[0]!r}; expected some of {', '.join(HOMES)}")
    if any(HOMES[name].is_node for name in names):
        names = ["node", *(name for name in names if name != "node")]
    failed = False
    for home in map(HOMES.__getitem__, names):
        if (args.directory / home.name).exists():
            print(f"{home.name}: is there", file=sys.stderr)
            continue
        print(f"{home.name}: {home.how}", file=sys.stderr, flush=True)
        try:
            install(home, args.directory.resolve())
        except (OSError, subprocess.SubprocessError) as error:
            print(f"{home.name}: failed: {error}", file=sys.stderr)
            failed = True
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
