"""`a3b up` in the tests: small models to get, and the command itself."""

from __future__ import annotations

import tempfile
from pathlib import Path

import gguf

from a3b.cli import main
from a3b.commands.model_home import ModelHome
from a3b.formats.packed import verify
from tests.support.gguf_files import TYPE_OF, write_gguf
from tests.support.packing_files import write_source

GB = 1_000_000_000
ALL_READABLE = {**TYPE_OF, "attn_v": "Q8_0"}  # so that nothing is left to a preset


def small_model() -> dict[str, bytes]:
    """The files of a random model that is packed in a moment."""
    with tempfile.TemporaryDirectory() as directory:
        write_source(Path(directory) / "m", fp8=True)
        return {path.name: path.read_bytes() for path in (Path(directory) / "m").iterdir()}


FILES = small_model()


def ups(capsys, *argv: str, status: int = 0) -> str:
    """stderr of the command."""
    found = main(["up", *argv])
    err = capsys.readouterr().err
    assert found == status, err
    return err


def only(home: ModelHome):
    (model,) = home.stored()
    assert model.complete and verify(model.folder) == []
    return model


def small_gguf(directory: Path, name: str = "m-Q4_K_M.gguf", **options) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    write_gguf(directory / name, gguf, types=ALL_READABLE, **options)
    return directory / name
