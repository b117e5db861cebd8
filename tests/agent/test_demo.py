"""The package of `a3b code --demo`: broken, mended by one line, and unknown to nano's training."""

from __future__ import annotations

import re
import subprocess
import sys

from a3b.agent import demo
from a3b.evals.families import fix
from a3b.evals.families.fix_package import TEST_HEAD, is_kept


def run(directory):
    return subprocess.run([sys.executable, "test.py"], cwd=directory, capture_output=True, text=True, check=False)


def mend(directory):
    path = directory / "book_list.py"
    path.write_text(path.read_text(encoding="utf-8").replace(demo.BROKEN, demo.MENDED), encoding="utf-8")


def test_the_demo_fails_in_one_function_until_its_line_is_mended(tmp_path):
    demo.write_demo(tmp_path)
    broken = run(tmp_path)
    assert broken.returncode == 1
    assert broken.stdout == "book_list.py: FAIL count_value([8, 2, 7, 9]): expected 3, got 1\n"
    assert demo.outcome(tmp_path) == "Not repaired; nothing was changed."
    mend(tmp_path)
    assert run(tmp_path).stdout == "ok\n"
    assert demo.outcome(tmp_path) == "book_list.py is repaired, and nothing else was changed."


def test_the_demo_tells_a_repair_that_changes_more(tmp_path):
    demo.write_demo(tmp_path)
    mend(tmp_path)
    (tmp_path / "test.py").write_text("print('ok')\n", encoding="utf-8")
    assert demo.outcome(tmp_path) == "Not repaired; changed: book_list.py, test.py."


def test_nothing_of_the_demo_occurs_in_training():
    assert demo.TASK in fix.ASK["test"]
    for path, text in demo.FILES.items():
        if path != "test.py":
            names = [path.removesuffix(".py"), *re.findall(r"def (\w+)", text), *re.findall(r'"""(.*)"""', text)]
            assert len(names) == 5 and all(is_kept(name, "test") for name in names)


def test_the_demo_has_the_test_script_of_training():
    cases = demo.FILES["test.py"].partition("CASES = [\n")[2].partition("\n]\n")[0]
    head = TEST_HEAD.format(imports="import book_list\nimport room_check", cases=cases)
    assert demo.FILES["test.py"] == head + demo.RUN_CASES
