"""Under what a run works: what of it is told, what has changed, and files that are not what they were."""

from __future__ import annotations

import hashlib
import os
from importlib import metadata

import pytest

import a3b
from a3b.errors import UsageError
from a3b.evals import conditions as module
from a3b.evals.conditions import are_identities, changes, check_files, conditions, identity_of

SERVER = {"base_url": "http://127.0.0.1:1", "kind": "a3b", "version": "1", "identity": "abc"}


def test_packages_of_benchmarks_are_named_if_they_are_installed(monkeypatch):
    installed = {"inspect-ai": "0.3", "bfcl-eval": "2026.3.23", "numpy": "2"}

    def version(name):
        if name not in installed:
            raise metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(module.metadata, "version", version)
    found = module.versions()
    assert {name: found[name] for name in found if name not in ("a3b", "python", "commit")} == {
        "inspect-ai": "0.3",
        "bfcl-eval": "2026.3.23",
    }
    assert found["a3b"] == a3b.__version__


def test_conditions_name_the_processor_its_cores_and_how_many_cases_run_at_once(monkeypatch):
    monkeypatch.setattr(module, "processor_name", lambda: "A processor")
    found = conditions(SERVER, 4)
    assert (found["parallel"], found["server"], found["machine"]["processor"]) == (4, SERVER, "A processor")
    assert found["machine"]["cores"] >= 1
    monkeypatch.setattr(module, "processor_name", lambda: "")
    assert module.machine()["processor"] == os.uname().machine


def test_what_is_not_as_it_was_is_told_by_its_name_and_another_port_is_no_change():
    before, now = conditions(SERVER, 4), conditions({**SERVER, "base_url": "http://127.0.0.1:2", "identity": "d"}, 2)
    before["versions"] = {**before["versions"], "openai": "1"}
    now["versions"] = {**now["versions"], "openai": "2"}
    assert changes(before, now) == [
        "parallel was 4, is 2",
        "versions: openai was 1, is 2",
        "server: identity was abc, is d",
    ]
    assert changes(now, now) == []


def test_what_an_earlier_version_did_not_tell_is_no_change():
    now = conditions(SERVER, 4)
    assert changes({"server": {"kind": "a3b"}, "versions": {}, "machine": {"threads": None}}, now) == []
    assert changes({"server": 3}, now) == []


def test_a_file_is_known_by_its_size_and_sum_and_a_directory_or_a_pipe_by_its_path(tmp_path):
    file, pipe = tmp_path / "rows", tmp_path / "pipe"
    file.write_bytes(b"x" * 3_000_000)
    os.mkfifo(pipe)
    sum_of = hashlib.sha256(b"x" * 3_000_000).hexdigest()
    assert identity_of(file) == {"path": str(file), "bytes": 3_000_000, "sha256": sum_of}
    assert [identity_of(path) for path in (tmp_path, pipe)] == [{"path": str(tmp_path)}, {"path": str(pipe)}]


def test_a_file_that_is_not_what_it_was_is_told_with_both_sums(tmp_path):
    file = tmp_path / "rows"
    file.write_text("one")
    recorded = [identity_of(file), identity_of(tmp_path)]
    check_files(recorded, tmp_path)
    file.write_text("two")
    now = identity_of(file)["sha256"][:12]
    was = recorded[0]["sha256"][:12]
    with pytest.raises(UsageError, match=rf"rows is not the file .* SHA-256 {was}\.\.\., now it has .* {now}\.\.\."):
        check_files(recorded, tmp_path)
    file.unlink()
    with pytest.raises(UsageError, match="now it has no file"):
        check_files(recorded, tmp_path)


@pytest.mark.parametrize("value", [None, {}, [3], [{"bytes": 3}], [{"path": 3}]])
def test_what_has_another_form_is_no_list_of_files(value):
    assert not are_identities(value)
    assert are_identities([]) and are_identities([{"path": "x"}])
