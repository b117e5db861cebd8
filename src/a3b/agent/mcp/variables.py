"""`${NAME}` in a configuration: only variables on a list are filled in, since a file may name any secret of the user.

Forms: `${NAME}`, `${NAME:-default}`, `${env:NAME}`, and the places `${workspaceFolder}` and `${userHome}`. Enter at
`Expansion`."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path

from a3b.errors import UsageError

ALWAYS = ("HOME", "USER", "LANG")  # no secrets in them
_FORM = re.compile(r"\$\{([^{}]*)\}")
_NAME = re.compile(r"(?:env:)?([A-Za-z_][A-Za-z0-9_]*)(?::-(.*))?", re.DOTALL)


class Expansion:
    """environment: variables and their values; listed: names that may be used; list_place: where the user lists them,
    for errors."""

    def __init__(self, environment: Mapping[str, str], listed: Collection[str], workspace: Path, list_place: str):
        self._environment, self._list_place = environment, list_place
        self._listed = {*ALWAYS, *listed}
        self._places = {
            "workspaceFolder": str(workspace),
            "workspaceRoot": str(workspace),
            "CLAUDE_PROJECT_DIR": str(workspace),
            "userHome": environment.get("HOME", str(Path.home())),
        }

    def expand(self, text: str, used: set[str]) -> str:
        """The text with its variables filled in; their names are added to `used`. Raises UsageError."""
        return _FORM.sub(lambda found: self._value(found, used), text)

    def _value(self, found: re.Match[str], used: set[str]) -> str:
        if (place := self._places.get(found[1])) is not None:
            return place
        parts = _NAME.fullmatch(found[1])
        if parts is None:
            raise UsageError(f"{found[0][:80]} is none of ${{NAME}}, ${{NAME:-default}} and ${{workspaceFolder}}")
        name, default = parts[1], parts[2]
        if name not in self._listed and default is not None and not self._environment.get(name):
            return default
        if name not in self._listed:
            raise UsageError(
                f'${{{name}}} is not on the list of variables that MCP servers may see; to allow it, add "{name}" to '
                f'"allowedEnv" in {self._list_place}'
            )
        used.add(name)
        value = self._environment.get(name) or default
        if value is None:
            raise UsageError(f"${{{name}}}: the variable is not set; set it, or write ${{{name}:-default}}")
        return value
