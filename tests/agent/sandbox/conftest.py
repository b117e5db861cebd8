"""A sandbox of each kind, with a user's home that has secrets in it. Both serve all tests of a file."""

from __future__ import annotations

import shutil

import pytest

from tests.support.sandboxes import opened, user_directory

SECRET = "hunter2-and-more"
ENVIRONMENT = {"HF_TOKEN": SECRET, "OPENAI_API_KEY": SECRET, "AWS_SECRET_ACCESS_KEY": SECRET, "A3B_API_KEY": SECRET}


@pytest.fixture(scope="module")
def base():
    """A directory with home/, which holds secrets and the workspace src/project, and other/, outside of both."""
    with user_directory() as path:
        for name in (".ssh/id_ed25519", ".aws/credentials", ".config/gh/hosts.yml", "src/other-project/.env"):
            file = path / "home" / name
            file.parent.mkdir(parents=True)
            file.write_text(SECRET)
        (path / "other").mkdir()
        (path / "other" / "file").write_text("outside\n")
        yield path


@pytest.fixture(scope="module", params=["bubblewrap", "landlock"])
def opened_sandbox(request, base):
    sandbox = opened(base, ENVIRONMENT, request.param)
    yield sandbox
    sandbox.close()


@pytest.fixture
def sandbox(opened_sandbox):
    """With an empty workspace."""
    yield opened_sandbox
    for path in opened_sandbox.policy.workspace.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
