"""Data of the user is known by its sum, and read as rows whatever its form."""

from __future__ import annotations

import gzip
import hashlib
import json

import pytest

from a3b.errors import UsageError
from a3b.evals.benchmarks import given_data
from a3b.evals.benchmarks.given_data import field_of, given_rows, unique_name

ROWS = [{"problem": "one and one,\nin words", "answer": "2"}, {"problem": "ü", "answer": "3"}]
HOW = "get it from its authors"


def written(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def sum_of(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read(path, **given):
    return given_rows(path, given.get("known", {}), given.get("stated", sum_of(path)), HOW)


LINES = "\n".join(map(json.dumps, ROWS))
FORMS = {
    "a.csv": 'problem,answer\n"one and one,\nin words",2\nü,3\n',
    "b.csv": '\ufeffproblem,answer\r\n"one and one,\nin words",2\r\nü,3\r\n',
    "a.json": json.dumps(ROWS),
    "a.jsonl": LINES + "\n\n",
    "a.jsonl.gz": gzip.compress(LINES.encode(), mtime=0),
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_the_same_rows(name, tmp_path):
    assert read(written(tmp_path / name, FORMS[name])) == ROWS


def test_parquet_gives_the_same_rows(tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="comes with inspect-evals")
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet") == ROWS


def test_a_known_sum_needs_no_statement(tmp_path):
    path = written(tmp_path / "a.json", json.dumps(ROWS))
    assert given_rows(path, {sum_of(path): "of the authors"}, None, HOW) == ROWS


def test_an_unknown_sum_is_told_with_the_option_that_allows_it(tmp_path):
    path = written(tmp_path / "a.json", json.dumps(ROWS))
    with pytest.raises(UsageError, match=f"--set sha256={sum_of(path)}") as told:
        given_rows(path, {"0" * 64: "of the authors"}, None, HOW)
    assert "expected 0000" in str(told.value) and HOW in str(told.value)


def test_a_stated_sum_overrules_the_known_one(tmp_path):
    path = written(tmp_path / "a.json", json.dumps(ROWS))
    with pytest.raises(UsageError, match="you stated"):
        given_rows(path, {sum_of(path): "of the authors"}, "0" * 64, HOW)


def test_what_is_no_sum_is_told(tmp_path):
    with pytest.raises(UsageError, match="64 hexadecimal digits"):
        read(written(tmp_path / "a.json", "[]"), stated="yes")


def test_without_a_file_the_error_says_where_it_is_had():
    with pytest.raises(UsageError, match=f"--data FILE. {HOW}"):
        given_rows(None, {}, None, HOW)


@pytest.mark.parametrize("name", ["absent.csv", "."])
def test_a_path_without_a_file_is_told(name, tmp_path):
    with pytest.raises(UsageError, match=HOW):
        given_rows(tmp_path / name, {}, None, HOW)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", "{}"),
        ("a.json", "[1]"),
        ("a.json", "[" * 100_000),
        ("a.json", "[]"),
        ("a.jsonl", "{"),
        ("a.csv", b"\xff\xfe"),
        ("a.txt", "x"),
        ("a.jsonl.gz", b"no gzip"),
        ("a.jsonl.gz", gzip.compress(b"{}" * 1000, mtime=0)[:-9]),
        ("a.parquet", b"PAR1"),
    ],
)
def test_what_is_no_table_is_told_by_the_name_of_its_file(name, text, tmp_path):
    path = written(tmp_path / name, text)
    with pytest.raises(UsageError, match=str(path)):
        read(path)


def test_a_file_that_grows_without_end_when_decompressed_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(given_data, "MAX_BYTES", 10_000)
    with pytest.raises(UsageError, match="when decompressed"):
        read(written(tmp_path / "a.jsonl.gz", gzip.compress(b" " * 100_000, mtime=0)))


def test_fields_are_found_whatever_their_case_and_a_missing_one_is_named():
    assert field_of({"Problem ": "x"}, "question", "problem") == "x"
    with pytest.raises(UsageError, match="no field answer; it has problem"):
        field_of({"problem": "x"}, "answer")


def test_names_are_never_given_twice():
    taken: set[str] = set()
    names = [
        unique_name(row, number, taken, "id") for number, row in enumerate([{"id": 1}, {"id": 1}, {}, {"id": ""}], 1)
    ]
    assert names == ["1", "1-2", "3", "4"]
