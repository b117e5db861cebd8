"""Which hosts and addresses the proxy of the sandbox connects to. Enter at `HostRule.parse` and `is_public`."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from dataclasses import dataclass

from a3b.errors import UsageError

WEB_PORTS = (80, 443)
# one way to match each name: commands choose what is matched here
LABELS = re.compile(r"(?:\*\.)?[a-z0-9_][a-z0-9_-]{0,62}(?:\.[a-z0-9_-]{1,63})*", re.ASCII)
MAX_NAME = 253
NAT64 = (ipaddress.IPv6Network("64:ff9b::/96"), ipaddress.IPv6Network("64:ff9b:1::/48"))
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True)
class HostRule:
    """A host that commands may reach. port: None for those of the web; with a port, private addresses are meant too."""

    name: str
    port: int | None = None

    @classmethod
    def parse(cls, text: str) -> HostRule:
        """ "pypi.org", "*.npmjs.org", "10.0.0.5:5432", "[::1]:8080". Raises UsageError."""
        found = re.fullmatch(r"(?:\[([^\]]+)\]|([^:\[\]]+)|([0-9a-fA-F:]+:[0-9a-fA-F:]*))(?::(\d{1,5}))?", text.strip())
        name = normal_name(found[1] or found[2] or found[3]) if found else ""
        port = int(found[4]) if found and found[4] else None
        if not name or (port is not None and not 0 < port < 1 << 16):
            raise UsageError(
                f"{text[:80]!r} is no host; expected a name such as pypi.org or *.npmjs.org, or host:port, which may "
                "be on this machine or in a private network"
            )
        return cls(name, port)

    def allows(self, name: str, port: int) -> bool:
        """name: normal."""
        is_named = name == self.name or (self.name.startswith("*.") and name.endswith(self.name[1:]))
        return is_named and (port in WEB_PORTS if self.port is None else port == self.port)


def normal_name(text: str) -> str:
    """A host's name in lower case and ASCII, or its address in normal form; "" if it is neither."""
    text = text.strip().rstrip(".").lower()
    if len(text) > MAX_NAME:
        return ""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        pass
    try:
        name = text if text.isascii() else text.encode("idna").decode("ascii")
    except UnicodeError:
        return ""
    return name if len(name) <= MAX_NAME and LABELS.fullmatch(name) else ""


def is_public(text: str) -> bool:
    """Whether an address is of the public internet, also those that it stands for in IPv6's transition forms."""
    return all(_is_public(address) for address in _meanings(ipaddress.ip_address(text.partition("%")[0])))


def _meanings(address: Address) -> Iterator[Address]:
    yield address
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped:
            yield address.ipv4_mapped
        if address.sixtofour:
            yield address.sixtofour
        if address.teredo:
            yield from address.teredo
        if int(address) < 1 << 32 or any(address in network for network in NAT64):
            yield ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)


def _is_public(address: Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped or any(address in network for network in NAT64):
            return True  # the address within decides
        if address.is_site_local:
            return False
    return address.is_global and not address.is_multicast and not address.is_reserved and not address.is_unspecified
