"""`a3b warm CLIENT`: reads a client's instructions into the store, before anybody waits for them.

The client itself is run, against an endpoint that answers at once, in two directories that hold nothing, 26 hours apart
by its clock: what two such requests share is what every session begins with. The server reads that and keeps the state
at its end on the disk. Enter at `run`."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Sequence
from functools import partial

from a3b.clients.capture import Captured
from a3b.clients.catalogue import CLIENTS
from a3b.clients.first_request import ClientError, Program, first_requests
from a3b.clients.setup import Way
from a3b.commands.client_server import Served, clients_directory, serving
from a3b.commands.first_prompt import duration, known_speed, remember_requests, remember_speed
from a3b.commands.installed_client import installed
from a3b.commands.launch import check_context
from a3b.commands.progress import Progress
from a3b.commands.server_answers import is_count
from a3b.errors import A3BError, UsageError
from a3b.printable import report, say
from a3b.settings import process_environment

READING_S = 900.0  # between two signs of a server that reads


def run(args: Namespace) -> int:
    client = CLIENTS[args.client]
    if not client.ways:
        raise UsageError(f"{client.title} was not tried here and cannot be warmed; 'a3b launch {client.name}' works")
    program = installed(client, process_environment())
    directory = clients_directory(args) / client.name
    with serving(args, partial(check_context, client)) as served:
        done = []
        for way in client.ways:
            say(f"a3b warm: running {client.title} ({way.name}) to see what it sends first")
            try:
                model = served.model
                requests = first_requests(program, way, model.name, model.context, directory)
            except ClientError as error:
                say(f"a3b warm: {error}")
                continue
            told = read(served, way, requests, args)
            done.append((way.name, way.terminal, requests))
            report(json.dumps({"way": way.name, **told}) if args.json else said(program, way, told))
        if not done:
            raise A3BError(f"nothing of {client.title} could be read")
        remember_requests(directory, program.command, done)
        remember_speed(served, directory.parent)
    return 0 if len(done) == len(client.ways) else 1


def read(served: Served, way: Way, requests: Sequence[Captured], args: Namespace) -> dict[str, object]:
    """Have the server read what the requests share; returns what it says about that. Raises A3BError."""
    body = {"requests": [vars(one) for one in requests], "stream": True}
    speed = known_speed(served, clients_directory(args))
    last: object = None
    with Progress("reading", 0) as progress:
        for event in served.asker.events("/v1/warm", body, READING_S):
            if isinstance(event, dict) and event.get("object") == "warm.progress":
                done, total = event.get("read"), event.get("of")
                if is_count(done) and is_count(total):
                    if not progress.total:
                        long = f", {duration(total / speed)}" if speed else ""
                        say(f"a3b warm: {total:,} tokens are to be read{long}")
                    progress.total = total
                    progress(done)
            last = event
    if not isinstance(last, dict) or last.get("object") != "warm":
        error = last.get("error") if isinstance(last, dict) else None
        why = error.get("message") if isinstance(error, dict) else "the answer broke off"
        raise A3BError(f"{served.asker.url}: {way.name}: {str(why)[:300]}")
    return last


def said(program: Program, way: Way, told: dict[str, object]) -> str:
    """One line about what is in the store now."""
    prompts, shared = told.get("prompt_tokens"), told.get("shared_tokens")
    whole = prompts[0] if isinstance(prompts, list) and prompts else 0
    if not is_count(shared) or not is_count(whole):
        raise A3BError("the server's answer about what it read is not understood; it may be of another version")
    kept = told.get("on_disk")
    where = "there already" if kept is None else "kept on the disk" if kept is True else "kept in memory only"
    share = f"{shared:,} of {whole:,} tokens of its first prompt ({shared / max(whole, 1):.0%})"
    return f"{program.client.title} ({way.name}): {share} are {where}; {str(told.get('seconds'))[:12]} s"
