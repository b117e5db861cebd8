"""Models on the fake hub, packed while they arrive, in steps so small that a tiny model takes many of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import gguf

from a3b.cli import main
from a3b.formats.safetensors import SafetensorsFile
from a3b.packing import conductor, fetch_order, fetching, sparse_file, stream
from tests.support import gptq_files, packing_files
from tests.support.checkpoint_files import write_shards
from tests.support.gguf_files import write_gguf
from tests.support.hub_server import REPO, FakeHub
from tests.support.mtp_files import set_apart

NAME = REPO.split("/")[1]
CHUNK, RANGE = 4096, 30_000
SMALL_STEPS = {
    (stream, "HEADER_STEP"): 1_000,
    (fetching, "RANGE"): RANGE,
    (fetching, "WRITE"): 5_000,
    (fetch_order, "CHUNK"): CHUNK,
    (sparse_file, "CHUNK"): CHUNK,
    (conductor, "CHUNK"): CHUNK,
    (conductor, "COMMIT_S"): 0.0,
    (conductor, "LOOK_S"): 0.0,
}
KILLED = """
import os, signal, sys
from huggingface_hub import constants
from tests.support.streamed_packs import take_small_steps
from a3b.packing import sparse_file, stream
constants.ENDPOINT = sys.argv[1]
PLACES = {"shutil": stream.shutil, "sparse_file": sparse_file, "os": os}
where = {"journal": stream.StreamJournal, "file": sparse_file.SparseFile, **PLACES}[sys.argv[2]]
call, left, first = sys.argv[3], int(sys.argv[4]), None
done = getattr(where, call)
def counted(*args, **kwargs):
    global left, first
    if call == "save":
        done(*args)
        first = len(args[0].tensors) if first is None else first
        if len(args[0].tensors) >= first + left:
            os.kill(os.getpid(), signal.SIGKILL)
        return
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return done(*args, **kwargs)
setattr(where, call, counted)
take_small_steps()
from a3b.cli import main
sys.exit(main(sys.argv[5:]))
"""


def take_small_steps(monkeypatch=None) -> None:
    for (module, name), value in SMALL_STEPS.items():
        if monkeypatch:
            monkeypatch.setattr(module, name, value)
        else:
            setattr(module, name, value)


def run_killed(hub: FakeHub, place: str, call: str, after: int, *argv: str) -> int:
    """Run a command in a process of its own that kills itself at a call of a function; its exit status.

    after: so many calls; of `save`, once the journal holds so many tensors more than in the beginning."""
    command = [sys.executable, "-c", KILLED, hub.endpoint, place, call, str(after), *argv]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "HF_HUB_DISABLE_TELEMETRY": "1"}
    return subprocess.run(command, env=environment, capture_output=True, check=False).returncode


def in_shards(directory: Path, num: int) -> None:
    """Deal the tensors of a directory out to shards, so that a scale and its matrix may be far apart."""
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


def with_mtp_beside(directory: Path) -> None:
    packing_files.write_source(directory, mtp=True)
    set_apart(directory)


def gguf_with_mtp(directory: Path) -> None:
    directory.mkdir()
    write_gguf(directory / "model-Q4_K_M.gguf", gguf, mtp=True)


def gptq(directory: Path) -> None:
    gptq_files.write_source(directory, symmetric=False)


def one_gguf(directory: Path) -> None:
    directory.mkdir()
    write_gguf(directory / "model-Q4_K_M.gguf", gguf)


KINDS = (
    *(bf16, fp8, fp8_in_shards, dense, no_group_divides),
    *(with_mtp_in_shards, with_mtp_beside, gptq, one_gguf, gguf_with_mtp),
)


def packed_files(directory: Path | str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(directory).iterdir()}


def serve(hub: FakeHub, directory: Path) -> None:
    """Let the hub have the files of a directory."""
    hub.files.clear()
    hub.files.update({path.name: path.read_bytes() for path in directory.iterdir()})


def local_pack(directory: Path, *options: str) -> dict[str, bytes]:
    """What packing a downloaded directory gives, in `local`."""
    ggufs = sorted(directory.glob("*.gguf"))
    assert main(["pack", str(ggufs[0] if ggufs else directory), "local", *options]) == 0
    return packed_files("local")


def journal(part: str = "streamed.part") -> dict:
    return json.loads((Path(part) / "stream.json").read_text())
