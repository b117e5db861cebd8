"""The benchmark against a scripted server: lengths by the server's own count, depths, options that are refused."""

from __future__ import annotations

import gc
import re
from dataclasses import replace

import pytest

from a3b.errors import UsageError
from a3b.evals.benchmarks.needle import BENCHMARK, DEPTHS, ROOM, Cell, NeedleGrid, case_of
from a3b.evals.harness import planned_tries, run_tries
from a3b.evals.options import EvalOptions
from a3b.evals.records import RecordFile, read_records
from tests.support.scripted_model import Says, ScriptedModel

pytest.importorskip("inspect_ai", reason="extra eval")
pytestmark = [
    pytest.mark.slow,  # starts servers or commands, or computes for seconds
    # inspect-ai leaves streams of anyio to the garbage collector
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"),
]
SMALL = {"lengths": "2k,3k", "depths": "0,100", "each": "1"}


@pytest.fixture(autouse=True)
def nothing_left_to_collect():
    yield
    gc.collect()


def options_of(tmp_path, url="http://127.0.0.1:1", **extra) -> EvalOptions:
    return EvalOptions(url, "scripted", tmp_path, extra=extra)


def run(answer, tmp_path, owner="a3b", streams=True, **extra):
    """The records, and the server that was asked. streams: whether it can, and is asked to."""
    server = ScriptedModel([lambda body, number: answer(body)], owner=owner, streams=streams)
    with server.serving() as url:
        options = replace(options_of(tmp_path, url, **{**SMALL, **extra}), streams=streams)
        BENCHMARK.check(options)
        task = BENCHMARK.make_task(options)
        records = RecordFile(tmp_path / "cases")
        try:
            run_tries(
                BENCHMARK, task, planned_tries(task, options), options, tmp_path / "logs", records, lambda _: None
            )
        finally:
            records.close()
    return read_records(tmp_path / "cases"), server


def reads(body) -> Says:
    """A model that finds every fact whose name the question has."""
    text, _, question = body["messages"][0]["content"].rpartition("\n\n")
    found = re.findall(r"The number of the (\w+ \w+) is (\d+)", text)
    return Says("; ".join(f"{thing}: {value}" for thing, value in found if thing in question))


def test_a_model_that_reads_words_finds_exact_facts_and_several_but_no_paraphrased_ones(tmp_path):
    found, _ = run(reads, tmp_path)
    assert len(found) == 3 * 2 * 2
    for (case, _), record in found.items():
        assert record.score == (0.0 if case.startswith("paraphrased") else 1.0), case
        assert f"{record.facts['kind']}-{record.facts['length']}-{record.facts['depth']}-0" == case
        assert record.cost.requests == 1 and record.cost.computed + record.cost.cached == record.facts["prompt_tokens"]


@pytest.mark.parametrize("owner", ["a3b", "somebody"])
def test_lengths_are_counted_by_the_tokenizer_of_the_server_or_else_by_its_usage(tmp_path, owner):
    """The scripted server's tokens are characters."""
    found, server = run(reads, tmp_path, owner, kinds="exact")
    assert len(server.bodies) == 4 + (2 if owner != "a3b" else 0)
    for record in found.values():
        assert record.facts["prompt_tokens"] == pytest.approx(record.facts["length"], abs=160)


def test_a_server_that_does_not_stream_is_measured_and_asked_with_whole_answers(tmp_path):
    found, _ = run(reads, tmp_path, "somebody", streams=False, kinds="exact")
    assert len(found) == 4 and {record.score for record in found.values()} == {1.0}


def test_an_answer_that_was_cut_off_says_so_and_thinking_is_no_answer(tmp_path):
    found, _ = run(lambda body: Says("", thinking=reads(body).text, reason="length"), tmp_path, kinds="exact")
    assert {record.score for record in found.values()} == {0.0}
    assert all(record.detail.startswith("the answer was cut off") for record in found.values())


def test_thinking_can_be_switched_off(tmp_path):
    for think, sent in (("on", None), ("off", {"enable_thinking": False})):
        (tmp_path / think).mkdir()
        _, server = run(reads, tmp_path / think, kinds="exact", think=think)
        assert all(body.get("chat_template_kwargs") == sent for body in server.bodies)


@pytest.mark.parametrize(
    ("extra", "told"),
    [
        ({"kinds": "exact,loose"}, "kinds='loose'"),
        ({"kinds": ""}, "kinds=''"),
        ({"lengths": "1k,many"}, "--set lengths: 'many'"),
        ({"lengths": "100"}, "lengths=100: expected numbers from 128"),
        ({"lengths": "8k"}, "8,192 tokens; the server's context of 8,192 leaves 7,680"),
        ({"depths": "0,101"}, "depths=101: expected numbers from 0 to 100"),
        ({"depths": "-1"}, "--set depths: '-1'"),
        ({"each": "0"}, "each='0'"),
        ({"think": "maybe"}, "think='maybe'"),
    ],
)
def test_options_that_cannot_be_are_refused_by_name(tmp_path, extra, told):
    with pytest.raises(UsageError, match=re.escape(told)):
        NeedleGrid.of(extra, 8192)


def test_lengths_go_up_to_the_context_of_the_server_unless_they_are_given():
    assert NeedleGrid.of({}, 8192).lengths == (1024, 2048, 4096, 8192 - ROOM)
    assert max(NeedleGrid.of({}, 262_144).lengths) == 262_144 - ROOM
    assert max(NeedleGrid.of({}, 10_000).lengths) == 8192
    assert max(NeedleGrid.of({}, 1 << 20).lengths) == 1_010_000
    assert max(NeedleGrid.of({}, None).lengths) == 32_768
    assert NeedleGrid.of({}, 1000).lengths == (488,)
    assert NeedleGrid.of({"lengths": "4k,4096,300", "depths": "5,0"}, None).lengths == (4096, 300)


def test_a_limit_cuts_all_cells_evenly(tmp_path):
    grid = NeedleGrid.of({"lengths": "1k,2k", "each": "3"}, 8192)
    names = [name for name, _, _ in grid.cells()]
    num = 3 * 2 * len(DEPTHS)
    assert len(set(names)) == len(names) == 3 * num
    assert {name.rsplit("-", 1)[1] for name in names[:num]} == {"0"}


def test_a_case_has_the_same_facts_and_filler_at_every_depth_and_others_in_other_cells():
    def case(kind="exact", length=1024, depth=0, number=0):
        return case_of(Cell(kind, length, depth), number)

    assert case() == case(depth=50)
    assert case(number=1)[1] != case()[1] and case(length=2048)[0] != case()[0]
    assert case(kind="several")[1] == case()[1]
