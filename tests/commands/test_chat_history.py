"""`a3b chat` over restarts: conversations continue token for token, typed lines come back, both are private, and
neither ever stops a chat."""

from __future__ import annotations

import errno
import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from a3b.cli import build_parser, main
from a3b.commands import transcripts
from a3b.commands.chat import Chat
from a3b.commands.saved_chat import Kept
from a3b.commands.typed_lines import MAX_BYTES, TypedLines
from a3b.engine.engine import Engine
from a3b.errors import A3BError, StoreError, UsageError
from a3b.prompt.segments import Control
from a3b.settings import RuntimeConfig
from tests.support.checkpoint_files import write_checkpoint
from tests.support.terminals import Terminal

pytestmark = pytest.mark.slow  # starts servers or commands, or computes for seconds

COMMAND = [sys.executable, "-m", "a3b.cli", "chat"]


@pytest.fixture(scope="module")
def engine():
    return Engine.load()


@pytest.fixture
def chat(engine, tmp_path):
    """Begins or continues a chat, as `a3b chat` with these options does; `close` simulates the end of the process."""
    open_chats = []

    def begin(*options: str) -> Chat:
        args = build_parser().parse_args(["chat", "--seed", "1", *options])
        args.runtime = RuntimeConfig(cache=str(tmp_path / "cache"))
        for other in open_chats:
            other.kept.close()
            other.dialogue.close()
        new = Chat(args, engine, Kept.of(args))
        open_chats.append(new)
        if new.kept.transcript:
            new.kept.fill(new.dialogue)
        return new

    yield begin
    for one in open_chats:
        one.kept.close()
        one.dialogue.close()


def files(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache" / "chats").glob("*.jsonl"))


def history(chat: Chat) -> list[int]:
    """Ids of the conversation so far, as the next prompt begins with them."""
    dialogue = chat.dialogue
    rendered = dialogue.service.renderer.render(dialogue._request(chat.params)).prompt
    turn_end = max(i for i, segment in enumerate(rendered) if segment == Control("<|im_start|>"))
    return chat.engine.tokenizer.encode(rendered[:turn_end])


def prompts_of(chat: Chat) -> list[list[int]]:
    """Prompt and sampled ids of the answers from now on."""
    answer, read = chat.dialogue.service.answer, []

    def watched(request):
        stream = answer(request)
        read.append(stream)
        return stream

    chat.dialogue.service.answer = watched
    return read


def test_a_conversation_that_goes_on_reads_the_same_tokens_as_one_that_never_stopped(chat, tmp_path):
    first = chat()
    streams = prompts_of(first)
    for line in ("hello", "/think off", "what are you?", "/think on", "thanks"):
        assert first.take(line)
    expected = history(first)
    for stream in streams:  # the conversation only grew
        ids = stream.prompt_ids + stream.sampled_ids
        assert expected[: len(ids)] == ids
    kept = [json.loads(line) for line in files(tmp_path)[0].read_text().splitlines()]
    assert [len(line["ids"]) > 3 for line in kept if "assistant" in line] == 3 * [True]
    again = chat("--continue")
    assert history(again) == expected and again.dialogue.messages == first.dialogue.messages
    streams = prompts_of(again)
    again.take("hello")
    assert streams[0].prompt_ids[: len(expected)] == expected


def test_thinking_of_an_earlier_process_is_remembered(tmp_path):
    ask = {"env": {**os.environ, "A3B_CACHE": str(tmp_path)}, "capture_output": True, "text": True, "timeout": 60}
    first = subprocess.run(
        [*COMMAND, "--seed", "1"], input="Think of two numbers from 0 to 999. Tell me only the first.\n", **ask
    )
    second = subprocess.run([*COMMAND, "--continue", "--temperature", "0"], input="And the other number?\n", **ask)
    secret = first.stderr.partition("second: ")[2].split()[0]
    assert secret in second.stdout and "> Think of two numbers" in second.stderr


def test_a_kill_in_mid_answer_loses_that_answer_alone(chat, tmp_path):
    chat().take("hello")
    process = subprocess.Popen(
        [*COMMAND, "--continue", "--temperature", "50", "--top-k", "0", "--top-p", "1", "--seed", "1"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
        env={**os.environ, "A3B_CACHE": str(tmp_path / "cache")},
    )
    chat()  # lets go of the conversation
    process.stdin.write(b"tell me\n")
    seen = b""
    while b"> tell me\n" not in seen or seen.endswith(b"> tell me\n"):  # until it thinks
        assert (piece := process.stderr.read(100)), seen
        seen += piece
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    again = chat("--continue")
    assert [message["content"] for message in again.dialogue.messages][0] == "hello" and len(
        again.dialogue.messages
    ) == 2
    assert again.kept.transcript.unanswered == "tell me"
    again.take("thanks")
    assert len(chat("--continue").dialogue.messages) == 4


def test_a_line_that_was_being_written_is_dropped_and_a_wrong_one_named(chat, tmp_path):
    chat().take("hello")
    chat().kept.close()
    (path,) = files(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"user": "th')
    assert len(chat("--continue").dialogue.messages) == 2
    assert path.read_bytes() == whole
    for line, number in ((b"nonsense", 4), (b'{"assistant": {}}', 4), (b"[" * 5000, 4), (b'{"user": 5}', 4)):
        path.write_bytes(whole + line + b"\n")
        with pytest.raises(StoreError, match=f"line {number}"):
            chat("--continue")
    path.write_bytes(whole.replace(b'"ids": [', b'"ids": [99999999, '))
    with pytest.raises(StoreError, match="99999999"):
        chat("--continue")
    path.write_bytes(whole.replace(b'"a3b_chat": 1', b'"a3b_chat": 2'))
    with pytest.raises((StoreError, UsageError)):
        chat("--resume", path.stem)


def test_another_model_is_refused_and_both_are_named(chat, tmp_path):
    chat().take("hello")
    (tmp_path / "other").mkdir()
    write_checkpoint(tmp_path / "other", "dense")
    (path,) = files(tmp_path)
    with pytest.raises(UsageError, match="was with a3b-nano, this is another model \\(other\\)"):
        chat(str(tmp_path / "other"), "--resume", path.stem)
    with pytest.raises(UsageError, match="no conversation with other .*the last was with a3b-nano"):
        chat(str(tmp_path / "other"), "--continue")


def test_what_cannot_go_on_is_refused_by_name(chat, tmp_path):
    with pytest.raises(UsageError, match="no conversation with a3b-nano"):
        chat("--continue")
    chat("--system", "Be brief.").take("hello")
    for options, told in (
        (["--resume", "1999"], "no such conversation"),
        (["--resume", "../../etc"], "no such conversation"),
        (["--resume", "*"], "no such"),
        (["--continue", "--resume", "2"], "one of them"),
        (["--continue", "--system", "Be long."], "--system"),
    ):
        with pytest.raises(UsageError, match=told):
            chat(*options)
    assert chat("--continue").dialogue.system == "Be brief."
    chat().take("hello")
    with pytest.raises(UsageError, match="the ids of 2 conversations begin with that"):
        chat("--resume", "2")


def test_a_conversation_is_open_in_one_chat_at_a_time(chat, tmp_path):
    first = chat()
    first.take("hello")
    other = transcripts.Transcripts(tmp_path / "cache" / "chats")
    with pytest.raises(StoreError, match="open in another"):
        other.resume(first.kept.transcript.id, "a3b-nano", first.kept.identity)


def test_new_begins_another_conversation_and_resume_goes_back(chat, tmp_path, capsys):
    one = chat()
    one.take("hello")
    first = one.kept.transcript.id
    one.take("/new")
    assert one.kept.transcript is None and one.dialogue.messages == []
    one.take("thanks")
    assert len(files(tmp_path)) == 2
    one.take("/resume")
    assert first in capsys.readouterr().err
    assert one.take(f"/resume {first}") and [m["content"] for m in one.dialogue.messages][0] == "hello"
    assert not one.take(f"/resume {first}") and not one.take("/resume 1999")


def test_a_conversation_that_cannot_go_on_leaves_the_one_at_hand(chat, tmp_path):
    chat().take("hello")
    (path,) = files(tmp_path)
    path.write_bytes(path.read_bytes().replace(b'"ids": [', b'"ids": [99999999, '))
    one = chat()
    one.take("thanks")
    assert not one.take(f"/resume {path.stem}")
    one.take("hello")
    assert [m["content"] for m in chat("--continue").dialogue.messages][::2] == ["thanks", "hello"]


def test_without_a_home_a_chat_is_not_kept_and_says_so(chat, tmp_path, capsys, monkeypatch):
    def nobody(path, *_):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Path, "expanduser", nobody)
    one = chat()
    assert one.take("hello") and one.typed_lines() is None
    assert "home directory is not known" in capsys.readouterr().err and list(tmp_path.iterdir()) == []


def test_files_are_of_this_user_alone_whatever_the_umask(chat, tmp_path):
    before = os.umask(0)
    try:
        chat().take("hello")
        TypedLines(tmp_path / "cache" / "chats" / "lines").store_string("hello")
    finally:
        os.umask(before)
    found = [tmp_path / "cache" / "chats", *(tmp_path / "cache" / "chats").iterdir()]
    assert [stat.S_IMODE(path.stat().st_mode) for path in found] == [0o700, 0o600, 0o600]


def test_no_history_writes_nothing(chat, tmp_path):
    one = chat("--no-history")
    assert one.take("hello") and one.typed_lines() is None
    assert not (tmp_path / "cache").exists()


def test_a_sample_that_nobody_asked_for_is_not_kept(tmp_path):
    done = subprocess.run(
        COMMAND,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        env={**os.environ, "A3B_CACHE": str(tmp_path)},
    )
    assert done.returncode == 0 and list(tmp_path.iterdir()) == []


def test_piped_lines_of_another_encoding_are_answered(tmp_path):
    done = subprocess.run(
        [*COMMAND, "--no-history", "--max-tokens", "3"],
        input=b"caf\xe9\n\xff\n",
        capture_output=True,
        timeout=60,
        env={**os.environ, "A3B_CACHE": str(tmp_path), "PYTHONIOENCODING": "utf-8:strict"},
    )
    assert done.returncode == 0 and b"Traceback" not in done.stderr and list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_said_once_and_stops_no_chat(chat, tmp_path, capsys):
    (tmp_path / "cache").write_text("a file")
    one = chat()
    assert one.take("hello") and one.take("thanks") and one.typed_lines() is None
    assert capsys.readouterr().err.count("no longer kept") == 1


def test_a_full_disk_leaves_whole_lines(chat, tmp_path, capsys, monkeypatch):
    one = chat()
    one.take("hello")
    (path,) = files(tmp_path)
    whole, write = path.read_bytes(), os.write

    def full(handle, data):
        if len(data) > 5:
            return write(handle, data[:5])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    assert one.take("thanks") and path.read_bytes() == whole
    assert "No space left" in capsys.readouterr().err


def test_the_oldest_conversations_go_and_one_is_bounded(chat, tmp_path, monkeypatch):
    monkeypatch.setattr(transcripts, "MAX_KEPT", 2)
    for text in ("hello", "thanks", "what are you?"):
        chat().take(text)
    asked = [json.loads(path.read_text().splitlines()[1])["user"] for path in files(tmp_path)]
    assert sorted(asked) == ["thanks", "what are you?"]
    monkeypatch.setattr(transcripts, "MAX_BYTES", 50)
    with pytest.raises(A3BError, match="50"):
        chat("--continue")


def test_stored_text_reaches_a_terminal_without_control_characters(chat, tmp_path, capsys, monkeypatch):
    chat().take("hello")
    (path,) = files(tmp_path)
    path.write_text(path.read_text().replace("hello", r"\u001b[2Jhe\u202ello"))
    chat("--continue").kept.close()
    monkeypatch.setenv("A3B_CACHE", str(tmp_path / "cache"))
    capsys.readouterr()
    assert main(["chat", "--resume"]) == 0
    listed = capsys.readouterr().out
    assert "\x1b" not in listed and "\u202e" not in listed and path.stem in listed
    chat("--continue")
    assert "\x1b" not in capsys.readouterr().err


def test_a_listing_without_conversations_says_so(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("A3B_CACHE", str(tmp_path))
    assert main(["chat", "--resume"]) == 0
    assert "no conversations are kept" in capsys.readouterr().out


def test_typed_lines_keep_the_latest_and_refuse_what_is_no_file(tmp_path):
    path = tmp_path / "lines"
    lines = TypedLines(path)
    for i in range(3000):
        lines.store_string(f"line {i} " + "x" * 500)
    assert path.stat().st_size > MAX_BYTES
    found = list(TypedLines(path).load_history_strings())
    assert (
        path.stat().st_size <= MAX_BYTES
        and found[0].startswith("line 2999 ")
        and all(line.startswith("line ") for line in found)
    )
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/etc/hostname")
    for name in ("pipe", "link", "."):
        with pytest.raises(OSError):
            TypedLines(tmp_path / name)


def test_lines_and_the_conversation_come_back_at_a_terminal(tmp_path, monkeypatch):
    monkeypatch.setenv("A3B_CACHE", str(tmp_path))
    first = Terminal([*COMMAND, "--seed", "1"])
    first.expect("Ctrl-D leaves.*>")
    first.type("hello there\r")
    first.expect(r"tokens/s.*>")
    first.type("\x04")
    first.expect("a3b chat --resume .* continues")
    first.leave()
    second = Terminal([*COMMAND, "--continue", "--seed", "1"])
    second.expect("conversation .*, 1 answer.*> hello there.*Ctrl-D leaves.*>")
    second.type("\x1b[A")
    second.expect("hello there")
    second.type("\r")
    second.expect(r"kept|read")
    second.expect(r">")
    assert second.leave() == 0


def test_a_command_that_does_not_exist_gets_the_nearest_one(chat, capsys):
    chat().take("/resum")
    assert "did you mean '/resume'?" in capsys.readouterr().err
