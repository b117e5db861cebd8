"""`a3b cache`: what it lists, verifies, drops and refuses."""

from __future__ import annotations

import fcntl
import json

import pytest

from a3b.cache.disk_store import Store
from a3b.cache.index_database import INDEX
from a3b.cli import main
from tests.support.session_stores import store_two


@pytest.fixture
def sessions(tmp_path):
    """A directory with a conversation and a fork of it after 128 tokens."""
    return store_two(tmp_path / "s")


def test_the_command_lists_verifies_and_prunes(sessions, capsys):
    directory, ids, _ = sessions
    at = ["--dir", str(directory)]
    assert main(["cache", "list", "--json", *at]) == 0
    found = json.loads(capsys.readouterr().out)
    assert sorted((s["tokens"], s["turns"]) for s in found["sessions"]) == [(228, 5), (420, 5)]
    assert main(["cache", "list", *at]) == 0
    assert found["sessions"][0]["id"][:12] in capsys.readouterr().out
    assert main(["cache", "verify", *at]) == 0
    path = directory / "data" / f"{found['sessions'][0]['id']}.kv"
    path.write_bytes(bytes(path.stat().st_size))
    capsys.readouterr()
    assert main(["cache", "verify", *at]) == 1
    assert (
        f"dropped {path.stem[:12]}: {path.name}: its bytes are not those that were written" in capsys.readouterr().err
    )
    assert main(["cache", "verify", *at]) == 0
    assert main(["cache", "prune", "--max-bytes", "100kB", "--older-than", "1d", *at]) == 0
    with Store(directory) as store:
        assert 0 < store.num_bytes <= 100_000
    assert main(["cache", "prune", "--older-than", "0s", *at]) == 0
    capsys.readouterr()
    assert main(["cache", "prune", "--max-bytes", "0", *at]) == 0 and "0.0 MB are kept" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["prune"], "expected --max-bytes"),
        (["forget"], "expected an ID"),
        (["forget", "ab", "--all"], "expected an ID"),
        (["forget", "xyz"], "no such session; 'a3b cache list' shows them"),
        (["forget", ""], "expected an ID"),
        (["prune", "--max-bytes", "2 bananas"], "not a size"),
        (["prune", "--older-than", "soon"], "not an age"),
    ],
)
def test_the_command_refuses_what_it_cannot_do(sessions, capsys, argv, message):
    try:
        status = main(["cache", *argv, "--dir", str(sessions[0])])
    except SystemExit as exit:
        status = exit.code
    assert status == 2 and message in capsys.readouterr().err


def test_the_command_starts_over_when_the_index_is_none(sessions, capsys):
    directory, _, _ = sessions
    (directory / INDEX).write_bytes(b"nonsense" * 1000)
    at = ["--dir", str(directory)]
    assert main(["cache", "list", *at]) == 1
    assert "start over with 'a3b cache forget --all'" in capsys.readouterr().err
    with open(directory / "lock", "a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert main(["cache", "forget", "--all", *at]) == 1
    assert main(["cache", "forget", "--all", *at]) == 0 and list((directory / "data").iterdir()) == []
    assert main(["cache", "list", *at]) == 0


def test_the_command_says_that_there_is_nothing_yet(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("A3B_CACHE", str(tmp_path))
    assert (
        main(["cache", "list"]) == 0
        and f"{tmp_path / 'sessions'}: no sessions are kept here" in capsys.readouterr().err
    )
    assert (
        main(["cache", "forget", "ab"]) == 1
        and "no sessions are kept here; a3b serve keeps them" in capsys.readouterr().err
    )
    assert list(tmp_path.iterdir()) == []
