"""What clients may take of a server, in one place; docs/server.md has the same table. Seconds and bytes."""

from __future__ import annotations

import ipaddress
from contextlib import suppress
from dataclasses import dataclass

MiB = 1 << 20
RETRY_AFTER_S = 2  # told to a client that is refused because the server is busy


@dataclass(frozen=True)
class ServerLimits:
    """connections: open at once. per_peer: of one address other than loopback; None is no limit."""

    connections: int = 1000
    per_peer: int | None = None
    head_s: float = 30.0  # from the first byte of a request, or from the connection, to the end of its header
    idle_s: float = 75.0  # between two requests
    head_bytes: int = 32 << 10
    body_s: float = 300.0  # for a whole body
    body_idle_s: float = 30.0  # between two pieces of it
    bodies: int = 64  # unfinished at once
    slow_body_s: float = 2.0  # an unfinished body older than this makes room for others
    all_bodies_bytes: int = 256 * MiB  # of all requests that are being answered
    drain_s: float = 30.0  # for what a client still sends after it was refused
    drain_idle_s: float = 5.0
    drain_bytes: int = 256 * MiB
    write_s: float = 300.0  # in which a client takes nothing of its answer
    pipelined_bytes: int = 64 << 10  # of later requests, while one is answered
    probe_s: float = 1.0  # after which a client that closed its side is asked whether it is still there


def is_loopback(host: str) -> bool:
    """Whether an address, or the name localhost, can be reached from this machine only."""
    return host in ("localhost", "::1") or host.startswith(("127.", "::ffff:127."))


def peer_of(host: str) -> str:
    """Who shares the limits of an address: the address itself, or the /64 network that IPv6 gives to one user."""
    if ":" in host and not host.startswith("::ffff:"):
        with suppress(ValueError):
            return str(ipaddress.ip_network((host.partition("%")[0], 64), strict=False)) if host != "::1" else host
    return host
