"""The limits of what clients may take up, in one place, in seconds and bytes; docs/server.md has the same table.

Knows addresses only as text. Enter at `ServerLimits`."""

from __future__ import annotations

import ipaddress
from contextlib import suppress
from dataclasses import dataclass

MiB = 1 << 20
RETRY_AFTER_S = 2  # what a client is told when the server is busy


@dataclass(frozen=True)
class ServerLimits:
    """connections: open at the same time. per_peer: those of one address other than loopback; None means no limit."""

    connections: int = 1000
    per_peer: int | None = None
    head_s: float = 30.0  # from the first byte of a request, or from connecting, to the end of the header
    idle_s: float = 75.0  # between two requests
    head_bytes: int = 32 << 10
    body_s: float = 300.0  # for a whole body
    body_idle_s: float = 30.0  # between two pieces of a body
    bodies: int = 64  # unfinished at the same time
    slow_body_s: float = 2.0  # after which an unfinished body may be given up for others
    all_bodies_bytes: int = 256 * MiB  # of all requests that are being answered
    drain_s: float = 30.0  # for what a refused client still sends
    drain_idle_s: float = 5.0
    drain_bytes: int = 256 * MiB
    write_s: float = 300.0  # without the client reading any of its answer
    pipelined_bytes: int = 64 << 10  # of later requests while one is being answered
    probe_s: float = 1.0  # after which a half-closed client is probed


def is_loopback(host: str) -> bool:
    """Whether an address, or the name localhost, can be reached from this machine only."""
    return host in ("localhost", "::1") or host.startswith(("127.", "::ffff:127."))


def peer_of(host: str) -> str:
    """Who shares the limits of an address: the address itself, or the /64 network that IPv6 gives to one user."""
    if ":" in host and not host.startswith("::ffff:"):
        with suppress(ValueError):
            return str(ipaddress.ip_network((host.partition("%")[0], 64), strict=False)) if host != "::1" else host
    return host
