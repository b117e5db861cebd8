"""How this process runs: the A3B_* environment variables, how each is read, and its default.

Enter at `RuntimeConfig.from_env`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from a3b.errors import UsageError
from a3b.units import token_count

LOG_LEVELS = ("error", "warning", "info", "debug")
DRAFTS = ("auto", "off")  # where it is measured to pay, or nowhere


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
    "drafts": (_one_of(*DRAFTS), DRAFTS[0]),  # whether tokens are read ahead
    "home": (str, "~/.cache/a3b"),  # models, sessions and chats; or below XDG_CACHE_HOME
    "cache": (str, None),  # the older name of home, which wins
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

    @property
    def overruled(self) -> str:
        """What is said of two variables that mean the same and differ; "" if there is nothing to say."""
        old, new = self.values.get("cache"), self.values.get("home")
        return "A3B_HOME and its older name A3B_CACHE differ: A3B_HOME is used" if old and new and old != new else ""

    def __getattr__(self, name: str) -> Any:
        if name not in VARIABLES:
            raise AttributeError(name)
        if name in self._given:
            return self._given[name]
        read, default = VARIABLES[name]
        if name == "home" and name not in self.values:
            return self.cache or (os.path.join(self.cache_home, "a3b") if self.cache_home else default)
        try:
            return read(self.values[name]) if name in self.values else default
        except UsageError as error:
            raise UsageError(f"environment variable A3B_{name.upper()}: {error}") from None


def model_places(environ: Mapping[str, str] | None = None) -> dict[str, tuple[str, ...]]:
    """Directories in which other programs keep models, by program; "~" is the home directory.

    Sources: the constants of huggingface_hub,
    fs_get_cache_directory of llama.cpp, envconfig of Ollama, LM Studio's pages."""
    given = os.environ if environ is None else environ
    cache = given.get("XDG_CACHE_HOME") or "~/.cache"
    hub_home = given.get("HF_HOME") or os.path.join(cache, "huggingface")
    hub = given.get("HF_HUB_CACHE") or given.get("HUGGINGFACE_HUB_CACHE") or os.path.join(hub_home, "hub")
    llama = given.get("LLAMA_CACHE") or os.path.join(cache, "llama.cpp")
    ollama = given.get("OLLAMA_MODELS")
    return {
        "hub cache": tuple(dict.fromkeys((hub, llama))),  # newer versions of llama.cpp keep such a cache
        "llama.cpp": (llama,),
        "LM Studio": ("~/.lmstudio/models", "~/.cache/lm-studio/models"),
        "Ollama": (ollama,) if ollama else ("~/.ollama/models", "/usr/share/ollama/.ollama/models"),
    }


class RuntimeConfig(Variables):
    """How this process runs: A3B_* variables as attributes; command-line options win."""

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> RuntimeConfig:
        environ = os.environ if environ is None else environ
        return cls(
            {k[4:].lower(): v for k, v in environ.items() if k.startswith("A3B_") and v},
            environ.get("XDG_CACHE_HOME", ""),
        )


def process_environment() -> dict[str, str]:
    """A copy of all variables of this process, for programs that it starts."""
    return dict(os.environ)
