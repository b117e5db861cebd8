"""Rows of the dataset as users have them, and rows that are wrong."""

from __future__ import annotations

import json

import pytest

from a3b.errors import UsageError
from a3b.evals.benchmarks.swebench.instances import load_instances
from a3b.evals.benchmarks.swebench.official import directives
from a3b.evals.benchmarks.swebench.verdicts import runner_files

ROW = {
    "repo": "acme/words",
    "instance_id": "acme__words-7",
    "base_commit": "a" * 40,
    "environment_setup_commit": "b" * 40,
    "patch": "diff --git a/w.py b/w.py\n",
    "test_patch": "diff --git a/tests/t.py b/tests/t.py\n",
    "problem_statement": "It is wrong.",
    "hints_text": "",
    "created_at": "2020-01-01",
    "version": "1.1",
    "FAIL_TO_PASS": '["a", "b"]',
    "PASS_TO_PASS": ["c"],
    "difficulty": "<15 min fix",
}


def written(tmp_path, name, value):
    path = tmp_path / name
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rows.jsonl", json.dumps(ROW) + "\n\n"),
        ("rows.json", [ROW]),
        ("rows.json", {"rows": [{"row_idx": 0, "row": ROW}], "num_rows_total": 1}),
        ("rows.json", {"acme__words-7": ROW}),
    ],
    ids=["lines", "list", "dataset server", "by id"],
)
def test_rows_are_read_in_the_forms_that_people_have_them_in(tmp_path, name, value):
    (found,) = load_instances(written(tmp_path, name, value))
    assert (found.id, found.repo, found.commit, found.setup_commit) == (
        "acme__words-7",
        "acme/words",
        "a" * 40,
        "b" * 40,
    )
    assert (found.fail_to_pass, found.pass_to_pass, found.spec) == (("a", "b"), ("c",), None)
    assert found.row["difficulty"] == "<15 min fix"


def test_rows_are_read_from_parquet(tmp_path):
    pytest.importorskip("pyarrow")
    import pyarrow
    import pyarrow.parquet

    path = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([ROW]), path)
    assert load_instances(path)[0].fail_to_pass == ("a", "b")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patch": None}, r"row 1: patch is null; expected a text, as in the rows of https://"),
        ({"base_commit": "main"}, r'base_commit is "main"; expected the form \[0-9a-f\]'),
        ({"instance_id": "../../etc"}, "instance_id is"),
        ({"instance_id": "a..b"}, "'..' is refused"),
        ({"instance_id": "a/b"}, "instance_id is"),
        ({"instance_id": 7}, "instance_id is 7"),
        ({"repo": "acme"}, "repo is"),
        ({"repo": "acme/../x"}, "repo is"),
        ({"repo": "-x/y"}, "repo is"),
        ({"FAIL_TO_PASS": "[1]"}, "FAIL_TO_PASS is no list of test names"),
        ({"FAIL_TO_PASS": "["}, "FAIL_TO_PASS is no list of test names"),
        ({"FAIL_TO_PASS": []}, "FAIL_TO_PASS of acme__words-7 is empty"),
        ({"PASS_TO_PASS": {"a": 1}}, "PASS_TO_PASS is no list"),
        ({"spec": "x"}, "spec is a str"),
        ({"problem_statement": "\ud800"}, "problem_statement has half a surrogate pair"),
        ({"PASS_TO_PASS": ["\udcff"]}, "PASS_TO_PASS has half a surrogate pair"),
    ],
    ids=str,
)
def test_a_wrong_row_is_refused_with_its_place_and_field(tmp_path, change, message):
    with pytest.raises(UsageError, match=message):
        load_instances(written(tmp_path, "rows.json", [ROW | change]))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("rows.jsonl", "{}\n{", "line 2: no JSON"),
        ("rows.jsonl", "7", "line 1: a int; expected an object"),
        ("rows.json", "7", "is JSON of the type int"),
        ("rows.json", [], "has no rows; expected those of https://"),
        ("rows.json", [ROW, ROW], "row 2: acme__words-7 is there twice"),
        ("rows.json", "[" * 200_000, "no JSON"),
    ],
)
def test_a_file_that_has_no_rows_is_refused(tmp_path, name, value, message):
    with pytest.raises(UsageError, match=message):
        load_instances(written(tmp_path, name, value))


def test_a_missing_file_is_named_with_where_its_rows_come_from(tmp_path):
    with pytest.raises(UsageError, match=r"none\.jsonl: No such file .*princeton-nlp/SWE-bench_Verified"):
        load_instances(tmp_path / "none.jsonl")


def test_ids_choose_instances_in_their_order(tmp_path):
    path = written(tmp_path, "rows.json", [ROW | {"instance_id": name} for name in "abc"])
    assert [found.id for found in load_instances(path, ["c", "a"])] == ["c", "a"]
    with pytest.raises(UsageError, match="has 3 instances, but not d"):
        load_instances(path, ["d"])


def sorted_rows():
    """By project, as the dataset is."""
    projects = {"astropy": 22, "django": 231, "flask": 1, "sympy": 75}
    names = [f"{project}-{n}" for project, count in projects.items() for n in range(count)]
    return [ROW | {"instance_id": name} for name in names]


def test_the_first_instances_are_of_several_projects_and_the_same_however_many_are_taken(tmp_path):
    rows = sorted_rows()
    first = [found.id for found in load_instances(written(tmp_path, "rows.json", rows))]
    assert sorted(first) == sorted(row["instance_id"] for row in rows)
    assert len({name.partition("-")[0] for name in first[:20]}) >= 3
    assert [found.id for found in load_instances(written(tmp_path, "other.json", rows[::-1]))] == first
    some = [found.id for found in load_instances(written(tmp_path, "some.json", rows[::2]))]
    assert some == [name for name in first if name in some], "rows that are missing change the place of no other"


def test_files_that_decide_what_tests_say_are_told():
    patch = "".join(
        f"diff --git a/{name} b/{name}\n" for name in ("a.py", "tests/conftest.py", "bin/test", "test/a.py")
    )
    assert runner_files(patch) == ["tests/conftest.py", "bin/test"]


def test_the_tests_of_a_patch_are_arguments_and_its_data_is_not(tmp_path):
    patch = "".join(f"diff --git a/{name} b/{name}\n" for name in ("tests/a/test_b.py", "tests/data.json", "x.csv"))
    row = ROW | {"test_patch": patch}
    assert directives(load_instances(written(tmp_path, "a.json", [row]))[0]) == ["tests/a/test_b.py"]
    django = load_instances(written(tmp_path, "b.json", [row | {"repo": "django/django"}]))[0]
    assert directives(django) == ["a.test_b"]
