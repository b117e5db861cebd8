"""A command of the agent that takes all memory, beside a model that fills the machine: which of the two ends.

    python -m bench.memory_hog MODEL [--context 16384]

Serves a packed model that is told what to say (`bench.scripted_serve`) and lets `a3b code` run what it calls: a Python
that takes memory until there is none, once in one process and once in eight; then a plain command. Prints how each
ended, and whether the server still answers."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from a3b.machine import Machine
from bench.beside import environment
from bench.clients.server import Server

TAKE = "x = []\nwhile True: x.append(bytearray(b'x' * (1 << 22)))"
COMMANDS = [f'python3 -c "{TAKE}"', f'python3 -c "import os\nfor _ in range(3): os.fork()\n{TAKE}"', "echo fine"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("--context", default="16384")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="a3b-hog-", dir="/var/tmp", ignore_cleanup_errors=True) as directory:
        root = Path(directory)
        (root / "project").mkdir()
        script = {"thinking": "Now.", "commands": COMMANDS, "answer": "Done."}
        (root / "script.json").write_text(json.dumps(script), encoding="utf-8")
        print(f"{Machine.read().memory_bytes / 1e9:.1f} GB of memory are free")
        command = ("bench.scripted_serve", str(root / "script.json"), args.model, "--context", args.context)
        with Server(root, command=command) as server:
            words = ["code", "-p", "Run what takes all memory.", "--json", "--base-url", server.url]
            done = subprocess.run(
                [sys.executable, "-P", "-m", "a3b", *words],
                cwd=root / "project",
                env={**environment(root, root), "PATH": os.environ["PATH"]},
                capture_output=True,
                text=True,
                check=False,
            )
            for event in map(json.loads, done.stdout.splitlines()):
                if event["type"] == "tool_finished":
                    print(f"after {event['seconds']:.1f} s: {event['text'].splitlines()[-1]}")
            print(f"a3b code: exit status {done.returncode}; {len(server.answers())} answers of the server")
            with urllib.request.urlopen(f"{server.url}/health", timeout=60) as answer:
                print(f"the server: {json.load(answer)['status']}, {time.strftime('%H:%M:%S')}")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
