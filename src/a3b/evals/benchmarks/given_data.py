"""Data that a benchmark may not bring along: a file of the user, known by its SHA-256, read as rows.

CSV, JSON, JSON lines (also compressed by gzip) and Parquet. Enter at `given_rows`."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from a3b.errors import UsageError
from a3b.files import read_bytes

MAX_BYTES = 64 << 20
MAX_ROWS = 100_000
MAX_FIELD = 1 << 20  # characters
SUM = re.compile(r"[0-9a-fA-F]{64}")

Row = dict[str, Any]


def given_rows(path: Path | None, known: Mapping[str, str], stated: str | None, how: str) -> list[Row]:
    """The rows of a file whose sum is `stated`, or else one of `known` (SHA-256: what it is of).

    how: where the user gets the file, for errors. Raises UsageError for no file, another sum, or what is no table."""
    if path is None:
        raise UsageError(f"this benchmark's data is not in the package: give the file by --data FILE. {how}")
    if path.is_dir():
        raise UsageError(f"--data {path} is a directory; expected the file itself. {how}")
    try:
        data = read_bytes(path, MAX_BYTES)
    except OSError as error:
        raise UsageError(f"--data {path}: {error.strerror or error}. {how}") from None
    check_sum(path, data, known, stated, how)
    try:
        rows = _rows(path, data)
    except (ValueError, csv.Error, RecursionError, EOFError, OSError, zlib.error) as error:
        raise UsageError(f"--data {path} cannot be read as {path.suffix or 'a table'}: {str(error)[:300]}") from None
    if not rows:
        raise UsageError(f"--data {path} has no rows")
    if len(rows) > MAX_ROWS:
        raise UsageError(f"--data {path} has {len(rows):,} rows; expected at most {MAX_ROWS:,}")
    return rows


def check_sum(path: Path, data: bytes, known: Mapping[str, str], stated: str | None, how: str) -> None:
    """Raises UsageError if the data is not what was expected."""
    if stated is not None and not SUM.fullmatch(stated):
        raise UsageError(f"sha256={stated[:80]!r} is no SHA-256: expected 64 hexadecimal digits")
    found = hashlib.sha256(data).hexdigest()
    if stated is not None and stated.lower() != found:
        raise UsageError(f"--data {path} has the SHA-256 {found}; you stated {stated.lower()}. {how}")
    if stated is None and found not in known:
        expected = " or ".join(f"{number} ({name})" for number, name in known.items()) or "one that you state"
        raise UsageError(
            f"--data {path} has the SHA-256 {found}; expected {expected}. {how}\n"
            f"If this is the file you mean, say so: --set sha256={found}"
        )


def field_of(row: Row, *names: str) -> str:
    """The text of the first field that the row has, whatever the case of its name. Raises UsageError if it has none."""
    by_name = {str(name).strip().lower(): value for name, value in row.items()}
    for name in names:
        if (value := by_name.get(name.lower())) is not None and str(value).strip():
            return str(value)
    raise UsageError(f"a row has no field {' or '.join(names)}; it has {', '.join(map(str, row))[:300]}")


def unique_name(row: Row, number: int, taken: set[str], *fields: str) -> str:
    """What the row is called in the first of the fields that it has, else its number; never the same twice."""
    given = next((str(row[field]) for field in fields if row.get(field) not in (None, "")), str(number))
    name = given[:200] if given[:200] not in taken else f"{given[:200]}-{number}"
    taken.add(name)
    return name


def _rows(path: Path, data: bytes) -> list[Row]:
    suffix = path.suffix.lower()
    if suffix == ".gz":
        with gzip.open(io.BytesIO(data)) as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ValueError(f"it has more than {MAX_BYTES:,} bytes when decompressed")
        suffix = path.with_suffix("").suffix.lower()
    if suffix == ".parquet":
        return _parquet_rows(data)
    text = data.decode("utf-8-sig")
    if suffix == ".csv":
        csv.field_size_limit(MAX_FIELD)
        return list(csv.DictReader(io.StringIO(text, newline="")))
    if suffix == ".json":
        found = json.loads(text)
    elif suffix == ".jsonl":
        found = [json.loads(line) for line in text.splitlines() if line.strip()]
    else:
        raise ValueError("the name must end in .csv, .json, .jsonl, .jsonl.gz or .parquet")
    if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
        raise ValueError("expected a list of objects")
    return found


def _parquet_rows(data: bytes) -> list[Row]:
    try:
        from pyarrow import ArrowException, BufferReader
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise ValueError("Parquet needs pyarrow: pip install pyarrow") from None
    try:
        file = ParquetFile(BufferReader(data))
        if file.metadata.num_rows > MAX_ROWS:
            raise ValueError(f"it has {file.metadata.num_rows:,} rows; expected at most {MAX_ROWS:,}")
        rows: list[Row] = file.read().to_pylist()
    except (ArrowException, OSError) as error:
        raise ValueError(str(error)) from None
    return rows
