"""`a3b eval NAME`: a run that is killed goes on, one that is complete is not repeated, what is no run is refused."""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from a3b import __version__
from a3b.agent import client as agent_client
from a3b.cli import main
from a3b.evals.records import read_records
from a3b.evals.runs import CASES, CONFIG, RESULTS, config_of, new_run
from tests.support.lookup_player import asked, solved
from tests.support.scripted_model import Says, ScriptedModel

pytestmark = [
    pytest.mark.slow,  # starts servers or commands, or computes for seconds
    # inspect-ai leaves streams of anyio to the garbage collector, and uses what its libraries call deprecated
    pytest.mark.filterwarnings(
        "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning", "ignore::DeprecationWarning"
    ),
]


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("A3B_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("A3B_CACHE", raising=False)
    monkeypatch.setattr(agent_client, "TRIES", 1)
    yield
    gc.collect()


def outcome(directory):
    """What a run says, without its times and what the server's cache had; ids of calls count as tokens here, and as the
    server numbers its answers."""
    records = read_records(directory / CASES).values()
    return {r.key: (r.score, r.detail, r.seed, r.cost.requests, r.cost.written) for r in records}


def some_wrong(body):
    """A player that gives up on every chain that begins with an a, b, c, d or e."""
    return Says("No idea.") if asked(body)[0][0] in "abcde" else solved(body)


def test_a_run_that_is_killed_goes_on_and_ends_as_one_that_was_not(tmp_path, capfd):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    words = ["eval", "lookup", "--limit", "6", "--epochs", "2", "--parallel", "1", "--temperature", "0"]
    processes: list[subprocess.Popen] = []

    def until_the_eighth_try(body, number):
        if len(read_records(killed / CASES)) == 7:
            processes[0].kill()
        return some_wrong(body)

    with ScriptedModel([until_the_eighth_try]).serving() as url:
        command = [sys.executable, "-m", "a3b.cli", *words, "--out", str(killed), "--base-url", url]
        processes.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        assert processes[0].wait(120) == -signal.SIGKILL
    assert len(outcome(killed)) == 7
    server = ScriptedModel([lambda body, _: some_wrong(body)])
    with server.serving() as url:
        assert main(["eval", "lookup", "--resume", str(killed), "--base-url", url, "--parallel", "1"]) == 0
        said = capfd.readouterr()
        assert "7 of 12 are done already" in said.err and "score" in said.out
        resumed = len(server.bodies)
        assert main([*words, "--out", str(whole), "--base-url", url, "--json"]) == 0
        said_as_json = capfd.readouterr().out
        assert resumed < len(server.bodies) - resumed
    capfd.readouterr()
    assert main(["eval", "lookup", "--resume", str(whole), "--base-url", url]) == 0  # where nobody answers now
    assert "is done already" in capfd.readouterr().err
    assert outcome(killed) == outcome(whole)
    results = json.loads((whole / RESULTS).read_text("utf-8"))
    assert json.loads(said_as_json) == results
    assert 0 < results["score"]["mean"] < 1 and results["score"]["cases"] == 6 and results["missing"] == 0


def test_ctrl_c_keeps_what_is_done_and_says_how_to_go_on(tmp_path):
    out = tmp_path / "out"
    processes: list[subprocess.Popen] = []

    def until_the_third_try(body, number):
        if len(read_records(out / CASES)) == 2:
            processes[0].send_signal(signal.SIGINT)
            time.sleep(0.5)  # the signal comes before the answer
        return solved(body)

    with ScriptedModel([until_the_third_try]).serving() as url:
        words = ["eval", "lookup", "--limit", "9", "--parallel", "1", "--out", str(out), "--base-url", url]
        processes.append(subprocess.Popen([sys.executable, "-m", "a3b.cli", *words], stderr=subprocess.PIPE, text=True))
        said = processes[0].communicate(timeout=120)[1]
    assert processes[0].returncode == 130
    assert f"a3b eval lookup --resume {out} --base-url {url}" in said and "Traceback" not in said
    results = json.loads((out / RESULTS).read_text("utf-8"))
    assert (results["tries"], results["errors"], results["missing"]) == (2, 0, 7)


def test_a_server_that_is_gone_is_said_and_counts_nothing_wrong(tmp_path, capsys):
    out = tmp_path / "out"
    server = ScriptedModel([lambda body, _: 503 if len(server.bodies) > 3 else solved(body)])
    with server.serving() as url:
        assert main(["eval", "lookup", "--limit", "9", "--parallel", "1", "--base-url", url, "--out", str(out)]) == 1
        said = capsys.readouterr()
        assert "score      100.0%" in said.out and "5 ended with an error, 3 were not run" in said.out
        assert "refused with 503" in said.err and f"a3b eval lookup --resume {out}" in said.err
    assert main(["eval", "lookup", "--resume", str(out), "--base-url", url]) == 1
    assert "nobody answers there" in capsys.readouterr().err


def test_a_server_that_tells_no_usage_leaves_the_tokens_unknown(tmp_path, capsys):
    out = tmp_path / "out"
    with ScriptedModel([lambda body, _: solved(body)], owner="other", tells_usage=False).serving() as url:
        assert main(["eval", "lookup", "--limit", "2", "--base-url", url, "--out", str(out)]) == 0
    said = capsys.readouterr()
    assert said.err.count("the server tells no usage") == 1
    assert "tokens     unknown: the server tells no usage" in said.out
    assert json.loads((out / RESULTS).read_text("utf-8"))["cost"]["computed"] is None


def test_a_server_of_its_own_listens_on_a_free_port(tmp_path, capsys, monkeypatch):
    """Two runs that begin at once would else race for the usual one."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        monkeypatch.setenv("A3B_PORT", str(port))
        assert main(["eval", "lookup", "--limit", "1", "--model", "nano", "--out", str(tmp_path / "out")]) == 0
    told = json.loads((tmp_path / "out" / CONFIG).read_text("utf-8"))["server"]
    assert told["base_url"].startswith("http://127.0.0.1:") and not told["base_url"].endswith(f":{port}")
    assert (told["version"], told["kv"], told["preset"], len(told["identity"])) == (__version__, "q8", "not packed", 32)
    assert told["instruction_set"]


def test_what_an_endpoint_says_reaches_a_terminal_escaped(tmp_path, capsys):
    server = ScriptedModel([lambda body, _: b'data: {"error": {"message": "\\u001b]0;x\\u0007"}}\n\n'])
    with server.serving() as url:
        assert main(["eval", "lookup", "--limit", "1", "--base-url", url, "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr()
    assert "\x1b" not in said.err + said.out
    assert "lookup-0: http://127.0.0.1:" in said.err and "the server broke off: \\x1b]0;x\\x07\n" in said.err


def test_options_that_would_make_it_another_run_are_refused(tmp_path, capsys):
    out = tmp_path / "out"
    with ScriptedModel([lambda body, _: solved(body)]).serving() as url:
        first = ["eval", "lookup", "--limit", "1", "--base-url", url, "--out", str(out)]
        assert main(first) == 0
        assert main(first) == 2
        assert "--resume DIR goes on with a run" in capsys.readouterr().err
        for words, said in (
            (["lookup", "--limit", "3"], "--limit has no place there"),
            (["lookup", "--policy", "none"], "--policy has no place there"),
            (["lookup", "--data", "x"], "--data has no place there"),
            (["lookup", "--no-stream"], "--no-stream has no place there"),
            (["secret"], "is a run of 'lookup'"),
        ):
            assert main(["eval", words[0], "--resume", str(out), "--base-url", url, *words[1:]]) == 2
            assert said in capsys.readouterr().err
        (out / CASES).write_bytes(b"")  # as if the run had been killed
        assert main(["eval", "lookup", "--resume", str(out), "--base-url", url, "--model", "other"]) == 2
        assert "ran with the model 'scripted'" in capsys.readouterr().err


def test_a_run_whose_cases_were_chosen_otherwise_does_not_go_on(tmp_path, capsys):
    out = tmp_path / "out"
    with ScriptedModel([lambda body, _: solved(body)]).serving() as url:
        assert main(["eval", "lookup", "--limit", "2", "--base-url", url, "--out", str(out)]) == 0
        line = (out / CASES).read_text("utf-8").splitlines()[0]
        (out / CASES).write_text(line.replace('"lookup-', '"other-') + "\n", "utf-8")  # as another version chose it
        before = (out / CONFIG).read_bytes()
        assert main(["eval", "lookup", "--resume", str(out), "--base-url", url]) == 2
    assert "1 of its 1 results, such as that of 'other-" in capsys.readouterr().err
    assert (out / CONFIG).read_bytes() == before


def test_a_run_goes_on_with_the_data_it_was_begun_with(tmp_path, capsys):
    out, data = tmp_path / "out", tmp_path / "book.txt"
    book = "Once there was a king. " * 400
    data.write_text(book)
    small = [word for text in ("lengths=256", "depths=0", "kinds=exact", "each=2") for word in ("--set", text)]
    with ScriptedModel([Says("I do not know.")]).serving() as url:
        again = ["eval", "needle", "--resume", str(out), "--base-url", url]
        first = ["eval", "needle", "--data", str(data), *small, "--base-url", url, "--out", str(out)]
        assert main(first) == 0
        (out / CASES).write_text((out / CASES).read_text("utf-8").splitlines()[0] + "\n", "utf-8")  # as after kill -9
        data.write_text(book + "He was old.")
        assert main(again) == 2
        assert f"{data} is not the file it was begun with" in capsys.readouterr().err
        data.write_text(book)
        assert main(again) == 0
    assert json.loads((out / RESULTS).read_text("utf-8"))["tries"] == 2


def test_under_what_a_run_works_is_kept_and_a_change_is_said(tmp_path, capsys):
    out = tmp_path / "out"
    with ScriptedModel([lambda body, _: solved(body)], owner="other").serving() as url:
        words = ["eval", "lookup", "--limit", "2", "--parallel", "1", "--base-url", url, "--out", str(out)]
        assert main(words) == 0
        config = json.loads((out / CONFIG).read_text("utf-8"))
        assert config["server"].keys() == {"base_url", "kind", "context", "slots"}  # another's says nothing of itself
        assert config["parallel"] == 1 and config["files"] == [] and config["machine"]["cores"] >= 1
        (out / CASES).write_text((out / CASES).read_text("utf-8").splitlines()[0] + "\n", "utf-8")
        assert main(["eval", "lookup", "--resume", str(out), "--base-url", url, "--parallel", "3"]) == 0
    assert "not all is as it was: parallel was 1, is 3" in capsys.readouterr().err
    assert [found["parallel"] for found in json.loads((out / CONFIG).read_text("utf-8"))["resumed"]] == [3]


def test_a_run_of_whole_answers_goes_on_with_whole_answers(tmp_path):
    out = tmp_path / "out"
    with ScriptedModel([lambda body, _: solved(body)], streams=False).serving() as url:
        assert main(["eval", "lookup", "--limit", "1", "--no-stream", "--base-url", url, "--out", str(out)]) == 0
        assert json.loads((out / CONFIG).read_text("utf-8"))["options"]["streams"] is False
        (out / CASES).write_bytes(b"")  # as if the run had been killed
        assert main(["eval", "lookup", "--resume", str(out), "--base-url", url]) == 0


def test_a_run_that_does_not_say_whether_it_streams_goes_on_with_streams(tmp_path):
    asked = {"limit": 1, "epochs": 1, "seed": 0, "policy": None, "data": None, "sampling": {}, "extra": {}}
    run = new_run(tmp_path, "lookup", config_of("lookup", {"model": "scripted", **asked}, {}))
    server = ScriptedModel([lambda body, _: solved(body)])
    with server.serving() as url:
        assert main(["eval", "lookup", "--resume", str(run.path), "--base-url", url]) == 0
    assert all(body["stream"] for body in server.bodies)


def test_data_that_nothing_reads_is_refused(tmp_path, capsys):
    assert main(["eval", "lookup", "--data", str(tmp_path), "--base-url", "http://127.0.0.1:9"]) == 2
    assert "--data: lookup takes none" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options", [{"limit": "x"}, {"epochs": -1}, {"limit": 1 << 40}, {"policy": "all; rm"}, {"streams": "no"}, None]
)
def test_a_config_that_was_edited_is_refused(options, tmp_path, capsys):
    asked = {"limit": 1, "epochs": 1, "seed": 0, "policy": None, "data": None, "sampling": {}, "extra": {}}
    kept = {} if options is None else {"model": "scripted", **asked, **options}
    run = new_run(tmp_path, "lookup", {**config_of("lookup", {"model": "scripted"}, {}), "options": kept})
    assert main(["eval", "lookup", "--resume", str(run.path), "--base-url", "http://127.0.0.1:9"]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"a3b eval: {run.path / CONFIG}: ") and "was it edited?" in said and said.count("\n") == 1


def test_without_a_directory_the_last_run_goes_on(tmp_path, capsys):
    with ScriptedModel([lambda body, _: solved(body)]).serving() as url:
        assert main(["eval", "lookup", "--resume", "--base-url", url]) == 2
        assert "no run of lookup is in" in capsys.readouterr().err
        assert main(["eval", "lookup", "--limit", "1", "--base-url", url]) == 0
        (run,) = (tmp_path / "home" / "evals").iterdir()
        assert main(["eval", "lookup", "--resume", "--base-url", url]) == 0
        assert str(run) in capsys.readouterr().err


def test_no_key_is_kept(tmp_path):
    out = tmp_path / "out"
    server = ScriptedModel([lambda body, _: solved(body)])
    with server.serving() as url:
        words = ["eval", "lookup", "--limit", "1", "--base-url", url, "--out", str(out), "--api-key", "sk-hidden"]
        assert main(words) == 0
    assert server.headers[0]["authorization"] == "Bearer sk-hidden"
    for parent, _, names in os.walk(out):
        assert all(b"sk-hidden" not in open(os.path.join(parent, name), "rb").read() for name in names)
