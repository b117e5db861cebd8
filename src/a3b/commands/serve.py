"""`a3b serve [MODEL]`: the model behind HTTP, for any client of OpenAI or Anthropic."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import sys
from argparse import Namespace
from pathlib import Path
from typing import TextIO

from a3b.cache.identity import cache_identity
from a3b.cache.prefix import PrefixCache
from a3b.cache.store import Store
from a3b.commands.answer import load
from a3b.engine import Engine, resolve
from a3b.errors import UsageError
from a3b.files import open_private, read_given
from a3b.machine import Machine
from a3b.printable import say
from a3b.requests import check_policy
from a3b.scheduler import Scheduler
from a3b.server.app import Settings as AppSettings
from a3b.server.app import create_app
from a3b.server.stored import ResponseStore
from a3b.service import Service, Settings
from a3b.turns import Turns

MOST_CACHE = 4 << 30  # bytes of memory for snapshots, unless asked for more
LEAST_CACHE = 256 << 20
GRACE_S = 3  # for answers that are being written when the server is told to stop


def run(args: Namespace) -> int:
    import uvicorn

    logging.basicConfig(format="%(message)s", stream=sys.stderr, level=logging.INFO)
    keys = api_keys(args)
    if not keys and not is_loopback(args.host):
        say(f"a3b serve: {args.host} can be reached from other machines and no --api-key is set")
    check_policy(args.preserve_thinking)
    trace = opened(args.trace) if args.trace else None
    sock = bound(args.host, args.port)
    args.model = args.model or args.runtime.model
    store = None if args.no_persist else Store(sessions_directory(args), args.cache_disk, args.session_days * 86400)
    engine = load(args)
    if engine.huge_pages:
        engine.huge_pages.start()
    service = build(engine, args, store, trace)
    stored = ResponseStore(records=None if args.no_persist_thinking else store)
    app = create_app(service, AppSettings(api_keys=keys, max_body_bytes=args.max_body, secret=secret(store), host=args.host), stored)
    say(banner(engine, sock, store))
    signal.signal(signal.SIGTERM, _stop)  # uvicorn raises it again when it is done: the sessions must still be written
    config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=GRACE_S, timeout_keep_alive=75)
    try:
        uvicorn.Server(config).run([sock])
    finally:
        service.close()
        stored.close()
        if store:
            store.close()
    return 0


def _stop(*_: object) -> None:
    raise SystemExit(0)


def build(engine: Engine, args: Namespace, store: Store | None, trace: TextIO | None = None) -> Service:
    """Cache, scheduler and memory of turns around an engine."""
    directory = resolve(args.model)
    identity = cache_identity(engine.config, directory, engine.model.kv, engine.model.isa)
    free = Machine.read().memory_bytes
    ram = args.cache_ram if args.cache_ram is not None else min(MOST_CACHE, max(LEAST_CACHE, free // 4))
    cache = PrefixCache(identity, engine.model.new_state, ram, store)
    scheduler = Scheduler(engine.model, cache, max_active=args.parallel, max_waiting=args.queue, verify_every=args.verify_cache)
    turns = Turns(store if not args.no_persist_thinking else None)
    settings = Settings(policy=args.preserve_thinking, think=not args.no_think, thinking_budget=args.thinking_budget,
                        task_budget=args.task_thinking_budget, persist_thinking=not args.no_persist_thinking,
                        exact_dates=args.exact_dates)  # fmt: skip
    return Service(engine, scheduler, turns, settings, trace)


def opened(path: str) -> TextIO:
    try:
        return open(path, "a", encoding="utf-8", opener=open_private)
    except OSError as error:
        raise UsageError(f"--trace {path}: {error.strerror}; give a file that can be written") from None


def sessions_directory(args: Namespace) -> Path:
    return Path(args.cache_dir or Path(args.runtime.cache) / "sessions").expanduser()


def secret(store: Store | None) -> bytes:
    """What signatures are made with: kept beside the sessions, so that they hold after a restart."""
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
        raise UsageError(f"{path}: {len(found)} bytes; expected 32. Remove it: signatures of earlier thinking are then no longer accepted")
    return found


def api_keys(args: Namespace) -> tuple[str, ...]:
    keys = list(args.api_key or [])
    if args.api_key_file:
        try:
            keys += [line.strip() for line in read_given(args.api_key_file).splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"--api-key-file: {error}") from None
    if any(not key for key in args.api_key or []) or (args.api_key_file and not any(keys)):
        raise UsageError("an API key is empty; give one, or leave the option out to serve without keys")
    return tuple(dict.fromkeys(key for key in keys if key))


def is_loopback(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")


def bound(host: str, port: int) -> socket.socket:
    """A listening socket. Taken before the model is loaded: a wrong port is said at once."""
    if not 0 <= port < 1 << 16:
        raise UsageError(f"--port {port}: expected 0 to 65535; 0 takes a free one")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        sock = socket.socket(family, kind, protocol)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen()
    except OSError as error:
        raise UsageError(f"cannot listen on {host} port {port}: {error.strerror or error}; choose another with --host and --port") from None
    return sock


def banner(engine: Engine, sock: socket.socket, store: Store | None) -> str:
    host, port = sock.getsockname()[:2]
    at = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    kept = f"sessions are kept in {store.directory}" if store else "sessions are not kept"
    lines = [f"{engine.name}, context {engine.context:,}, {engine.model.isa} kernels; {kept}",
             f"OpenAI: {at}/v1   Anthropic: {at}   metrics: {at}/metrics   Ctrl-C stops"]  # fmt: skip
    if engine.is_nano:
        lines.insert(0, "This is the embedded demonstration model; give a packed model's directory for real work.")
    return "\n".join(lines)
