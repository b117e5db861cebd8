"""The configured MCP servers: `.mcp.json` of the workspace, `mcp.json` in A3B_HOME, and a file named by option.

An entry that cannot be used is told with file, server and field; the others stay. Enter at `configured_servers`."""

from __future__ import annotations

import hashlib
import ipaddress
import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from a3b.agent.mcp.config_file import JsonObject, as_objects, read_config_file
from a3b.agent.mcp.fields import read_fields
from a3b.agent.mcp.variables import Expansion
from a3b.errors import UsageError, did_you_mean

MAX_SERVERS = 64
START_SECONDS, CALL_SECONDS = 30.0, 120.0
TOP_FIELDS = ("mcpServers", "servers", "allowedEnv", "inputs", "$schema")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _.@/-]{0,63}")


@dataclass(frozen=True)
class McpServerConfig:
    """One server. origin: whose file it is, "project", "user" or "option"; target: its command line
    or URL as the file has it; command: of stdio, url: of HTTP, the other
    is empty; variables: of the user's environment that it gets; digest: changes with anything in its entry."""

    name: str
    file: Path
    origin: str
    digest: str
    target: str = ""
    command: tuple[str, ...] = ()
    url: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    variables: tuple[str, ...] = ()
    cwd: str = ""
    is_sandboxed: bool = True
    hosts: tuple[str, ...] = ()
    readable: tuple[str, ...] = ()
    writable: tuple[str, ...] = ()
    allow: tuple[str, ...] | None = None
    deny: tuple[str, ...] = ()
    auto_approve: tuple[str, ...] = ()
    start_seconds: float = START_SECONDS
    call_seconds: float = CALL_SECONDS

    def offers(self, tool: str) -> bool:
        """Whether the lists of the entry let this tool through."""
        return (self.allow is None or _matches(tool, self.allow)) and not _matches(tool, self.deny)

    def approves(self, tool: str) -> bool:
        """Whether the entry says that this tool may be called without asking."""
        return _matches(tool, self.auto_approve)


@dataclass(frozen=True)
class ConfiguredServers:
    """What the files say. problems: for the user, each names file, server and field."""

    servers: tuple[McpServerConfig, ...] = ()
    problems: tuple[str, ...] = ()


def configured_servers(
    workspace: Path,
    home: Path,
    given: Path | None,
    environment: Mapping[str, str],
    others: Mapping[str, Any] | None = None,
) -> ConfiguredServers:
    """The servers of all files, and others that an editor named, as entries of a file would be.

    Of two with one name, the editor's is used, else that of the option's file, else that of the project; one that the
    user's own file disables is off everywhere. Raises nothing for bad files."""
    user_file = home / "mcp.json"
    places = [("user", user_file), ("project", workspace / ".mcp.json")]
    if given is not None:
        places.append(("option", given))
    problems: list[str] = []
    read = [(origin, path, _read(path, problems, is_needed=origin == "option")) for origin, path in places]
    if others:
        read.append(("option", Path("editor"), as_objects({"mcpServers": dict(others)})))
    listed = _listed_variables(user_file, next((top for origin, _, top in read if origin == "user"), None), problems)
    expansion = Expansion(environment, listed, workspace, str(user_file))
    servers: dict[str, McpServerConfig] = {}
    disabled: set[str] = set()
    for origin, path, top in read:
        for name, entry in _entries(path, top, problems).items():
            where = f"{path}: server {name[:80]!r}"
            try:
                server = _server(name, entry, origin, path, expansion)
            except UsageError as error:
                problems.append(f"{where}: {error}")
                continue
            if server is None:
                servers.pop(name, None)
                disabled |= {name} if origin != "project" else set()
            elif name not in disabled or origin == "option":
                if name in servers:
                    problems.append(f"{where}: used instead of the one in {servers[name].file}")
                servers[name] = server
    return ConfiguredServers(tuple(servers.values()), tuple(problems))


def _read(path: Path, problems: list[str], is_needed: bool) -> JsonObject | None:
    try:
        return read_config_file(path)
    except FileNotFoundError as error:
        if is_needed:
            problems.append(f"{path}: {error.strerror}; expected a file of MCP servers")
    except OSError as error:
        problems.append(f"{path}: {error.strerror}; no server of it is used")
    except UsageError as error:
        problems.append(f"{error}; no server of it is used")
    return None


def _listed_variables(path: Path, top: JsonObject | None, problems: list[str]) -> list[str]:
    listed = top.get("allowedEnv", []) if top is not None else []
    if isinstance(listed, list) and all(isinstance(name, str) for name in listed):
        return listed
    problems.append(f"{path}: allowedEnv: {repr(listed)[:80]}; expected a list of names of variables")
    return []


def _entries(path: Path, top: JsonObject | None, problems: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if top is None:
        return found
    for key in top.keys() - set(TOP_FIELDS):
        problems.append(f"{path}: {key[:80]}: unknown field{did_you_mean(key, TOP_FIELDS)}")
    for key in ("mcpServers", "servers"):
        entries = top.get(key, JsonObject())
        if not isinstance(entries, JsonObject) or key in top.doubles:
            problems.append(f"{path}: {key}: expected one object of servers by name; none of them is used")
            continue
        for name, entry in entries.items():
            if len(found) == MAX_SERVERS:
                problems.append(f"{path}: {len(entries)} servers; only the first {MAX_SERVERS} are used")
                break
            if name in entries.doubles or name in found:
                problems.append(f"{path}: server {name[:80]!r}: stands there more than once; none of them is used")
            elif not _NAME.fullmatch(name):
                problems.append(f"{path}: server {name[:80]!r}: expected a name of letters, digits, _, - and .")
            else:
                found[name] = entry
    return found


def _server(name: str, entry: Any, origin: str, path: Path, expansion: Expansion) -> McpServerConfig | None:
    """The server of an entry; None if it is disabled. Raises UsageError."""
    fields = read_fields(entry)
    if fields.pop("disabled", False) or not fields.pop("enabled", True):
        return None
    used: set[str] = set()
    kept = {key: _expanded(key, value, expansion, used) for key, value in fields.items()}
    is_http = _is_http(kept)
    if kept.pop("trust", False):
        kept["auto_approve"] = ("*",)
    call, start = kept.pop("call_ms", CALL_SECONDS), kept.pop("start_ms", START_SECONDS)
    allow_http = kept.pop("allow_http", False)
    if is_http:
        _check_url(kept["url"], allow_http and origin != "project")
        _check_headers(kept.get("headers", {}))
    else:
        kept["command"] = (*kept["command"], *kept.pop("args", ()))
    return McpServerConfig(
        name,
        path,
        origin,
        digest=_digest(path, name, entry),
        target=fields["url"] if is_http else shlex.join((*fields["command"], *fields.get("args", ()))),
        variables=tuple(sorted(used)),
        start_seconds=start,
        call_seconds=call,
        is_sandboxed=not is_http and kept.pop("sandbox", True),
        **kept,
    )


def _expanded(key: str, value: Any, expansion: Expansion, used: set[str]) -> Any:
    def expand(text: str, part: str = "") -> str:
        try:
            return expansion.expand(text, used)
        except UsageError as error:
            raise UsageError(f"{key}{part}: {error}") from None

    if isinstance(value, str) and key != "transport":
        return expand(value)
    if isinstance(value, dict):
        return {name: expand(text, f".{name}") for name, text in value.items()}
    if key in ("command", "args", "readable", "writable"):
        return tuple(expand(text) for text in value)
    return value


def _is_http(fields: dict[str, Any]) -> bool:
    """Whether the server is reached over HTTP. Raises UsageError for fields that contradict each other."""
    transport = fields.pop("transport", None)
    wanted, other = ("url", "command") if transport == "http" else ("command", "url")
    if transport is None and "url" in fields and "command" not in fields:
        wanted, other = other, wanted
    if wanted not in fields:
        raise UsageError(f'{wanted}: missing; expected "command" for a program, or "url" for streamable HTTP')
    only = {
        "url": ("headers", "allow_http"),
        "command": ("args", "env", "cwd", "sandbox", "hosts", "readable", "writable"),
    }
    for key in (other, *only[other]):
        if key in fields:
            raise UsageError(f'{key}: belongs to servers with "{other}", and this one has "{wanted}"')
    return wanted == "url"


def is_loopback(url: str) -> bool:
    """Whether a URL leads to this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _check_url(url: str, allow_http: bool) -> None:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise UsageError(f"url: {url[:80]!r}: {error}") from None
    if not host or parts.scheme not in ("http", "https") or not url.isprintable() or " " in url or port == 0:
        raise UsageError(f"url: {url[:80]!r}; expected one such as https://example.com/mcp")
    if parts.username is not None or parts.password is not None:
        raise UsageError('url: has a user or password in it; put them into "headers"')
    if parts.scheme == "http" and not is_loopback(url) and not allow_http:
        raise UsageError(
            f'url: {url[:80]!r} is not encrypted; expected https, or a loopback address. "allowHttp": true in your own '
            "file allows it"
        )


def _check_headers(headers: Mapping[str, str]) -> None:
    for name, value in headers.items():
        if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", name) or not value.isascii() or not value.isprintable():
            raise UsageError(f"headers.{name}: expected the name of a header, and a value of printable ASCII")


def _matches(tool: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(tool, pattern) for pattern in patterns)


def _digest(path: Path, name: str, entry: Any) -> str:
    """Of the entry as it stands in its file: variables by name, not by value."""
    return hashlib.sha256(json.dumps([str(path), name, entry], sort_keys=True).encode()).hexdigest()
