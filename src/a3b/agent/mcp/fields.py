"""The fields of one server in a configuration file, in the spellings of the clients that people come from.

`FIELDS` gives each spelling its meaning, `READERS` each meaning its form. Enter at `read_fields`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from a3b.agent.mcp.config_file import JsonObject
from a3b.errors import UsageError, did_you_mean

MAX_TEXT, MAX_ITEMS = 16_384, 256
TRANSPORTS = {
    "stdio": "stdio",
    "local": "stdio",
    "http": "http",
    "streamable-http": "http",
    "streamable_http": "http",
    "streamablehttp": "http",
    "remote": "http",
}
FIELDS = {  # spelling in a file: what it means
    **dict.fromkeys(("type", "transport", "transportType"), "transport"),
    **dict.fromkeys(("command", "args", "cwd", "env", "headers", "sandbox", "readable", "writable"), ""),
    "environment": "env",
    **dict.fromkeys(("url", "httpUrl", "serverUrl"), "url"),
    **dict.fromkeys(("hosts", "network"), "hosts"),
    **dict.fromkeys(("tools", "allow", "includeTools", "enabledTools"), "allow"),
    **dict.fromkeys(("deny", "excludeTools", "disabledTools"), "deny"),
    **dict.fromkeys(("autoApprove", "alwaysAllow"), "auto_approve"),
    "trust": "trust",
    "allowHttp": "allow_http",
    "disabled": "disabled",
    "enabled": "enabled",
    "timeout": "call_ms",
    "startTimeout": "start_ms",
    **dict.fromkeys(("description", "name", "icon", "version", "note", "source"), "note"),  # for people
}
NOT_SUPPORTED = {
    "envFile": 'list the variables in "env"',
    "oauth": 'put the key into "headers", such as {"Authorization": "Bearer ${TOKEN}"}',
    "auth": 'put the key into "headers", such as {"Authorization": "Bearer ${TOKEN}"}',
    "headersHelper": 'put the key into "headers"',
    "inputs": 'name variables in "env", such as ${TOKEN}',
    "dev": "remove it",
}


def read_fields(entry: Any) -> dict[str, Any]:
    """What an entry says, by meaning, checked. Raises UsageError whose text begins with the field."""
    if not isinstance(entry, JsonObject):
        raise UsageError(f'{_shown(entry)}; expected an object with "command" or "url"')
    if entry.doubles:
        raise UsageError(f"{entry.doubles[0][:80]}: stands there more than once; expected one value")
    found: dict[str, Any] = {}
    spelled: dict[str, str] = {}
    for field, value in entry.items():
        if field in NOT_SUPPORTED:
            raise UsageError(f"{field}: not supported; {NOT_SUPPORTED[field]}")
        if field not in FIELDS:
            raise UsageError(f"{field[:80]}: unknown field{did_you_mean(field, FIELDS)}")
        meaning = FIELDS[field] or field
        if meaning == "note" or value is None:  # null: as if it did not stand there
            continue
        if meaning in found:
            raise UsageError(f"{field}: means the same as {spelled[meaning]}; expected one of them")
        spelled[meaning] = field
        try:
            found[meaning] = READERS[meaning](value)
        except UsageError as error:
            raise UsageError(f"{field}: {error}") from None
    return found


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > MAX_TEXT or "\0" in value:
        raise UsageError(f"{_shown(value)}; expected text of at most {MAX_TEXT:,} characters")
    return value


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > MAX_ITEMS or not all(isinstance(item, str) for item in value):
        raise UsageError(f"{_shown(value)}; expected a list of at most {MAX_ITEMS} texts")
    return tuple(_text(item) for item in value)


def _map(value: Any) -> dict[str, str]:
    if not isinstance(value, JsonObject) or len(value) > MAX_ITEMS or value.doubles:
        raise UsageError(f"{_shown(value)}; expected an object of at most {MAX_ITEMS} texts, each named once")
    for name, item in value.items():
        if not isinstance(item, str | int | float) or isinstance(item, bool):
            raise UsageError(f"{name[:80]}: {_shown(item)}; expected text")
        if not name or not name.isprintable() or "=" in name or len(name) > 200:
            raise UsageError(f"{name[:80]!r}: expected a name")
    return {name: _text(str(item)) for name, item in value.items()}


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise UsageError(f"{_shown(value)}; expected true or false")
    return value


def _command(value: Any) -> tuple[str, ...]:
    words = _texts(value) if isinstance(value, list) else (_text(value),)
    if not words or not words[0].strip():
        raise UsageError(f"{_shown(value)}; expected the program to start")
    return words


def _transport(value: Any) -> str:
    word = value.lower() if isinstance(value, str) else ""
    if word in ("sse", "ws", "websocket"):
        raise UsageError(f'"{word}" is not supported; servers speak "stdio" or "http" (streamable HTTP)')
    if word not in TRANSPORTS:
        raise UsageError(f'{_shown(value)}; expected "stdio" or "http"')
    return TRANSPORTS[word]


def _hosts(value: Any) -> tuple[str, ...]:
    if value is False:
        return ()
    if value is True:
        raise UsageError('true; expected a list of host names, such as ["api.github.com"]')
    return _texts(value)


def _tools_or_all(value: Any) -> tuple[str, ...]:
    return ("*",) if value is True else () if value is False else _texts(value)


def _milliseconds(value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 1000 <= value <= 86_400_000:
        raise UsageError(f"{_shown(value)}; expected milliseconds, 1000 to 86400000")
    return value / 1000


READERS: dict[str, Callable[[Any], Any]] = {
    "transport": _transport,
    "command": _command,
    "args": _texts,
    "cwd": _text,
    "env": _map,
    "url": _text,
    "headers": _map,
    "sandbox": _flag,
    "readable": _texts,
    "writable": _texts,
    "hosts": _hosts,
    "allow": _texts,
    "deny": _texts,
    "auto_approve": _tools_or_all,
    "trust": _flag,
    "allow_http": _flag,
    "disabled": _flag,
    "enabled": _flag,
    "call_ms": _milliseconds,
    "start_ms": _milliseconds,
}


def _shown(value: Any) -> str:
    return repr(value)[:80]
