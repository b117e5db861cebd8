"""`a3b up` with what is on the disk already: files of other programs, files, directories, the embedded model."""

from __future__ import annotations

import pytest

from a3b.cli import main
from a3b.engine.engine import nano_directory
from a3b.engine.stored_models import Record
from a3b.formats.packed import Manifest
from a3b.model.known_shapes import SHAPES
from tests.support.gguf_files import SIZES as GGUF_SIZES
from tests.support.hub_server import REPO
from tests.support.model_places import in_hub_cache, in_ollama
from tests.support.random_model import config_dict
from tests.support.ups import FILES, only, small_gguf, ups

pytestmark = pytest.mark.slow  # starts servers or commands, or computes for seconds


def test_a_snapshot_in_the_hub_cache_is_used_in_place_of_a_download(home, hub, tmp_path, capsys):
    snapshot = in_hub_cache(tmp_path / "HF_HUB_CACHE", REPO, FILES)
    before = sorted((str(p), p.lstat().st_mtime_ns) for p in (tmp_path / "HF_HUB_CACHE").rglob("*"))
    told = ups(capsys, REPO, "--yes")
    assert f"hub cache has {REPO} on this disk: {snapshot}" in told and f"packs {snapshot}, which is only read" in told
    assert hub.requests == [] == hub.tokens and Manifest.read(only(home).folder).preset == "faithful"
    assert sorted((str(p), p.lstat().st_mtime_ns) for p in (tmp_path / "HF_HUB_CACHE").rglob("*")) == before


def test_who_does_not_want_the_file_on_the_disk_is_asked_about_the_download(home, hub, tmp_path, capsys, typed):
    in_hub_cache(tmp_path / "HF_HUB_CACHE", REPO, FILES)
    typed("n\ny\n")
    told = ups(capsys, REPO)
    assert told.index("Use it, without a download? [Y/n]") < told.index("Go ahead? [Y/n]")
    assert only(home).record.source == REPO


def test_a_download_can_be_asked_for_although_the_model_is_here(home, hub, tmp_path, capsys):
    in_hub_cache(tmp_path / "HF_HUB_CACHE", REPO, FILES)
    ups(capsys, REPO, "--yes", "--download")
    assert only(home).record.source == REPO


def test_a_blob_of_ollama_is_used_with_the_template_of_its_repository(home, hub, known, tmp_path, capsys, monkeypatch):
    config = config_dict(GGUF_SIZES)
    monkeypatch.setitem(SHAPES, "tiny-shape", config)

    def plain(kv, tensors):
        del kv["tokenizer.chat_template"]
        kv["general.file_type"] = 15

    content = small_gguf(tmp_path / "made", change=plain).read_bytes()
    blob = in_ollama(tmp_path / "OLLAMA_MODELS", "registry.ollama.ai/library/tiny/1b", content)
    told = ups(capsys, "tiny", "--yes")
    assert f"Ollama has tiny:1b on this disk: {blob}" in told
    assert only(home).record.name == "tiny:q4_k_m"
    assert (only(home).folder / "chat_template.jinja").read_bytes() == FILES["chat_template.jinja"]
    assert blob.read_bytes() == content


def test_without_the_hub_a_blob_without_a_template_says_what_is_missing(home, hub, known, tmp_path, capsys):
    content = small_gguf(tmp_path / "made", change=lambda kv, tensors: kv.pop("tokenizer.chat_template")).read_bytes()
    in_ollama(tmp_path / "OLLAMA_MODELS", "registry.ollama.ai/library/tiny/1b", content)
    hub.close()
    told = ups(capsys, "tiny", "--yes", status=1)
    assert "has no chat template, and that of Owner/Model-1B cannot be fetched" in told


def test_a_file_that_only_has_the_name_is_offered_and_not_taken_unasked(home, hub, known, tmp_path, capsys, typed):
    path = small_gguf(tmp_path / "LLAMA_CACHE", "someone_tiny-1b-Q4_K_M.gguf")
    told = ups(capsys, "tiny", "--yes")
    assert f"{path} is passed over: only its name says that it is Tiny-1B" in told
    assert only(home).record.source == REPO
    assert main(["rm", "tiny", "--yes"]) == 0
    typed("y\n")
    assert "although only its name says so" in ups(capsys, "tiny")
    assert only(home).record.source == str(path)


def test_a_file_on_the_disk_that_cannot_be_used_is_named_with_the_reason(home, hub, tmp_path, capsys):
    snapshot = in_hub_cache(tmp_path / "HF_HUB_CACHE", REPO, {**FILES, "config.json": b'{"model_type": "llama"}'})
    told = ups(capsys, REPO, "--yes")
    assert f"hub cache has {REPO} ({snapshot}), which is of no use: " in told and "llama" in told
    assert only(home).record.source == REPO


# -- files, directories and nano


def test_a_gguf_file_and_a_directory_are_packed_and_served(home, tmp_path, capsys):
    path = small_gguf(tmp_path / "a")
    other = tmp_path / "checkpoint"
    other.mkdir()
    for name, content in FILES.items():
        (other / name).write_bytes(content)
    for place in (path, other):
        ups(capsys, str(place), "--yes")
        ups(capsys, str(place))
    assert len(home.stored()) == 2 and len(home.served) == 4
    assert {model.record.source for model in home.stored()} == {str(path), str(other)}


def test_a_stopped_model_whose_file_is_gone_says_so(home, tmp_path, capsys):
    path = small_gguf(tmp_path / "a", "gone.gguf")
    record = Record("gone:q4_k_m", str(path), model="gone")
    home.remember(home.folder("gone"), record)
    path.unlink()
    assert "there is no such file" in ups(capsys, str(path), "--yes", status=2)
    assert "gone.gguf, which is gone; a3b rm gone:q4_k_m removes what is here" in ups(capsys, "gone:q4_k_m", status=1)


@pytest.mark.parametrize(("said", "tag"), [(15, "q4_k_m"), (7, "q8_0"), (99, "gguf"), ([1, 2], "gguf"), ("x", "gguf")])
def test_a_file_is_called_after_the_types_that_it_says_it_has(home, tmp_path, capsys, said, tag):
    path = small_gguf(tmp_path / "a", "own.gguf", change=lambda kv, tensors: kv.update({"general.file_type": said}))
    ups(capsys, str(path), "--yes")
    assert only(home).record.name == f"own:{tag}"


def test_a_file_without_a_template_is_refused_before_it_is_packed(home, tmp_path, capsys):
    path = small_gguf(tmp_path / "a", change=lambda kv, tensors: kv.pop("tokenizer.chat_template"))
    assert "has no chat template; a3b up with the short name" in ups(capsys, str(path), "--yes", status=1)
    assert home.stored() == []


@pytest.mark.parametrize("option", [["--preset", "fast"], ["--download"]])
def test_an_option_that_can_have_no_effect_is_refused(home, hub, tmp_path, capsys, option):
    packed = tmp_path / "packed"
    assert main(["pack", REPO, str(packed)]) == 0
    for name in ("nano", str(packed)):
        assert "is on this disk, as it is; leave the option out" in ups(capsys, name, *option, "--yes", status=2)


def test_nano_needs_nothing(home, capsys):
    ups(capsys, "nano")
    ((args, _),) = home.served
    assert args.model == str(nano_directory()) and home.stored() == []


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("owen3.6", "did you mean 'qwen3.6'?"),
        ("qwen3.6:q4km", "cannot be read"),
        ("./nothing", "there is no such file or directory"),
        ("nothing.gguf", "there is no such file or directory"),
        ("a b", "expected a short name"),
        ("x" * 9999, "expected a short name"),
        ("\x1b[31m", "expected a short name"),
    ],
)
def test_a_name_of_nothing_is_answered_in_words(home, capsys, name, told):
    err = ups(capsys, name, "--yes", status=2)
    assert told in err and "\x1b" not in err and len(err) < 700


def test_a_home_that_cannot_be_written_is_named(home, capsys, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("A3B_HOME", str(tmp_path / "file"))
    assert "set A3B_HOME to a place that can be written" in ups(capsys, "qwen3.6", "--yes", status=1)
