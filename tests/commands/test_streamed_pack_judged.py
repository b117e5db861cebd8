"""`a3b pack OWNER/NAME` judges a model by its headers: what cannot be packed is refused before the download."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

import gguf
import pytest

from a3b.cli import main
from a3b.packing import stream
from tests.support import gptq_files
from tests.support.gguf_files import write_gguf
from tests.support.hub_fixture import fake_hub
from tests.support.hub_server import REPO
from tests.support.streamed_packs import (
    NAME,
    bf16,
    fp8,
    fp8_in_shards,
    local_pack,
    one_gguf,
    packed_files,
    serve,
    take_small_steps,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("hub_session"),
]  # starts servers or commands, or computes for seconds

WEIGHTS = "model.safetensors"
HEADER_REQUESTS = 16  # of a file: it is fetched in steps that double


@pytest.fixture
def hub(monkeypatch, tmp_path):
    take_small_steps(monkeypatch)
    yield from fake_hub(monkeypatch, tmp_path, {})


def refused(capsys, *options: str, status: int = 1, source: str = REPO) -> str:
    """The line of a refusal, after which nothing is left."""
    found = main(["pack", source, "streamed", *options])
    err = capsys.readouterr().err
    assert found == status and "Traceback" not in err, err
    assert not Path("streamed.part").exists() and not Path("streamed").exists()
    return err.splitlines()[-1]


def header_of(body: bytes) -> dict:
    return json.loads(body[8 : 8 + int.from_bytes(body[:8], "little")])


def with_header(body: bytes, header: dict) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body[8 + int.from_bytes(body[:8], "little") :]


def changed_tensor(change):
    """A file in which the entry of one tensor is changed."""

    def of(body: bytes) -> bytes:
        header = header_of(body)
        change(header, "model.layers.1.mlp.experts.down_proj")
        return with_header(body, header)

    return of


def too_far(header: dict, name: str) -> None:
    header[name]["data_offsets"] = [at + (1 << 40) for at in header[name]["data_offsets"]]


SAFETENSORS = {
    "a header longer than the file": (
        lambda body: struct.pack("<Q", 1 << 40) + body[8:],
        "header of 1099511627776 bytes",
    ),
    "a header past the limit": (lambda body: struct.pack("<Q", 1 << 63) + body[8:], "header of 92233720368547758"),
    "no JSON": (lambda body: body[:8] + b"x" * (len(body) - 8), "header is not JSON"),
    "a tensor past the end": (changed_tensor(too_far), "it is truncated"),
    "a tensor that is missing": (
        changed_tensor(lambda header, name: header.update({"model.other": header.pop(name)})),
        "down_proj' is missing",
    ),
    "another shape": (
        changed_tensor(lambda header, name: header[name].update(shape=[6, 128, 32])),
        "expected [6, 64, 64]",
    ),
}


@pytest.mark.parametrize("name", SAFETENSORS)
def test_a_header_that_cannot_be_is_refused_by_itself(hub, tmp_path, capsys, name):
    bf16(tmp_path / NAME)
    serve(hub, tmp_path / NAME)
    change, says = SAFETENSORS[name]
    hub.files[WEIGHTS] = change(hub.files[WEIGHTS])
    line = refused(capsys)
    assert says in line and f"{REPO}" in line and "streamed.part" not in line
    assert len(hub.got(WEIGHTS)) < HEADER_REQUESTS


def gguf_with(tmp_path: Path, change) -> bytes:
    write_gguf(tmp_path / "made.gguf", gguf)
    return change((tmp_path / "made.gguf").read_bytes())


def long_text(body: bytes) -> bytes:
    """The first key has as many bytes as the whole file."""
    return body[:24] + struct.pack("<Q", len(body) - 100) + body[32:]


def test_a_gguf_header_without_an_end_is_given_up(hub, tmp_path, capsys, monkeypatch):
    body = gguf_with(tmp_path, lambda body: body)
    at = body.index(b"tokenizer.ggml.tokens") + len(b"tokenizer.ggml.tokens") + 4 + 4 + 8
    hub.files["model.gguf"] = body[:at] + struct.pack("<Q", len(body) - at - 100) + body[at + 8 :]
    monkeypatch.setattr(stream, "MAX_HEADER_BYTES", 100_000)
    assert "its header would end at byte" in refused(capsys)
    assert len(hub.got("model.gguf")) < HEADER_REQUESTS


@pytest.mark.parametrize(
    "change", [lambda body: b"GGML" + body[4:], lambda body: body[:4] + b"\x09" + body[5:], long_text]
)
def test_a_gguf_header_that_cannot_be_is_refused_by_itself(hub, tmp_path, capsys, change):
    hub.files["model.gguf"] = gguf_with(tmp_path, change)
    assert "model.gguf" in refused(capsys)
    assert len(hub.got("model.gguf")) < HEADER_REQUESTS


def retyped(body: bytes, types: dict[str, int]) -> bytes:
    """A file whose tensors of these names have types of these numbers."""
    for name, number in types.items():
        at = body.index(name.encode()) + len(name)
        dims = int.from_bytes(body[at : at + 4], "little")
        at += 4 + 8 * dims
        body = body[:at] + struct.pack("<I", number) + body[at + 4 :]
    return body


def test_all_unreadable_types_are_named_with_what_to_take_instead(hub, tmp_path, capsys):
    types = {"blk.0.ffn_gate_exps.weight": 16, "blk.1.ffn_up_exps.weight": 34, "blk.2.ffn_up_exps.weight": 34}
    types["blk.3.ffn_down_exps.weight"] = 99
    hub.files["m-IQ2.gguf"] = gguf_with(tmp_path, lambda body: retyped(body, types))
    hub.files["m-Q4_K_M.gguf"] = gguf_with(tmp_path, lambda body: body)
    line = refused(capsys, "--include", "*IQ2*")
    assert "IQ2_XXS (1), TQ1_0 (2), number 99 (1)" in line
    assert "Q4_K_M" in line and "m-Q4_K_M.gguf: --include" in line
    assert len(hub.got("m-IQ2.gguf")) < HEADER_REQUESTS and not hub.got("m-Q4_K_M.gguf")


def test_unreadable_types_of_all_files_of_a_split_model_are_named(hub, tmp_path, capsys):
    def part(number: int, types: dict[str, int]) -> bytes:
        def change(kv, tensors) -> None:
            kv.update({"split.count": 2, "split.no": number})

        write_gguf(tmp_path / "made.gguf", gguf, change=change)
        return retyped((tmp_path / "made.gguf").read_bytes(), types)

    hub.files["m-00001-of-00002.gguf"] = part(0, {"blk.0.ffn_gate_exps.weight": 18})
    hub.files["m-00002-of-00002.gguf"] = part(1, {"blk.0.ffn_gate_exps.weight": 39})
    line = refused(capsys)
    assert "IQ3_XXS (1), MXFP4 (1)" in line


def test_a_foreign_architecture_is_named_with_what_runs(hub, tmp_path, capsys):
    hub.files["model.gguf"] = gguf_with(tmp_path, lambda body: body.replace(b"qwen35moe", b"gemma4moe"))
    line = refused(capsys)
    assert "'gemma4moe'" in line and "'qwen35moe'" in line and "a3b runs" in line
    hub.files.clear()
    bf16(tmp_path / NAME)
    serve(hub, tmp_path / NAME)
    hub.files["config.json"] = b'{"model_type": "llama"}'
    line = refused(capsys)
    assert 'model_type is "llama"; a3b runs' in line and not hub.got(WEIGHTS)


def test_reordered_columns_of_gptq_are_refused_before_the_download(hub, tmp_path, capsys):
    def reorder(entries, quantisation) -> None:
        for name, (_, values) in entries.items():
            if name.endswith("g_idx"):
                values[:2] = [1, 0]

    gptq_files.write_source(tmp_path / NAME, group=64, change=reorder)
    serve(hub, tmp_path / NAME)
    assert "columns are reordered (desc_act)" in refused(capsys)
    assert len(hub.got(WEIGHTS)) < HEADER_REQUESTS


def test_safetensors_in_a_folder_are_refused_with_the_way_that_works(hub, tmp_path, capsys):
    bf16(tmp_path / NAME)
    serve(hub, tmp_path / NAME)
    hub.files[f"folder/{WEIGHTS}"] = hub.files.pop(WEIGHTS)
    line = refused(capsys, "--include", "folder/*", status=2)
    assert f"a3b pull {REPO} --include 'folder/*'" in line


def test_a_disk_that_is_too_small_is_said_before_the_download(hub, tmp_path, capsys, monkeypatch):
    bf16(tmp_path / NAME)
    serve(hub, tmp_path / NAME)
    usage = shutil.disk_usage(tmp_path)._replace(free=60_000_000)
    monkeypatch.setattr(stream.shutil, "disk_usage", lambda path: usage)
    line = refused(capsys)
    assert "0.06 GB free" in line and "make room" in line
    assert len(hub.got(WEIGHTS)) < HEADER_REQUESTS


def test_a_file_system_without_holes_is_said_with_the_other_way(hub, tmp_path, capsys, monkeypatch):
    bf16(tmp_path / NAME)
    serve(hub, tmp_path / NAME)
    monkeypatch.setattr(stream, "makes_holes", lambda directory: False)
    assert "--keep-source" in refused(capsys)


def test_an_order_that_would_need_too_much_disk_is_said_with_the_other_way(hub, tmp_path, capsys, monkeypatch):
    fp8_in_shards(tmp_path / NAME)
    serve(hub, tmp_path / NAME)
    monkeypatch.setattr(stream, "MAX_SPILL", 10_000)
    line = refused(capsys)
    assert "would have to wait on the disk" in line and "--keep-source" in line


def test_importance_needs_the_whole_source_and_says_so(hub, tmp_path, capsys):
    fp8(tmp_path / NAME)
    serve(hub, tmp_path / NAME)
    Path("text.txt").write_text("Some text.")
    line = refused(capsys, "--importance", "text.txt", status=2)
    assert "--keep-source DIR" in line and hub.requests == []


def test_a_source_that_is_kept_is_downloaded_first_and_packed_from_there(hub, tmp_path, capsys):
    fp8(tmp_path / NAME)
    serve(hub, tmp_path / NAME)
    assert main(["pack", REPO, "streamed", "--keep-source", "kept"]) == 0
    expected = local_pack(tmp_path / NAME)
    found = packed_files("streamed")
    assert Path("kept/model.safetensors").exists()
    assert {name: body for name, body in found.items() if name != "a3b.json"} == {
        name: body for name, body in expected.items() if name != "a3b.json"
    }


def test_options_for_repositories_are_refused_for_what_is_here(hub, tmp_path, capsys):
    bf16(tmp_path / NAME)
    for option in ("--revision", "--include", "--keep-source"):
        line = refused(capsys, option, "x", status=2, source=str(tmp_path / NAME))
        assert option in line and "on this disk" in line


def test_one_of_several_models_is_chosen_with_include(hub, tmp_path, capsys):
    one_gguf(tmp_path / NAME)
    serve(hub, tmp_path / NAME)
    hub.files["model-Q8_0.gguf"] = b"never read"
    assert "holds 2 models; choose with --include" in refused(capsys, status=2)
    assert main(["pack", REPO, "streamed", "--include", "*Q4_K_M*"]) == 0
    assert packed_files("streamed") == local_pack(
        tmp_path / NAME,
    ) and not hub.got("model-Q8_0.gguf")


def test_a_split_model_in_a_folder_is_packed(hub, tmp_path, capsys):
    def only(keep):
        def change(kv, tensors) -> None:
            kv.update({"split.count": 2})
            for name in [name for name in tensors if not keep(name)]:
                del tensors[name]

        return change

    (tmp_path / NAME).mkdir()
    for number, keep in ((1, lambda name: "exps" not in name), (2, lambda name: "exps" in name)):
        write_gguf(tmp_path / NAME / f"m-0000{number}-of-00002.gguf", gguf, change=only(keep))
    serve(hub, tmp_path / NAME)
    hub.files.update({f"Q4_K_M/{name}": hub.files.pop(name) for name in list(hub.files)})
    assert main(["pack", REPO, "streamed"]) == 0
    assert packed_files("streamed") == local_pack(tmp_path / NAME)


@pytest.mark.parametrize("more", [-100, 100])
def test_a_server_that_speaks_of_another_size_is_named(hub, tmp_path, capsys, more):
    bf16(tmp_path / NAME)
    serve(hub, tmp_path / NAME)
    body = hub.files[WEIGHTS]
    hub.bodies[WEIGHTS] = body[:more] if more < 0 else body + bytes(more)
    line = refused(capsys)
    assert f"the server holds {len(body) + more} bytes, the hub's list says {len(body)}" in line


def test_a_directory_that_is_in_the_way_is_left_alone(hub, tmp_path, capsys):
    bf16(tmp_path / NAME)
    serve(hub, tmp_path / NAME)
    Path("streamed.part").mkdir()
    Path("streamed.part/mine").write_text("x")
    assert main(["pack", REPO, "streamed"]) == 2
    assert "streamed.part: holds mine" in capsys.readouterr().err and Path("streamed.part/mine").read_text() == "x"


def test_what_is_neither_here_nor_on_the_hub_says_both(hub, capsys):
    assert main(["pack", "owner/nothing", "streamed"]) == 1
    err = capsys.readouterr().err
    assert "not a path here" in err and "does not exist on" in err


def test_files_that_the_index_does_not_name_are_not_fetched(hub, tmp_path, capsys):
    fp8_in_shards(tmp_path / NAME)
    serve(hub, tmp_path / NAME)
    bf16(tmp_path / "other")
    hub.files["consolidated.safetensors"] = hub.files["model.safetensors"] = (tmp_path / "other" / WEIGHTS).read_bytes()
    assert main(["pack", REPO, "streamed"]) == 0
    assert packed_files("streamed") == local_pack(tmp_path / NAME)
    assert hub.got("consolidated.safetensors") == hub.got("model.safetensors") == []


@pytest.mark.parametrize("num_bytes", [1 << 51, 1 << 70])
def test_a_size_that_cannot_be_is_not_believed(hub, tmp_path, capsys, num_bytes):
    bf16(tmp_path / NAME)
    serve(hub, tmp_path / NAME)
    hub.sizes[WEIGHTS] = num_bytes
    assert "gives no size and checksum for model.safetensors" in refused(capsys)


def test_a_side_file_that_would_fill_the_disk_is_refused(hub, tmp_path, capsys):
    bf16(tmp_path / NAME)
    serve(hub, tmp_path / NAME)
    hub.sizes["tokenizer.json"] = 10**12
    assert "tokenizer.json has 1,000,000,000,000 bytes; expected" in refused(capsys)
    assert hub.requests == []


def test_more_files_than_can_be_held_open_are_refused(hub, tmp_path, capsys):
    bf16(tmp_path / NAME)
    serve(hub, tmp_path / NAME)
    weights = hub.files.pop(WEIGHTS)
    hub.files |= {f"model-{i:05}.safetensors": weights for i in range(401)}
    assert "401 files of weights; expected 400 at most" in refused(capsys, status=2)


def test_weights_without_a_sha256_are_refused_with_the_other_way(hub, tmp_path, capsys):
    bf16(tmp_path / NAME)
    serve(hub, tmp_path / NAME)
    hub.files["model-2.safetensors"] = b"few bytes"  # so no LFS file
    assert "no SHA-256 for model-2.safetensors" in refused(capsys, status=2)


def test_a_config_that_nests_without_end_is_refused(hub, tmp_path, capsys):
    bf16(tmp_path / NAME)
    serve(hub, tmp_path / NAME)
    hub.files["config.json"] = b'{"a":' * 100_000
    assert "model_type is null" in refused(capsys)


@pytest.mark.parametrize("planted", ["lock", "source", f"source/{NAME}", f"source/{NAME}/{WEIGHTS}", "hole", ""])
def test_a_link_that_was_planted_is_refused_and_what_it_points_to_stays(hub, tmp_path, capsys, planted):
    bf16(tmp_path / NAME)
    serve(hub, tmp_path / NAME)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("precious")
    link = tmp_path / "streamed.part" / planted
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(outside if planted in ("", "source", f"source/{NAME}") else outside / "precious")
    assert main(["pack", REPO, "streamed"]) == 2
    assert "is a symbolic link, and nothing that packing made" in capsys.readouterr().err
    assert [path.read_text() for path in outside.iterdir()] == ["precious"]
