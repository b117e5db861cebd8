"""Pipes, devices, sockets and directories in place of every file that a command opens: refused at once, never waited
for."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest

from a3b.cli import main
from a3b.engine.engine import nano_directory
from a3b.errors import FileFormatError
from a3b.formats.packed import MANIFEST, Manifest

pytestmark = pytest.mark.slow  # starts servers or commands, or computes for seconds

CONVERSATION = '[{"role": "user", "content": "hi"}]'


@pytest.fixture(autouse=True)
def waiting_is_a_failure():
    def stop(*_):
        raise AssertionError("it waits for a pipe")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(30)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def replace(path: Path, kind: str) -> None:
    path.unlink(missing_ok=True)
    match kind:
        case "named pipe":
            os.mkfifo(path)
        case "device":
            path.symlink_to("/dev/zero")
        case "directory":
            path.mkdir()


@pytest.fixture
def model(tmp_path) -> Path:
    return Path(shutil.copytree(nano_directory(), tmp_path / "m"))


@pytest.mark.parametrize("kind", ["named pipe", "device", "directory"])
@pytest.mark.parametrize(
    ("name", "argv"),
    [
        ("config.json", ["info", "M"]),
        ("generation_config.json", ["info", "M"]),
        ("model.safetensors", ["info", "M"]),
        ("model.safetensors.index.json", ["info", "M"]),
        (MANIFEST, ["verify", "M"]),
        (MANIFEST, ["info", "M"]),
        ("tokenizer.json", ["render", "M", "--messages", "F", "--ids"]),
        ("chat_template.jinja", ["render", "M", "--messages", "F"]),
        ("tokenizer_config.json", ["render", "M", "--messages", "F"]),
        ("../other", ["render", "M", "--messages", "O"]),
        ("../other", ["render", "M", "--messages", "F", "--tools", "O"]),
        ("../other", ["logits", "M", "--ids", "O", "--out", "x"]),
        ("../other", ["logits", "M", "--ids", "I", "--out", "O"]),
        ("../other", ["pack", "M", "P", "--importance", "O"]),
        ("../other", ["serve", "M", "--port", "0", "--api-key-file", "O"]),
        ("../other", ["serve", "M", "--port", "0", "--trace", "O"]),
        ("../P.part/progress.json", ["pack", "M", "P"]),
    ],
)
def test_what_is_no_file_is_refused_at_once(model, tmp_path, kind, name, argv, capsys):
    (tmp_path / "F").write_text(CONVERSATION)
    (tmp_path / "I").write_text("[1, 2, 3]")
    (model / name).parent.mkdir(exist_ok=True)
    if name == "model.safetensors.index.json":
        (model / "model.safetensors").rename(model / "model-1.safetensors")
    replace(model / name, kind)
    places = {"M": model, "F": tmp_path / "F", "I": tmp_path / "I", "O": tmp_path / "other", "P": tmp_path / "P"}
    try:
        status = main([str(places.get(word, word)) for word in argv])
    except SystemExit as exit:
        status = exit.code
    told = capsys.readouterr().err
    assert status in (1, 2) and Path(name).name in told, told
    wanted = {"named pipe": "is a named pipe", "device": "is a device|symbolic link", "directory": "directory"}[kind]
    assert any(part in told for part in wanted.split("|")), told


def test_a_pipe_among_the_weights_of_a_manifest_is_named(tmp_path):
    os.mkfifo(tmp_path / MANIFEST)
    with pytest.raises(FileFormatError, match=r"is a named pipe; expected a regular file"):
        Manifest.read(tmp_path)
