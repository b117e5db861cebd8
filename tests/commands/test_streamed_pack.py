"""`a3b pack OWNER/NAME`: what is packed while it arrives is what packing the downloaded files gives."""

from __future__ import annotations

from pathlib import Path

import gguf
import pytest

from a3b.cli import main
from tests.support import gptq_files, packing_files
from tests.support.checkpoint_files import write_shards
from tests.support.gguf_files import write_gguf
from tests.support.hub_fixture import fake_hub
from tests.support.hub_server import REPO

pytestmark = pytest.mark.slow  # starts servers or commands, or computes for seconds

NAME = REPO.split("/")[1]


@pytest.fixture(scope="module", autouse=True)
def session():
    """One client of huggingface_hub for all tests: making one reads all certificates."""
    yield
    from huggingface_hub.utils import close_session

    close_session()


@pytest.fixture
def hub(monkeypatch, tmp_path):
    yield from fake_hub(monkeypatch, tmp_path, {})


def in_shards(directory: Path, num: int) -> None:
    """Deal the tensors of a directory out to shards, so that a scale and its matrix may be far apart."""
    from a3b.formats.safetensors import SafetensorsFile

    file = SafetensorsFile(directory / "model.safetensors")
    entries = {name: (info.dtype, file.array(name).copy()) for name, info in file.tensors.items()}
    (directory / "model.safetensors").unlink()
    write_shards(directory, entries, num)


def bf16(directory: Path) -> None:
    packing_files.write_source(directory)


def fp8(directory: Path) -> None:
    packing_files.write_source(directory, fp8=True)


def fp8_in_shards(directory: Path) -> None:
    fp8(directory)
    in_shards(directory, 3)


def dense(directory: Path) -> None:
    packing_files.write_source(directory, {**packing_files.SIZES, "E": 0, "K": 0, "F": 192, "Fs": 0})


def no_group_divides(directory: Path) -> None:
    packing_files.write_source(directory, {**packing_files.SIZES, "F": 48})


def with_mtp_in_shards(directory: Path) -> None:
    packing_files.write_source(directory, mtp=True)
    in_shards(directory, 3)


def gguf_with_mtp(directory: Path) -> None:
    directory.mkdir()
    write_gguf(directory / "model-Q4_K_M.gguf", gguf, mtp=True)


def gptq(directory: Path) -> None:
    gptq_files.write_source(directory, symmetric=False)


def one_gguf(directory: Path) -> None:
    directory.mkdir()
    write_gguf(directory / "model-Q4_K_M.gguf", gguf)


KINDS = (bf16, fp8, fp8_in_shards, dense, no_group_divides, with_mtp_in_shards, gptq, one_gguf, gguf_with_mtp)


def packed_files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def serve(hub, directory: Path) -> None:
    """Let the hub have the files of a directory."""
    hub.files.clear()
    hub.files.update({path.name: path.read_bytes() for path in directory.iterdir()})


def local_pack(directory: Path, *options: str) -> dict[str, bytes]:
    """What packing a downloaded directory gives."""
    ggufs = sorted(directory.glob("*.gguf"))
    assert main(["pack", str(ggufs[0] if ggufs else directory), "local", *options]) == 0
    return packed_files(Path("local"))


@pytest.mark.parametrize("write", KINDS)
def test_the_result_is_that_of_packing_the_downloaded_files(hub, tmp_path, write):
    write(tmp_path / NAME)
    serve(hub, tmp_path / NAME)
    assert main(["pack", REPO, "streamed"]) == 0
    assert packed_files(Path("streamed")) == local_pack(tmp_path / NAME)
