"""Stores in memory, and one that is made once for each file and copied."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.session_stores import MEMORY, store_two


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    """What fsync adds counts when the power fails, which no test can do."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def tmp_path():
    with tempfile.TemporaryDirectory(dir=MEMORY) as directory:
        yield Path(directory)


@pytest.fixture(scope="module")
def stored() -> Iterator[tuple[Path, list[int], list[int]]]:
    """A directory with a conversation and a fork of it after 128 tokens."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as directory:
        yield store_two(Path(directory))


@pytest.fixture
def copied(stored, tmp_path) -> tuple[Path, list[int], list[int]]:
    shutil.copytree(stored[0], tmp_path / "s")
    return tmp_path / "s", *stored[1:]


@pytest.fixture
def a_loop_is_a_failure():
    """For tests of hostile rows and files: none may keep a reader for a minute."""

    def stop(*_):
        raise AssertionError("this takes too long")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
