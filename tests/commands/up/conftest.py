"""A machine that need not be measured, an A3B_HOME, and a small model as a repository."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import replace

import pytest

from a3b.commands import model_sources, up
from a3b.commands.model_home import ModelHome
from a3b.commands.plan import Speed
from a3b.machine import Machine
from a3b.model import known_models
from a3b.model.known_models import KNOWN_MODELS
from a3b.model.known_shapes import SHAPES
from tests.support.hub_fixture import fake_hub
from tests.support.hub_server import REPO
from tests.support.ups import FILES, GB, small_gguf


@pytest.fixture(scope="module", autouse=True)
def session():
    """One client of huggingface_hub for all tests: making one reads all certificates."""
    yield
    from huggingface_hub.utils import close_session

    close_session()


@pytest.fixture
def machine(monkeypatch):
    """A machine of 24 GB that need not be measured."""

    class Given:
        memory, disk = 24 * GB, 100 * GB

    monkeypatch.setattr(model_sources, "predicted", lambda *_: Speed(40e9, 1000e9))
    plain = Machine.read()
    monkeypatch.setattr(
        Machine, "read", lambda *_: replace(plain, memory_bytes=Given.memory, total_memory_bytes=Given.memory + GB)
    )
    usage = type("Usage", (), {})
    monkeypatch.setattr(model_sources.shutil, "disk_usage", lambda _: setattr(usage, "free", Given.disk) or usage)
    return Given


@pytest.fixture
def home(tmp_path, monkeypatch, machine):
    """A3B_HOME, places of other programs in which nothing lies, and servers that do not start."""
    monkeypatch.delenv("A3B_CACHE", raising=False)
    monkeypatch.setenv("A3B_HOME", str(tmp_path / "home"))
    for name in ("HF_HUB_CACHE", "LLAMA_CACHE", "OLLAMA_MODELS", "HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    home = ModelHome(tmp_path / "home")
    home.served = []
    monkeypatch.setenv("A3B_PORT", "0")
    monkeypatch.setattr(up.serve, "run", lambda args, after: home.served.append((args, after)) or 0)
    return home


@pytest.fixture
def hub(monkeypatch, tmp_path, home):
    """A small model as a repository."""
    yield from fake_hub(monkeypatch, tmp_path, dict(FILES))


@pytest.fixture
def known(monkeypatch):
    """The repository in the table of names, as `tiny`: its weights and its GGUF files."""
    config = json.loads(FILES["config.json"])
    monkeypatch.setitem(SHAPES, "tiny-shape", config.get("text_config", config))
    entry = replace(
        KNOWN_MODELS[0],
        name="tiny",
        title="Tiny-1B",
        shape="tiny-shape",
        weights=REPO,
        gguf=f"{REPO}-GGUF",
        original=None,
        other_names=("tiny-1b",),
    )
    monkeypatch.setattr(known_models, "KNOWN_MODELS", (entry, *KNOWN_MODELS))
    return entry


@pytest.fixture
def typed(monkeypatch):
    """Type an answer at a terminal."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    def type_(text: str) -> None:
        monkeypatch.setattr(sys, "stdin", Terminal(text))
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)

    return type_


@pytest.fixture
def ggufs(hub, tmp_path):
    """A repository of two GGUF models, one of them in a directory and split."""
    content = small_gguf(tmp_path / "made").read_bytes()
    hub.files.clear()
    hub.files |= {"m-UD-Q4_K_M.gguf": content, "m-Q8_0.gguf": content + b"\0" * 64, "mmproj-F16.gguf": b"x" * 2000}
    return hub
