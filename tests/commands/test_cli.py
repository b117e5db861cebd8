"""The command line as a user meets it, on the embedded model: in process where that is enough, in a pseudo-terminal for
chat."""

from __future__ import annotations

import io
import json
import os
import select
import signal
import subprocess
import sys

import numpy as np
import pytest

from a3b.cli import main
from a3b.commands.dialogue import Printer, speed
from a3b.engine.engine import nano_directory
from a3b.interface.events import DraftCount, Finished, Speculation, TextDelta, ThinkingDelta, Usage
from tests.support.checkpoint_files import write_checkpoint
from tests.support.paths import DATA
from tests.support.terminals import Terminal

pytestmark = pytest.mark.slow  # starts servers or commands, or computes for seconds

NANO = str(nano_directory())


@pytest.fixture
def messages(tmp_path):
    def write(value) -> str:
        path = tmp_path / "messages.json"
        path.write_text(json.dumps(value))
        return str(path)

    return write


def refused(capsys, *argv: str) -> str:
    """stderr of a command that must fail without a traceback."""
    try:
        status = main(list(argv))
    except SystemExit as exit:  # argparse
        status = exit.code
    captured = capsys.readouterr()
    assert status in (1, 2)
    assert "Traceback" not in captured.err and captured.out == ""
    return captured.err


def test_no_command_shows_help(capsys):
    assert main([]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("chat", "run", "info", "render", "logits"))


def test_run_answers_on_stdout_and_thinks_on_stderr(capsys):
    assert main(["run", "Hello!", "--preset", "greedy", "--max-tokens", "60"]) == 0
    captured = capsys.readouterr()
    assert captured.out.strip() and captured.err.strip()
    assert "<think>" not in captured.out + captured.err


def test_run_json_is_one_object_with_message_and_usage(capsys):
    assert main(["run", NANO, "Hello!", "--seed", "3", "--max-tokens", "60", "--json"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert first["message"]["role"] == "assistant" and first["usage"]["prompt_tokens"] > 0
    assert main(["run", NANO, "Hello!", "--seed", "3", "--max-tokens", "60", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["message"] == first["message"]


def test_run_stops_at_the_token_limit_and_says_so(capsys):
    assert main(["run", "Hello!", "--max-tokens", "2", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["finish_reason"], result["usage"]["completion_tokens"]) == ("length", 2)


def test_run_without_thinking_gives_no_thinking(capsys):
    assert main(["run", "Hello!", "--no-think", "--preset", "greedy", "--max-tokens", "40", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["message"]["reasoning_content"] == ""


def test_render_prints_the_exact_prompt(capsys, messages):
    path = messages([{"role": "user", "content": "Hi"}])
    assert main(["render", "--messages", path]) == 0
    assert capsys.readouterr().out == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<think>\n"
    assert main(["render", "--messages", path, "--no-generation-prompt"]) == 0
    assert capsys.readouterr().out == "<|im_start|>user\nHi<|im_end|>\n"
    assert main(["render", "--messages", path, "--kwargs", '{"enable_thinking": false}']) == 0
    assert capsys.readouterr().out.endswith("<think>\n\n</think>\n\n")


def test_render_ids_keep_control_words_of_the_user_as_text(capsys, messages):
    path = messages([{"role": "user", "content": "<|im_end|>"}])
    assert main(["render", "--messages", path, "--ids", "--no-generation-prompt"]) == 0
    ids = json.loads(capsys.readouterr().out)
    spec = json.loads((nano_directory() / "tokenizer.json").read_text())
    end = next(t["id"] for t in spec["added_tokens"] if t["content"] == "<|im_end|>")
    assert ids.count(end) == 1


def test_render_fit_accepts_what_the_template_refuses(capsys, messages):
    path = messages([{"role": "user", "content": "Hi"}, {"role": "developer", "content": "Be brief."}])
    assert "Unexpected message role" in refused(capsys, "render", "--messages", path)
    assert main(["render", "--messages", path, "--fit"]) == 0
    assert capsys.readouterr().out.startswith("<|im_start|>system\nBe brief.<|im_end|>\n")


def test_info_counts_the_35b_model_exactly_without_weights(capsys, tmp_path):
    config = (DATA / "config-35b-a3b.json").read_text()
    (tmp_path / "config.json").write_text(config)
    assert main(["info", str(tmp_path), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["parameters"]["total"] == 34_660_610_688
    assert facts["parameters"]["active"] == 2_946_429_568
    assert facts["weights"] is None
    assert main(["info", str(tmp_path)]) == 0
    assert "34,660,610,688" in capsys.readouterr().out


def test_info_of_a_dense_model_names_its_mlp(capsys, tmp_path):
    write_checkpoint(tmp_path, "dense")
    assert main(["info", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "mlp           one of width 38, no experts" in out and "qwen3_5_text" in out
    assert main(["info", str(tmp_path), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["experts"] is None and facts["parameters"]["mlp"] == 5 * 3 * 44 * 38


def test_info_of_nano_is_about_twelve_to_one_and_small(capsys):
    assert main(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert 10.5 <= facts["parameters"]["total"] / facts["parameters"]["active"] <= 13
    assert facts["weights"]["bytes"] <= 30e6


@pytest.mark.parametrize(("context", "factor"), [(8192, 1.0), (8193, 2.0), (16384, 2.0), (16385, 4.0), (32768, 4.0)])
def test_context_beyond_native_says_which_yarn_factor(capsys, context, factor):
    assert main(["info", "--context", str(context), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["context"]["factor"] == factor
    assert bool(facts["note"]) == (factor > 1)


def test_context_beyond_four_times_native_is_refused(capsys):
    assert "32768" in refused(capsys, "info", "--context", "32769").replace(",", "")


def test_logits_writes_float32_for_every_position(tmp_path, capsys):
    ids, out = tmp_path / "ids.json", tmp_path / "out.npy"
    ids.write_text(json.dumps(list(range(300))))
    assert main(["logits", NANO, "--ids", str(ids), "--out", str(out)]) == 0
    logits = np.load(out)
    assert logits.dtype == np.float32 and logits.shape[0] == 300 and np.isfinite(logits).all()
    assert [p.name for p in tmp_path.iterdir() if p.suffix == ".part"] == []


@pytest.mark.parametrize("value", ["[]", "{}", "[1.5]", "[true]", "[-1]", "[99999999]", '["a"]', "nonsense"])
def test_logits_refuses_what_are_no_token_ids(tmp_path, capsys, value):
    ids, out = tmp_path / "ids.json", tmp_path / "out.npy"
    ids.write_text(value)
    assert refused(capsys, "logits", NANO, "--ids", str(ids), "--out", str(out))
    assert not out.exists()


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["run", "/no/such/model", "hi"], "/no/such/model"),
        (["run", "hi", "--temperature", "-1"], "temperature"),
        (["run", "hi", "--preset", "nonsense"], "preset"),
        (["run", "a", "b", "c"], "quotes"),
        (["run", " "], "PROMPT"),
        (["info", "/no/such/model"], "not a directory"),
        (
            ["run", "35b-a3b", "hi"],
            "get it: a3b up qwen3.6",
        ),
        (["logits", "27B", "--ids", "{messages}", "--out", "x.npy"], "a3b up qwen3.6-27b"),
        (["render", "3b-dense", "--messages", "{messages}"], "never trained: a3b plan 3b-dense"),
        (["chat", "someone/Model-35B"], "a3b up someone/Model-35B"),
        (["plan", "someone/Model-35B"], "a3b pull someone/Model-35B DIR --include config.json"),
        (["bench", "speed", "--model", "35b-a3b"], "a3b up qwen3.6"),
        (["eval", "quality", "35b-a3b"], "a3b up qwen3.6"),
        (["verify", "35b-a3b"], "a3b up qwen3.6"),
        (["pack", "35b-a3b", "x"], "a3b up qwen3.6"),
        (["info", f"{NANO}/tokenizer.json/"], "tokenizer.json"),
        (["run", f"{NANO}/config.json", "hi"], "is a file; give the directory of a checkpoint"),
        (["render", "--messages", "/no/such/file"], "cannot read"),
        (["run", "hi", "--context", "0"], "positive"),
        (["run", "word " * 9000], "context"),
    ],
)
def test_refusals_name_what_was_wrong(capsys, messages, argv, told):
    argv = [word.replace("{messages}", messages([])) for word in argv]
    assert told in refused(capsys, *argv)


def test_info_describes_a_name_that_plan_knows_and_says_how_to_get_it(capsys):
    assert main(["info", "35B-A3B"]) == 0
    out = capsys.readouterr().out
    assert "34,660,610,688 in total" in out and "none here" in out and "a3b up qwen3.6" in out


def test_a_directory_without_a_config_is_refused(capsys, tmp_path):
    assert "config.json" in refused(capsys, "info", str(tmp_path))


def command(*argv: str) -> list[str]:
    return [sys.executable, "-m", "a3b.cli", *argv]


def test_chat_without_a_terminal_answers_a_sample_and_exits():
    done = subprocess.run(command("chat"), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stdout.strip()


def test_chat_answers_piped_lines_one_by_one():
    done = subprocess.run(
        command("chat", "--seed", "1"), input="hello\nthanks\n", capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0 and done.stdout.count("\n") >= 2
    assert "kept" in done.stderr  # the second turn reuses the first


def test_piped_chat_answers_each_line_when_it_comes_and_obeys_commands():
    process = subprocess.Popen(
        command("chat", "--seed", "1"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        bufsize=1,
    )
    process.stdin.write("hello\n")
    process.stdin.flush()
    if not select.select([process.stdout], [], [], 60)[0]:  # it must answer before the input ends
        process.kill()
        pytest.fail("no answer while the input is open")
    assert process.stdout.readline().strip()
    out, _ = process.communicate("a b " * 9000 + "\nthanks\n/exit\nnever asked\n", timeout=60)
    # the line that is too long is refused, the next answered
    assert len([line for line in out.splitlines() if line]) == 1
    assert process.returncode == 1


def test_a_terminal_gets_no_control_characters_from_the_model():
    class Fake(io.StringIO):
        def isatty(self):
            return True

    out, aside = Fake(), io.StringIO()
    printer = Printer(out, aside)
    printer(TextDelta("a\x1b]0;evil\x07b\n\tc"))
    printer(ThinkingDelta("\x1b[31m"))
    assert out.getvalue() == "a\\u001b]0;evil\\u0007b\n\tc"
    assert aside.getvalue() == "\x1b[31m"  # a file gets what was written


def test_chat_at_a_terminal_streams_obeys_commands_and_survives_ctrl_c():
    hot = ("--temperature", "50", "--top-k", "0", "--top-p", "1", "--seed", "1", "--max-tokens", "1000")
    chat = Terminal(command("chat", *hot))
    chat.expect("M parameters.*Ctrl-D leaves.*>")
    chat.type("/help\r")
    chat.expect("/preserve on")
    chat.type("/nonsense\r")
    chat.expect("no command /nonsense")
    chat.type("/think off\r")
    chat.expect("think off.*>")
    os.kill(chat.pid, signal.SIGINT)  # at the prompt: nothing happens
    chat.type("hello again\r")
    chat.expect(r"\(0 thinking\)")
    chat.type("/think on\r")
    chat.expect("think on.*>")
    chat.type("tell me\r")
    chat.expect(r"tell me\n[^\n]{20}")
    chat.type("\x03")  # in the middle of an answer
    chat.expect("stopped by you.*>")
    chat.type("and more\r")
    chat.expect(r"and more\n[^\n]{20}")
    for _ in range(3):  # impatient
        os.kill(chat.pid, signal.SIGINT)
    chat.expect("stopped.*>")
    chat.type("/new\r")
    chat.expect("new conversation.*>")
    assert chat.leave() == 0


@pytest.mark.parametrize("kwargs", ['{"tools": []}', '{"add_generation_prompt": false}', '{"messages": []}'])
def test_template_arguments_with_a_reserved_name_are_refused(capsys, messages, kwargs):
    assert "reserved" in refused(
        capsys, "render", "--messages", messages([{"role": "user", "content": "a"}]), "--kwargs", kwargs
    )


@pytest.mark.parametrize("out", [".", "/"])
def test_logits_refuses_a_directory_as_its_file(capsys, tmp_path, out):
    ids = tmp_path / "ids.json"
    ids.write_text("[1, 2]")
    assert "--out" in refused(capsys, "logits", NANO, "--ids", str(ids), "--out", out)


def test_output_survives_a_terminal_that_knows_only_ascii(messages):
    file = messages([{"role": "user", "content": "é"}])
    done = subprocess.run(
        command("render", "--messages", file), capture_output=True, env={**os.environ, "PYTHONIOENCODING": "ascii"}
    )
    assert done.returncode == 0 and b"\\xe9" in done.stdout


def test_info_of_a_scaled_config_names_its_own_limit(capsys, tmp_path):
    config = json.loads((nano_directory() / "config.json").read_text())
    config["rope_parameters"] |= {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert main(["info", str(tmp_path)]) == 0
    assert "context       8,192 tokens, YaRN factor 4" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("sources", "told"),
    [({}, "3 read, 9 written (0 thinking)"), ({"mtp": (8, 5)}, "3 read, 9 written (0 thinking), 5 of 8 drafts right")],
)
def test_the_line_after_an_answer_tells_what_became_of_its_drafts(sources, told):
    drafts = Speculation(4, 1.0, {name: DraftCount(*counts) for name, counts in sources.items()})
    assert speed(Finished("stop", Usage(prompt_tokens=3, completion_tokens=9, speculation=drafts))) == told
