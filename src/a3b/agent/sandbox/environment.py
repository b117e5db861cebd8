"""The variables that commands get: an allow-list, so that no token goes in. Enter at `plain_environment`.

What a3b runs outside of the sandbox is found with `path_outside`."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

KEPT = re.compile(
    r"PATH|LANG|LANGUAGE|LC_[A-Z]+|TZ|USER|LOGNAME|SHELL"
    r"|SSL_CERT_FILE|SSL_CERT_DIR|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE|NODE_EXTRA_CA_CERTS|PIP_CERT|GIT_SSL_CAINFO"
    r"|JAVA_HOME|GOROOT|GOFLAGS|GOTOOLCHAIN|RUSTUP_HOME|RUSTUP_TOOLCHAIN|RUSTFLAGS|PYENV_ROOT|PYENV_VERSION"
    r"|NVM_DIR|NODE_PATH|NODE_ENV|VIRTUAL_ENV|CONDA_PREFIX|CONDA_DEFAULT_ENV|PYTHONPATH|PYTHONDONTWRITEBYTECODE"
    r"|CC|CXX|CFLAGS|CXXFLAGS|CPPFLAGS|LDFLAGS|LD_LIBRARY_PATH|LIBRARY_PATH|CPATH|PKG_CONFIG_PATH|CMAKE_PREFIX_PATH"
    r"|PIP_INDEX_URL|PIP_EXTRA_INDEX_URL|PIP_FIND_LINKS|UV_INDEX_URL|NPM_CONFIG_REGISTRY|GOPROXY|MAKEFLAGS"
    r"|NIX_PATH|NIX_PROFILES|NIX_SSL_CERT_FILE|LOCALE_ARCHIVE|COLUMNS|CI"
)
CREDENTIALS_IN_ADDRESS = re.compile(r"://[^/\s]*@")
ALWAYS = {
    "TERM": "dumb",
    "PAGER": "cat",
    "GIT_PAGER": "cat",
    "GIT_TERMINAL_PROMPT": "0",
    "DEBIAN_FRONTEND": "noninteractive",
}
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def plain_environment(environment: Mapping[str, str], home: str, temporary: str) -> dict[str, str]:
    """What all commands get. home, temporary: directories, as commands see them.

    Left out is also a value that carries a password in an address, and what a3b's own virtual environment set."""
    kept = {name: value for name, value in environment.items() if KEPT.fullmatch(name)}
    kept = {name: value for name, value in kept.items() if not CREDENTIALS_IN_ADDRESS.search(value)}
    kept.setdefault("PATH", SYSTEM_PATH)
    kept.setdefault("LANG", "C.UTF-8")
    return {**kept, **ALWAYS, "HOME": home, "TMPDIR": temporary}


def path_outside(path: str, roots: Iterable[Path]) -> str:
    """PATH without the directories that commands can write, such as a virtual environment's in the workspace, and
    without relative ones. roots: resolved."""
    roots = tuple(roots)

    def is_outside(part: str) -> bool:
        places = Path(os.path.normpath(part)), Path(os.path.realpath(part))
        return not any(place.is_relative_to(root) for place in places for root in roots)

    return ":".join(part for part in path.split(":") if part.startswith("/") and is_outside(part))
