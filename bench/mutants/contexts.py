"""Which tests execute which line: coverage contexts, collected once per test file and state of the sources.

In the collecting runs this module is also a plugin of pytest.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import coverage
import pytest

from bench.mutants.faults import Mutant, Places, digest

LEFT_OUT = re.compile(  # these read the sources, need other programs, or test what is not mutated
    "test_structure|test_clients|tests/bench|tests/nano|tests/kernels|test_tokenizer|test_fuzz_readers|test_pull|test_eval_quality"
    "|test_benchmarks|test_agreement|test_peer_schemas|test_string_terminals|test_template_sandbox"
)
TEST_SECONDS = 30.0  # of processor time per mutant; one that only further tests would notice counts as survived
HYPOTHESIS = "_hypothesis_pytestplugin"

SECONDS: dict[str, float] = defaultdict(float)
FAILED: set[str] = set()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Tells coverage which test runs, and counts the processor time that it and the processes it waits for take."""
    if (measuring := coverage.Coverage.current()) is not None:
        measuring.switch_context(item.nodeid)
    before = sum(os.times()[:4])
    try:
        return (yield)
    finally:
        SECONDS[test_of(item.nodeid)] += sum(os.times()[:4]) - before


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.failed:
        FAILED.add(test_of(report.nodeid))


def pytest_sessionfinish() -> None:
    times = {test: seconds for test, seconds in SECONDS.items() if test not in FAILED}
    Path(os.environ["MUTANTS_TIMES"]).write_text(json.dumps(times))


def test_of(context: str) -> str:
    """The test function that a context belongs to; for a process that a fixture of many tests started, their file."""
    name, _, phase = context.partition(" (")
    return name.split("::")[0] if phase.startswith("setup") else name.split("[")[0]


def environment_of(tree: Path, directory: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COV", "A3B_"))}
    chosen = {"PYTHONPATH": f"{tree}/src:{tree}", "TMPDIR": directory, "PYTHONHASHSEED": "0"}
    return kept | chosen | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # some plugins take seconds to import


def collect(tree: Path, test_file: Path, state: str, cache: Path) -> dict[str, Any]:
    """Run one test file under coverage, the processes it starts included, or return what the last such run found."""
    kept = cache / f"{digest(str(test_file))}.json"
    state = digest(state, (tree / test_file).read_text())
    if kept.exists() and (found := json.loads(kept.read_text()))["state"] == state:
        return dict(found)
    with tempfile.TemporaryDirectory(prefix="a3b-mutants-", ignore_cleanup_errors=True) as directory:
        settings, times = Path(directory, "rc"), Path(directory, "times")
        settings.write_text(
            f"[run]\ncore = ctrace\nparallel = true\ndata_file = {directory}/data\n"
            f"context = ${{PYTEST_CURRENT_TEST-}}\ninclude = {tree}/src/a3b/*\n"
        )
        environment = environment_of(tree, directory) | {
            "COVERAGE_PROCESS_START": str(settings),
            "MUTANTS_TIMES": str(times),
        }
        plugins = ["-p", "no:cacheprovider", "-p", HYPOTHESIS, "-p", "bench.mutants.contexts"]
        command = [sys.executable, "-m", "pytest", "-q", *plugins, str(test_file)]
        subprocess.run(command, cwd=tree, env=environment, capture_output=True, timeout=1800, check=False)
        lines: dict[str, dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
        for file in Path(directory).glob("data*"):
            with contextlib.suppress(coverage.CoverageException):  # a process that was killed while it wrote
                data = coverage.CoverageData(str(file))
                data.read()
                for source in data.measured_files():
                    for line, names in data.contexts_by_lineno(source).items():
                        lines[os.path.relpath(source, tree / "src/a3b")][line] |= {
                            test_of(name) for name in names if name
                        }
        seconds = json.loads(times.read_text()) if times.exists() else {}
    listed = {source: {line: sorted(names) for line, names in of.items() if names} for source, of in lines.items()}
    found = {"state": state, "seconds": seconds, "lines": listed}
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(found))
    print(f"{test_file}: {len(seconds)} tests, {sum(seconds.values()):.0f} s", flush=True)
    return dict(json.loads(json.dumps(found)))


def _any_of(names: set[str]) -> str:
    return rf"\b({'|'.join(map(re.escape, names))})\b"


class Tests:
    """Which tests a mutant meets, and in which order."""

    def __init__(self, tree: Path, cache: Path, jobs: int, pattern: str) -> None:
        helpers = [p for p in sorted(tree.glob("tests/**/*.py")) if not p.name.startswith("test_")]
        sources, support = (
            [path.read_text() for path in paths] for paths in (sorted(tree.glob("src/**/*.py")), helpers)
        )
        self.sources_state, state = digest(*sources), digest(*sources, *support)
        files = [path.relative_to(tree) for path in sorted(tree.glob("tests/**/test_*.py"))]
        files = [file for file in files if not LEFT_OUT.search(str(file)) and re.search(pattern, str(file))]
        with ThreadPoolExecutor(jobs) as pool:
            found = list(pool.map(lambda file: collect(tree, file, state, cache), files))
        self.states = {str(file): str(one["state"]) for file, one in zip(files, found, strict=True)}
        self.seconds: dict[str, float] = {test: s for one in found for test, s in one["seconds"].items()}
        self.lines: dict[str, dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
        for one in found:
            for source, lines in one["lines"].items():
                for line, tests in lines.items():
                    self.lines[source][int(line)] |= set(tests)
        self.sources = {source: (tree / "src/a3b" / source).read_text().splitlines() for source in self.lines}

    def of(self, mutant: Mutant, places: Places) -> dict[str, list[str]]:
        """By test file, the module's own first and then the fastest: the tests that fit into TEST_SECONDS."""
        lines, names = self.lines[mutant.path], places.names_at(mutant.lines)
        covering = set().union(*(lines[line] for line in mutant.lines))
        if names is not None:
            covering = self._naming(self._derived(names, mutant.path, places))
        by_file: dict[str, list[str]] = defaultdict(list)
        for test in sorted(self.seconds, key=lambda test: self.seconds[test]):
            if test in covering or test.split("::")[0] in covering:
                by_file[test.split("::")[0]].append(test)
        own = Path(mutant.path).with_suffix("").parts
        cost = {file: sum(self.seconds[test] for test in tests) for file, tests in by_file.items()}
        left, fitting = TEST_SECONDS, defaultdict(list)

        def distance(file: str) -> tuple[bool, bool, float]:
            of = Path(file).relative_to("tests")
            return of.stem.removeprefix("test_") not in own, of.parent != Path(mutant.path).parent, cost[file]

        for file in sorted(by_file, key=distance):
            for test in by_file[file]:
                if self.seconds[test] <= left:
                    left -= self.seconds[test]
                    fitting[file].append(test)
        return fitting

    def _derived(self, names: set[str], path: str, places: Places) -> set[str]:
        """These names, and those that the module defines with them, as patterns are built from parts."""
        source = self.sources.get(path, [])
        for line, defined in sorted(places.names.items()):
            if names and not defined <= names and re.search(_any_of(names), source[line - 1]):
                names = names | defined
        return names

    def _naming(self, names: set[str]) -> set[str]:
        """The tests that execute a line with one of these names."""
        if not names:
            return set()
        pattern = re.compile(_any_of(names))
        hits = (
            (source, i)
            for source, text in self.sources.items()
            for i, line in enumerate(text, 1)
            if pattern.search(line)
        )
        return set().union(*(self.lines[source][line] for source, line in hits))
