"""What a turn costs: a conversation with tools over HTTP, cached against cold, and against llama.cpp's server on the
same tokens.

    python -m bench.turns [MODEL] [--turns 20] [--cold 1,10,20] [--llama-server PATH --gguf FILE] [--result-words 60]
    [--json]

Starts `a3b serve` with a cache directory of its own. Every turn the model thinks, calls a tool (the call is enforced,
so that random weights make one, too) and gets a result; the thinking is never sent back, as most clients do. In the
middle the server is killed with SIGKILL and started again; at the end the conversation diverges in an old turn.
"computed" are the tokens of the prompt that were not in the cache; a cold turn is the same prompt under another API
key. llama.cpp gets the very token ids of every prompt."""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

WORDS = (
    "red blue green north south river stone paper light number value key "
    "table window garden music letter house road bridge"
).split()
KEYS = [f"k{i}" for i in range(10)]
TOOL = {
    "type": "function",
    "function": {
        "name": "get",
        "description": "Get what is stored under a key.",
        "parameters": {"type": "object", "properties": {"key": {"type": "string", "enum": KEYS}}, "required": ["key"]},
    },
}
START_S = 600
ANSWER_TOKENS = 16  # of thinking; what follows is the call


@dataclass
class Row:
    """One request."""

    what: str
    prompt_tokens: int
    computed: int
    seconds: float  # until the answer was there
    read_s: float  # of them for the prompt
    note: str = ""
    start_s: float = 0  # before them, until a server that was started for it was ready


@dataclass
class Server:
    """A process that answers HTTP."""

    command: list[str]
    ready: str  # path that answers 200 when the model is loaded
    port: int = 0
    env: dict[str, str] = field(default_factory=dict)

    def __enter__(self) -> Server:
        self.log = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            [*self.command, "--port", str(self.port)], stderr=self.log, stdout=self.log, env={**os.environ, **self.env}
        )
        began = time.monotonic()
        deadline = began + START_S
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{self.ready}", timeout=5):
                    self.start_s = time.monotonic() - began
                    return self
            except OSError:
                time.sleep(0.1)
        self.kill()
        self.log.seek(0)
        ended = signal.Signals(-self.process.returncode).name if self.process.returncode < 0 else "ended by itself"
        sys.exit(f"{self.command[0]} did not start: {self.log.read()[-500:].rstrip()} ({ended})")

    def __exit__(self, *_) -> None:
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def post(self, path: str, body: dict[str, Any], key: str = "") -> tuple[dict[str, Any], float]:
        head = {"content-type": "application/json"} | ({"authorization": f"Bearer {key}"} if key else {})
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", json.dumps(body).encode(), head)
        began = time.perf_counter()
        with urllib.request.urlopen(request, timeout=3600) as response:
            answer = json.loads(response.read())
        return answer, time.perf_counter() - began


class Conversation:
    """A tool loop with generated texts; `ask` is one turn."""

    def __init__(self, result_words: int, seed: int = 0):
        self.rng, self.result_words = random.Random(seed), result_words
        self.messages: list[dict[str, Any]] = [
            {"role": "system", "content": "You look things up. " + self.text(6 * result_words)},
            {"role": "user", "content": "Find where the chain from k0 ends. Look up one key after the other."},
        ]

    def text(self, num: int) -> str:
        return " ".join(self.rng.choice(WORDS) for _ in range(num))

    def ask(self, server: Server, what: str, key: str = "warm", messages: list | None = None) -> Row:
        """Send the conversation; with the conversation's own messages, go on by the answer and a result."""
        body = {
            "messages": messages or self.messages,
            "tools": [TOOL],
            "tool_choice": "required",
            "parallel_tool_calls": False,
            "temperature": 0,
            "thinking_budget": ANSWER_TOKENS,
            "max_tokens": 200,
        }
        answer, seconds = server.post("/v1/chat/completions", body, key)
        usage, message = answer["usage"], answer["choices"][0]["message"]
        if messages is None and key == "warm":
            calls = message["tool_calls"]
            self.messages.append({"role": "assistant", "content": message["content"], "tool_calls": calls})
            self.messages.append(
                {"role": "tool", "tool_call_id": calls[0]["id"], "content": self.text(self.result_words)}
            )
        cached = usage["prompt_tokens_details"]["cached_tokens"]
        report = answer["a3b"]["cache"]
        where = f" at token {report['position']}" if report["miss"] == "diverged" else ""
        read_s = answer["a3b"]["prefill_s"]
        return Row(
            what, usage["prompt_tokens"], usage["prompt_tokens"] - cached, seconds, read_s, report["miss"] + where
        )


def free_port() -> int:
    import socket

    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def cold_turns(args: argparse.Namespace) -> list[int]:
    return [int(turn) for turn in args.cold.split(",") if turn]


def a3b_server(args: argparse.Namespace, directory: Path) -> Server:
    model = [args.model] if args.model else []
    command = [sys.executable, "-m", "a3b.cli", "serve", *model]
    command += [
        "--cache-dir",
        str(directory / "sessions"),
        "--api-key",
        "warm",
        *(f"--api-key=cold-{turn}" for turn in cold_turns(args)),
    ]
    command += ["--trace", str(directory / "trace"), "--context", str(args.context)]
    return Server(command, "/health", free_port())


def run_a3b(args: argparse.Namespace, directory: Path) -> tuple[list[Row], list[list[int]]]:
    """Rows, and the ids of the prompt of each row."""
    talk, rows = Conversation(args.result_words), []
    middle, prompts = args.turns // 2, {}
    with a3b_server(args, directory) as server:
        for turn in range(1, middle + 1):
            prompts[turn] = list(talk.messages)
            rows.append(talk.ask(server, f"turn {turn}"))
            rows[-1].start_s = server.start_s if turn == 1 else 0
            say(rows[-1])
        time.sleep(args.settle)  # the store writes in the background
        server.kill()
    with a3b_server(args, directory) as server:
        for turn in range(middle + 1, args.turns + 1):
            prompts[turn] = list(talk.messages)
            row = talk.ask(server, f"turn {turn}" + (", after kill -9 and restart" if turn == middle + 1 else ""))
            row.start_s = server.start_s if turn == middle + 1 else 0
            rows.append(row)
            say(row)
        changed = list(talk.messages[:-1])
        at = 2 * middle - 1  # a tool result
        changed[at] = {**changed[at], "content": "another result: " + talk.text(args.result_words)}
        rows.append(talk.ask(server, f"diverging in turn {middle}", messages=changed))
        say(rows[-1])
        for turn in cold_turns(args):
            rows.append(talk.ask(server, f"turn {turn}, cold", f"cold-{turn}", prompts[turn]))
            say(rows[-1])
    lines = [json.loads(line) for line in (directory / "trace").read_text().splitlines()]
    return rows, [line["prompt"] for line in lines]


def run_llama(args: argparse.Namespace, rows: list[Row], prompts: list[list[int]]) -> list[Row]:
    """The same prompts, token by token, with the answers of the same length; the cold turns are left out."""
    found = []
    command = [
        args.llama_server,
        "-m",
        args.gguf,
        "-t",
        str(os.cpu_count()),
        "-c",
        str(args.context),
        "-np",
        "1",
        "--no-warmup",
    ]
    server = Server(command, "/health", free_port())
    server.__enter__()
    try:
        for i, (row, ids) in enumerate(zip(rows, prompts, strict=True)):
            if "cold" in row.what:
                continue
            if "restart" in row.what:
                server.kill()
                server.__enter__()
            body = {
                "prompt": ids,
                "n_predict": max(len(prompts[i + 1]) - len(ids), 0) and 32,
                "cache_prompt": True,
                "temperature": 0,
                "ignore_eos": True,
            }
            answer, seconds = server.post("/completion", body)
            timings = answer["timings"]
            start_s = server.start_s if row.what == "turn 1" or "restart" in row.what else 0
            read_s = timings["prompt_ms"] / 1e3
            found.append(Row(row.what, len(ids), timings["prompt_n"], seconds, read_s, start_s=start_s))
            say(found[-1])
    finally:
        server.__exit__()
    return found


def say(row: Row) -> None:
    print(line(row), file=sys.stderr, flush=True)


def line(row: Row) -> str:
    note = row.note + (f", started in {row.start_s:.1f} s" if row.start_s else "")
    return f"{row.what:<36} {row.prompt_tokens:>7,} {row.computed:>9,} {row.read_s:>9.2f} {row.seconds:>9.2f}  {note}"


def table(name: str, rows: list[Row]) -> str:
    head = f"{name:<36} {'prompt':>7} {'computed':>9} {'read s':>9} {'whole s':>9}  miss"
    turns = [row for row in rows if re.match(r"turn \d+(,|$)", row.what) and "cold" not in row.what]
    total = Row(
        f"{len(turns)} turns together",
        sum(r.prompt_tokens for r in turns),
        sum(r.computed for r in turns),
        sum(r.seconds for r in turns),
        sum(r.read_s for r in turns),
    )
    return "\n".join([head, *map(line, rows), line(total)])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--cold", default="1,10,20", help="turns that are asked cold, too; '' is none")
    parser.add_argument("--result-words", type=int, default=60)
    parser.add_argument("--context", type=int, default=16384)
    parser.add_argument("--settle", type=float, default=3.0, help="seconds before the kill")
    parser.add_argument("--llama-server", metavar="PATH")
    parser.add_argument("--gguf", metavar="FILE")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if bool(args.llama_server) != bool(args.gguf):
        parser.error("--llama-server and --gguf belong together")
    with tempfile.TemporaryDirectory(prefix="a3b-turns-") as directory:
        rows, prompts = run_a3b(args, Path(directory))
    result = {"a3b": rows}
    if args.llama_server:
        result["llama.cpp"] = run_llama(args, rows, prompts)
    if args.json:
        print(json.dumps({name: [vars(row) for row in rows] for name, rows in result.items()}, indent=2))
    else:
        print("\n\n".join(table(name, rows) for name, rows in result.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
