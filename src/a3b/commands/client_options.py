"""The options of `launch` and `warm`: which client, which server. Enter at `launch`, `warm`; `server` for others."""

from __future__ import annotations

import argparse
from pathlib import Path

from a3b.clients.catalogue import CLIENTS
from a3b.commands.argument_types import tokens, whole


def launch(parser: argparse.ArgumentParser) -> None:
    _client(parser, required=False)
    parser.passes_on = "arguments"  # type: ignore[attr-defined]  # a Parser
    parser.usage = "a3b launch [CLIENT] [options] [-- ARGUMENTS OF THE CLIENT]"
    parser.add_argument(
        "--print",
        action="store_true",
        help="print what would be started, as lines for a shell; start and write nothing",
    )
    parser.add_argument(
        "--yes", action="store_true", help="do not ask before a client whose first prompt takes minutes is started"
    )


def warm(parser: argparse.ArgumentParser) -> None:
    _client(parser, required=True)
    parser.add_argument("--json", action="store_true", help="print a JSON object for each way in which it is started")


def _client(parser: argparse.ArgumentParser, required: bool) -> None:
    """What both share: the client and the server."""
    *names, last = CLIENTS
    parser.add_argument(
        "client",
        nargs=None if required else "?",
        choices=tuple(CLIENTS),
        metavar="CLIENT",
        help=f"{', '.join(names)} or {last}" + ("" if required else "; none lists them"),
    )
    server(parser)


def server(parser: argparse._ActionsContainer) -> None:
    """Which server a client talks to."""
    parser.add_argument(
        "--model", dest="named", metavar="MODEL", help="what is served: a directory or a name of 'a3b list'"
    )
    parser.add_argument(
        "--context", type=tokens, metavar="N", help="tokens of context: of a server that is started, or does not say"
    )
    parser.add_argument("--base-url", metavar="URL", help="a running server, such as http://box.lan:8080")
    parser.add_argument(
        "--port", type=whole, metavar="N", help="default A3B_PORT or 8080; 0 starts a server on a free one"
    )
    parser.add_argument("--api-key", metavar="KEY", help="of the server (process lists show it: better A3B_API_KEY)")
    parser.add_argument("--api-key-file", type=Path, metavar="FILE", help="a file whose first line is the key")
