"""The official harness's verdict, with stand-ins for Docker and for swebench."""

from __future__ import annotations

import asyncio
import json
import sys

import pytest

from a3b.errors import UsageError
from a3b.evals.benchmarks.swebench.benchmark import check, places_of
from a3b.evals.benchmarks.swebench.docker import DockerHarness, find_docker
from a3b.evals.benchmarks.swebench.instances import load_instances
from a3b.evals.benchmarks.swebench.places import SweEnvironmentError
from a3b.evals.benchmarks.swebench.verdicts import EMPTY, NO_TIME, NOT_APPLIED, RESOLVED, UNRESOLVED
from a3b.evals.options import EvalOptions
from tests.evals.swebench.test_instances import ROW

HARNESS = """
import json, pathlib, sys
given = dict(zip(sys.argv[1::2], sys.argv[2::2]))
row = json.loads(pathlib.Path(given["--dataset_name"]).read_text())
one = json.loads(pathlib.Path(given["--predictions_path"]).read_text())
model = one["model_name_or_path"].replace("/", "__")
logs = pathlib.Path("logs/run_evaluation", given["--run_id"], model, row["instance_id"])
logs.mkdir(parents=True)
patch = one["model_patch"]
if patch in ("good", "bad"):
    tests = {"FAIL_TO_PASS": {"success": ["a"] if patch == "good" else [], "failure": [] if patch == "good" else ["a"]},
             "PASS_TO_PASS": {"success": ["c"], "failure": []}}
    report = {row["instance_id"]: {"resolved": patch == "good", "tests_status": tests}}
    (logs / "report.json").write_text(json.dumps(report))
elif patch == "broken":
    print("no image"); sys.exit(1)
else:
    (logs / "run_instance.log").write_text(patch)
"""


def program(path, text):
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture
def harness(tmp_path):
    """A harness that says what a patch asks it to."""
    (tmp_path / "harness.py").write_text(HARNESS)
    python = program(tmp_path / "python", f'#!/bin/sh\nshift 2\nexec {sys.executable} {tmp_path}/harness.py "$@"\n')
    return DockerHarness(str(python), tmp_path / "work", 60)


def instance(tmp_path):
    (tmp_path / "rows.json").write_text(json.dumps([ROW]))
    return load_instances(tmp_path / "rows.json")[0]


@pytest.mark.parametrize(
    ("patch", "outcome", "mended"),
    [
        ("good", RESOLVED, (1, 1)),
        ("bad", UNRESOLVED, (0, 1)),
        (">>>>> Patch Apply Failed:\nno", NOT_APPLIED, (0, 0)),
        ("Test timed out after 60 seconds.", NO_TIME, (0, 0)),
        (" ", EMPTY, (0, 0)),
    ],
)
def test_the_official_report_is_the_verdict(harness, tmp_path, patch, outcome, mended):
    found = asyncio.run(harness.judge(instance(tmp_path), patch, "org/model"))
    assert (found.outcome, found.fail_to_pass) == (outcome, mended)
    assert not list((tmp_path / "work").glob("docker/*"))


@pytest.mark.parametrize("patch", ["broken", "something else"])
def test_a_harness_without_a_verdict_is_an_error(harness, tmp_path, patch):
    with pytest.raises(SweEnvironmentError, match="gave no verdict"):
        asyncio.run(harness.judge(instance(tmp_path), patch, "m"))


def options_of(tmp_path, **extra):
    instance(tmp_path)
    return EvalOptions("", "m", tmp_path / "home", data=tmp_path / "rows.json", extra={"verdict": "official", **extra})


def test_docker_that_is_not_there_or_does_not_answer_is_said_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    options = options_of(tmp_path)
    with pytest.raises(UsageError, match="needs Docker, which is not on PATH"):
        find_docker(options, places_of(options), 60)
    program(tmp_path / "docker", "#!/bin/sh\necho Cannot connect to the Docker daemon\nexit 1\n")
    with pytest.raises(UsageError, match="does not answer: Cannot connect"):
        find_docker(options, places_of(options), 60)


def test_docker_without_swebench_says_how_to_install_it(tmp_path, monkeypatch):
    program(tmp_path / "docker", "#!/bin/sh\necho 27\n")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(UsageError, match=r"swebench, which .* does not have(.|\n)*pip install swebench"):
        check(options_of(tmp_path))
    harness = program(tmp_path / "python", "#!/bin/sh\nexit 0\n")
    check(options_of(tmp_path, harness=str(harness)))
