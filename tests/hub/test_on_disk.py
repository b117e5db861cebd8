"""Models of other programs: found where they lie, only if they are complete, and whatever their lists say."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from a3b.hub import on_disk
from a3b.hub.on_disk import FoundModel, found_models
from tests.support.model_places import checkpoint, in_hub_cache, in_ollama

GGUF = b"GGUF and more"


def found(program: str, root: Path) -> list[FoundModel]:
    return list(found_models({program: (str(root),)}))


def names(program: str, root: Path) -> list[tuple[str, str]]:
    return [(model.name, model.path.name) for model in found(program, root)]


def test_a_snapshot_of_safetensors_in_the_hub_cache_is_found_with_its_size(tmp_path):
    files = checkpoint()
    snapshot = in_hub_cache(tmp_path, "Qwen/Qwen3.6-35B-A3B-FP8", files)
    size = sum(len(content) for name, content in files.items() if name.endswith(".safetensors"))
    assert found("hub cache", tmp_path) == [FoundModel("hub cache", "Qwen/Qwen3.6-35B-A3B-FP8", snapshot, size)]


@pytest.mark.parametrize("missing", ["config.json", "model-00002-of-00002.safetensors", "model.safetensors.index.json"])
def test_a_snapshot_that_is_not_complete_is_left_out(tmp_path, missing):
    (in_hub_cache(tmp_path, "a/b", checkpoint()) / missing).unlink()
    assert found("hub cache", tmp_path) == []


def test_a_snapshot_whose_blob_is_gone_is_left_out(tmp_path):
    os.unlink(os.path.realpath(in_hub_cache(tmp_path, "a/b", checkpoint()) / "model-00001-of-00002.safetensors"))
    assert found("hub cache", tmp_path) == []


def test_gguf_files_in_the_hub_cache_are_found_also_in_a_directory_and_split(tmp_path):
    files = {"x-Q4_K_M.gguf": GGUF, "Q8_0/x-Q8_0-00001-of-00002.gguf": b"1", "Q8_0/x-Q8_0-00002-of-00002.gguf": b"22"}
    in_hub_cache(tmp_path, "unsloth/X-GGUF", {**files, "y-00001-of-00002.gguf": b"only one"})
    models = found("hub cache", tmp_path)
    assert [(m.path.name, m.num_bytes) for m in models] == [
        ("x-Q8_0-00001-of-00002.gguf", 3),
        ("x-Q4_K_M.gguf", len(GGUF)),
    ]
    assert {m.name for m in models} == {"unsloth/X-GGUF"}


def test_the_older_cache_of_llama_cpp_is_found_under_the_names_of_its_lists(tmp_path):
    for name in ("unsloth_Qwen3.6_x-GGUF_m-Q4_K_M.gguf", "plain.gguf", "a_b_c.gguf.downloadInProgress"):
        (tmp_path / name).write_bytes(GGUF)
    (tmp_path / "manifest=unsloth=Qwen3.6_x-GGUF=Q4_K_M.json").write_text("{}")
    (tmp_path / "manifest=unsloth").write_text("{}")
    assert names("llama.cpp", tmp_path) == [
        ("plain", "plain.gguf"),
        ("unsloth/Qwen3.6_x-GGUF", "unsloth_Qwen3.6_x-GGUF_m-Q4_K_M.gguf"),
    ]


def test_models_of_lm_studio_are_found_by_owner_and_name(tmp_path):
    (tmp_path / "lmstudio-community" / "Q").mkdir(parents=True)
    (tmp_path / "lmstudio-community" / "Q" / "q.gguf").write_bytes(GGUF)
    (tmp_path / "lmstudio-community" / "Q" / "q.gguf.part").write_bytes(GGUF)
    assert names("LM Studio", tmp_path) == [("lmstudio-community/Q", "q.gguf")]


def test_models_of_ollama_are_found_by_name_and_tag(tmp_path):
    blob = in_ollama(tmp_path, "registry.ollama.ai/library/qwen3.6/35b", GGUF)
    in_ollama(tmp_path, "hf.co/unsloth/X-GGUF/Q4_K_M", b"another")
    assert names("Ollama", tmp_path) == [
        ("unsloth/X-GGUF:Q4_K_M", found("Ollama", tmp_path)[0].path.name),
        ("qwen3.6:35b", blob.name),
    ]
    assert blob.suffix == ""


@pytest.mark.parametrize(
    "digest", ["sha256:../../../../etc/passwd", "sha256:" + "g" * 64, "md5:" + "0" * 64, "sha256:" + "0" * 63, ""]
)
def test_a_digest_of_ollama_that_is_none_leads_nowhere(tmp_path, digest):
    in_ollama(tmp_path, "registry.ollama.ai/library/x/latest", GGUF, digest or "sha256:")
    assert found("Ollama", tmp_path) == []


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "null", '{"layers": 3}', '{"layers": [3, null, {"mediaType": "application/vnd.ollama.image.model"}]}',
        '{"layers": [{"mediaType": "application/vnd.ollama.image.model", "digest": [1]}]}', "[" * 100_000, "\xff",
    ],
)  # fmt: skip
def test_a_manifest_of_ollama_that_is_none_is_left_out(tmp_path, text):
    path = tmp_path / "manifests" / "h" / "o" / "n" / "t"
    path.parent.mkdir(parents=True)
    path.write_text(text, encoding="latin-1")
    assert found("Ollama", tmp_path) == []


def test_a_manifest_without_end_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(on_disk, "MAX_MANIFEST_BYTES", 100)
    in_ollama(tmp_path, "registry.ollama.ai/library/x/latest", GGUF)
    assert found("Ollama", tmp_path) == []


@pytest.mark.parametrize("shards", [{"t": "../../other.safetensors"}, {"t": 3}, {"t": ["x"]}, [], {}, None])
def test_an_index_that_names_files_elsewhere_or_none_is_left_out(tmp_path, shards):
    (tmp_path / "other.safetensors").write_bytes(b"x")
    files = {**checkpoint(), "model.safetensors.index.json": json.dumps({"weight_map": shards}).encode()}
    in_hub_cache(tmp_path / "hub", "a/b", files)
    assert found("hub cache", tmp_path / "hub") == []


def test_a_link_that_goes_round_and_a_pipe_are_left_out(tmp_path):
    folder = tmp_path / "o" / "n"
    folder.mkdir(parents=True)
    (folder / "loop").symlink_to(tmp_path)
    (folder / "self.gguf").symlink_to(folder / "self.gguf")
    os.mkfifo(folder / "pipe.gguf")
    assert found("LM Studio", tmp_path) == []


def test_no_more_entries_are_looked_at_than_a_bound(tmp_path, monkeypatch):
    monkeypatch.setattr(on_disk, "MAX_ENTRIES", 10)
    for i in range(30):
        (tmp_path / f"{i:02}.gguf").write_bytes(GGUF)
    assert len(found("llama.cpp", tmp_path)) == 10


def test_a_model_that_two_programs_share_is_found_once(tmp_path):
    in_hub_cache(tmp_path, "a/b", {"x.gguf": GGUF})
    assert len(list(found_models({"hub cache": (str(tmp_path), f"{tmp_path}/.")}))) == 1


def test_places_that_are_not_there_hold_nothing(tmp_path):
    places = dict.fromkeys(("hub cache", "llama.cpp", "LM Studio", "Ollama"), (str(tmp_path / "none"), "~nobody/x"))
    assert list(found_models(places, tmp_path / "none")) == []


def test_a_directory_that_pull_filled_is_found_by_its_record(tmp_path):
    for name, content in {**checkpoint(), ".a3b-pull/record.json": b'{"repo": "Owner/Model-1B"}'}.items():
        (tmp_path / "m" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "m" / name).write_bytes(content)
    assert [(m.program, m.name) for m in found_models({}, tmp_path)] == [("a3b pull", "Owner/Model-1B")]


def test_nothing_is_changed_by_looking(tmp_path):
    in_hub_cache(tmp_path, "a/b", checkpoint())
    in_ollama(tmp_path, "registry.ollama.ai/library/x/latest", GGUF)
    before = sorted((str(p), p.lstat().st_mtime_ns) for p in tmp_path.rglob("*"))
    found("hub cache", tmp_path), found("Ollama", tmp_path)
    assert sorted((str(p), p.lstat().st_mtime_ns) for p in tmp_path.rglob("*")) == before
