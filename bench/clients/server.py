"""A real `a3b serve` of the embedded model in a process of its own, and what its trace says.

Knows no client. Enter at `Server`, a context; `Server.answers` reads the trace.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import a3b

ROOT = Path(__file__).resolve().parent.parent.parent
KEY = "key-of-the-clients"
MODEL = "a3b-nano"
EMBEDDED = Path(a3b.__file__).parent / "nano_model"
START_S = 600.0  # the large model takes its time


class ServerError(Exception):
    """The server did not start, or ended by itself."""


@dataclass(frozen=True)
class Traced:
    """One answer: the ids that were read and those that were sampled."""

    prompt: tuple[int, ...]
    sampled: tuple[int, ...]
    cached: int  # tokens of the prompt that were not computed again
    sent: int  # tokens of earlier thinking in the prompt, from the client
    restored: int  # the same, from the server's memory
    reason: str
    miss: str  # why no more was cached

    @classmethod
    def of(cls, line: str) -> Traced:
        found = json.loads(line)
        thinking = found["thinking"]
        return cls(
            tuple(found["prompt"]),
            tuple(found["sampled"]),
            found["cached_tokens"],
            thinking["sent"],
            thinking["restored"],
            found["reason"],
            found["cache"]["miss"],
        )


def stretched_model(directory: Path, context: int) -> Path:
    """The embedded model with a context it was never trained for: it can be read to, and what it answers is
    nonsense."""
    target = directory / MODEL
    shutil.copytree(EMBEDDED, target)
    config = json.loads((target / "config.json").read_text(encoding="utf-8"))
    (target / "config.json").write_text(json.dumps(config | {"max_position_embeddings": context}), encoding="utf-8")
    return target


class Server:
    """Keeps its sessions and its trace in `directory`; may be stopped and started again, on the same port."""

    def __init__(self, directory: Path, *options: str, key: str = KEY, command: Sequence[str] = ("a3b.cli", "serve")):
        """command: a module that serves, and what comes before its options."""
        self.directory, self.options, self.key, self.command = directory, options, key, command
        self.trace, self.log = directory / "trace.jsonl", directory / "server.log"
        self.port = 0  # a free one, taken at the first start
        self._process: subprocess.Popen | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Raises ServerError with the last lines of its log."""
        command = [
            sys.executable,
            "-m",
            *self.command,
            "--port",
            str(self.port),
            "--api-key",
            self.key,
            "--cache-dir",
            str(self.directory / "sessions"),
            "--trace",
            str(self.trace),
            *self.options,
        ]
        environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
        begin = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            said = self.log.read_bytes()[begin:].decode(errors="replace")
            if found := re.search(r"OpenAI: http://[^\s/]*:(\d+)/v1", said):
                self.port = int(found[1])
                if self._is_listening():
                    return
            if self._process.poll() is not None:
                break
            time.sleep(0.02)
        self.stop()
        raise ServerError("a3b serve did not start: " + self.last_words(begin))

    def _is_listening(self) -> bool:
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
        process.wait()

    def answers(self, since: int = 0) -> list[Traced]:
        """All answers given so far but the first `since`."""
        if not self.trace.exists():
            return []
        return [Traced.of(line) for line in self.trace.read_text(encoding="utf-8").splitlines()[since:]]

    def refusals(self, begin: int = 0) -> list[str]:
        """Requests for answers that got none, from byte `begin` of the log on: path and status."""
        said = self.log.read_bytes()[begin:].decode(errors="replace")
        return [f"{path} {status}" for path, status in re.findall(r" POST (\S+) (\d{3})\b", said) if status >= "400"]

    def last_words(self, begin: int = 0) -> str:
        return " / ".join(self.log.read_bytes()[begin:].decode(errors="replace").strip().splitlines()[-5:])[-800:]

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()
