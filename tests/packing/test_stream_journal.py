"""The journal of a model that is packed while it is fetched: what is read back, and what is not believed."""

from __future__ import annotations

import json

import pytest

from a3b.errors import UsageError
from a3b.kernels.sha256 import Sha256
from a3b.packing import stream_journal
from a3b.packing.intervals import Intervals
from a3b.packing.sparse_file import FileProgress
from a3b.packing.stream_journal import JOURNAL, StreamJournal


def written(part) -> StreamJournal:
    """A journal with a file of 1000 bytes, 100 of them in its checksum and 50 more here."""
    total = Sha256()
    total.update(bytes(100))
    progress = FileProgress("0" * 64, 1000, Intervals([(0, 100), (300, 350)]), 100, total.state, {0: 7})
    journal = StreamJournal(part / JOURNAL, "own/er", "1" * 40, "x", {"a.gguf": progress})
    journal.pieces, journal.tensors = {"t": {0: 5, 3: (1 << 32) - 1}}, {"u": "2" * 32}
    journal.save()
    return journal


def test_what_was_written_is_read(tmp_path):
    expected = written(tmp_path)
    found = StreamJournal.open(tmp_path, "own/er", "9" * 40)
    assert (found.commit, found.identity, found.tensors) == (expected.commit, "x", expected.tensors)
    assert found.pieces == expected.pieces and found.files["a.gguf"].sums == {0: 7}
    file = found.files["a.gguf"]
    assert (list(file.arrived), file.hashed, file.failures) == ([(0, 100), (300, 350)], 100, 0)
    assert file.state == expected.files["a.gguf"].state


CONTRADICTIONS = {
    "bytes behind the end": lambda file: file["arrived"].append([900, 1001]),
    "an interval backwards": lambda file: file["arrived"].append([500, 400]),
    "no numbers": lambda file: file["arrived"].append(["a", "b"]),
    "more in the checksum than is here": lambda file: file.update(hashed=101),
    "another checksum": lambda file: file.update(hashed=99),
    "half a state": lambda file: file.update(state=file["state"][:-2]),
    "no hex": lambda file: file.update(state="zz"),
    "a sum of more than 32 bits": lambda file: file.update(sums=[[0, 1 << 32]]),
    "a sum of nothing": lambda file: file.update(sums=[[-1, 0]]),
    "no files": lambda file: file.clear(),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_what_contradicts_itself_is_refused_even_with_the_right_checksum(tmp_path, name):
    written(tmp_path)
    value = json.loads((tmp_path / JOURNAL).read_text())
    del value["checksum"]
    CONTRADICTIONS[name](value["files"]["a.gguf"])
    value["checksum"] = stream_journal._checksum(value)
    (tmp_path / JOURNAL).write_text(json.dumps(value))
    with pytest.raises(UsageError, match="not readable .*; remove .* and pack again"):
        StreamJournal.open(tmp_path, "own/er", "9" * 40)


def test_another_repository_is_refused(tmp_path):
    written(tmp_path)
    with pytest.raises(UsageError, match="was begun from own/er"):
        StreamJournal.open(tmp_path, "some/other", "9" * 40)
