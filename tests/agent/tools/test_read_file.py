"""What read makes of files of every kind."""

from __future__ import annotations

import os
import socket

import pytest

from a3b.agent.tools.file_tool import FileToolError, read_file


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def error_of(*args, **keywords):
    with pytest.raises(FileToolError) as caught:
        read_file(*args, **keywords)
    return str(caught.value)


def test_a_file_is_read_as_plain_lines(root):
    (root / "a.py").write_text("def f():\n\treturn 1\n")
    assert read_file("a.py").text == "def f():\n\treturn 1"


def test_a_long_file_is_read_in_parts_that_join(root):
    lines = [f"line {i}" for i in range(1, 813)]
    (root / "a").write_text("\n".join(lines) + "\n")
    first = read_file("a").text.split("\n")
    assert first[-1] == "[lines 1-300 of 812; go on with offset 301]"
    second = read_file("a", 301, 600).text.split("\n")
    assert second[-1] == "[lines 301-812 of 812]"
    assert first[:-1] + second[:-1] == lines


def test_a_part_ends_where_the_characters_do(root):
    (root / "a").write_text(("x" * 999 + "\n") * 50)
    assert read_file("a").text.endswith("[lines 1-16 of 50; go on with offset 17]")


def test_a_long_line_is_cut_visibly(root):
    (root / "a").write_text("é" * 5000 + "\nend\n")
    assert read_file("a").text == "é" * 2000 + "[... 3,000 more characters of this line]\nend"


def test_a_line_of_megabytes_costs_no_more_than_its_beginning(root):
    (root / "a").write_text("x" * (3 << 20) + "\nend\n")
    text = read_file("a").text
    assert text == "x" * 2000 + f"[... {(3 << 20) - 2000:,} more characters of this line]\nend"


def test_an_offset_beyond_the_end_is_an_error(root):
    (root / "a").write_text("1\n2\n")
    assert error_of("a", 3) == "a has 2 lines; offset 3 is beyond them."


@pytest.mark.parametrize(("offset", "limit"), [(-1, 1), (1, 0), (1, -5)])
def test_lines_count_from_one(root, offset, limit):
    (root / "a").write_text("1\n")
    assert error_of("a", offset, limit).startswith("offset and limit count lines from 1")


def test_huge_numbers_are_no_trouble(root):
    (root / "a").write_text("1\n")
    assert read_file("a", 0, 10**30).text == "1"
    assert "beyond" in error_of("a", 10**30)


def test_an_empty_file_is_said(root):
    (root / "a").write_bytes(b"")
    (root / "b").write_bytes(b"\xef\xbb\xbf")
    assert (read_file("a").text, read_file("b").text) == ("[a is empty]", "[b is empty]")


def test_line_ends_of_windows_are_said_once(root):
    (root / "a").write_bytes(b"\xef\xbb\xbfa\r\nb\r\n")
    assert read_file("a").text == "a\nb\n[line ends are CRLF; edit keeps them]"


def test_bytes_that_are_not_utf8_are_shown_and_said(root):
    (root / "a").write_bytes(b"caf\xe9\n")
    assert read_file("a").text == "caf\\xe9\n[not UTF-8: other bytes are shown as \\xNN]"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x7fELF\0\0", "a is a binary file of 6 bytes."),
        ("x".encode("utf-16"), "a is UTF-16. Convert it in bash first: iconv -f UTF-16 -t UTF-8"),
    ],
)
def test_a_binary_file_is_not_read(root, data, message):
    (root / "a").write_bytes(data)
    assert error_of("a") == message


def test_a_missing_file_brings_names_like_it(root):
    (root / "src").mkdir()
    (root / "src" / "calc.py").write_text("")
    (root / "calk.py").write_text("")
    assert error_of("calc.py") == (
        "calc.py does not exist; paths start at the workspace. Did you mean src/calc.py or calk.py?"
    )


def test_a_directory_is_listed_within_bounds(root):
    (root / "d" / "sub").mkdir(parents=True)
    (root / "d" / "a\x1b[31m.txt").write_text("")
    assert read_file("d").text == "[d is a directory]\n'a\\x1b[31m.txt'\nsub/"
    for i in range(300):
        (root / "d" / f"f{i}").write_text("")
    lines = read_file("d").text.split("\n")
    assert len(lines) == 202 and lines[-1].startswith("[200 of 302 names")


def test_what_is_no_file_never_blocks(root):
    os.mkfifo("pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        assert error_of("pipe") == "pipe is a named pipe, not a text file."
        assert error_of("socket") == "socket is a socket, not a text file."
    assert error_of("/dev/zero") == "/dev/zero is a device, not a text file."


@pytest.mark.parametrize(
    ("path", "part"),
    [
        ("", "path is empty"),
        ("a\0b", "NUL"),
        ("~/x", "~/x is not expanded"),
        ("\ud800", "not valid Unicode"),
        ("x" * 5000, "File name too long"),
        ("loop", "Too many levels of symbolic links"),
    ],
)
def test_a_path_that_names_nothing_is_an_error(root, path, part):
    os.symlink("loop", "loop")
    assert part in error_of(path)


def test_the_seal_of_a_file_follows_its_bytes(root):
    (root / "a").write_text("1\n" * 1000)
    first = read_file("a", 1, 1).seal
    (root / "a").write_text("1\n" * 999 + "2\n")
    assert first and first != read_file("a", 1, 1).seal
