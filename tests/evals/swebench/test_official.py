"""What is asked of swebench's sources: specifications and parsers, without the packages that it imports."""

from __future__ import annotations

import json

import pytest

from a3b.errors import UsageError
from a3b.evals.benchmarks.swebench import official
from a3b.evals.benchmarks.swebench.instances import load_instances
from a3b.evals.benchmarks.swebench.official import OfficialTable, pytest_statuses
from a3b.evals.benchmarks.swebench.places import SweEnvironmentError, SwePlaces
from tests.evals.swebench.test_instances import ROW

CONSTANTS = """
MAP_REPO_VERSION_TO_SPECS_PY = {"acme/words": {
    "1.1": {"python": "3.9", "packages": "numpy=1.2 'scipy<2' mpmath", "install": "pip install -e .",
            "pip_packages": ["six==1.0"], "pre_install": ["true"], "test_cmd": "pytest -rA"},
    "2.0": {"python": "3.9", "packages": "environment.yml", "test_cmd": ["build", "pytest -rA"]},
    "3.0": {"python": "3.9", "packages": "requirements.txt", "test_cmd": "pytest -rA"},
}}
MAP_REPO_TO_REQS_PATHS = {"acme/words": ["dev.txt"]}
"""
PARSERS = """
from swebench.harness.test_spec.test_spec import TestSpec
def parse(log, test_spec: TestSpec):
    if "hang" in log: raise MemoryError("no")
    return {line.split()[1]: line.split()[0] for line in log.split("\\n") if line.startswith("PASSED")}
MAP_REPO_TO_PARSER_PY = {"acme/words": parse}
"""


@pytest.fixture
def table(tmp_path):
    """A table over sources whose packages must not be imported."""
    found = OfficialTable(SwePlaces(tmp_path))
    root = tmp_path / f"swebench-{official.VERSION}" / "swebench"
    (root / "harness" / "constants").mkdir(parents=True)
    (root / "harness" / "log_parsers").mkdir()
    for package in (root, root / "harness", root / "harness" / "log_parsers"):
        (package / "__init__.py").write_text("import docker_that_is_not_there\n")
    (root / "harness" / "constants" / "__init__.py").write_text("")
    (root / "harness" / "constants" / "python.py").write_text(CONSTANTS)
    (root / "harness" / "log_parsers" / "python.py").write_text(PARSERS)
    return found


def instance(tmp_path, **changes):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([ROW | changes]), encoding="utf-8")
    return load_instances(path)[0]


def test_a_specification_is_read_without_importing_what_swebench_imports(table, tmp_path):
    spec = table.spec(instance(tmp_path))
    assert (spec.python, spec.packages, spec.pip_packages) == (
        "3.9",
        ("numpy==1.2", "scipy<2", "mpmath"),
        ("six==1.0",),
    )
    assert (spec.install, spec.pre_install, spec.test) == ("pip install -e .", ("true",), "pytest -rA")
    assert not spec.needs_conda and spec.requirements == ()


def test_requirements_and_conda_s_files_are_told_apart(table, tmp_path):
    assert table.spec(instance(tmp_path, version="2.0")).needs_conda
    assert table.spec(instance(tmp_path, version="2.0")).test == "pytest -rA"
    assert table.spec(instance(tmp_path, version="3.0")).requirements == ("dev.txt",)


def test_a_version_that_the_table_lacks_is_refused_with_those_that_it_has(table, tmp_path):
    with pytest.raises(UsageError, match=r"no specification of acme/words 9.9; it knows 1\.1, 2\.0, 3\.0"):
        table.spec(instance(tmp_path, version="9.9"))


def test_logs_are_read_by_the_repository_s_parser(table, tmp_path):
    log = "noise\nPASSED a::b\n" + "x" * 1_000_000 + "\nPASSED c\n\udcff\n"
    assert table.statuses(instance(tmp_path), log) == {"a::b": "PASSED", "c": "PASSED"}


def test_a_parser_that_breaks_is_an_error_with_its_last_lines(table, tmp_path):
    with pytest.raises(SweEnvironmentError, match="MemoryError: no"):
        table.statuses(instance(tmp_path), "hang")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({}, "spec needs python"),
        ({"python": "3.11", "test": "x", "docker": 1}, "spec has docker; expected of python"),
        ({"python": "3.11", "test": "x", "packages": "six"}, "packages in spec is no list"),
        ({"python": 3.11, "test": "x"}, "python in spec is no text"),
        ({"python": "3.11; rm", "test": "x"}, "spec needs python"),
        ({"python": "3.11", "test": "x", "parser": "y"}, "spec needs python"),
    ],
    ids=str,
)
def test_an_own_specification_is_checked(table, tmp_path, spec, message):
    with pytest.raises(UsageError, match=message):
        table.spec(instance(tmp_path, spec=spec))


def test_lines_of_pytest_say_what_became_of_each_test():
    log = "PASSED a.py::b[x y]\nFAILED a.py::c - assert 1 == 2\nSKIPPED [1] a.py:3: no\nERROR a.py::d\n"
    log += "XFAIL a.py::e\nPASSEDx\n"
    assert pytest_statuses(log) == {
        "a.py::b[x y]": "PASSED",
        "a.py::c": "FAILED",
        "a.py::d": "ERROR",
        "a.py::e": "XFAIL",
    }
