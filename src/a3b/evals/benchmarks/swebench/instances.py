"""Instances of SWE-bench as the user gives them: rows of the official dataset, or rows of his own in that form.

A row names a repository, a commit, what is wrong, and the tests that tell. Enter at `load_instances`."""

from __future__ import annotations

import hashlib
import importlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from a3b.errors import UsageError
from a3b.files import open_regular, read_text

DATASET = "https://huggingface.co/datasets/princeton-nlp/SWE-bench_Verified"
ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,120}")
REPOSITORY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,60}/[A-Za-z0-9_][A-Za-z0-9_.-]{0,80}")
COMMIT = re.compile(r"[0-9a-f]{40}")
MAX_TESTS = 100_000
MAX_FILE = 256 << 20
ORDER_SEED = 42


@dataclass(frozen=True)
class SweInstance:
    """One row. id: such as sympy__sympy-20590; repo: owner/name; version: of the repository, which names the
    environment; commit: the state that the task begins with; setup_commit: where requirements are read; statement: the
    issue, all that a solver is told; patch: the fix of the project; test_patch: its tests; fail_to_pass, pass_to_pass:
    tests that a fix has to mend, and not to break; spec: how to install and test, None for the official table's; row:
    as it was given."""

    id: str
    repo: str
    version: str
    commit: str
    setup_commit: str
    statement: str
    patch: str
    test_patch: str
    fail_to_pass: tuple[str, ...]
    pass_to_pass: tuple[str, ...]
    spec: Mapping[str, Any] | None = None
    row: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


def load_instances(path: Path, ids: Iterable[str] = ()) -> list[SweInstance]:
    """The rows of a .jsonl, .json or .parquet file; ids: only these, in their order. Raises UsageError.

    The dataset is sorted by project. All rows come in an order drawn from their ids, so the first ones are a sample of
    the whole, the same ones whatever the file's order and however many are taken."""
    found: dict[str, SweInstance] = {}
    for place, row in _rows(path):
        instance = _instance(f"{path}, {place}", row)
        if instance.id in found:
            raise UsageError(f"{path}, {place}: {instance.id} is there twice; expected each instance once")
        found[instance.id] = instance
    if not found:
        raise UsageError(f"{path} has no rows; expected those of {DATASET}")
    wanted = list(ids)
    if missing := [name for name in wanted if name not in found]:
        raise UsageError(f"{path} has {len(found)} instances, but not {', '.join(missing[:5])[:300]}")
    return [found[name] for name in wanted or sorted(found, key=_drawn)]


def _drawn(id: str) -> bytes:
    """The place of an instance, at random."""
    return hashlib.sha256(f"{ORDER_SEED}/{id}".encode()).digest()


def _rows(path: Path) -> Iterable[tuple[str, Any]]:
    try:
        if path.suffix == ".parquet":
            return _of_parquet(path)
        text = read_text(path, MAX_FILE)
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not UTF-8; expected rows as JSON lines, JSON or parquet") from None
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}; it should have the rows of {DATASET}") from None
    if path.suffix == ".jsonl":
        return [(f"line {n}", _json(path, n, line)) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
    rows = _json(path, 1, text)
    if isinstance(rows, dict):  # the dataset server answers {"rows": [{"row": {...}}]}
        rows = [r.get("row", r) if isinstance(r, dict) else r for r in rows.get("rows", rows.values())]
    if not isinstance(rows, list):
        raise UsageError(f"{path} is JSON of the type {type(rows).__name__}; expected a list of rows")
    return [(f"row {n}", row) for n, row in enumerate(rows, 1)]


def _of_parquet(path: Path) -> Iterable[tuple[str, Any]]:
    with open_regular(path):
        pass
    try:
        table = importlib.import_module("pyarrow.parquet").read_table(path)
    except ImportError:
        raise UsageError(f"{path} is parquet, which needs pyarrow: pip install pyarrow") from None
    except ValueError as error:  # ArrowInvalid is one
        raise UsageError(f"{path} is no parquet file: {str(error)[:200]}") from None
    return [(f"row {n}", row) for n, row in enumerate(table.to_pylist(), 1)]


def _json(path: Path, line: int, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}, line {line}: no JSON: {str(error)[:200]}") from None


def _instance(place: str, row: Any) -> SweInstance:
    if not isinstance(row, dict):
        raise UsageError(f"{place}: a {type(row).__name__}; expected an object with instance_id, repo, base_commit ...")
    commit = _text(place, row, "base_commit", COMMIT)
    spec = row.get("spec")
    if spec is not None and not isinstance(spec, dict):
        raise UsageError(f"{place}: spec is a {type(spec).__name__}; expected an object")
    instance = SweInstance(
        _text(place, row, "instance_id", ID),
        _text(place, row, "repo", REPOSITORY),
        _text(place, row, "version"),
        commit,
        _text(place, row, "environment_setup_commit", COMMIT) if row.get("environment_setup_commit") else commit,
        _text(place, row, "problem_statement"),
        _text(place, row, "patch"),
        _text(place, row, "test_patch"),
        _tests(place, row, "FAIL_TO_PASS"),
        _tests(place, row, "PASS_TO_PASS"),
        spec,
        row,
    )
    if ".." in instance.id or ".." in instance.repo:
        raise UsageError(f"{place}: {instance.id} of {instance.repo}: a name with '..' is refused")
    if not instance.fail_to_pass:
        raise UsageError(f"{place}: FAIL_TO_PASS of {instance.id} is empty; expected the tests that a fix mends")
    return instance


def _text(place: str, row: dict[str, Any], name: str, form: re.Pattern[str] | None = None) -> str:
    value = row.get(name)
    if not isinstance(value, str) or not value:
        raise UsageError(f"{place}: {name} is {json.dumps(value)[:80]}; expected a text, as in the rows of {DATASET}")
    if not _can_be_written(value):
        raise UsageError(f"{place}: {name} has half a surrogate pair in it; expected text")
    if form is not None and not form.fullmatch(value):
        raise UsageError(f"{place}: {name} is {json.dumps(value)[:120]}; expected the form {form.pattern}")
    return value


def _tests(place: str, row: dict[str, Any], name: str) -> tuple[str, ...]:
    """Names of tests: a list, or the JSON of one, as the dataset has it."""
    value = row.get(name)
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            value = None
    if not isinstance(value, list) or len(value) > MAX_TESTS or not all(isinstance(test, str) for test in value):
        raise UsageError(f"{place}: {name} is no list of test names, nor the JSON of one")
    if not all(map(_can_be_written, value)):
        raise UsageError(f"{place}: {name} has half a surrogate pair in it; expected text")
    return tuple(value)


def _can_be_written(text: str) -> bool:
    return not any("\ud800" <= c <= "\udfff" for c in text)
