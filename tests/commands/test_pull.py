"""`a3b pull` against a hub on this machine that breaks off, lies, refuses and goes away. No network, no real
waiting."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from a3b.cli import main
from a3b.hub import download
from a3b.hub.client import Hub, checked_repo
from tests.support.hub_fixture import fake_hub
from tests.support.hub_server import COMMIT, REPO
from tests.support.pulling import SHARD, WANTED, here, model_files, noise, parts, pull, refused

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("hub_session"),
]  # starts servers or commands, or computes for seconds


@pytest.fixture
def hub(monkeypatch, tmp_path):
    yield from fake_hub(monkeypatch, tmp_path, model_files())


def test_the_files_a_model_needs_arrive_and_the_next_step_is_said(capsys, hub):
    status, err = pull(capsys, REPO)
    assert status == 0
    assert here() == {name: hub.files[name] for name in WANTED} and parts() == []
    assert err.splitlines()[-1] == "next: a3b pack Model-1B Model-1B-balanced --preset balanced"
    assert "7 files, 0.12 MB into Model-1B" in err and "4/6" in err
    assert all(method == "GET" for method, _, _ in hub.requests)


def test_a_second_pull_fetches_nothing(capsys, hub):
    assert pull(capsys, REPO, "d")[0] == 0
    before = len(hub.requests)
    assert pull(capsys, REPO, "d")[0] == 0
    assert len(hub.requests) == before


def test_files_put_there_by_hand_are_verified_and_kept(capsys, hub):
    Path("d").mkdir()
    Path("d", SHARD).write_bytes(hub.files[SHARD])
    assert pull(capsys, REPO, "d")[0] == 0
    assert not hub.got(SHARD) and here("d") == {name: hub.files[name] for name in WANTED}


@pytest.mark.parametrize("content", [b"mine", noise("another", 70_000)], ids=["other size", "same size"])
def test_a_file_of_the_user_is_not_overwritten(capsys, hub, content):
    Path("d").mkdir()
    Path("d", SHARD).write_bytes(content)
    assert "is in the way" in refused(capsys, REPO, "d")
    assert Path("d", SHARD).read_bytes() == content


def test_a_file_that_was_changed_after_the_pull_is_fetched_again(capsys, hub):
    pull(capsys, REPO, "d")
    Path("d", SHARD).write_bytes(noise("damage", 70_000))
    assert pull(capsys, REPO, "d")[0] == 0
    assert here("d")[SHARD] == hub.files[SHARD]


def test_a_new_version_replaces_what_an_earlier_pull_brought(capsys, hub):
    pull(capsys, REPO, "d")
    hub.files[SHARD] = noise("new version", 60_000)
    assert pull(capsys, REPO, "d")[0] == 0
    assert here("d")[SHARD] == hub.files[SHARD] and len(hub.got("tokenizer.json")) == 1


@pytest.mark.parametrize(
    ("size", "message"), [(80_000, "holds at most 70000 bytes"), (60_000, "sends more than the 60000 bytes")]
)
def test_a_size_that_is_not_true_is_reported(capsys, hub, size, message):
    hub.sizes[SHARD] = size
    assert message in refused(capsys, REPO) and SHARD not in here()


def test_a_file_that_vanishes_is_reported(capsys, hub):
    hub.on_get = lambda path, start: (404, {"X-Error-Code": "EntryNotFound"}) if path == SHARD else None
    assert f"no longer holds {SHARD}" in refused(capsys, REPO)


@pytest.mark.parametrize(
    ("status", "headers", "message"),
    [
        (401, {"X-Error-Code": "GatedRepo"}, "accept them there, make a token at"),
        (403, {"X-Error-Code": "GatedRepo"}, "accept its terms at"),
        (404, {"X-Error-Code": "RepoNotFound"}, "does not exist on"),
        (401, {"X-Error-Message": "Invalid username or password."}, "if it is private, make a token at"),
        (403, {}, "access is forbidden"),
        (403, {"X-Error-Message": "Access to this resource is disabled."}, "was disabled"),
        (500, {}, "answered HTTP 500"),
    ],
)
def test_a_refusal_of_the_hub_says_what_to_do(capsys, hub, status, headers, message):
    hub.on_list = lambda: (status, headers)
    assert message in refused(capsys, REPO)
    assert not Path("Model-1B").exists()


def test_a_gated_file_is_reported_when_it_is_read(capsys, hub):
    hub.on_get = lambda path, start: (401, {"X-Error-Code": "GatedRepo"}) if path == SHARD else None
    assert "open only to those who accept its terms" in refused(capsys, REPO)


def test_the_token_goes_to_the_hub_and_never_into_a_message(capsys, hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert pull(capsys, REPO)[0] == 0 and hub.tokens[-1] == "Bearer hf_secret"
    hub.on_list = lambda: (403, {"X-Error-Code": "GatedRepo"})
    line = refused(capsys, REPO)
    assert "with the account of your token" in line and "secret" not in line
    hub.on_list = lambda: (401, {"X-Error-Message": "Invalid credentials in Authorization header"})
    assert "does not accept your token" in refused(capsys, REPO)
    hub.on_list = lambda: (404, {"X-Error-Code": "RepoNotFound"})
    assert "your token may not see it" in refused(capsys, REPO)


def test_repositories_and_revisions_that_do_not_exist(capsys, hub):
    assert "does not exist" in refused(capsys, "Owner/Nothing")
    assert "has no revision 'v9'" in refused(capsys, REPO, "--revision", "v9")
    assert pull(capsys, REPO, "--revision", COMMIT)[0] == 0


def test_offline_and_unreachable(capsys, hub, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in refused(capsys, REPO)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    assert "http://127.0.0.1:1 cannot be reached" in refused(capsys, REPO)


@pytest.mark.parametrize(
    "listing", [["a", "list"], {"id": REPO}, {"id": REPO, "sha": COMMIT, "siblings": [{"name": "x"}]}]
)
def test_an_answer_that_is_not_a_hub_s(capsys, hub, listing):
    hub.listing = listing
    refused(capsys, REPO)


def test_the_place_of_a_pull_s_own_files_is_not_written_to(capsys, hub):
    hub.files[f"{download.INNER}/record.json"] = b"{}"
    assert "keeps for itself" in refused(capsys, REPO, "--include", "*")


@pytest.mark.parametrize(
    "path", ["../evil.json", "/etc/evil.json", "a/../../evil.json", "a\\evil.json", "evil\x1b[2J.json", "a//b.json"]
)
def test_a_name_that_leads_out_of_the_directory_is_refused(capsys, hub, path):
    hub.files[path] = b"{}"
    assert "cannot be written under that name" in refused(capsys, REPO)


def test_a_file_without_a_checksum_is_refused(capsys, hub):
    hub.listing = {"id": REPO, "sha": COMMIT, "siblings": [{"rfilename": "config.json", "size": 3}]}
    assert "no size and checksum for config.json" in refused(capsys, REPO)


def test_the_disk_is_looked_at_first(capsys, hub, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    line = refused(capsys, REPO)
    assert "are still to be downloaded and 0.00 GB are free" in line and not hub.got(SHARD)


def test_a_disk_that_fills_up_is_one_line(capsys, hub, monkeypatch):
    def full(out, piece):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(download, "_write", full)
    assert "the disk is full; what arrived is kept" in refused(capsys, REPO)


def test_other_architectures_are_refused_before_their_weights_move(capsys, hub):
    hub.files["config.json"] = b'{"model_type": "llama"}'
    assert 'model_type is "llama"' in refused(capsys, REPO)
    assert not hub.got(SHARD)
    assert pull(capsys, REPO, "--include", "*")[0] == 0 and len(here()) == len(hub.files)


def test_include_chooses_by_path_name_or_directory(capsys, hub):
    assert pull(capsys, REPO, "d", "--include", "original/", "--include", "*.png")[0] == 0
    assert set(here("d")) == {"original/consolidated.00.pth", "figure.png"}
    assert "'*.gguf' matches none of the 11 files" in refused(capsys, REPO, "--include", "*.gguf", status=2)


def test_one_gguf_is_fetched_and_several_are_a_choice(capsys, hub):
    hub.files = {"README.md": b"x", "m-Q4_K_M.gguf": noise("q4", 4000), "mmproj-F16.gguf": noise("mm", 2000)}
    status, err = pull(capsys, REPO, "d")
    assert status == 0 and set(here("d")) == {"m-Q4_K_M.gguf"}
    assert err.splitlines()[-1] == "next: a3b pack d/m-Q4_K_M.gguf d-packed"
    hub.files |= {f"BF16/m-BF16-0000{i}-of-00002.gguf": noise(f"bf{i}", 3000) for i in (1, 2)}
    status, err = pull(capsys, REPO, "e")
    assert status == 2 and "0.01 MB  BF16/m-BF16-*.gguf" in err and "0.00 MB  m-Q4_K_M.gguf" in err
    assert not Path("e").exists()
    assert pull(capsys, REPO, "e", "--include", "BF16/m-BF16-*.gguf")[0] == 0
    assert len(here("e")) == 2


def test_a_repository_of_nothing_usable_is_refused(capsys, hub):
    hub.files = {"pytorch_model.bin": b"x"}
    assert "neither safetensors nor GGUF" in refused(capsys, REPO)


def test_two_repositories_do_not_mix_and_two_pulls_do_not_meet(capsys, hub):
    pull(capsys, REPO, "d")
    listing = Hub(REPO).listing()
    with download.Folder.open(Path("d"), listing):
        assert "another a3b pull writes there" in refused(capsys, REPO, "d")
    record = Path("d", download.INNER, "record.json")
    record.write_text(record.read_text().replace(REPO, "Owner/Other"))
    assert "holds files of Owner/Other" in refused(capsys, REPO, "d")
    record.write_text("not JSON")
    assert pull(capsys, REPO, "d")[0] == 0


def test_a_directory_that_cannot_be_written_to(capsys, hub):
    Path("file").write_text("x")
    assert "give a writable directory" in refused(capsys, REPO, "file/below")


@pytest.mark.parametrize(
    ("text", "repo"),
    [("Qwen/Qwen3.6-35B-A3B", "Qwen/Qwen3.6-35B-A3B"), ("https://huggingface.co/a/b/", "a/b"), ("hf.co/a/b", "a/b")],
)
def test_a_repository_is_named_by_owner_and_name_or_address(text, repo):
    assert checked_repo(text) == repo


@pytest.mark.parametrize("text", ["", "model", "a/b/c", "a/../b", "/a/b", "a b/c", "a/b:Q4_K_M"])
def test_other_names_are_refused(capsys, text):
    line = refused(capsys, text, status=2)
    assert "expected OWNER/NAME" in line
    assert ("--include '*Q4_K_M*'" in line) == text.endswith("Q4_K_M")


def test_a_variable_that_huggingface_hub_cannot_read_is_one_line():
    env = {**os.environ, "HF_ENDPOINT": "http://[bad"}
    done = subprocess.run([sys.executable, "-m", "a3b.cli", "pull", REPO], env=env, capture_output=True, text=True)
    assert (
        done.returncode == 1
        and done.stderr.startswith("a3b pull: huggingface_hub cannot start")
        and done.stderr.count("\n") == 1
    )


def test_other_commands_do_not_load_the_hub_library():
    code = "import sys, a3b.cli, a3b.commands.pull, a3b.commands.info; print('huggingface_hub' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_a_short_name_is_told_the_command_that_takes_it(capsys):
    assert main(["pull", "qwen3.6"]) == 2
    told = capsys.readouterr().err
    assert "such as Qwen/Qwen3.6-35B-A3B-FP8" in told and "a3b up qwen3.6 fetches that model" in told


def test_an_address_of_the_hub_that_is_set_to_nothing_counts_as_unset(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "")
    assert Hub(REPO).endpoint == "https://huggingface.co"
