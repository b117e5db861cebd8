"""A session directory is private, and anything in it that is not a regular file is refused."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

import pytest

from a3b.cache.disk_index import Index
from a3b.cache.disk_store import Store
from a3b.cache.index_checks import verify
from a3b.cache.index_database import DATA, INDEX
from a3b.cli import main
from a3b.commands.serve import opened, secret
from a3b.errors import StoreError, UsageError
from tests.support.session_stores import fill, reused

pytestmark = pytest.mark.usefixtures("a_loop_is_a_failure")


@pytest.mark.parametrize("name", [INDEX, f"{INDEX}-wal", "lock"])
@pytest.mark.parametrize("kind", ["named pipe", "device", "symbolic link", "directory"])
def test_what_is_no_file_is_refused_in_place_of_one(copied, name, kind, capsys):
    directory, _, _ = copied
    path = directory / name
    path.unlink(missing_ok=True)
    match kind:
        case "named pipe":
            os.mkfifo(path)
        case "device":
            path.symlink_to("/dev/full")
        case "symbolic link":
            path.symlink_to(directory / "elsewhere")
        case "directory":
            path.mkdir()
    told = "Is a directory" if kind == "directory" else "symbolic link" if kind == "device" else kind
    with pytest.raises(StoreError, match=rf"{name}: .*{told}"):
        Store(directory)
    if name == INDEX:
        assert main(["cache", "list", "--dir", str(directory)]) == 1 and told in capsys.readouterr().err
    assert not (directory / "elsewhere").exists()


def test_pipes_among_the_data_files_stop_nobody(copied):
    directory, ids, _ = copied
    for path in list((directory / DATA).iterdir())[::2]:
        path.unlink()
        os.mkfifo(path)
    (directory / DATA / "more").mkdir()
    os.mkfifo(directory / DATA / "other.kv")
    index = Index.open(directory)
    assert verify(index)
    index.close()
    with Store(directory) as store:
        reused(store, ids)
        fill(store, ids, [40, 420])
        assert reused(store, ids) == 420
    assert [path for path in (directory / DATA).iterdir() if stat.S_ISFIFO(path.stat().st_mode)] == []


def modes(directory: Path) -> set[str]:
    return {
        f"{'d' if path.is_dir() else 'f'}{stat.S_IMODE(path.stat().st_mode):o}"
        for path in (directory, *directory.rglob("*"))
    }


@pytest.mark.parametrize("before", ["nothing", "open to all"])
def test_everything_in_the_store_is_private_whatever_was_there_before(stored, tmp_path, before):
    directory, mask = tmp_path / "s", os.umask(0)
    try:
        if before == "open to all":
            shutil.copytree(stored[0], directory)
            for path in (directory, *directory.rglob("*")):
                path.chmod(0o777 if path.is_dir() else 0o666)
        with Store(directory) as store:
            fill(store, [5] * 30, [30])
            store.put_record("n", b"k", b"v")
            assert modes(directory) == {"d700", "f600"}
    finally:
        os.umask(mask)


def test_a_file_in_place_of_the_directory_is_refused(tmp_path):
    (tmp_path / DATA).write_text("")
    with pytest.raises(StoreError, match=r"data: File exists|data: Not a directory"):
        Index.open(tmp_path)


def test_the_index_of_another_user_is_refused(copied, monkeypatch):
    directory, _, _ = copied
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(StoreError, match="belongs to another user"):
        Store(directory)
    with pytest.raises(StoreError, match="belongs to another user"):
        Index.open(directory)


@pytest.mark.parametrize(("mode", "name"), [(0o1777, "index.sqlite"), (0o755, "letter.txt")])
def test_a_directory_that_others_use_is_refused_and_not_closed_to_them(tmp_path, mode, name):
    directory = tmp_path / "shared"
    directory.mkdir()
    (directory / name).write_text("")
    directory.chmod(mode)
    with pytest.raises(
        StoreError,
        match=rf"shared: has mode {mode:04o} and other files in it.*give the sessions a directory of their own",
    ):
        Store(directory)
    assert stat.S_IMODE(directory.stat().st_mode) == mode and os.listdir(directory) == [name]


@pytest.mark.parametrize("before", [None, 0o666])
def test_secret_and_trace_are_private_whatever_was_there_before(tmp_path, before):
    mask = os.umask(0)
    try:
        with Store(tmp_path) as store:
            if before is not None:
                for name in ("secret", "trace"):
                    (tmp_path / name).write_bytes(b"x" * 32)
                    (tmp_path / name).chmod(before)
            assert len(secret(store)) == 32
            opened(str(tmp_path / "trace")).close()
            assert modes(tmp_path) == {"d700", "f600"}
    finally:
        os.umask(mask)


@pytest.mark.parametrize("kind", ["named pipe", "symbolic link"])
def test_a_secret_or_trace_that_is_no_file_is_refused(tmp_path, kind):
    with Store(tmp_path) as store:
        for name in ("secret", "trace"):
            os.mkfifo(tmp_path / name) if kind == "named pipe" else (tmp_path / name).symlink_to(tmp_path / "elsewhere")
        with pytest.raises(UsageError, match=rf"secret: is a {kind}; expected a regular file; remove it"):
            secret(store)
        with pytest.raises(UsageError, match=rf"trace: is a {kind}; expected a regular file; give a writable file"):
            opened(str(tmp_path / "trace"))
    assert not (tmp_path / "elsewhere").exists()
