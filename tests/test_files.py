"""Files that are not what their names promise are refused at once, and private files are made private, whatever was
there before."""

from __future__ import annotations

import os
import socket
import stat

import pytest

from a3b import files
from a3b.files import open_private, open_regular, private_directory, read_bytes, read_given, read_text


@pytest.fixture(params=["named pipe", "device", "socket", "directory"])
def not_a_file(request, tmp_path):
    """(path, what its refusal says)."""
    path = tmp_path / "x"
    match request.param:
        case "named pipe":
            os.mkfifo(path)
        case "device":
            path.symlink_to("/dev/zero")
        case "socket":
            with socket.socket(socket.AF_UNIX) as sock:
                sock.bind(os.path.relpath(path))
        case "directory":
            path.mkdir()
            return path, "Is a directory"
    return path, f"is a {request.param}; expected a regular file"


@pytest.mark.parametrize("read", [open_regular, read_bytes, read_text, read_given])
def test_what_is_no_file_is_refused_without_waiting_for_it(not_a_file, read):
    path, told = not_a_file
    with pytest.raises(OSError, match=told):
        read(path)


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_WRONLY | os.O_APPEND | os.O_CREAT, os.O_RDWR | os.O_CREAT])
def test_what_is_no_file_is_not_opened_as_a_private_one(not_a_file, flags):
    path, _ = not_a_file
    with pytest.raises(OSError, match=r"Is a directory|expected a regular file"):
        open_private(path, flags)


def test_a_link_to_a_file_is_read_but_is_no_private_file(tmp_path):
    (tmp_path / "file").write_text("a")
    (tmp_path / "link").symlink_to("file")
    assert read_text(tmp_path / "link") == "a"
    with pytest.raises(OSError, match="is a symbolic link; expected a regular file"):
        open_private(tmp_path / "link", os.O_RDWR | os.O_CREAT)


def test_a_private_file_is_so_from_its_first_byte_on(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fchmod", lambda *_: pytest.fail("it was open to others until now"))
    before = os.umask(0)
    try:
        os.close(open_private(tmp_path / "new", os.O_RDWR | os.O_CREAT))
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o600


@pytest.mark.parametrize("umask", [0, 0o22, 0o277])
def test_a_private_file_is_so_whatever_the_umask_and_the_mode_before(tmp_path, umask):
    (tmp_path / "old").touch(0o666)
    (tmp_path / "old").chmod(0o666)
    (tmp_path / "olddir").mkdir()
    (tmp_path / "olddir").chmod(0o777)
    before = os.umask(umask)
    try:
        for name in ("old", "new"):
            os.close(open_private(tmp_path / name, os.O_RDWR | os.O_CREAT))
        for name in ("olddir", "newdir"):
            private_directory(tmp_path / name)
    finally:
        os.umask(before)
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("old", "new", "olddir", "newdir")]
    assert modes == [0o600, 0o600, 0o700, 0o700]


def test_what_belongs_to_another_user_is_refused(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(PermissionError, match="belongs to another user"):
        open_private(tmp_path / "file")
    with pytest.raises(PermissionError, match="belongs to another user"):
        private_directory(tmp_path)


def test_a_file_without_end_is_not_read_into_memory(tmp_path, monkeypatch):
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(OSError, match="more than 1,000 bytes"):
        read_bytes(tmp_path / "sparse", 1000)
    with pytest.raises(OSError, match="more than 1,000 bytes"):
        with open("/dev/zero", "rb") as zero:
            read_given(f"/proc/self/fd/{zero.fileno()}", 1000)


def test_an_open_pipe_that_the_user_names_is_read():
    """As a shell makes it of <(...)."""
    end, other = os.pipe()
    os.write(other, b"a\r\nb")
    os.close(other)
    assert read_given(f"/dev/fd/{end}") == "a\nb"
    os.close(end)


def test_descriptors_of_refused_files_are_closed(tmp_path, monkeypatch):
    def refuse(found, path):
        raise OSError("no")

    (tmp_path / "file").touch()
    monkeypatch.setattr(files, "_check_owner", refuse)
    num = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="no"):
        open_private(tmp_path / "file")
    assert len(os.listdir("/proc/self/fd")) == num
