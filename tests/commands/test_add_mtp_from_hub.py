"""`a3b pack --add-mtp OWNER/NAME DIR`: of a repository only the MTP module is fetched, and what belongs to it."""

from __future__ import annotations

import re
from pathlib import Path

import gguf
import pytest

from a3b.cli import main
from a3b.formats.packed import verify
from a3b.formats.safetensors import SafetensorsFile
from a3b.packing import fetch_mtp, fetch_order
from tests.support import packing_files
from tests.support.checkpoint_files import write_shards
from tests.support.gguf_files import write_gguf
from tests.support.hub_fixture import fake_hub
from tests.support.hub_server import REPO

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("hub_session")]  # starts servers

LARGE = {**packing_files.SIZES, "layers": 8, "V": 4096}  # whose module is a small part of it


@pytest.fixture
def hub(monkeypatch, tmp_path):
    monkeypatch.setattr(fetch_order, "GAP", 1000)
    monkeypatch.setattr(fetch_mtp, "STEP", 20_000)
    yield from fake_hub(monkeypatch, tmp_path, {})


def in_shards(directory: Path, fp8: bool = False) -> None:
    packing_files.write_source(directory, LARGE, fp8, mtp=True)
    file = SafetensorsFile(directory / "model.safetensors")
    entries = {name: (info.dtype, file.array(name).copy()) for name, info in file.tensors.items()}
    (directory / "model.safetensors").unlink()
    write_shards(directory, entries, 3)


def fp8_in_shards(directory: Path) -> None:
    in_shards(directory, fp8=True)


def one_gguf(directory: Path) -> None:
    directory.mkdir()
    write_gguf(directory / "model-Q4_K_M.gguf", gguf, mtp=True)


def serve(hub, directory: Path) -> str:
    """Let the hub have the files of a directory, and pack it without the module; what to pack it from."""
    hub.files.clear()
    hub.files.update({path.name: path.read_bytes() for path in directory.iterdir()})
    ggufs = sorted(directory.glob("*.gguf"))
    source = str(ggufs[0] if ggufs else directory)
    assert main(["pack", "--no-mtp", source, "packed"]) == 0
    return source


def content(name: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(name).iterdir()}


@pytest.mark.parametrize("write", [in_shards, fp8_in_shards, one_gguf])
def test_the_result_is_that_of_adding_it_from_the_downloaded_files(hub, tmp_path, write):
    write(tmp_path / "Model-1B")
    source = serve(hub, tmp_path / "Model-1B")
    assert main(["pack", "--no-mtp", source, "local"]) == 0
    assert main(["pack", "--add-mtp", source, "local"]) == 0
    assert main(["pack", "--add-mtp", REPO, "packed"]) == 0
    assert verify("packed") == []
    one, other = content("packed"), content("local")
    changed = {name for name in other if one[name] != other[name]}
    assert one.keys() == other.keys() and changed <= {"a3b.json"}  # a GGUF file has another name than its repository
    assert not Path("packed.mtp.part").exists()


def test_little_more_than_the_module_is_fetched(hub, tmp_path, capsys):
    in_shards(tmp_path / "Model-1B")
    serve(hub, tmp_path / "Model-1B")
    assert main(["pack", "--add-mtp", REPO, "packed"]) == 0
    told = re.search(r"([\d.]+) MB of ([\d.]+) MB to fetch", capsys.readouterr().err)
    fetched, total = map(float, told.groups())
    assert fetched < 0.35 * total
    assert {path for _, path, _ in hub.requests} == {
        "config.json",
        "model.safetensors.index.json",
        *(path for path in hub.files if path.endswith(".safetensors")),
    }


def test_a_connection_that_breaks_is_continued(hub, tmp_path):
    in_shards(tmp_path / "Model-1B")
    serve(hub, tmp_path / "Model-1B")
    hub.break_after = {path: [700, 0, 5000, 1] for path in hub.files if path.endswith(".safetensors")}
    assert main(["pack", "--add-mtp", REPO, "packed"]) == 0
    assert verify("packed") == []


def refused(capsys) -> str:
    before = content("packed")
    assert main(["pack", "--add-mtp", REPO, "packed"]) != 0
    assert content("packed") == before and not Path("packed.mtp.part").exists()
    return capsys.readouterr().err


def test_a_hub_that_sends_no_parts_is_refused(hub, tmp_path, capsys):
    in_shards(tmp_path / "Model-1B")
    serve(hub, tmp_path / "Model-1B")
    hub.ignores_range = True
    assert "sends whole files instead of parts" in refused(capsys)


def test_another_model_is_refused_by_its_headers_or_its_numbers(hub, tmp_path, capsys):
    in_shards(tmp_path / "Model-1B")
    serve(hub, tmp_path / "Model-1B")
    for name, sizes, seed, told in (
        ("larger", {**LARGE, "Fs": 64}, 5, "is another model: its shared_expert_intermediate_size is 64"),
        ("other", LARGE, 6, "holds other weights"),
    ):
        packing_files.write_source(tmp_path / name, sizes, seed=seed, mtp=True)
        hub.files.clear()
        hub.files.update({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
        hub.requests.clear()
        said = refused(capsys)
        assert told in said and REPO in said
        starts = hub.got("model.safetensors")
        assert name == "other" or starts == [0]  # only the header


def test_a_directory_that_has_the_module_asks_nothing_of_the_hub(hub, tmp_path, capsys):
    in_shards(tmp_path / "Model-1B")
    serve(hub, tmp_path / "Model-1B")
    assert main(["pack", "--add-mtp", REPO, "packed"]) == 0
    hub.requests.clear()
    assert main(["pack", "--add-mtp", REPO, "packed"]) == 2
    assert "has an MTP module already" in capsys.readouterr().err and not hub.requests


def test_what_a_killed_run_left_is_removed(hub, tmp_path):
    in_shards(tmp_path / "Model-1B")
    serve(hub, tmp_path / "Model-1B")
    left = tmp_path / "packed.mtp.part" / "source" / "Model-1B"
    left.mkdir(parents=True)
    (left / "config.json").write_text("{}")
    assert main(["pack", "--add-mtp", REPO, "packed"]) == 0
    assert not Path("packed.mtp.part").exists()
