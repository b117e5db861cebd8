"""Whether a file that was just written can be parsed. Nothing of it is executed.

Runs inside the sandbox: standard library only. Enter at `syntax_of`."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import warnings

MAX_CHECKED = 1 << 20  # characters
SECONDS = 2.0
COMMANDS = {  # suffix: a command that only parses, and the line and the message in what it prints
    ".sh": (["bash", "-n", "--"], r"line (?P<line>\d+): (?P<message>.+)"),
    ".bash": (["bash", "-n", "--"], r"line (?P<line>\d+): (?P<message>.+)"),
    ".js": (["node", "--check"], r":(?P<line>\d+)\n(?:.*\n)*?(?P<message>\w*Error: .+)"),
    ".mjs": (["node", "--check"], r":(?P<line>\d+)\n(?:.*\n)*?(?P<message>\w*Error: .+)"),
    ".cjs": (["node", "--check"], r":(?P<line>\d+)\n(?:.*\n)*?(?P<message>\w*Error: .+)"),
    ".rb": (["ruby", "-c"], r":(?P<line>\d+): (?P<message>.+)"),
    ".php": (["php", "-n", "-l"], r"(?P<message>.+) in .+ on line (?P<line>\d+)"),
    ".go": (["gofmt", "-e", "-l"], r":(?P<line>\d+):\d+: (?P<message>.+)"),
}
# errors of node that only say that a file is a module, or has JSX in it
NO_ERRORS = re.compile(r"import statement outside a module|Unexpected token '(export|<)'|import\.meta")


def syntax_of(path: str, text: str) -> str | None:
    """ "" for a text without an error, "LINE: MESSAGE" for one with; None if nobody here can tell.

    path: where the text already is, for checkers that are other programs."""
    suffix = os.path.splitext(path)[1].lower()
    if len(text) > MAX_CHECKED or not text.strip():
        return None
    if suffix in COMMANDS:
        return _checked_by(*COMMANDS[suffix], path)
    return parsed(path, text)


def parsed(path: str, text: str) -> str | None:
    """As `syntax_of`, with the parsers of this interpreter alone."""
    suffix = os.path.splitext(path)[1].lower()
    try:
        if suffix in (".py", ".pyi"):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                compile(text.encode("utf-8", "surrogateescape"), os.path.basename(path), "exec", dont_inherit=True)
        elif suffix in (".json", ".ipynb"):
            if re.search(r"^\s*(//|/\*)", text, re.MULTILINE):  # JSON with comments, as many tools take it
                return None
            json.loads(text)
        elif suffix == ".toml":
            import tomllib

            tomllib.loads(text)
        elif suffix in (".xml", ".svg"):
            import xml.parsers.expat

            xml.parsers.expat.ParserCreate().Parse(text.encode("utf-8", "surrogateescape"), True)
        else:
            return None
    except SyntaxError as error:
        return f"{error.lineno or 1}: {error.msg}"
    except json.JSONDecodeError as error:
        return f"{error.lineno}: {error.msg}"
    except (RecursionError, MemoryError):
        return "1: nested too deeply"
    except ValueError as error:  # TOMLDecodeError, and text that is no Unicode
        return _with_line(str(error))
    except Exception as error:  # expat's own
        return _with_line(str(error))
    return ""


def _with_line(message: str) -> str:
    found = re.search(r"line (\d+)", message)
    message = re.sub(r"[ :(]*(at )?line \d+,? column \d+\)?", "", message).strip()
    return f"{found[1] if found else 1}: {message[:200]}"


def _checked_by(command: list[str], pattern: str, path: str) -> str | None:
    if not shutil.which(command[0]):
        return None
    try:
        process = subprocess.Popen(
            [*command, path],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError:
        return None
    try:
        output, _ = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return None
    if process.returncode == 0:
        return ""
    found = re.search(pattern, output[:100_000].decode("utf-8", "replace"))
    if not found or NO_ERRORS.search(found["message"]):
        return None
    return f"{found['line']}: {found['message'][:200]}"
