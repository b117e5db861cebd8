"""How this process runs: the A3B_* environment variables, how each is read, and its default.

Enter at `RuntimeConfig.from_env`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from a3b.errors import UsageError
from a3b.units import token_count

LOG_LEVELS = ("error", "warning", "info", "debug")


def _positive(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) > 0):
        raise UsageError(f"{text[:40]!r} is not a positive whole number")
    return int(text)


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and int(text) < 1 << 16):
        raise UsageError(f"{text[:40]!r} is not a port, 0 to 65535")
    return int(text)


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _one_of(*known: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text.lower() not in known:
            raise UsageError(f"{text[:40]!r} is none of {', '.join(known)}")
        return text.lower()

    return read


VARIABLES: dict[str, tuple[Callable[[str], Any], Any]] = {  # A3B_NAME: how it is read, and its default
    "model": (str, None),  # directory when a command names none
    "context": (token_count, None),  # tokens
    "threads": (_positive, None),  # of the kernels; None: every core this process may use
    "isa": (str, None),  # instruction set of the kernels, or "reference" for NumPy; None: the best
    "kv": (_one_of("q8", "bf16", "f32"), "q8"),  # keys and values in 8 bits, "bf16" or "f32"
    "cache": (str, "~/.cache/a3b"),  # or below XDG_CACHE_HOME; for what can be recomputed
    # for serve, as are all below; lists are separated by commas
    "host": (str, "127.0.0.1"),
    "port": (_port, 8080),
    "api_key": (_parts, ()),
    "allow_host": (_parts, ()),
    "allow_origin": (_parts, ()),
    "log_level": (_one_of(*LOG_LEVELS), "info"),
}


class Variables:
    """Variables as attributes, by the names in VARIABLES.

    A value is checked when it is used: a malformed one raises UsageError only in commands that use it.
    """

    def __init__(self, values: Mapping[str, str] | None = None, cache_home: str = "", **given: Any):
        """values: texts by name, without A3B_ and in lower case. given: values that are read already, by name."""
        if wrong := given.keys() - VARIABLES.keys():
            raise TypeError(f"no such variables: {', '.join(sorted(wrong))}")
        self.values, self.cache_home, self._given = dict(values or {}), cache_home, given

    @property
    def unknown(self) -> list[str]:
        """Variables that no command reads."""
        return sorted(f"A3B_{name.upper()}" for name in self.values.keys() - VARIABLES.keys())

    def __getattr__(self, name: str) -> Any:
        if name not in VARIABLES:
            raise AttributeError(name)
        if name in self._given:
            return self._given[name]
        read, default = VARIABLES[name]
        if name == "cache" and self.cache_home:
            default = os.path.join(self.cache_home, "a3b")
        try:
            return read(self.values[name]) if name in self.values else default
        except UsageError as error:
            raise UsageError(f"environment variable A3B_{name.upper()}: {error}") from None


class RuntimeConfig(Variables):
    """How this process runs: A3B_* variables as attributes; command-line options win."""

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> RuntimeConfig:
        environ = os.environ if environ is None else environ
        return cls(
            {k[4:].lower(): v for k, v in environ.items() if k.startswith("A3B_") and v},
            environ.get("XDG_CACHE_HOME", ""),
        )
