"""The programs in examples/ run on the embedded model, and their output has the shape that they promise."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys

import pytest

from tests.support.paths import ROOT

pytestmark = pytest.mark.slow  # loads the embedded model many times

EXAMPLES = ROOT / "examples"
SHAPES = {
    "chat.py": r"> Think of two .*\n.+\n\n> And the other number\?\n.+\n\n[1-9]\d* of \d+ tokens of the last prompt",
    "stream_thinking.py": r"(\x1b\[2m.+\x1b\[0m)+.+\n\d+ tokens, [1-9]\d* of them thinking\n",
    "tools_loop.py": r"get\(\{'key': 'a1b2'\}\) = c3d4\nget\(\{'key': 'c3d4'\}\) = e5f6\n.*e5f6",
    "many_at_once.py": r"(> .+\n.+ \(\d+ tokens\)\n){5}",
}


def test_there_is_no_example_without_a_test():
    assert {path.name for path in EXAMPLES.glob("*.py")} == {*SHAPES, "structured_output.py"}


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_an_example_is_short(path):
    assert len(path.read_text().splitlines()) < 45


@pytest.mark.parametrize("name", SHAPES)
def test_an_example_prints_what_it_promises(name, capsys):
    runpy.run_path(str(EXAMPLES / name))["main"]()
    assert re.match(SHAPES[name], capsys.readouterr().out, re.DOTALL)


def test_the_structured_example_prints_json_of_its_schema(capsys):
    runpy.run_path(str(EXAMPLES / "structured_output.py"))["main"]()
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"language", "lines"} and found["language"] in ("python", "c++", "none")


def test_the_package_runs_as_a_module():
    done = subprocess.run([sys.executable, "-m", "a3b", "--version"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stdout.startswith("a3b ")
