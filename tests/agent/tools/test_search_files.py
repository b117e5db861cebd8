"""Search finds the same with ripgrep and without."""

from __future__ import annotations

import os

import pytest

from a3b.agent.tools import search_files as search_module
from a3b.agent.tools.files import search_program
from a3b.agent.tools.search_files import search_files
from a3b.agent.tools.text_file import FileToolError

RG = search_program()


@pytest.fixture(autouse=True)
def tree(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files = {
        "src/a.py": "foo(1)\nbar\n",
        "src/sub/b.py": "foo(2)\n",
        "build/c.py": "foo(3)\n",
        ".git/config": "foo(4)\n",
        ".github/w.yml": "foo(5)\n",
        "d.log": "foo(6)\n",
        "src/.gitignore": "local.*\n!local.keep\n/sub/only.py\n",
        "src/local.txt": "foo(7)\n",
        "src/local.keep": "foo(8)\n",
        "src/sub/only.py": "foo(9)\n",
        ".gitignore": "build/\n*.log\n",
        "binary": "foo\0",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    os.symlink("src/a.py", "link.py")
    return tmp_path


@pytest.fixture(params=[RG, ""], ids=["ripgrep", "python"])
def rg(request):
    if request.param == "" or os.access(request.param, os.X_OK):
        return request.param
    raise AssertionError("no ripgrep here")


def found(rg, *args, **keywords):
    *lines, count = search_files(*args, rg=rg, **keywords).split("\n")
    return sorted(lines), count


def test_ignored_files_and_git_itself_are_left_out_but_not_hidden_files(rg):
    assert found(rg, "foo") == (
        [".github/w.yml:1: foo(5)", "src/a.py:1: foo(1)", "src/local.keep:1: foo(8)", "src/sub/b.py:1: foo(2)"],
        "[4 matches]",
    )


def test_ignore_rules_hold_below_the_directory_that_is_searched(rg):
    (count := found(rg, "foo", "src"))
    assert count == (["src/a.py:1: foo(1)", "src/local.keep:1: foo(8)", "src/sub/b.py:1: foo(2)"], "[3 matches]")


@pytest.mark.parametrize(
    ("glob", "names"),
    [
        ("*.py", ["src/a.py", "src/sub/b.py"]),
        ("src/*.py", ["src/a.py"]),
        ("./src/**/*.py", ["src/a.py", "src/sub/b.py"]),
        ("**/sub/**", ["src/sub/b.py"]),
        ("*.{yml,keep}", [".github/w.yml", "src/local.keep"]),
        ("[ab].py", ["src/a.py", "src/sub/b.py"]),
        ("[!a].py", ["src/sub/b.py"]),
        ("?.py", ["src/a.py", "src/sub/b.py"]),
        ("!*.py", [".github/w.yml", "src/local.keep"]),
    ],
)
def test_a_glob_chooses_files(rg, glob, names):
    lines, _ = found(rg, "foo", glob=glob)
    assert [line.partition(":")[0] for line in lines] == names


def test_a_file_can_be_searched_and_an_absolute_path(rg, tree):
    assert found(rg, "ba[r]", "src/a.py") == (["src/a.py:2: bar"], "[1 match]")
    assert found(rg, "bar", str(tree / "src"))[0] == [f"{tree}/src/a.py:2: bar"]


def test_matches_are_shown_up_to_a_hundred_and_all_counted(rg, tree):
    (tree / "many").write_text("foo\n" * 1234)
    lines, count = found(rg, "foo", "many")
    assert len(lines) == 100 and count == "[100 of 1,234 matches; narrow pattern, path or glob]"


def test_counting_ends_somewhere(rg, tree, monkeypatch):
    monkeypatch.setattr(search_module, "MAX_COUNTED", 500)
    (tree / "many").write_text("foo\n" * 5000)
    assert "of at least 500 matches" in found(rg, "foo", "many")[1]


def test_a_long_line_is_cut(rg, tree):
    (tree / "long").write_text("foo" + "x" * 1_000_000)
    lines, _ = found(rg, "foo", "long")
    assert len(lines[0]) < 400


def test_a_line_that_is_not_utf8_is_found(rg, tree):
    (tree / "latin").write_bytes(b"foo caf\xe9\n")
    assert found(rg, "foo", "latin")[0] == ["latin:1: foo caf�"]


def test_nothing_found_is_said(rg):
    assert search_files("nothing", rg=rg) == "[no matches]"


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("foo(",), "To find the text itself, search for foo\\("),
        (("a{1000000000}{1000000000}",), "pattern is no regex"),
        (("foo", "scr"), "scr does not exist; paths start at the workspace. Did you mean src?"),
        (("a\nb",), "one line"),
        (("",), "one line"),
        (("foo", "pipe"), "neither a file nor a directory"),
        (("foo", "~/x"), "not expanded"),
    ],
)
def test_what_cannot_be_searched_is_explained(rg, arguments, part):
    os.mkfifo("pipe")
    with pytest.raises(FileToolError) as caught:
        search_files(*arguments, rg=rg)
    assert part in str(caught.value)


def test_pipes_and_loops_on_the_way_are_no_trouble(rg, tree):
    os.mkfifo("src/pipe")
    os.symlink("..", "src/up")
    assert found(rg, "foo", "src")[1] == "[3 matches]"


def test_a_search_that_takes_too_long_says_that_it_is_not_complete(tree, monkeypatch):
    monkeypatch.setattr(search_module, "SECONDS", -1)
    assert search_files("nothing").startswith("[no matches in ")
