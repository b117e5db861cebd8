"""The fake hub as the one that huggingface_hub is set to, in a directory of its own; pauses are not waited for."""

from __future__ import annotations

from collections.abc import Iterator

from a3b.hub import download
from tests.support.hub_server import FakeHub


def fake_hub(monkeypatch, tmp_path, files: dict[str, bytes]) -> Iterator[FakeHub]:
    """For a fixture to yield from."""
    from huggingface_hub import constants

    server = FakeHub(files)
    monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(download, "FIRST_WAIT_S", 0.001)
    monkeypatch.chdir(tmp_path)
    yield server
    server.close()
