"""Types of arguments for argparse: each reads the text of an argument and raises ArgumentTypeError."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from a3b import units
from a3b.errors import UsageError
from a3b.files import read_given

MAX_JSON_BYTES = 256 << 20


def whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text[:80]!r} is not a whole number") from None


def real(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text[:80]!r} is not a number") from None


def seconds(text: str) -> float:
    value = real(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text[:80]!r} is not a number of seconds, 0 or more")
    return value


def path(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("the name is empty")
    return Path(text)


def json_file(name: str) -> Any:
    """The JSON value in a file, or on stdin for '-'."""
    shown = "stdin" if name == "-" else name
    try:
        text = stdin_text() if name == "-" else read_given(name, MAX_JSON_BYTES)
        return json.loads(text.removeprefix("\ufeff"))
    except UnicodeDecodeError as error:
        raise argparse.ArgumentTypeError(
            f"{shown} is not UTF-8: byte {error.object[error.start]:#04x} at {error.start}"
        ) from None
    except OSError as error:
        raise argparse.ArgumentTypeError(f"cannot read {shown}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise argparse.ArgumentTypeError(f"{shown} is not JSON: {error}") from None


def stdin_text() -> str:
    """All of stdin. Raises OSError and UnicodeDecodeError."""
    data = getattr(sys.stdin, "buffer", sys.stdin).read(MAX_JSON_BYTES + 1)
    if len(data) > MAX_JSON_BYTES:
        raise OSError(f"more than {MAX_JSON_BYTES >> 20} MiB")
    return data if isinstance(data, str) else data.decode("utf-8")


def json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise argparse.ArgumentTypeError(f"not JSON: {error}") from None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"expected a JSON object, found {type(value).__name__}")
    return value


def _read_by(read: Callable[[str], int]) -> Callable[[str], int]:
    """A type for argparse, which shows only the text of ArgumentTypeError."""

    def typed(text: str) -> int:
        try:
            return read(text)
        except UsageError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return typed


byte_size, tokens, duration = _read_by(units.byte_size), _read_by(units.token_count), _read_by(units.duration)


def policy(text: str) -> str:
    """A type for --preserve-thinking, which is checked where it is used."""
    name, _, number = text.partition(":")
    return f"{name}:{tokens(number)}" if name == "budget" and number else text


def positive(text: str) -> int:
    if (number := whole(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text[:80]!r} is not a positive number")
    return number


def not_negative(text: str) -> int:
    if (number := whole(text)) < 0:
        raise argparse.ArgumentTypeError(f"{text[:80]!r} is negative")
    return number


def some_bytes(text: str) -> int:
    if not (size := byte_size(text)):
        raise argparse.ArgumentTypeError(f"{text[:80]!r} allows nothing; give a size such as 32MiB")
    return size


def numbers(text: str) -> tuple[int, ...]:
    """Numbers of tokens between commas."""
    return tuple(0 if part == "0" else tokens(part) for part in text.split(","))
