"""How a client is started, as lines for a shell. Enter at `script`."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from a3b.clients.directory import rendered
from a3b.clients.setup import KEY_VARIABLE, Setup

END = "END_OF_FILE"
SECRET = ("ANTHROPIC_AUTH_TOKEN", "OPENAI_API_KEY", "LLAMACPP_API_KEY", KEY_VARIABLE)


def script(
    setup: Setup,
    directory: Path,
    program: str,
    arguments: Sequence[str],
    key: str = "",
    changed: Mapping[str, str] | None = None,
) -> str:
    """Lines that make the client's files and start it, in a shell of their own, so that no variable stays.

    key: what the shell is to read the key from, quoted; "" writes the key itself. changed: variables of the user's that
    a launch gives other values."""
    lines = [*_files(setup, directory), "("]
    lines += [f"  export {name}={shlex.quote(value)}" for name, value in (changed or {}).items()]
    lines += [f'  if [ "${{{name}+set}}" ]; then export {saved}="${name}"; fi' for name, saved in setup.kept.items()]
    if setup.unset:
        lines.append(f"  unset {' '.join(setup.unset)}")
    for name, value in setup.environment.items():
        lines.append(f"  export {name}={key if key and name in SECRET else shlex.quote(value)}")
    lines += [f"  export {name}=${{{name}-{shlex.quote(value)}}}" for name, value in setup.preferred.items()]
    return "\n".join([*lines, f"  exec {shlex.join([program, *setup.arguments, *arguments])}", ")"])


def _files(setup: Setup, directory: Path) -> list[str]:
    texts = rendered(setup)
    parents = dict.fromkeys([directory, *((directory / name).parent for name in texts)])
    lines = [f"mkdir -p {shlex.join(map(str, parents))}"]
    for name, text in texts.items():
        where = shlex.quote(str(directory / name))
        lines.append(f"cat > {where} <<'{END}'\n{text.rstrip()}\n{END}")
    for name, target in setup.links.items():
        lines.append(f"ln -sf {shlex.quote(target)} {shlex.quote(str(directory / name))}")
    return lines
