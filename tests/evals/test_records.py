"""Records of tries: what is on the disk counts, a line without its end does not, and a strange line is named."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace

import pytest

from a3b.errors import StoreError
from a3b.evals.records import MAX_LINE, CaseCost, CaseRecord, RecordFile, elapsed, read_records, total_cost

GOOD = CaseRecord("a", 1, 7, 1.0, cost=CaseCost(10, 20, 30, 5, 2, 1.5), begun=10.0, finished=12.0, session=9.0)


def written(path, *records):
    file = RecordFile(path)
    for record in records:
        file.add(record)
    file.close()
    return path


def test_what_is_added_is_read_again(tmp_path):
    bad = replace(GOOD, case="b\n\x1b[31m", score=None, error="nobody answers")
    path = written(tmp_path / "cases.jsonl", GOOD, bad)
    assert list(read_records(path).values()) == [GOOD, bad]
    assert read_records(tmp_path / "none") == {}


def test_tokens_that_a_server_did_not_tell_are_null_and_no_zeros(tmp_path):
    untold = replace(GOOD, cost=CaseCost.of_request(0, 0, 0, 0) + CaseCost.of_request(0, 0, 0, 0))
    path = written(tmp_path / "cases.jsonl", untold)
    line = json.loads(path.read_text())["cost"]
    assert line == {"computed": None, "cached": None, "written": None, "thinking": None} | {
        "requests": 2, "seconds": 0.0, "untold": 2
    }  # fmt: skip
    assert list(read_records(path).values()) == [untold]


def test_what_some_requests_cost_is_at_least_what_was_told():
    cost = CaseCost.of_request(9, 1, 4, 0) + CaseCost.of_request(0, 0, 0, 0)
    assert (cost.tokens("computed"), cost.tokens("written", tries=2)) == ("at least 9", "at least 2")
    assert cost.value()["computed"] == 9


def test_a_line_of_a_run_before_untold_requests_were_counted_is_read(tmp_path):
    path = written(tmp_path / "cases.jsonl", GOOD)
    value = json.loads(path.read_text())
    del value["cost"]["untold"]
    path.write_text(json.dumps(value) + "\n")
    assert list(read_records(path).values()) == [GOOD]


def test_a_later_line_of_the_same_try_counts(tmp_path):
    failed = replace(GOOD, score=None, error="broke")
    assert list(read_records(written(tmp_path / "c", failed, GOOD)).values()) == [GOOD]


def test_a_line_without_its_end_was_not_written(tmp_path):
    path = written(tmp_path / "c", GOOD)
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:40])
    assert list(read_records(path).values()) == [GOOD]
    written(path, replace(GOOD, case="b"))
    assert [record.case for record in read_records(path).values()] == ["a", "b"]


def test_a_run_is_of_one_process(tmp_path):
    first = RecordFile(tmp_path / "c")
    with pytest.raises(StoreError, match="another process works on this run"):
        RecordFile(tmp_path / "c")
    first.close()
    RecordFile(tmp_path / "c").close()


def test_a_link_or_a_pipe_is_no_record_file(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match="symbolic link"):
        RecordFile(tmp_path / "link")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(StoreError, match="named pipe"):
        read_records(tmp_path / "pipe")


LINE = asdict(GOOD)
STRANGE = {
    "no JSON": "{",
    "a list": "[]",
    "nothing": "",
    "deep": "[" * 100_000,
    "a number of a thousand digits": json.dumps(LINE).replace('"seed": 7', f'"seed": {"9" * 9000}'),
    "no case": json.dumps({k: v for k, v in LINE.items() if k != "case"}),
    "a case that is a number": json.dumps(LINE | {"case": 1}),
    "a score over 1": json.dumps(LINE | {"score": 1.5}),
    "a score that is no number": json.dumps(LINE | {"score": "1"}),
    "NaN": json.dumps(LINE | {"score": float("nan")}),
    "a negative cost": json.dumps(LINE | {"cost": LINE["cost"] | {"cached": -1}}),
    "an endless time": json.dumps(LINE | {"finished": float("inf")}),
    "a score and an error": json.dumps(LINE | {"error": "broke"}),
    "neither": json.dumps(LINE | {"score": None}),
    "true for 1": json.dumps(LINE | {"epoch": True}),
}


@pytest.mark.parametrize("line", STRANGE.values(), ids=STRANGE)
def test_a_line_that_no_run_wrote_is_named(line, tmp_path):
    path = written(tmp_path / "c", GOOD)
    path.write_bytes(path.read_bytes() + line.encode() + b"\n")
    with pytest.raises(StoreError, match=r"c, line 2: .*remove it, and --resume repeats that case"):
        read_records(path)


def test_an_endless_line_is_refused(tmp_path):
    (tmp_path / "c").write_bytes(b"x" * (MAX_LINE + 1) + b"\n")
    with pytest.raises(StoreError, match="line 1: has 1,048,577 bytes"):
        read_records(tmp_path / "c")


def test_facts_that_do_not_fit_are_left_out(tmp_path):
    path = written(tmp_path / "c", replace(GOOD, facts={"text": "x" * MAX_LINE}))
    assert read_records(path)["a", 1].facts == {"left out": "too large"}


def test_costs_add_up_and_time_is_that_of_each_process():
    later = replace(GOOD, case="b", begun=100.0, finished=130.0, session=90.0)
    assert total_cost([GOOD, later]) == CaseCost(20, 40, 60, 10, 4, 3.0)
    assert elapsed([GOOD, replace(GOOD, case="c", finished=11.0), later]) == 3.0 + 40.0
