"""Directories of runs: what makes one, what is refused, and what a run amounts to."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from a3b.errors import StoreError, UsageError
from a3b.evals import runs
from a3b.evals.conditions import conditions, identity_of, machine
from a3b.evals.records import RecordFile
from a3b.evals.runs import CONFIG, MAX_CONFIG, MOST_RESUMED, RESULTS, config_of, new_run, open_run, slug
from tests.evals.test_records import GOOD

CONFIGURED = config_of("lookup", {"model": "m\x1b[31m/x"}, {"kind": "a3b"})


def test_a_run_gets_a_directory_of_its_own(tmp_path):
    paths = [new_run(tmp_path, "lookup", CONFIGURED).path for _ in range(3)]
    assert len(set(paths)) == 3
    assert all(path.parent == tmp_path and path.name.startswith("lookup-m-31m-x-") for path in paths)
    assert open_run(paths[0]).config == json.loads(json.dumps(CONFIGURED))


def test_a_directory_with_files_is_not_taken(tmp_path):
    run = new_run(tmp_path, "lookup", CONFIGURED, tmp_path / "out")
    with pytest.raises(UsageError, match="there are files in it; .*--resume DIR goes on"):
        new_run(tmp_path, "lookup", CONFIGURED, run.path)
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(UsageError, match="--out DIR"):
        new_run(tmp_path, "lookup", CONFIGURED, tmp_path / "file")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("{", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ("[]", "'format' is missing or no int"),
        (json.dumps(CONFIGURED | {"benchmark": 3}), "'benchmark' is missing or no str"),
        (json.dumps(CONFIGURED | {"format": 99}), "has format 99, this a3b reads 1"),
        (json.dumps(CONFIGURED | {"files": [3]}), "'files' is no list of objects with a path"),
        (json.dumps(CONFIGURED | {"resumed": [3]}), "'resumed' is no list of objects"),
        (json.dumps(CONFIGURED | {"versions": "x" * (1 << 20)}), "has more than"),
    ],
)
def test_what_is_no_config_of_a_run_is_refused(text, found, tmp_path):
    (tmp_path / CONFIG).write_text(text, encoding="utf-8")
    with pytest.raises(StoreError, match=found):
        open_run(tmp_path)


def test_an_empty_directory_is_no_run(tmp_path):
    with pytest.raises(StoreError, match="there is no config.json, so this is no run of a3b eval"):
        open_run(tmp_path)


def test_a_run_of_an_earlier_version_can_be_read_and_goes_on(tmp_path):
    """Earlier versions told neither files nor how many cases ran at once, and less of machine and server."""
    old = {name: value for name, value in CONFIGURED.items() if name not in ("files", "parallel")}
    old |= {"machine": {"threads": 0, "memory_bytes": None}, "server": {"kind": "a3b"}}
    new_run(tmp_path, "lookup", old, tmp_path / "run")
    run = open_run(tmp_path / "run")
    run.check_files()
    run, changed = run.go_on(conditions({"kind": "llama.cpp"}, 4))
    assert changed == [f"machine: threads was 0, is {machine()['threads']}", "server: kind was a3b, is llama.cpp"]
    assert open_run(run.path).config["resumed"][0]["parallel"] == 4


def test_under_what_a_run_goes_on_is_kept_where_it_is_not_as_it_was_the_last_time(tmp_path, monkeypatch):
    run = new_run(tmp_path, "lookup", config_of("lookup", {"model": "m"}, {}, 1))
    now = conditions({})
    for parallel, told in ((1, []), (2, ["parallel was 1, is 2"]), (2, []), (1, ["parallel was 2, is 1"])):
        run, changed = run.go_on(now | {"parallel": parallel})
        assert changed == told
    assert [found["parallel"] for found in open_run(run.path).config["resumed"]] == [2, 1]
    assert run.config["parallel"] == 1
    assert MOST_RESUMED * len(json.dumps(now, indent=1)) < MAX_CONFIG / 2
    monkeypatch.setattr(runs, "MOST_RESUMED", 2)
    run, _ = run.go_on(now | {"parallel": 3})
    assert [found["parallel"] for found in run.config["resumed"]] == [1, 3]


def test_files_of_the_user_are_known_by_their_sums_and_have_to_stay_what_they_are(tmp_path):
    data, out = tmp_path / "rows", tmp_path / "out"
    data.write_text("one")
    new_run(tmp_path, "lookup", config_of("lookup", {"model": "m"}, {}, 1, [data]), out)
    run = open_run(out)
    assert run.config["files"] == [identity_of(data)]
    run.check_files()
    data.write_text("two")
    with pytest.raises(UsageError, match=f"--resume {out}: {data} is not the file it was begun with"):
        run.check_files()


def test_errors_and_what_was_not_run_are_no_wrong_answers(tmp_path):
    run = new_run(tmp_path, "lookup", CONFIGURED).note(tries=5)
    file = RecordFile(run.cases_file)
    for record in (GOOD, replace(GOOD, case="b", score=0.0), replace(GOOD, case="c", score=None, error="broke")):
        file.add(record)
    file.close()
    summary = run.write_results()
    assert (summary.share.mean, summary.share.cases) == (0.5, 2)
    assert (summary.tries, summary.errors, summary.missing, summary.is_complete) == (2, 1, 2, False)
    results = json.loads((run.path / RESULTS).read_text("utf-8"))
    assert results["score"]["mean"] == 0.5 and [case["case"] for case in results["cases"]] == ["a", "b", "c"]
    assert results["cost"]["thinking"] == 15


def test_results_of_cases_that_are_not_planned_now_are_not_mixed_with_others(tmp_path):
    run = new_run(tmp_path, "lookup", CONFIGURED)
    file = RecordFile(run.cases_file)
    file.add(GOOD)
    file.close()
    run = run.plan({(GOOD.case, GOOD.epoch), ("b", 1)})
    for planned in ({("b", 1)}, {(GOOD.case, GOOD.epoch + 1), ("b", 1)}):
        with pytest.raises(UsageError, match=r"1 of its 1 results, such as that of 'a', are of cases that are not"):
            run.plan(planned)
    assert open_run(run.path).config["tries"] == 2


def test_tries_of_one_case_are_one_draw(tmp_path):
    run = new_run(tmp_path, "lookup", CONFIGURED)
    file = RecordFile(run.cases_file)
    for case, epoch, score in (("a", 1, 1.0), ("a", 2, 0.0), ("b", 1, 1.0), ("b", 2, 1.0)):
        file.add(replace(GOOD, case=case, epoch=epoch, score=score))
    file.close()
    share = run.summary().share
    assert (share.mean, share.cases, share.method) == (0.75, 2, "clustered by case")


def test_a_model_s_name_is_no_path():
    assert slug("../../etc/passwd\n\0") == "etc-passwd" and slug("///") == "model"
