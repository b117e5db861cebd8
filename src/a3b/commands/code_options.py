"""The options of `code`. Enter at `code`."""

from __future__ import annotations

import argparse

from a3b.commands.argument_types import positive, real, seconds, tokens, whole
from a3b.commands.client_options import server

COMPACT_AT = 50_000  # as a3b.agent.options, which help does not load


def code(parser: argparse.ArgumentParser) -> None:
    parser.usage = "a3b code [TASK] [options] | a3b code sessions [--search WORDS] | a3b code forget ID ...|--all"
    parser.add_argument(
        "words",
        nargs="*",
        metavar="TASK|sessions|forget",
        help="TASK: the first message at the terminal; sessions: list the sessions of this directory; forget ID ...: "
        "remove all that is kept of some",
    )
    parser.add_argument(
        "-p", "--prompt", metavar="TASK", help="work on this task without a terminal, and exit; piped text is added"
    )
    parser.add_argument(
        "--json", action="store_true", help="with -p: print each event as a line of JSON; with sessions: each session"
    )
    parser.add_argument(
        "--acp", action="store_true", help="serve an editor on stdin and stdout (Agent Client Protocol)"
    )
    parser.add_argument(
        "--demo", action="store_true", help="see the embedded model repair a small package in a scratch directory"
    )
    server(parser)
    group = parser.add_argument_group("earlier sessions")
    group.add_argument("--continue", dest="go_on", action="store_true", help="go on with the last session here")
    group.add_argument(
        "--resume", nargs="?", const="", metavar="ID", help="go on with this one; without ID, choose one"
    )
    group.add_argument(
        "--from-turn", type=positive, metavar="N", help="with one of these: go on from the end of turn N, in a copy"
    )
    group.add_argument(
        "--search", metavar="WORDS", help="with sessions: what they say of these words, thinking included"
    )
    group.add_argument("--all", action="store_true", help="with forget: every session of this directory")
    group.add_argument("--forks", action="store_true", help="with forget: also sessions that began as a copy of one")
    group.add_argument("--yes", action="store_true", help="with forget --all: do not ask")
    group = parser.add_argument_group("limits of one task (default: none)")
    group.add_argument("--max-turns", type=positive, metavar="N", help="answers of the model")
    group.add_argument("--max-tokens", type=tokens, metavar="N", help="tokens that are computed: read and written")
    group.add_argument("--max-time", type=seconds, metavar="S", help="seconds")
    _permissions(parser)
    group = parser.add_argument_group("the model")
    group.add_argument("--think", action="store_const", const=True, help="think (default: as the server is set)")
    group.add_argument("--no-think", dest="think", action="store_const", const=False, help="answer without thinking")
    group.add_argument(
        "--compact-at",
        type=tokens,
        default=COMPACT_AT,
        metavar="N",
        help=f"tokens from which a conversation begins anew from a summary (default {COMPACT_AT:,})",
    )
    group.add_argument("--temperature", type=real, metavar="X", help="of sampling (default: the server's)")
    group.add_argument("--seed", type=whole, metavar="N", help="of sampling")


def _permissions(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what it may do")
    group.add_argument("--tools", metavar="NAME,...", help="only these tools, such as read,edit,bash")
    group.add_argument(
        "--allow-host",
        action="append",
        metavar="NAME",
        help="a host that commands may reach; repeatable (default none)",
    )
    group.add_argument(
        "--allow-path",
        action="append",
        metavar="PATH",
        help="a protected file or directory that may change, such as .github; repeatable (default none)",
    )
    group.add_argument("--mcp-config", metavar="FILE", help="MCP servers besides .mcp.json here and A3B_HOME/mcp.json")
    group.add_argument(
        "--allow-mcp", action="append", metavar="NAME", help="start this MCP server without a question; repeatable"
    )
    group.add_argument(
        "--yolo", action="store_true", help="no sandbox and no questions: commands may do whatever you may"
    )
