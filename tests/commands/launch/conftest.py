"""A user's home, a server that answers, and programs in place of clients."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from a3b.clients.catalogue import CLIENTS
from tests.support.fake_clients import FakeClient, FakeServer, fake_server


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with fake_server() as server:
        yield server


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's home with settings of all clients, the place of a3b beside it, and a project as current directory."""
    home = tmp_path / "home"
    for name in (".claude.json", ".claude/settings.json", ".qwen/settings.json", ".codex/config.toml", ".gitconfig"):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(f"the user's {name}")
    for name in (".config/opencode/opencode.json", ".pi/agent/models.json", ".aider.conf.yml", ".ssh/config"):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(f"the user's {name}")
    (tmp_path / "project").mkdir()
    (tmp_path / "bin").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    for name in list(os.environ):
        if name.startswith(("A3B_", "ANTHROPIC_", "OPENAI_", "CLAUDE", "XDG_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("A3B_HOME", str(tmp_path / "a3b"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    return home


@pytest.fixture
def client(home: Path, tmp_path: Path):
    """Makes the program of a client; then: what it does."""
    return lambda name, then="": FakeClient(tmp_path / "bin", CLIENTS[name].program, then)
