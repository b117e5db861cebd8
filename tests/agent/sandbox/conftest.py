"""A sandbox of each kind, with a user's home that has secrets in it."""

from __future__ import annotations

import pytest

from tests.support.sandboxes import opened, user_directory

SECRET = "hunter2-and-more"
ENVIRONMENT = {"HF_TOKEN": SECRET, "OPENAI_API_KEY": SECRET, "AWS_SECRET_ACCESS_KEY": SECRET, "A3B_API_KEY": SECRET}


@pytest.fixture
def base():
    """A directory with home/, in which lie secrets and the workspace src/project, and other/, which is nobody's."""
    with user_directory() as path:
        for name in (".ssh/id_ed25519", ".aws/credentials", ".config/gh/hosts.yml", "src/other-project/.env"):
            file = path / "home" / name
            file.parent.mkdir(parents=True)
            file.write_text(SECRET)
        (path / "other").mkdir()
        (path / "other" / "file").write_text("outside\n")
        yield path


@pytest.fixture(params=["bubblewrap", "landlock"])
def sandbox(request, base):
    sandbox = opened(base, ENVIRONMENT, request.param)
    yield sandbox
    sandbox.close()
