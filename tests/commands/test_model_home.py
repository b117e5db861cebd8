"""`a3b list` and `a3b rm`: what is in A3B_HOME, complete, stopped or in use, and what is removed of it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from a3b.cache.directory_lock import lock_directory
from a3b.cli import main
from a3b.commands import model_home
from a3b.commands.cache_directories import name_of
from a3b.commands.model_home import ModelHome, used
from a3b.engine.engine import nano_directory
from a3b.engine.stored_models import Record
from a3b.errors import UsageError
from a3b.packing.writer import locked
from tests.support.model_places import checkpoint, in_hub_cache, in_ollama

pytestmark = pytest.mark.slow  # starts servers or commands, or computes for seconds

SHARD = "model-00001-of-00001.safetensors"


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.delenv("A3B_CACHE", raising=False)
    monkeypatch.setenv("A3B_HOME", str(tmp_path / "home"))
    return ModelHome(tmp_path / "home")


def put(home: ModelHome, name: str, *, complete: bool = True, preset: str = "balanced", model: str = "qwen3.6") -> Path:
    """A model of a few bytes."""
    folder = home.folder(name)
    home.remember(folder, Record(name, "Qwen/Qwen3.6-35B-A3B-FP8", preset=preset, model=model))
    place = folder if complete else folder.with_name(folder.name + ".part")
    place.mkdir()
    (place / SHARD).write_bytes(b"12345678")
    (place / ("a3b.json" if complete else "progress.json")).write_text("{}")
    return folder


def listed(capsys) -> dict[str, dict]:
    assert main(["list", "--json"]) == 0
    return {model["name"]: model for model in json.loads(capsys.readouterr().out)["models"]}


def refused(capsys, *argv: str) -> str:
    assert main(list(argv)) in (1, 2)
    return capsys.readouterr().err


def test_models_are_listed_with_what_they_are_and_how_to_go_on(home, capsys):
    put(home, "qwen3.6:balanced")
    put(home, "qwen3.6:fast", complete=False, preset="fast")
    models = listed(capsys)
    assert models["qwen3.6:balanced"]["state"] == "complete" and models["qwen3.6:balanced"]["next"] is None
    assert models["qwen3.6:fast"]["state"] == "stopped" and models["qwen3.6:fast"]["next"] == "a3b up qwen3.6:fast"
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    assert "qwen3.6:fast      fast " in out and "stopped; a3b up qwen3.6:fast continues" in out
    assert f"{home.models}, " in out and " free on that disk" in out


def test_what_else_lies_in_the_home_is_listed_with_its_size(home, capsys):
    (home.home / "random-35b").mkdir(parents=True)
    (home.home / "random-35b" / "weights").write_bytes(b"x" * 3_000_000)
    assert main(["list"]) == 0
    assert f"others    3.0 MB in {home.home / 'random-35b'}" in capsys.readouterr().out


def test_an_empty_home_says_what_can_be_had(home, capsys):
    assert main(["list"]) == 0
    assert "a3b list --available" in capsys.readouterr().out


def test_the_names_that_can_be_had_are_listed_with_what_was_tried(home, capsys):
    assert main(["list", "--available"]) == 0
    out = capsys.readouterr().out
    assert "qwen3.6 " in out and "Qwen/Qwen3.6-35B-A3B-FP8" in out and "published weights were not tried" in out


def test_models_of_other_programs_are_listed(home, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "ollama"))
    monkeypatch.chdir(tmp_path)
    snapshot = in_hub_cache(tmp_path / "hub", "Qwen/Qwen3.6-35B-A3B-FP8", checkpoint())
    blob = in_ollama(tmp_path / "ollama", "registry.ollama.ai/library/qwen\x1b[31m/35b", b"GGUF")
    assert main(["list", "--found"]) == 0
    out = capsys.readouterr().out
    assert str(snapshot) in out and str(blob) in out and "\x1b" not in out and "qwen\\u001b[31m:35b" in out
    assert main(["list", "--found", "--json"]) == 0
    assert {model["path"] for model in json.loads(capsys.readouterr().out)["found"]} == {str(snapshot), str(blob)}


@pytest.mark.parametrize(
    "content", ["", "[]", '{"name": 3}', '{"name": "x"}', '{"name": "x", "source": "' + "y" * 9999 + '"}']
)
def test_a_record_that_cannot_be_read_leaves_the_name_of_the_folder(home, capsys, content):
    folder = put(home, "qwen3.6:balanced")
    folder.with_name(folder.name + ".json").write_text(content)
    assert list(listed(capsys)) == ["qwen3.6-balanced"]
    assert main(["rm", "qwen3.6-balanced", "--yes"]) == 0 and list(home.models.iterdir()) == []


def test_a_removed_model_is_gone_with_everything_beside_it(home, capsys):
    put(home, "qwen3.6:balanced")
    put(home, "qwen3.6:fast", complete=False)
    for name in ("qwen3.6:balanced", "QWEN3.6:FAST"):
        assert main(["rm", name, "--yes"]) == 0
    assert list(home.models.iterdir()) == []


def test_what_adding_drafts_left_is_counted_and_leaves_with_the_model(home):
    folder = put(home, "qwen3.6:balanced")
    before = home.of_folder(folder).num_bytes
    left = folder.with_name(folder.name + ".mtp.part")
    left.mkdir()
    (left / "model.safetensors").write_bytes(b"1234")
    assert home.of_folder(folder).num_bytes == before + 4
    assert main(["rm", "qwen3.6:balanced", "--yes"]) == 0 and not left.exists()


def test_a_name_without_its_tag_is_enough_if_only_one_model_has_it(home, capsys):
    put(home, "qwen3.6:balanced")
    put(home, "qwen3.6:fast")
    assert "'qwen3.6' is 2 models: " in refused(capsys, "rm", "qwen3.6", "--yes")
    assert main(["rm", "qwen3.6:fast", "--yes"]) == 0 and main(["rm", "Qwen3.6:35b", "--yes"]) == 0
    assert list(home.models.iterdir()) == []


def test_a_wrong_name_is_answered_with_the_nearest(home, capsys):
    put(home, "qwen3.6:balanced")
    assert "did you mean 'qwen3.6:balanced'?" in refused(capsys, "rm", "owen3.6:balanced", "--yes")
    assert "is no model in A3B_HOME" in refused(capsys, "rm", "../../etc", "--yes")


def test_without_a_terminal_and_without_yes_nothing_is_removed(home, capsys):
    folder = put(home, "qwen3.6:balanced")
    assert "to agree, run: a3b rm qwen3.6 --yes" in refused(capsys, "rm", "qwen3.6")
    assert (folder / SHARD).exists()


def test_a_model_in_use_is_not_removed(home, capsys):
    folder = put(home, "qwen3.6:balanced")
    with used(folder):
        assert "a server or a chat uses it" in refused(capsys, "rm", "qwen3.6", "--yes")
    assert main(["rm", "qwen3.6", "--yes"]) == 0


def test_a_model_that_is_being_made_is_not_removed(home, capsys):
    folder = put(home, "qwen3.6:fast", complete=False)
    with home.making(folder):
        assert f"another a3b makes or removes it (process {os.getpid()})" in refused(capsys, "rm", "qwen3.6", "--yes")
    assert list(listed(capsys)) == ["qwen3.6:fast"]


def test_a_model_that_pack_writes_into_is_not_removed(home, capsys):
    folder = put(home, "qwen3.6:fast", complete=False)
    with locked(folder.with_name(folder.name + ".part") / "lock"):
        assert "is being packed" in refused(capsys, "rm", "qwen3.6", "--yes")
    assert main(["rm", "qwen3.6", "--yes"]) == 0


def test_what_a3b_did_not_write_stays(home, capsys):
    folder = put(home, "qwen3.6:balanced")
    (folder / "notes.txt").write_text("mine")
    (folder / "sub").mkdir()
    assert main(["rm", "qwen3.6", "--yes"]) == 0
    assert "it holds what a3b did not write: notes.txt, sub" in capsys.readouterr().err
    assert sorted(p.name for p in folder.iterdir()) == ["notes.txt", "sub"] and listed(capsys) == {}


def test_links_are_not_followed(home, capsys, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / SHARD).write_text("precious")
    (outside / "a3b.json").write_text("{}")
    folder = put(home, "qwen3.6:balanced")
    (folder / "linked.safetensors").symlink_to(outside / SHARD)
    (folder.with_name(folder.name + ".part")).symlink_to(outside)
    assert main(["rm", "qwen3.6", "--yes"]) == 0
    (home.models / "linked").symlink_to(outside)
    assert "is a link" in refused(capsys, "rm", "linked", "--yes")
    assert (outside / SHARD).read_text() == "precious"


def test_a_link_in_place_of_what_a_removal_left_is_not_followed(home, capsys, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "package.json").write_text("precious")
    folder = put(home, "qwen3.6:balanced")
    folder.with_name(folder.name + ".removed").symlink_to(outside)
    assert ".removed: is a link" in refused(capsys, "rm", "qwen3.6", "--yes")
    assert (outside / "package.json").read_text() == "precious"


@pytest.mark.parametrize("ending", [".lock", ".json.new"])
def test_nothing_is_written_through_a_link(home, tmp_path, ending):
    outside = tmp_path / "outside"
    outside.write_text("precious")
    folder = put(home, "qwen3.6:balanced")
    folder.with_name(folder.name + ending).symlink_to(outside)
    with pytest.raises(OSError, match="symbolic link"), home.making(folder):
        home.remember(folder, Record("qwen3.6:balanced", ""))
    assert outside.read_text() == "precious"


def test_directories_that_are_no_models_are_neither_listed_nor_removed(home, capsys):
    (home.models / "other").mkdir(parents=True)
    (home.models / "other" / "x.safetensors").touch()
    assert listed(capsys) == {}
    refused(capsys, "rm", "other", "--yes")
    assert (home.models / "other" / "x.safetensors").exists()


def test_what_a_run_left_before_it_had_a_name_is_listed_and_removed(home, capsys):
    part = home.models / "o--n-fast.part"
    part.mkdir(parents=True)
    (part / "lock").touch()
    assert listed(capsys)["o--n-fast"]["next"] == "a3b rm o--n-fast"
    assert main(["rm", "o--n-fast", "--yes"]) == 0 and list(home.models.iterdir()) == []


def test_a_removal_that_was_stopped_is_listed_and_ended(home, capsys, monkeypatch):
    folder = put(home, "qwen3.6:balanced")
    monkeypatch.setattr(model_home, "_clear", lambda place: [][1] if place.is_dir() else [])
    with pytest.raises(IndexError):
        main(["rm", "qwen3.6", "--yes"])
    monkeypatch.undo()
    monkeypatch.setenv("A3B_HOME", str(home.home))
    model = listed(capsys)["qwen3.6:balanced"]
    assert model["state"] == "being removed" and model["next"] == "a3b rm qwen3.6:balanced" and not folder.exists()
    assert main(["rm", "qwen3.6", "--yes"]) == 0 and list(home.models.iterdir()) == []


def test_sessions_of_the_model_leave_with_it_only_if_asked(home, capsys):
    folder = put(home, "qwen3.6:balanced")
    sessions = home.home / "sessions"
    own, other = [sessions / name_of(str(folder)), sessions / f"{name_of(str(folder))}.8080"], sessions / "other-123456"
    for place in (*own, other):
        place.mkdir(parents=True)
        (place / "data").touch()
    with lock_directory(own[1]):
        assert "a server uses these sessions" in refused(capsys, "rm", "qwen3.6", "--yes", "--sessions")
    assert main(["rm", "qwen3.6", "--yes", "--sessions"]) == 0
    assert list(sessions.iterdir()) == [other]
    put(home, "qwen3.6:balanced")
    own[0].mkdir()
    assert main(["rm", "qwen3.6", "--yes"]) == 0 and own[0].is_dir()


def test_the_model_used_last_is_the_one_of_a_name_without_tag(home):
    first, second = put(home, "qwen3.6:balanced"), put(home, "qwen3.6:fast", preset="fast")
    for folder, at in ((first, 200), (second, 100)):
        os.utime(folder.with_name(folder.name + ".json"), (at, at))
    assert home.find("qwen3.6").folder == first
    with used(second):
        pass
    assert home.find("qwen3.6").folder == second


@pytest.mark.parametrize("name", ["qwen3.6", "Qwen3.6:35b", "qwen3.6:fast", "Qwen/Qwen3.6-35B-A3B-FP8"])
def test_commands_take_the_name_of_a_model_that_is_here(home, capsys, name):
    folder = home.folder("qwen3.6:fast")
    home.remember(folder, Record("qwen3.6:fast", "Qwen/x", preset="fast", model="qwen3.6"))
    folder.mkdir()
    for file in nano_directory().iterdir():
        (folder / file.name).symlink_to(file)
    (folder / "a3b.json").write_text("{}")
    for words in (["info"], ["verify"], ["eval", "quality"], ["bench", "start", "--model"]):
        assert main([*words, name]) == 1  # it is found, and its manifest is no manifest
        assert str(folder / "a3b.json") in capsys.readouterr().err


def test_a_plan_is_made_for_the_name_of_a_model_that_is_here(home, capsys):
    folder = put(home, "Owner/Model:own")
    (folder / "config.json").unlink(missing_ok=True)
    (folder / "config.json").symlink_to(nano_directory() / "config.json")
    assert main(["plan", "owner/model:own", "--bandwidth", "40", "--operations", "100"]) == 0
    assert f"{folder}: 0.02 B parameters" in capsys.readouterr().out


def test_a_name_that_makes_no_folder_is_refused(home):
    assert home.folder("Owner/Model:Q4_K_M").name == "Owner--Model-Q4_K_M"
    for name in ("..", "", "///", "\x1b"):
        with pytest.raises(UsageError, match="cannot be the name of a model"):
            home.folder(name)
