"""What write does: whole files, or none of them."""

from __future__ import annotations

import os

import pytest

from a3b.agent.tools import text_file
from a3b.agent.tools.file_tool import FileToolError, edit_file, read_file, write_file


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def error_of(*args, **keywords):
    with pytest.raises(FileToolError) as caught:
        write_file(*args, **keywords)
    return str(caught.value)


def test_a_file_is_written_with_the_directories_above_it(root):
    assert write_file("a/b/c.txt", "1\n2").text == "Wrote a/b/c.txt, 2 lines."
    assert (root / "a/b/c.txt").read_bytes() == b"1\n2"


def test_more_than_300_lines_are_refused_with_the_way_out(root):
    assert write_file("a", "x\n" * 300).text == "Wrote a, 300 lines."
    message = error_of("b", "x\n" * 301)
    assert message.startswith("content has 301 lines, a call takes 300. Nothing was written.") and "append" in message
    assert not (root / "b").exists()


def test_a_file_continues_in_parts_each_on_a_new_line(root):
    write_file("a", "1\n2")
    assert write_file("a", "3\n", append=True).text == "Appended 1 line to a."
    write_file("a", "4", append=True)
    assert (root / "a").read_text() == "1\n2\n3\n4"


def test_the_first_part_may_be_an_append(root):
    assert write_file("a", "1\n", append=True).text == "Wrote a, 1 line."


def test_a_byte_order_mark_stays_when_a_file_continues(root):
    (root / "a").write_bytes(b"\xef\xbb\xbf1\n")
    write_file("a", "2\n", append=True)
    assert (root / "a").read_bytes() == b"\xef\xbb\xbf1\n2\n"


def test_permissions_stay(root):
    (root / "run.sh").write_text("old\n")
    os.chmod("run.sh", 0o750)
    write_file("run.sh", "new\n")
    assert os.stat("run.sh").st_mode & 0o7777 == 0o750


def test_a_link_stays_and_its_target_changes(root):
    (root / "real").write_text("old\n")
    os.symlink("real", "link")
    os.symlink("fresh", "dangling")
    write_file("link", "new\n")
    write_file("dangling", "new\n")
    assert os.readlink("link") == "real" and (root / "real").read_text() == "new\n"
    assert os.readlink("dangling") == "fresh" and (root / "fresh").read_text() == "new\n"


def test_a_second_name_of_a_file_keeps_the_old_bytes(root):
    """A hard link may lead to a file that others share, such as a package cache."""
    (root / "a").write_text("old\n")
    os.link("a", "b")
    write_file("a", "new\n")
    assert (root / "b").read_text() == "old\n"


def test_a_file_that_changed_meanwhile_is_said(root):
    write_file("a", "1\n")
    seal = read_file("a").seal
    (root / "a").write_text("of the user\n")
    assert write_file("a", "2\n", seal=seal).text == "Wrote a, 1 line. It had changed since you read it."


def test_a_binary_file_can_be_replaced_but_not_continued(root):
    (root / "a").write_bytes(b"\0\1")
    assert error_of("a", "x\n", append=True) == "a is a binary file of 2 bytes."
    assert write_file("a", "x\n").text == "Wrote a, 1 line."


def test_what_is_no_file_is_not_written(root):
    os.mkfifo("pipe")
    os.mkdir("d")
    assert error_of("pipe", "x") == "pipe is a named pipe, not a text file."
    assert error_of("d", "x") == "d is a directory."
    (root / "f").write_text("")
    assert error_of("f/x", "x") == "f/x: Not a directory. Nothing was written."


def test_half_a_surrogate_pair_is_refused(root):
    assert "surrogate" in error_of("a", "\ud800")
    assert not (root / "a").exists()


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(root, monkeypatch):
    (root / "a").write_text("old\n")

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    assert error_of("a", "new\n") == "a: No space left on device. Nothing was written."
    assert (root / "a").read_text() == "old\n" and os.listdir(root) == ["a"]


def test_what_a_killed_call_left_behind_is_no_trouble(root):
    (root / ".a.a3b-part").write_text("half")
    write_file("a", "new\n")
    assert os.listdir(root) == ["a"]


def test_a_mounted_file_is_written_in_place(root, monkeypatch):
    def busy(*args):
        raise OSError(16, "Device or resource busy")

    (root / "a").write_text("old and longer\n")
    monkeypatch.setattr(os, "replace", busy)
    assert write_file("a", "new\n").text == "Wrote a, 1 line."
    assert (root / "a").read_text() == "new\n" and os.listdir(root) == ["a"]


def test_what_changed_is_shown_to_people(root):
    (root / "a").write_text("1\n2\n")
    assert write_file("a", "1\n3\n").diff.split("\n")[2:] == ["@@ -1,2 +1,2 @@", " 1", "-2", "+3"]


def test_a_huge_old_file_costs_no_huge_diff(root):
    (root / "a").write_text("x\n" * 100_000)
    assert len(write_file("a", "1\n").diff) < 200


def test_the_part_file_never_follows_a_link(root):
    (root / "outside").write_text("mine\n")
    os.symlink("outside", ".a.a3b-part")
    text_file.save(str(root / "a"), b"x", None)
    assert (root / "outside").read_text() == "mine\n"


def test_what_is_appended_gets_the_line_ends_of_the_file(root):
    (root / "a").write_bytes(b"1\r\n2")
    write_file("a", "3\n4\n", append=True)
    assert (root / "a").read_bytes() == b"1\r\n2\r\n3\r\n4\r\n"


def test_a_name_as_long_as_names_can_be_is_written(root):
    for name in ("x" * 255, "語" * 85):
        write_file(name, "1\n")
        write_file(name, "2\n")
        assert (root / name).read_text() == "2\n"


def test_a_directory_is_no_file_to_write(root):
    assert "names a directory" in error_of("new/", "x")
    assert os.listdir(root) == []


def test_a_read_only_file_is_named_as_one(root):
    (root / "a").write_text("old\n")
    (root / "a").chmod(0o444)
    assert write_file("a", "new\n").text == "Wrote a, 1 line. It is marked read-only, and stays so."
    assert edit_file("a", "new", "newer").text.endswith("It is marked read-only, and stays so.")
    assert (root / "a").stat().st_mode & 0o777 == 0o444
