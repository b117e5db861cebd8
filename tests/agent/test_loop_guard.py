"""Which calls go in circles, and which only look as if they did."""

from __future__ import annotations

from a3b.agent.loop_guard import LoopGuard


def stopped_after(calls, most=400):
    """How many of the calls, over and over again, are let through; None if all of `most`. Each is a tool, arguments,
    result, whether files changed, and seconds."""
    guard = LoopGuard()
    for i in range(most):
        tool, arguments, result, changed, *seconds = calls[i % len(calls)]
        text = result(i) if callable(result) else result
        found = guard.seen(tool, arguments, text, changed, *seconds)
        if found is not None and found.is_over:
            return i + 1
    return None


def bash(command, result="failed", changed=False, *seconds):
    return "bash", {"command": command}, result, changed, *seconds


def edit(old, new):
    return "edit", {"path": "a.py", "old": old, "new": new}, "Edited a.py, line 1.", True


def write(content):
    return "write", {"path": "a.py", "content": content}, "Wrote a.py, 1 line.", True


def test_a_run_of_tests_whose_times_differ_is_the_same_run():
    def times(i):
        return f"12:00:{i:02} FAILED test_a\n1 failed in {i / 7:.2f}s (0x7f{i:06x}, 2026-11-{i:02})"

    assert stopped_after([bash("pytest", times)]) == 5


def test_long_output_that_is_kept_under_another_name_is_the_same_output():
    def kept(i):
        return f"a\n[... 900 lines left out; all of it is in /tmp/a3b-output-7-x1/{i}.txt]\nb"

    assert stopped_after([bash("make", kept)]) == 5


def test_blanks_and_spellings_of_a_path_make_no_other_call():
    assert stopped_after([bash("pytest -q"), bash("pytest  -q ")]) == 5
    assert stopped_after([("read", {"path": "a.py"}, "x", False), ("read", {"path": "./a.py"}, "x", False)]) == 5


def test_calls_in_turn_are_noticed():
    assert stopped_after([bash("pytest"), bash("cat a.py", "x")]) == 9


def test_changes_back_and_forth_are_noticed_whatever_makes_them():
    assert stopped_after([edit("a", "b"), edit("b", "a")]) == 6
    assert stopped_after([edit("a", "b"), edit("b", "c"), edit("c", "a")]) == 8
    assert stopped_after([write("a"), write("b")]) == 7
    assert stopped_after([bash("sed -i s/a/b/ x", "", True), bash("sed -i s/b/a/ x", "", True)]) == 21


def test_changes_back_and_forth_are_noticed_beside_new_ones():
    def other(i):
        return "write", {"path": "b.py", "content": str(i)}, "Wrote b.py, 1 line.", True

    guard = LoopGuard()
    found = [guard.seen(*(edit("a", "b"), other(i), edit("b", "a"), other(-i))[i % 4]) for i in range(1, 20)]
    assert any(finding and finding.is_over for finding in found)


def test_a_command_that_changes_files_each_time_is_noticed():
    assert stopped_after([bash("pytest --cov", "1 failed", True)]) == 11


def test_a_command_that_makes_progress_goes_on():
    assert stopped_after([bash("python step.py", lambda i: f"step {i}", True)]) is None


def test_work_between_runs_with_the_same_result_goes_on():
    guard = LoopGuard()
    for i in range(50):
        assert guard.seen(*edit(f"{i}", f"{i + 1} more")) is None
        assert guard.seen(*bash("make", "1 error", True)) is None
        assert guard.seen(*bash("pytest")) is None


def test_waiting_for_a_job_goes_on_for_long():
    running = "[job 1, running: make]"
    assert stopped_after([bash("wait %1", running, False, 120.0)], 150) is None
    assert stopped_after([bash("sleep 60; curl -s localhost:8000", "", False, 60.0)], 150) is None
    assert stopped_after([bash("jobs", running)]) == 25


def test_numbers_without_end_take_no_time():
    guard = LoopGuard()
    for text in ("1," * 50_000, "1" * 100_000, "1:" * 50_000):
        guard.seen(*bash("cat data", text))
