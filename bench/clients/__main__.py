"""Real clients against a real `a3b serve` of the embedded model, judged by the server's trace of token ids.

    python -m bench.clients [--dir DIR] [--only NAME,...] [--games 10] [--json]

Programs of SDKs and frameworks play *secret* (told one of two numbers, they ask for the other, which only the model's
earlier thinking knows) and a chain of two calls of a tool. Agents of the command line get two turns; the embedded model
knows nothing of their work and writes nonsense, so only requests, thinking and prefix count. Columns: whether the
client got its answers; earlier turns that stood in prompts exactly as sampled; later answers with nothing but new
tokens computed; games won. The status is 1 if a client fails, or loses thinking, or computes a prefix again. `python -m
bench.clients.install DIR` installs the clients."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from bench.clients.agents import run_agent
from bench.clients.games import Row, run_games
from bench.clients.proof import Reader
from bench.clients.roster import NATIVE, SCALED, Client, chosen
from bench.clients.server import Server, stretched_model

DIRECTORY = Path("build/clients")
AGENTS_THINKING = 64  # tokens in an answer: out of its depth, the embedded model may never stop


class Servers:
    """One for each context, started when first asked for."""

    def __init__(self, directory: Path, stack: ExitStack):
        self.directory, self.stack = directory, stack
        self._running: dict[int, Server] = {}

    def of(self, client: Client) -> Server:
        context = client.context
        if context not in self._running:
            directory = self.directory / str(context)
            directory.mkdir()
            options = ["--thinking-budget", str(AGENTS_THINKING)] if client.is_agent else []
            if context > SCALED:
                options.insert(0, str(stretched_model(directory, context)))
            elif context > NATIVE:
                options += ["--context", str(context)]
            self._running[context] = self.stack.enter_context(Server(directory, *options))
        return self._running[context]


def run(client: Client, directory: Path, servers: Servers, num_games: int, reader: Reader) -> Row:
    program = client.home.program(directory)
    if program is None:
        return Row(client.name, note=f"not installed: {client.home.how}")
    log = servers.directory / f"{client.name.replace(' ', '-').replace('/', '').replace(',', '')}.log"
    if client.is_agent:
        row = run_agent(client, program, servers.of(client), reader, log)
    else:
        row = run_games(client, program, servers.of(client), num_games, reader, log)
    row.version = client.home.version(directory, client.package)
    return row


def table(rows: list[Row]) -> str:
    lines = [
        "| client | version | works | thinking kept | prefix reused | secret | note |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        p, note = row.proof, row.note.replace("|", "\\|").replace("\n", " ")[:300]
        if row.works is None:
            lines.append(f"| {row.name} | | | | | | {note} |")
            continue
        from_whom = " + ".join(word for word, tokens in (("sent", p.sent), ("restored", p.restored)) if tokens)
        kept = f"{p.kept}/{p.turns}" + (f", {from_whom}" if from_whom else "")
        won = f"{row.right}/{row.played}" if row.played else ""
        cells = (row.name, row.version, "yes" if row.works else "**no**", kept, f"{p.reused}/{p.later}", won, note)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--dir", type=Path, default=DIRECTORY, help=f"where the clients were installed (default {DIRECTORY})"
    )
    parser.add_argument("--only", metavar="NAME,...", help="beginnings of names of rows")
    parser.add_argument("--games", type=int, default=10, metavar="N", help="of *secret* for each client (default 10)")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep traces and logs there")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # servers and clients end with this process
    try:
        clients = chosen(args.only)
    except ValueError as error:
        parser.error(str(error))
    rows, reader = [], Reader()
    with ExitStack() as stack:
        if args.keep:
            args.keep.mkdir(parents=True)
        logs = args.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="a3b-clients-")))
        servers = Servers(logs.resolve(), stack)
        for client in clients:
            row = run(client, args.dir.resolve(), servers, args.games, reader)
            rows.append(row)
            verdict = "failed" if row.failed else "not installed" if row.works is None else "good"
            print(f"{row.name}: {verdict}", file=sys.stderr, flush=True)
    print(json.dumps({"clients": [row.as_json() for row in rows]}, indent=1) if args.json else table(rows))
    return int(any(row.failed for row in rows))


if __name__ == "__main__":
    sys.exit(main())
