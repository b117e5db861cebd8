"""What users type who know another program, or have read only the README."""

from __future__ import annotations

import pytest

from a3b import cli
from a3b.commands import info, plan
from a3b.commands.chat import leaves
from a3b.commands.parser import OTHERS
from a3b.engine.engine import nano_directory, resolve
from a3b.errors import StoreError, UsageError
from a3b.model.known_models import KNOWN_MODELS, how_to_get


def said(capsys, *argv: str) -> str:
    """stderr of a command that is refused with status 1 or 2."""
    try:
        status = cli.main(list(argv))
    except SystemExit as exit:
        status = exit.code
    assert status in (1, 2)
    return capsys.readouterr().err


@pytest.mark.parametrize("name", ["nano", "a3b-nano"])
def test_a_directory_called_nano_without_a_model_does_not_hide_the_embedded_one(tmp_path, monkeypatch, name):
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    assert resolve(name) == nano_directory() and plan.find(name)[0].vocab_size == info.find(name)[1].vocab_size


def test_a_directory_called_nano_with_a_model_is_that_model(tmp_path, monkeypatch):
    (tmp_path / "nano").mkdir()
    (tmp_path / "nano" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert resolve("nano").resolve() == tmp_path / "nano"


@pytest.mark.parametrize("write", [str, str.lower, str.upper])
@pytest.mark.parametrize("model", KNOWN_MODELS, ids=lambda model: model.name)
def test_a_model_is_known_by_its_repositories_wherever_it_is_known_by_its_shape(tmp_path, monkeypatch, model, write):
    monkeypatch.chdir(tmp_path)
    for name in (*model.repositories, *model.names):
        assert plan.find(write(name)) == plan.find(model.shape)
        assert info.find(write(name))[1] == info.find(model.shape)[1]
        with pytest.raises(UsageError) as refused:
            resolve(write(name))
        assert how_to_get(write(name)) in str(refused.value)


def test_a_name_like_a_known_one_is_answered_with_that(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert "did you mean 'qwen3.6'?" in said(capsys, "chat", "qwen36")
    assert "a3b list --available" in said(capsys, "serve", "qwen-3.6")
    assert "did you mean 'qwen3.6'?" in said(capsys, "up", "qwen", "--port", "0")  # of names as near, the first
    assert "Qwen3.6-35B-A3B has no 'blanced'; did you mean 'qwen3.6:balanced'?" in said(
        capsys, "run", "qwen3.6:blanced", "hi"
    )


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["show", "nano"], "did you mean 'info'?"),
        (["ls"], "did you mean 'list'?"),
        (["delete", "x"], "did you mean 'rm'?"),
        (["download", "x"], "did you mean 'pull'?"),
        (["run", "hi", "--n-predict", "5"], "did you mean '--max-tokens'?"),
        (["serve", "-c", "4096"], "did you mean '--context'?"),
        (["serve", "-m", "nano"], "MODEL is the first word"),
        (["chat", "-t", "4"], "set A3B_THREADS"),
        (["run", "hi", "--think"], "thinking is on unless '--no-think' is given"),
        (["run", "-p", "hi"], "PROMPT is a word in quotes"),
    ],
)
def test_words_of_other_programs_are_answered_with_their_names_here(capsys, argv, told):
    assert told in said(capsys, *argv)


def test_words_of_other_programs_stand_for_words_that_exist():
    parser = cli.build_parser()
    commands = cli.commands_of(parser)
    options = {option for one in (parser, *commands.values()) for option in one._option_string_actions}
    assert set(OTHERS.values()) <= commands.keys() | options and not OTHERS.keys() & (commands.keys())


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["--port", "x"], "'x' is not a whole number"),
        (["--parallel", "x"], "'x' is not a whole number"),
        (["--verify-cache", "-1"], "'-1' is negative"),
        (["--verify-cache", "x"], "'x' is not a whole number"),
        (["--max-body", "0"], "'0' allows nothing"),
    ],
)
def test_options_of_serve_that_cannot_work_are_refused_in_words(capsys, argv, told):
    text = said(capsys, "serve", *argv)
    assert told in text and "invalid" not in text


def test_a_missing_file_of_keys_is_reported_without_the_words_of_python(capsys):
    text = said(capsys, "serve", "--api-key-file", "nope.txt")
    assert (
        "--api-key-file nope.txt: No such file or directory; give a text file, a key in each line" in text
        and "Errno" not in text
    )


def test_a_directory_for_sessions_that_cannot_be_used_is_reported_with_its_option(tmp_path):
    from argparse import Namespace

    from a3b.commands.cache_directories import open_store

    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(
        StoreError, match=r"--cache-dir .*file: .*; give a writable directory; or serve with --no-persist"
    ):
        open_store(Namespace(cache_dir=str(file), cache_disk=1 << 20, session_days=1))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("/exit", True),
        ("/exit now", True),
        ("/quit", True),
        ("/bye", True),
        ("/exits", False),
        ("exit", False),
        ("", False),
    ],
)
def test_a_chat_is_left_by_the_names_that_chats_have_for_it(line, expected):
    assert leaves(line) is expected
