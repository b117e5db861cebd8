"""What edit replaces, and what it says when it does not."""

from __future__ import annotations

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from a3b.agent.tools.file_tool import FileToolError, edit_file, read_file
from a3b.agent.tools.replace import place_of

CALC = "import os\n\n\ndef add(a, b):\n    return a - b\n\n\ndef sub(a, b):\n    return a - b\n"


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "calc.py").write_text(CALC)
    return tmp_path


def error_of(*args, **keywords):
    with pytest.raises(FileToolError) as caught:
        edit_file(*args, **keywords)
    return str(caught.value)


def edited(before, old, new, name="a"):
    """(what is said, the bytes afterwards)"""
    with open(name, "wb") as file:
        file.write(before.encode() if isinstance(before, str) else before)
    said = edit_file(name, old, new).text
    with open(name, "rb") as file:
        return said, file.read()


@pytest.mark.slow  # waits for a clock of seconds
def test_python_takes_an_edit_within_the_same_second_for_new(root):
    """Its compiled files know a source by size and second."""
    for before, after in ("a - b", "a * b"), ("a * b", "a + b"):
        old = os.stat("calc.py")
        edit_file("calc.py", f"def add(a, b):\n    return {before}", f"def add(a, b):\n    return {after}")
        new = os.stat("calc.py")
        assert (new.st_size, int(new.st_mtime)) != (old.st_size, int(old.st_mtime))


def test_the_one_place_is_replaced_and_the_changed_line_said(root):
    outcome = edit_file("calc.py", "def add(a, b):\n    return a - b", "def add(a, b):\n    return a + b")
    assert outcome.text == "Edited calc.py, line 5."
    assert (root / "calc.py").read_text() == CALC.replace("- b", "+ b", 1)


def test_people_get_a_diff_with_true_line_numbers():
    outcome = edit_file("calc.py", "def sub(a, b):\n    return a - b", "def sub(a, b):\n    return a\n")
    assert "@@ -6,4 +6,5 @@" in outcome.diff
    assert "-    return a - b\n+    return a\n+" in outcome.diff


@pytest.mark.parametrize(
    ("before", "old", "new", "after"),
    [
        (b"a\r\nb\r\nc\r\n", "a\nb", "x\ny\nz", b"x\r\ny\r\nz\r\nc\r\n"),
        (b"a\r\nb\r\n", "b", "x\ny", b"a\r\nx\r\ny\r\n"),
        (b"a\nb\n", "a\r\nb", "x\r\ny", b"x\ny\n"),
        (b"\xef\xbb\xbfa\nb", "b", "c", b"\xef\xbb\xbfa\nc"),
        (b"a\nb", "a\nb", "c", b"c"),
        (b"caf\xe9 x\n", "x", "y", b"caf\xe9 y\n"),
        (b"a\0b" * 3000 + b"\n", "b", "c", None),
    ],
)
def test_line_ends_marks_and_foreign_bytes_stay(before, old, new, after):
    if after is None:
        with pytest.raises(FileToolError):
            edited(before, old, new)
    else:
        assert edited(before, old, new)[1] == after


def test_a_file_that_is_not_utf8_takes_only_ascii(root):
    (root / "a").write_bytes(b"caf\xe9 x\n")
    assert "not UTF-8" in error_of("a", "x", "é")


@pytest.mark.parametrize(
    ("before", "old", "new", "after", "said"),
    [
        (
            "\tif a:\n\t\tb\n",
            "    if a:\n        b",
            "    if a:\n        c\n        d",
            "\tif a:\n\t\tc\n\t\td\n",
            "tabs",
        ),
        ("  if a:\n    b\n", "\tif a:\n\t\tb", "\tif a:\n\t\tc", "  if a:\n    c\n", "spaces"),
        ("    a\n    b\n", "a\nb", "a\nif b:\n    c", "    a\n    if b:\n        c\n", "indentation"),
        ("a\nb\n", "    a\n    b", "    a\n    if b:\n        c", "a\nif b:\n    c\n", "indentation"),
        ("a  \nb\n", "a\nb", "c", "c\n", "blanks at line ends"),
        ("a\nb\n", "a \nb", "c", "c\n", "blanks at line ends"),
        ("a\nb", "a\nb\n", "c\n", "c", "blanks at line ends"),
        ("a \r\nb\r\n", "a\nb\n", "c\nd\n", "c\r\nd\r\n", "blanks at line ends"),
        ("x\na \ny\n", "a\n", "", "x\ny\n", "blanks at line ends"),
    ],
)
def test_what_differs_only_in_blanks_around_lines_is_replaced_and_said(before, old, new, after, said):
    text, data = edited(before, old, new)
    assert data.decode() == after
    assert said in text


@pytest.mark.parametrize(
    ("before", "old", "new"),
    [
        ("\tif a:\n\t\tb\n", "   if a:\n      b", "   if a:\n    c"),  # an indentation that is no multiple of a tab
        ("  a\n      b\n", "a\n  b", "a"),  # two lines that moved differently
        ("a = 1\n", "a  = 1", "a = 2"),  # blanks within a line
        ("\ta\n\ta\n", "    a\n", "    b\n"),  # two such places
        ("a\n", "    a", "b"),  # new lacks the indentation that would be taken away
    ],
)
def test_what_differs_in_other_blanks_is_left_alone(root, before, old, new):
    (root / "a").write_text(before)
    error_of("a", old, new)
    assert (root / "a").read_text() == before


def test_a_guess_that_breaks_the_syntax_is_not_made(root):
    (root / "a.py").write_text("def f():\n    if a:\n        b()\n")
    message = error_of("a.py", "if a:\n    b()", "if a:\nb()")
    assert message.startswith("old is in a.py only with other indentation")
    assert "Closest, lines 2-3:" in message
    assert (root / "a.py").read_text() == "def f():\n    if a:\n        b()\n"


def test_several_places_are_named(root):
    assert error_of("calc.py", "return a - b", "x") == (
        "old occurs 2 times in calc.py, in lines 5, 9. Take in lines around the one you mean, so that it occurs once."
    )


def test_places_that_overlap_are_several(root):
    (root / "a").write_text("aaa\n")
    assert "occurs 2 times" in error_of("a", "aa", "b")


def test_a_miss_shows_the_closest_lines_and_what_differs():
    assert error_of("calc.py", "def add(a, b):\n    return a + b", "x") == (
        "old is not in calc.py. Closest, lines 4-5:\n4: def add(a, b):\n5:     return a - b\n"
        "Line 5 differs, old has:     return a + b"
    )


def test_a_line_that_resembles_is_found_where_none_is_equal():
    assert "Closest, line 8:\n8: def sub(a, b):" in error_of("calc.py", "def subb(a, c):", "x")


def test_blanks_within_a_line_are_made_visible():
    assert error_of("calc.py", "def add(a,\tb):", "x").endswith(
        "Line 4 differs only in blanks (tab →, space ·):\nold:  def·add(a,→b):\nfile: def·add(a,·b):"
    )


@pytest.mark.parametrize(
    ("before", "old", "said"),
    [
        ("print('x')\n", "print(‘x’)", "old has ‘ (U+2018 LEFT SINGLE QUOTATION MARK), the file ' (U+0027 APOSTROPHE)"),
        ("a – b\n", "a - b", "old has - (U+002D HYPHEN-MINUS), the file – (U+2013 EN DASH)"),
        ("a\u00a0b\n", "a b", "the file \u00a0 (U+00A0 NO-BREAK SPACE)"),
        ("a b\n", "а b", "old has а (U+0430 CYRILLIC SMALL LETTER A), the file a (U+0061 LATIN SMALL LETTER A)"),
    ],
)
def test_characters_that_look_alike_are_named(root, before, old, said):
    (root / "a").write_text(before)
    assert said in error_of("a", old, "x")


@pytest.mark.parametrize(
    ("old", "said"),
    [
        ("4: def add(a, b):\n5:     return a - b", "without the line numbers"),
        ("4\tdef add(a, b):", "without the line numbers"),
        ("def add(a, b):\\n    return a - b", "real newlines"),
        ("", "old is empty"),
        ("qqqqqqqqqqqqqq", "Nothing in the file is close to it."),
        ("\n\n\n\n\n\n", "Nothing in the file is close to it."),
        ("def sub(a, b):\n    return a - b\n\n\ndef mul(a, b):", "old goes on beyond the end of the file."),
    ],
)
def test_the_usual_slips_are_told(old, said):
    assert said in error_of("calc.py", old, "x")


def test_a_file_that_changed_since_it_was_read_is_said(root):
    seal = read_file("calc.py").seal
    (root / "calc.py").write_text(CALC.replace("add", "plus"))
    assert error_of("calc.py", "def add", "def x", seal=seal).startswith(
        "calc.py has changed since you read it: read it again. old is not in calc.py."
    )
    assert edit_file("calc.py", "def sub", "def minus", seal=seal).text == (
        "Edited calc.py, line 8. It had changed since you read it."
    )


def test_old_and_new_have_to_differ():
    assert error_of("calc.py", "def add", "def add") == "old and new are the same text. Nothing was changed."


def test_a_huge_file_is_left_to_bash(root):
    with open("big", "wb") as file:
        file.truncate(17 << 20)
    assert "more than 16 MiB" in error_of("big", "a", "b")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "old"),
    [
        ("x = 1\n" * 300_000, "y = 1\n" * 3000),
        ("x" * 2_000_000, "y" * 1_000_000),
        ("ab " * 500_000, "ab " * 1000 + "c"),
        ("\n" * 1_000_000, "\n" * 1000 + "x"),
        ("".join(f"line {i} of many\n" for i in range(200_000)), "lime of manny\nlinne off man"),
        (" a\n" * 200_000, "a\n" * 1000),
    ],
)
def test_a_miss_in_a_huge_text_is_explained_in_bounded_time(text, old):
    with pytest.raises(FileToolError) as caught:
        place_of("a", text, old, "z")
    assert len(str(caught.value)) < 5000


@given(
    st.text(st.sampled_from("ab\t \n\r"), max_size=40), st.text(st.sampled_from("ab\t \n\r"), min_size=1, max_size=8)
)
@settings(max_examples=300)
def test_an_edit_changes_one_place_or_nothing(text, old):
    """All before and behind the place stays, and an exact single match is always taken."""
    starts = [i for i in range(len(text)) if text.startswith(old, i)]
    try:
        place = place_of("a", text, old, "NEW")
    except FileToolError as error:
        assert len(starts) != 1 and str(error)
    else:
        assert 0 <= place.start <= place.end <= len(text)
        assert len(starts) <= 1
        if starts:
            assert (place.start, place.end, place.new) == (starts[0], starts[0] + len(old), "NEW")
        else:  # it differs in nothing but blanks
            assert "".join(text[place.start : place.end].split()) == "".join(old.split())


def test_permissions_and_links_stay(root):
    os.chmod("calc.py", 0o700)
    os.symlink("calc.py", "link.py")
    edit_file("link.py", "import os", "import sys")
    assert os.path.islink("link.py") and os.stat("calc.py").st_mode & 0o777 == 0o700
