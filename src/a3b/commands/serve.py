"""`a3b serve [MODEL]`: serves the model over the OpenAI and Anthropic APIs.

Each option becomes a setting in `build`, `app_settings`, `limits` or `cache_directories.open_store`. Enter at `run`."""

from __future__ import annotations

import os
import re
import resource
import secrets
import shlex
import signal
import socket
import sys
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import TextIO

from a3b import __version__
from a3b.cache.disk_store import Store
from a3b.cache.identity import cache_identity
from a3b.cache.prefix_cache import PrefixCache
from a3b.commands.api_keys import api_keys
from a3b.commands.cache_directories import open_store
from a3b.commands.dialogue import drafts, load
from a3b.commands.memory_fit import fit_to_memory
from a3b.commands.stored_otherwise import read_otherwise
from a3b.engine.draft_prices import StepCosts
from a3b.engine.draft_sources import drafters
from a3b.engine.engine import Engine, load_config, resolve
from a3b.engine.local import cache_bytes
from a3b.engine.request_renderer import ServiceSettings
from a3b.engine.scheduler import Scheduler
from a3b.engine.service import Service
from a3b.errors import UsageError
from a3b.files import open_private
from a3b.formats.packed import MANIFEST, Manifest
from a3b.interface.request import check_policy
from a3b.printable import printable, say
from a3b.server import logs
from a3b.server.app import create_app
from a3b.server.connections import ConnectionManager, uvicorn_config
from a3b.server.limits import MiB, ServerLimits, is_loopback
from a3b.server.middleware import ServerSettings
from a3b.server.response_store import ResponseStore
from a3b.thinking.turn_memory import TurnMemory

SWITCH_S = 0.001  # how long a thread that prepares a request may hold up the one that computes
GRACE_S = 3  # for running answers when the server is told to stop
OWN_FILES = 256  # files that the process needs besides connections
# with or without a port
HOST = re.compile(r"([a-z0-9._-]+|\*)(?::[0-9]+)?|\[([0-9a-f:.]+)\](?::[0-9]+)?|([0-9a-f:.]+)")
ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?")


def run(args: Namespace, next_step: str = "") -> int:
    """next_step: said after the banner."""
    import uvicorn

    logs.configure_logging(args.log_level or args.runtime.log_level)
    args.host, args.port = args.host or args.runtime.host, args.runtime.port if args.port is None else args.port
    settings, connections = app_settings(args), ConnectionManager(limits(args))
    check_policy(args.preserve_thinking)
    load_config(resolve(args.model), args.context)  # a wrong model is refused before anything is taken or made
    fit_to_memory(args, resolve(args.model))
    trace = opened(args.trace) if args.trace else None
    sys.setswitchinterval(SWITCH_S)
    sock = bound(args.host, args.port)
    store = None if args.no_persist else open_store(args)
    # before there is a service that must be closed
    settings = replace(settings, secret=secret(store), limits=connections.limits)
    engine = load(args)
    if engine.huge_pages:
        engine.huge_pages.start()
    service = build(engine, args, store, trace)
    stored = responses(args, store)
    app = create_app(service, settings, stored, connections)
    say(banner(engine, sock, store))
    if next_step:
        say(next_step)
    signal.signal(signal.SIGTERM, _stop)  # uvicorn raises it again when it is done: the sessions must still be written
    try:
        uvicorn.Server(uvicorn_config(app, connections, timeout_graceful_shutdown=GRACE_S)).run([sock])
    finally:
        service.close()
        stored.close()
        if store:
            store.close()
        if trace:
            trace.close()
    return 0


def _stop(*_: object) -> None:
    raise SystemExit(0)


def build(engine: Engine, args: Namespace, store: Store | None, trace: TextIO | None = None) -> Service:
    """Cache, scheduler and memory of turns around an engine."""
    directory = resolve(args.model)
    identity = cache_identity(
        engine.config, directory, engine.model.kv, engine.model.isa, mtp=engine.model.mtp is not None
    )
    ram = cache_bytes(engine) if args.cache_ram is None else args.cache_ram
    if store:
        where = f" --dir {shlex.quote(printable(store.directory.absolute()))}" if args.cache_dir else ""
        for line in read_otherwise(engine, directory, store, where):
            say(line)
    cache = PrefixCache(identity, engine.model.new_state, ram, store)
    costs = StepCosts()
    scheduler = Scheduler(
        engine.model,
        cache,
        max_active=args.parallel,
        max_waiting=args.queue,
        verify_every=args.verify_cache,
        drafter=drafters(engine.model.mtp, costs) if drafts(args) else None,
        costs=costs,
    )
    turns = TurnMemory(store if not args.no_persist_thinking else None)
    settings = ServiceSettings(
        policy=args.preserve_thinking,
        think=not args.no_think,
        thinking_budget=args.thinking_budget,
        task_budget=args.task_thinking_budget,
        persist_thinking=not args.no_persist_thinking,
        exact_dates=args.exact_dates,
    )
    return Service(engine, scheduler, turns, settings, trace, about=told_of(engine, directory, identity))


def told_of(engine: Engine, directory: Path, identity: bytes) -> dict[str, str]:
    """What /health says of the model and of what computes it, so that a measurement can name both. identity: of kept
    states, which changes with all that changes a bit of them."""
    is_packed = (directory / MANIFEST).exists()
    preset = (Manifest.read(directory).preset or "own types") if is_packed else "not packed"
    computes = {"version": __version__, "instruction_set": engine.model.isa, "kv": engine.model.kv}
    return {**computes, "preset": preset, "identity": identity.hex()}


def responses(args: Namespace, store: Store | None) -> ResponseStore:
    """The store of responses. They contain thinking, so without persistent thinking they stay in memory."""
    return ResponseStore(records=None if args.no_persist_thinking else store)


def opened(path: str) -> TextIO:
    try:
        return open(path, "a", encoding="utf-8", opener=open_private)
    except OSError as error:
        raise UsageError(f"--trace {path}: {error.strerror}; give a writable file") from None


def secret(store: Store | None) -> bytes:
    """The key of signatures, kept beside the sessions so that signatures stay valid after a restart."""
    if store is None:
        return secrets.token_bytes(32)
    path = store.directory / "secret"
    try:
        if not os.path.lexists(path):  # the directory is this server's alone
            fresh = path.with_suffix(".new")
            with open(fresh, "wb", opener=open_private) as file:
                file.write(secrets.token_bytes(32))
            fresh.rename(path)
        with open(path, "rb", opener=open_private) as file:
            found = file.read(33)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}; remove it, or give another directory with --cache-dir") from None
    if len(found) != 32:
        size = path.stat().st_size
        raise UsageError(
            f"{path}: {size} bytes; expected 32. Remove it: signatures of earlier thinking are then no longer accepted"
        )
    return found


# -- who may ask


def app_settings(args: Namespace) -> ServerSettings:
    """All settings but the secret and the limits; warns of an open server."""
    runtime, keys = args.runtime, api_keys(args)
    hosts = tuple(host_name(given) for given in args.allow_host or runtime.allow_host)
    if not keys and not is_loopback(args.host):
        say(f"a3b serve: {args.host} can be reached from other machines and no --api-key is set")
    return ServerSettings(
        api_keys=keys,
        max_body_bytes=args.max_body,
        host=args.host,
        hosts=hosts,
        cors_origins=tuple(origin(given) for given in args.allow_origin or runtime.allow_origin),
    )


def host_name(given: str) -> str:
    """A name without its port. Raises UsageError."""
    found = HOST.fullmatch(given.strip().lower())
    if not found:
        raise UsageError(f"--allow-host {given[:100]!r}: expected a name or an address, such as box.lan, or * for any")
    return str(next(filter(None, found.groups())))


def origin(given: str) -> str:
    """As browsers write it. Raises UsageError."""
    text = given.strip().lower().rstrip("/")
    for scheme, port in (("http://", ":80"), ("https://", ":443")):
        if text.startswith(scheme):
            text = text.removesuffix(port)
    if text != "*" and not ORIGIN.fullmatch(text):
        raise UsageError(
            f"--allow-origin {given[:100]!r}: expected SCHEME://HOST or "
            "SCHEME://HOST:PORT, such as https://chat.example, "
            "or * for every page"
        )
    return text


# -- where it listens, and how much of it there is


def limits(args: Namespace) -> ServerLimits:
    """Raise the number of files that this process may open, or take fewer connections than were asked for."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = args.max_connections + OWN_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    connections = args.max_connections
    if soft != resource.RLIM_INFINITY and soft < wanted:
        connections = max(soft - OWN_FILES, 16)
        say(
            f"a3b serve: {connections} connections instead of {args.max_connections}, "
            f"as {soft} files may be open (ulimit -n)"
        )
    return ServerLimits(
        connections=connections,
        per_peer=None if is_loopback(args.host) else max(connections // 4, 1),
        all_bodies_bytes=max(256 * MiB, 8 * args.max_body),
        drain_bytes=max(256 * MiB, 4 * args.max_body),
    )


def bound(host: str, port: int) -> socket.socket:
    """A listening socket. It is opened before the model is loaded, so that a wrong port fails at once."""
    if not 0 <= port < 1 << 16:
        raise UsageError(f"--port {port}: expected 0 to 65535; 0 takes a free one")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(address)
            sock.listen()
        except BaseException:
            sock.close()
            raise
    except OSError as error:
        raise UsageError(
            f"cannot listen on {host} port {port}: {error.strerror or error}; choose another with --host and --port"
        ) from None
    return sock


def banner(engine: Engine, sock: socket.socket, store: Store | None) -> str:
    host, port = sock.getsockname()[:2]
    at = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    kept = f"sessions are kept in {printable(store.directory)}" if store else "sessions are not kept"
    scaled = "" if engine.config.rope.type == "default" else f" ({engine.positions})"
    lines = [
        f"{printable(engine.name)}, context {engine.context:,}{scaled}, {engine.model.isa} kernels; {kept}",
        f"OpenAI: {at}/v1   Anthropic: {at}   metrics: {at}/metrics   Ctrl-C stops",
    ]
    if engine.is_nano:
        lines.insert(0, "This is the embedded demonstration model; give a packed model's directory for real work.")
    return "\n".join(lines)
