"""The files of a model on a hub of this machine, and `a3b pull` as tests call it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from a3b.cli import main
from a3b.hub import download

CONFIG = json.dumps({"model_type": "qwen3_5_moe"}).encode()


def noise(name: str, num: int) -> bytes:
    return hashlib.shake_256(name.encode()).digest(num)


def model_files() -> dict[str, bytes]:
    return {
        "README.md": b"# A model\n",
        "config.json": CONFIG,
        "tokenizer.json": noise("tokenizer", 3000),
        "model-00001-of-00002.safetensors": noise("1", 70_000),
        "model-00002-of-00002.safetensors": noise("2", 50_000),
        "model.safetensors.index.json": b"{}",
        "empty.json": b"",
        "pytorch_model.bin": noise("bin", 5000),
        "original/consolidated.00.pth": noise("pth", 5000),
        "onnx/model.safetensors": noise("onnx", 5000),
        "figure.png": noise("png", 2000),
    }


WANTED = {
    "README.md",
    "config.json",
    "tokenizer.json",
    "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors",
    "model.safetensors.index.json",
    "empty.json",
}
SHARD = "model-00001-of-00002.safetensors"


def pull(capsys, *argv: str) -> tuple[int, str]:
    status = main(["pull", *argv])
    out, err = capsys.readouterr()
    assert out == "" and "Traceback" not in err
    return status, err


def refused(capsys, *argv: str, status: int = 1) -> str:
    """The one line of a refusal."""
    found, err = pull(capsys, *argv)
    assert found == status, err
    assert err.splitlines()[-1].startswith("a3b pull: ")
    return err.splitlines()[-1]


def here(directory: str = "Model-1B") -> dict[str, bytes]:
    root = Path(directory)
    return {
        str(p.relative_to(root)): p.read_bytes()
        for p in root.rglob("*")
        if p.is_file() and download.INNER not in p.parts
    }


def parts(directory: str = "Model-1B") -> list[bytes]:
    return sorted(p.read_bytes() for p in (Path(directory) / download.INNER).glob("*.part"))
