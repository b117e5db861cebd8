"""The tool that plants faults: which it plants, which it leaves out, and how accepted survivors are known again."""

from __future__ import annotations

import pytest

pytest.importorskip("mutmut", reason="pip install '.[mutants]'")

from bench.mutants import __main__ as mutants
from bench.mutants.faults import Places, mutants_of

CODE = '''"""A module."""

LIMIT = 3
PATTERN = f"x{LIMIT}"


class Door:
    width: int = LIMIT

    def close(self, hard: bool = False) -> str:
        """Close it."""
        log.info("closing %s", 1)
        if self.is_open:
            self.bolt(hard, encoding="utf-8")
        if self.width < LIMIT:
            raise ValueError(f"too narrow by {LIMIT - self.width} metres")
        return "closed" if hard | True else "the door is closed"

    @property
    def is_open(self) -> bool:
        return not self.x

    def __repr__(self) -> str:
        return "Door" + "!"
'''


@pytest.fixture(scope="module")
def changes() -> dict[str, set[str]]:
    """Each original line: the lines that mutants have in its place."""
    found: dict[str, set[str]] = {}
    for mutant in mutants_of("door.py", CODE):
        was, now = mutant.change
        found.setdefault(was, set()).add(now)
    return found


def test_boundaries_constants_calls_and_conditions_are_changed(changes):
    assert "LIMIT = 4" in changes["LIMIT = 3"]
    assert "if self.width <= LIMIT:" in changes["if self.width < LIMIT:"]
    assert {"pass", 'self.bolt(None, encoding="utf-8")'} <= changes['self.bolt(hard, encoding="utf-8")']
    assert changes["if self.is_open:"] == {"if not (self.is_open):"}
    assert "return self.x" in changes["return not self.x"]


def test_texts_for_people_logs_annotations_and_idle_arguments_are_left_alone(changes):
    assert not any(
        "log.info" in was or "Door" in was or was.startswith(('"""', "def", "class"))
        for was in changes.keys() - {"def close(self, hard: bool = False) -> str:"}
    )
    assert not any(
        now.startswith("raise ValueError(None") or "XXthe door" in now for many in changes.values() for now in many
    )
    assert not any('encoding="XX' in now or now == "self.bolt(hard)" for many in changes.values() for now in many)


def test_each_mutant_knows_its_function_and_the_lines_of_its_statement():
    one = next(mutant for mutant in mutants_of("door.py", CODE) if mutant.change[1] == "if self.width <= LIMIT:")
    assert (one.path, one.function, list(one.lines)) == ("door.py", "Door.close", [15])
    assert one.text == CODE.replace("self.width < LIMIT", "self.width <= LIMIT")


def test_what_runs_at_import_is_known_by_the_names_that_it_defines():
    places = Places(CODE)
    assert places.names_at(range(3, 4)) == {"LIMIT"} and places.names_at(range(8, 9)) == {"width"}
    assert places.names_at(range(15, 16)) is None and places.function[15] == "Door.close"


def test_a_survivor_that_is_listed_is_known_again(tmp_path, monkeypatch):
    listed = [m for m in mutants_of("door.py", CODE) if "|" in m.change[0] or m.change[1] == "pass"]
    table = tmp_path / "mutants.md"
    table.write_text("".join(f"{mutants.row_of(mutant)}a reason |\n" for mutant in listed))
    monkeypatch.setattr(mutants, "ACCEPTED", table)
    assert len(listed) > 2 and mutants.accepted() == [[m.path, m.function, *m.change] for m in listed]
    (tmp_path / "door.py").write_text(CODE)
    assert mutants.gone(tmp_path) == []
    (tmp_path / "door.py").write_text(CODE.replace("self.bolt", "self.lock"))
    assert mutants.gone(tmp_path) == ['door.py Door.close: self.bolt(hard, encoding="utf-8")']


def test_every_group_has_files_and_no_file_is_in_two():
    groups = mutants.files_of(mutants.ROOT / "src/a3b")
    paths = [path for paths in groups.values() for path in paths]
    assert len(paths) == len(set(paths)) and all(groups.values())
