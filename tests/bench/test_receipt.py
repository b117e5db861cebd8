"""The receipt runs each line by itself, says what it could not run and why, and goes on where it was killed."""

from __future__ import annotations

import json
import os
import re
import select
from contextlib import suppress

import pytest

from a3b.errors import A3BError, UsageError
from bench.receipt import __main__ as program
from bench.receipt import judges, lines
from bench.receipt.judges import Finding
from bench.receipt.lines import LINES, THERE, Line
from bench.receipt.page import FAIL, NOT_RUN, PASS, Receipt
from tests.support.paths import ROOT

LINK = re.compile(r"docs/receipts/([^)#\s]+)\.md#([\w-]+)|\(receipts/([^)#\s]+)\.md#([\w-]+)")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.setattr(program, "LOGS", tmp_path / "logs")
    monkeypatch.setattr(program, "this_commit", lambda: "c1")
    return tmp_path


def line(name: str, command: str, needs=(), judge=lambda printed: Finding(printed.strip(), "good" in printed)) -> Line:
    return Line(name, f"{name} is claimed", command, judge, 1, needs)


def made(here, *lines: Line, only: str | None = None, resume: bool = False) -> Receipt:
    program.receipt(lines, only, resume, here, "9.9")
    found = Receipt.read(here / "9.9.json")
    assert found is not None
    return found


def statuses(found: Receipt) -> dict[str, str]:
    return {name: entry.status for name, entry in found.entries.items()}


def test_a_line_that_fails_or_cannot_run_does_not_stop_the_others(here):
    lines = (
        line("a", "echo good"),
        line("b", "echo good; exit 3"),
        line("c", "echo bad"),
        line("d", "echo good", (lambda: "needs a moon",)),
        line("e", "kill -9 $$"),
        line("f", "echo good"),
    )
    found = made(here, *lines)
    assert statuses(found) == {"a": PASS, "b": FAIL, "c": FAIL, "d": NOT_RUN, "e": FAIL, "f": PASS}
    assert found.entries["b"].why == "exit status 3"
    assert found.entries["d"].why == "needs a moon"


def test_output_that_is_not_understood_is_a_failure_that_says_so(here):
    found = made(
        here, line("a", "echo '{}'", judge=judges.clients), line("b", "echo oh >&2; exit 1", judge=judges.clients)
    )
    assert "not understood" in found.entries["a"].why and "'clients'" in found.entries["a"].why
    assert found.entries["b"].why == "exit status 1, oh"


def test_what_a_line_leaves_running_ends_with_it(here):
    made(here, line("a", f"sleep 600 & echo $! > {here}/pid; echo good"))
    with suppress(ProcessLookupError):
        ended = os.pidfd_open(int((here / "pid").read_text()))
        assert select.select([ended], [], [], 30)[0]


def test_a_resumed_receipt_runs_only_what_was_not_run_at_this_commit(here, monkeypatch):
    lines = line("a", f"echo x >> {here}/a; echo good"), line("b", f"echo x >> {here}/b; echo good")
    made(here, *lines, only="a")
    found = made(here, *lines, resume=True)
    assert statuses(found) == {"a": PASS, "b": PASS}
    assert (here / "a").read_text() == (here / "b").read_text() == "x\n"
    monkeypatch.setattr(program, "this_commit", lambda: "c2")
    made(here, *lines, resume=True)
    assert (here / "a").read_text() == "x\nx\n"


def test_nothing_is_kept_of_a_checkout_with_changes(here, monkeypatch):
    monkeypatch.setattr(program, "this_commit", lambda: "c1+changes")
    lines = (line("a", f"echo x >> {here}/a; echo good"),)
    made(here, *lines)
    made(here, *lines, resume=True)
    assert (here / "a").read_text() == "x\nx\n"


def test_lines_that_were_not_asked_for_keep_what_they_had_and_their_commit(here, monkeypatch):
    lines = line("a", "echo good"), line("b", "echo good"), line("c", "echo good")
    made(here, *lines, only="a")
    monkeypatch.setattr(program, "this_commit", lambda: "c2")
    found = made(here, *lines, only="b")
    assert {name: entry.commit for name, entry in found.entries.items()} == {"a": "c1", "b": "c2", "c": ""}
    assert (found.entries["c"].status, found.entries["c"].why) == (NOT_RUN, "not asked for")


def test_a_line_whose_command_or_claim_changed_is_run_again(here):
    made(here, line("a", "echo good"))
    assert made(here, line("a", "echo bad"), resume=True).entries["a"].status == FAIL


def test_the_page_has_machine_verdicts_reasons_and_a_heading_for_each_line(here):
    found = made(here, line("a", "echo 'good | bad'"), line("b", "x", (lambda: "needs a moon",)))
    page = (here / "9.9.md").read_text(encoding="utf-8")
    assert "1 lines pass, 0 fail, 1 were not run" in page
    assert f"- Machine 1: {found.entries['a'].machine}." in page
    assert "runs at 1 commit, " in page and page.count(", 1 |") == 1
    assert "| [a](#a) | pass | a is claimed | good \\| bad |" in page
    assert "needs a moon" in page and "### b\n\n    x\n" in page


def test_a_line_keeps_the_machine_that_it_was_run_on(here, monkeypatch):
    lines = line("a", "echo good"), line("b", "echo good")
    for name, machine in (("a", "a slow one"), ("b", "a fast one")):
        monkeypatch.setattr(program, "this_machine", lambda machine=machine: machine)
        found = made(here, *lines, only=name)
    assert {name: entry.machine for name, entry in found.entries.items()} == {"a": "a slow one", "b": "a fast one"}
    page = (here / "9.9.md").read_text(encoding="utf-8")
    assert "- Machine 1: a slow one.\n- Machine 2: a fast one." in page
    assert re.search(r"\[b\]\(#b\) .* c1, [\d-]+, 2 \|", page)


def test_an_unknown_line_and_a_file_that_is_no_receipt_are_refused(here):
    with pytest.raises(A3BError, match="nonsense: no such line; there are a"):
        made(here, line("a", "echo good"), only="nonsense")
    (here / "9.9.json").write_text('{"version": 1}')
    with pytest.raises(UsageError, match="no receipt"):
        made(here, line("a", "echo good"), resume=True)


@pytest.mark.parametrize("line", LINES, ids=lambda x: x.name)
def test_a_line_can_be_run_by_anybody_and_linked_to(line):
    assert re.fullmatch(r"[a-z][a-z0-9-]*", line.name)
    for path in re.findall(r"\btests/[\w/]+\.py", line.command):
        assert (ROOT / path).exists(), path
    for name in re.findall(r"(tests/[\w/]+\.py)::(\w+)", line.command):
        assert f"def {name[1]}(" in (ROOT / name[0]).read_text(encoding="utf-8")
    for name in re.findall(r"python -m ((?:bench|nano)[\w.]+)", line.command):
        source = ROOT / name.replace(".", "/")
        assert source.with_suffix(".py").exists() or (source / "__main__.py").exists(), name


@pytest.mark.parametrize("page", ["Makefile", "CONTRIBUTING.md", "docs/bench.md"])
def test_the_pages_say_how_long_all_lines_take(page):
    large = [x for x in LINES if set(THERE) <= set(x.needs)]
    hours = [round(sum(x.seconds for x in group) / 3600) for group in (set(LINES) - set(large), large)]
    told = "an hour, and two more for the lines that need 24 GB and an idle machine"
    assert hours == [1, 2] and told in (ROOT / page).read_text(encoding="utf-8")


def test_names_of_lines_are_unique():
    assert len({x.name for x in LINES}) == len(LINES)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_a_claim_that_points_to_the_receipt_has_a_line_there(page):
    for found in LINK.findall(page.read_text(encoding="utf-8")):
        version, name = (part for part in found if part)
        kept = json.loads((ROOT / "docs" / "receipts" / f"{version}.json").read_text(encoding="utf-8"))
        assert name in {entry["name"] for entry in kept["lines"]}, name
        assert f"\n### {name}\n" in (ROOT / "docs" / "receipts" / f"{version}.md").read_text(encoding="utf-8")


def test_figures_are_read_from_what_commands_print():
    tests = "....\nlogits, T = 1: largest difference 2.1e-05 std\nlargest difference 3.0e-05 std\n2 passed in 1.20s\n"
    assert judges.largest_difference(1e-4)(tests) == Finding("3.0e-05 std at most of 2 comparisons", True)
    assert judges.largest_difference(1e-5)(tests).holds is False
    assert judges.tests_pass("1 failed, 3 passed in 2.0s").holds is False
    assert judges.tests_pass("3 passed, 1 skipped in 2.0s") == Finding("3 passed, 1 skipped", True)
    quality = json.dumps({"mean_kl_all": 0.02, "mean_kl": 0.06, "tokens_all": 3000, "tokens": 900})
    assert judges.divergence(0.05)(f"noise\n{quality}").holds is False
    assert judges.instructions(1143)("| all | 1,143 | 400 |").holds


def test_a_share_holds_if_the_claim_is_not_above_what_so_few_cases_can_tell():
    def said(right: float) -> str:
        return json.dumps({"calc": {"right": right, "legal": 1.0}})

    assert judges.family("calc", 0.995, 200)(said(0.995)).holds
    assert judges.family("calc", 0.995, 200)(said(0.99)).holds
    assert not judges.family("calc", 0.995, 200)(said(0.9)).holds


def test_policies_hold_if_thinking_solves_what_only_it_knows_and_changes_nothing_else():
    def said(secret: float, revise: tuple[float, float]) -> str:
        def result(mean: float, low: float, high: float) -> dict:
            return {"effects": [{"name": "altogether", "solved": {"mean": mean, "low": low, "high": high}}]}

        return json.dumps({"secret": result(secret, secret, secret), "revise": result(0.0, *revise)})

    assert judges.policies(said(0.98, (-0.05, 0.05))).holds
    assert not judges.policies(said(0.1, (-0.05, 0.05))).holds
    assert not judges.policies(said(0.98, (0.01, 0.05))).holds


@pytest.mark.parametrize(("worked", "said"), [(0.0, ""), (10_000.0, "needs an idle machine")])
def test_a_speed_is_not_taken_on_a_busy_machine(monkeypatch, worked, said):
    seconds = iter((0.0, worked))
    monkeypatch.setattr(lines, "busy_s", lambda: next(seconds))
    monkeypatch.setattr(lines.time, "sleep", lambda _: None)
    assert lines.idle()[:21] == said


@pytest.mark.parametrize(("shares", "holds"), [((0.013, 0.02), True), ((0.001, 0.021), False)])
def test_wrong_drafts_are_judged_by_the_dearest_batch(shares, holds):
    parts = {"part": "lies", "model": "a", "drafted": 3}
    rows = [{**parts, "batch": num, "extra_by_steps": [share, 0, 1]} for num, share in enumerate(shares, 1)]
    found = judges.wrong_drafts(0.02)("\n".join(map(json.dumps, rows)))
    assert found.holds == holds and found.figure.startswith(
        f"a, text, 1 at a time: {100 * shares[0]:.1f} %; a, text, 2"
    )


def test_drafts_that_nobody_drafted_show_nothing():
    row = {"part": "mtp", "model": "a", "batch": 1, "drafted": 0, "extra_by_steps": [0.0, 0, 0]}
    assert not judges.wrong_drafts(0.02)(json.dumps(row)).holds


def test_tests_without_a_summary_are_no_pass():
    with pytest.raises(ValueError, match="no summary"):
        judges.tests_pass("killed")


def test_turns_count_the_cached_ones_and_need_the_one_after_the_kill():
    rows = [
        {"what": "turn 1", "prompt_tokens": 1000, "computed": 1000},
        {"what": "turn 2, after kill -9 and restart", "prompt_tokens": 1100, "computed": 100},
        {"what": "turn 2, cold", "prompt_tokens": 1100, "computed": 1100},
    ]
    found = judges.turns(1100)(json.dumps({"a3b": rows}))
    assert found == Finding("1,100 computed of 2,100 tokens of 2 prompts; after kill -9 100 of 1,100", True)
    rows[1]["computed"] = 1100
    assert not judges.turns(1100)(json.dumps({"a3b": rows})).holds


@pytest.mark.parametrize(("peak", "memory", "holds"), [(0.5, 0.7, True), (0.3, 0.7, False), (0.5, 0.6, False)])
def test_a_speed_is_judged_by_what_the_machine_gives(peak, memory, holds):
    facts = {"prefill_tokens_per_s": 50, "decode_tokens_per_s": 8}
    facts |= {"vnni_peak_fraction": peak, "read_bandwidth_fraction": memory}
    assert judges.speed(0.35, 0.65)(json.dumps(facts)).holds == holds


def test_ratios_hold_if_each_peer_was_measured_and_none_is_faster_than_said():
    def said(**peers: dict[str, float]) -> Finding:
        return judges.ratios({"one": 1.0})(json.dumps({"ratios": peers}))

    assert said(one={"prefill": 2.0, "decode": 1.0}) == Finding("one: prefill 2.00×, decode 1.00×", True)
    assert not said(one={"prefill": 2.0, "decode": 0.9}).holds
    assert not said(one={"prefill": 2.0}).holds
    with pytest.raises(LookupError):
        said(other={"prefill": 2.0, "decode": 1.0})


def test_turns_beside_llama_cpp_are_judged_by_the_seconds_of_the_same_run():
    def rows(later: float, restarted: float, start: float = 0.0) -> list[dict]:
        names = ("turn 1", "turn 2", "turn 3", "turn 4, after kill -9 and restart")
        seconds = (50.0, later, later, restarted)
        return [
            {"what": what, "prompt_tokens": 1000, "computed": 100, "read_s": read, "start_s": begun}
            for what, read, begun in zip(names, seconds, (0.0, 0.0, 0.0, start), strict=True)
        ]

    def holds(ours: list[dict], theirs: list[dict]) -> bool:
        return judges.read_sooner(2, 4)(json.dumps({"a3b": ours, "llama.cpp": theirs})).holds

    assert holds(rows(4.0, 20.0), rows(8.0, 80.0))
    assert not holds(rows(4.0, 20.0), rows(7.0, 80.0))
    assert not holds(rows(4.0, 20.0), rows(8.0, 70.0))
    assert holds(rows(4.0, 20.0), rows(8.0, 70.0, start=18.0))  # whose weights are loaded before it is ready
    assert not holds(rows(4.0, 20.0, start=5.0), rows(8.0, 70.0, start=18.0))


@pytest.mark.parametrize(
    ("changed", "holds"),
    [({}, True), ({"qwen": 11_004}, False), ({"cached": 7_000}, False), ({"again": 3}, False)],
)
def test_a_first_prompt_is_judged_by_its_size_and_by_what_was_stored(changed, holds):
    row = {"name": "claude", "version": "1", "qwen": 9067, "cold": 10_000, "cached": 9_000, "again": 0} | changed
    assert judges.first_prompt(9067, 0.85)(json.dumps({"launched": [row]})).holds == holds
    with pytest.raises(ValueError, match="unpack"):
        judges.first_prompt(9067, 0.85)('{"launched": []}')
