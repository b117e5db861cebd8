"""`a3b launch CLIENT [-- ARGS]`: starts a coding agent on the served model, with settings of its own.

The server is one that runs, or is started and ends with the client. Nothing of the user's is written: each client gets
a directory below A3B_HOME/clients. Enter at `run`."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import FrameType

from a3b.clients.catalogue import CLIENTS
from a3b.clients.directory import write
from a3b.clients.first_request import Program
from a3b.clients.setup import Client, Endpoint, check_no_nul, environment_of
from a3b.commands.ask import agreed
from a3b.commands.client_script import script
from a3b.commands.client_server import (
    Served,
    address,
    clients_directory,
    first_key,
    found,
    model_of,
    planned,
    serving,
    wanted_port,
)
from a3b.commands.first_prompt import cost_line, first_prompt, known_speed, remember_speed
from a3b.commands.installed_client import installed
from a3b.commands.server_answers import ServedModel
from a3b.errors import A3BError, UsageError
from a3b.files import read_given
from a3b.printable import printable, report, say
from a3b.settings import process_environment

NANO = "a3b-nano"
ROOM = 1024  # tokens of the context for a question and an answer
ASK_AFTER_S = 180.0  # of reading before the first answer
NO_PROXY = ("127.0.0.1", "localhost", "::1")


def run(args: Namespace) -> int:
    if args.client is None:
        report(listing(process_environment()))
        return 0
    client = CLIENTS[args.client]
    directory = clients_directory(args) / client.name
    if args.print:
        report(printed(args, client, directory))
        return 0
    program = installed(client, process_environment())
    with serving(args, partial(check_context, client)) as served:
        terminal = sys.stdin.isatty() and sys.stdout.isatty()
        prompt = first_prompt(client, served, directory, program.command, terminal)
        speed = known_speed(served, directory.parent)
        say(cost_line(client, prompt, speed))
        if terminal and speed and prompt.left / speed > ASK_AFTER_S and not agreed("Start it?", args.yes, ""):
            return 1
        status = started(program, endpoint(served, first_key(args)), directory, args.arguments)
        remember_speed(served, directory.parent)
    return status


def listing(environment: Mapping[str, str]) -> str:
    """The clients, and how each that is missing is installed."""
    path = environment.get("PATH")
    lines = [
        f"  {client.name:<16}{'installed' if shutil.which(client.program, path=path) else client.install}"
        for client in CLIENTS.values()
    ]
    return "\n".join(["a3b launch CLIENT [-- ARGUMENTS OF THE CLIENT], of:", "", *lines])


def endpoint(served: Served, key: str) -> Endpoint:
    return Endpoint(served.asker.url, served.model.name, served.model.context, key)


def check_context(client: Client, model: ServedModel) -> None:
    """Raises A3BError if the client's instructions do not fit."""
    if model.context < client.tokens + ROOM:
        way = "get a larger model with 'a3b up'" if model.name == NANO else "serve it with --context 32k or more"
        raise A3BError(
            f"{client.title}'s first prompt has about {client.tokens:,} tokens, and {printable(model.name)} has a "
            f"context of {model.context:,}; {way}"
        )


def started(program: Program, server: Endpoint, directory: Path, arguments: Sequence[str]) -> int:
    """Run a client to its end; returns its status. Ctrl-C reaches it through the terminal and ends nothing here."""
    setup = program.client.setup(server, directory)
    environment = environment_of(setup, without_proxy(program.environment, server.url))
    check_no_nul(environment)
    write(setup, directory)
    process: subprocess.Popen[bytes] | None = None

    def pass_on(number: int, _: FrameType | None) -> None:
        if process is not None and process.poll() is None:
            process.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGHUP)}
    before[signal.SIGINT] = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        process = subprocess.Popen([program.command, *setup.arguments, *arguments], env=environment)
        status = process.wait()
    except OSError as error:
        raise A3BError(f"{program.command}: {error.strerror}") from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 128 - status if status < 0 else status


def without_proxy(environment: Mapping[str, str], url: str) -> dict[str, str]:
    """The variables, with this machine among those that are reached without a proxy."""
    found = dict(environment)
    if any(found.get(name) for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY")):
        for name in ("no_proxy", "NO_PROXY"):
            named = [part.strip() for part in found.get(name, "").split(",") if part.strip()]
            found[name] = ",".join(dict.fromkeys([*named, *NO_PROXY]))
    return found


# -- only shown


def printed(args: Namespace, client: Client, directory: Path) -> str:
    """What a launch would do, as lines for a shell. Nothing is written and nothing started."""
    running = found(args)
    key = first_key(args)
    if running is not None:
        server, first = endpoint(running, key), f"# {client.title} on {running.model.name} at {running.asker.url}"
    else:
        port = wanted_port(args) or args.runtime.port
        model = planned(args)
        server = Endpoint(address(args), model.name, model.context, key)
        named = f" {args.named}" if args.named else ""
        first = f"# {client.title}; before it: a3b serve{named} --port {port}"
        if model_of(args) is None:
            first = f"# {client.title}; no model is here yet, a3b up gets one; shown for a3b-nano"
    setup = client.setup(server, directory)
    check_no_nul(setup.environment)
    users = process_environment()
    changed = {k: v for k, v in without_proxy(users, server.url).items() if users.get(k) != v}
    lines = script(setup, directory, client.program, args.arguments, shell_key(args), changed)
    if printable(lines, lines=True) != lines:
        raise A3BError(
            "--print: a place or an argument holds characters that no terminal shows, so the lines would do something "
            "else; give another A3B_HOME or argument"
        )
    return "\n".join([printable(first), f"# to install it: {client.install}", lines])


def shell_key(args: Namespace) -> str:
    """How a shell reads the key, quoted; "" if it is no secret or was typed.

    Raises UsageError for one that a shell would read differently."""
    key = first_key(args)
    if args.api_key is not None or not key:
        return ""
    if args.api_key_file:
        lines = read_given(args.api_key_file).splitlines()
        read, place = next(filter(None, lines)), f"--api-key-file {args.api_key_file}"
        shown = f'"$(grep -m 1 . {quoted_path(args.api_key_file)})"'
    else:
        read, place = process_environment().get("A3B_API_KEY", "").partition(",")[0], "A3B_API_KEY"
        shown = '"${A3B_API_KEY%%,*}"'
    if read != key:
        raise UsageError(f"--print: {place} has blanks or a comma around its first key; expected the key alone there")
    return shown


def quoted_path(path: Path) -> str:
    return shlex.quote(os.fspath(path))
