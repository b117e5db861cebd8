"""A small package with a bug, for `a3b code --demo`: a scratch directory in which the embedded model repairs it.

The command writes the files of `write_demo` into an empty directory, opens a session there with `TOOLS` at
temperature 0 on a server of nano, runs the task that `write_demo` returns, and says with `outcome` what became of it.
Names and texts of the package occur nowhere in nano's training. Enter at `write_demo`."""

from __future__ import annotations

from pathlib import Path

MODEL = "nano"
TOOLS = ("read", "edit", "bash")
TASK = "Please fix the bug so that all tests pass."
BROKEN, MENDED = "        if value < 6:\n", "        if value > 6:\n"
RUN_CASES = """\
failed = set()
for function, args, expected in CASES:
    if function in failed:
        continue
    try:
        got = repr(function(*args))
    except Exception as error:
        got = type(error).__name__
    if got != repr(expected):
        failed.add(function)
        call = ", ".join(map(repr, args))
        print(f"{function.__module__}.py: FAIL {function.__name__}({call}): expected {expected!r}, got {got}")
if not failed:
    print("ok")
sys.exit(1 if failed else 0)
"""  # prints a line for each function that fails, as in nano's training
FILES = {
    "book_list.py": f'''def best_value(prices):
    """Return the largest of prices."""
    best = prices[0]
    for value in prices:
        if value > best:
            best = value
    return best


def count_value(prices):
    """Return how many prices are above 6."""
    total = 0
    for value in prices:
{BROKEN}            total += 1
    return total
''',
    "room_check.py": '''def is_user(age):
    """Return whether age is at least 6."""
    return age >= 6


def get_page(amount, price):
    """Return amount times price."""
    return amount * price
''',
    "test.py": """import sys

sys.dont_write_bytecode = True
import book_list
import room_check

CASES = [
    (book_list.best_value, ([3, 9, 4],), 9),
    (book_list.count_value, ([8, 2, 7, 9],), 3),
    (book_list.count_value, ([1, 12],), 1),
    (room_check.is_user, (6,), True),
    (room_check.is_user, (5,), False),
    (room_check.get_page, (3, 4), 12),
]

"""
    + RUN_CASES,
}


def write_demo(directory: Path) -> str:
    """Writes the package into an existing directory; returns the task. Raises OSError."""
    for name, text in FILES.items():
        (directory / name).write_text(text, encoding="utf-8")
    return TASK


def outcome(directory: Path) -> str:
    """What became of the package, in a line for people; nothing of it is executed. Raises OSError."""
    wanted = {**FILES, "book_list.py": FILES["book_list.py"].replace(BROKEN, MENDED)}
    found = {path.name: path.read_text(encoding="utf-8", errors="replace") for path in directory.glob("*.py")}
    changed = [name for name, text in FILES.items() if found.get(name) != text]
    if found == wanted:
        return "book_list.py is repaired, and nothing else was changed."
    return f"Not repaired; changed: {', '.join(changed)}." if changed else "Not repaired; nothing was changed."
