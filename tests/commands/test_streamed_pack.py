"""`a3b pack OWNER/NAME`: what is packed while it arrives is what packing the downloaded files gives, whatever
breaks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from a3b.cli import main
from a3b.formats.packed import verify
from a3b.hub import download
from a3b.packing import conductor, sparse_file, stream
from tests.support.hub_fixture import fake_hub
from tests.support.hub_server import COMMIT, REPO
from tests.support.streamed_packs import (
    CHUNK,
    KINDS,
    NAME,
    RANGE,
    bf16,
    fp8_in_shards,
    in_shards,
    journal,
    local_pack,
    one_gguf,
    packed_files,
    run_killed,
    serve,
    take_small_steps,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("hub_session"),
]  # starts servers or commands, or computes for seconds

SHARD = "model-00002-of-00003.safetensors"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    take_small_steps(monkeypatch)
    yield from fake_hub(monkeypatch, tmp_path, {})


@pytest.fixture
def shards(hub, tmp_path):
    """A model in three shards on the hub, and what packing it gives."""
    fp8_in_shards(tmp_path / NAME)
    serve(hub, tmp_path / NAME)
    return local_pack(tmp_path / NAME)


def begin(hub) -> None:
    """A run that was killed when a few tensors were complete."""
    assert run_killed(hub, "journal", "save", 3, "pack", REPO, "streamed") == -9


def pack(capsys, *options: str) -> tuple[int, str]:
    status = main(["pack", REPO, "streamed", *options])
    err = capsys.readouterr().err
    assert "Traceback" not in err
    return status, err


def refused(capsys, *options: str, status: int = 1) -> str:
    """The line of a refusal."""
    found, err = pack(capsys, *options)
    assert found == status, err
    return err.splitlines()[-1]


@pytest.mark.parametrize("write", KINDS)
def test_the_result_is_that_of_packing_the_downloaded_files(hub, tmp_path, write):
    write(tmp_path / NAME)
    serve(hub, tmp_path / NAME)
    assert main(["pack", REPO, "streamed"]) == 0
    assert packed_files("streamed") == local_pack(tmp_path / NAME)
    assert not Path("streamed.part").exists() and verify("streamed") == []


KILLS = (
    ("os", "pwrite", 3),
    ("os", "pwrite", 60),
    ("os", "fsync", 2),
    ("os", "replace", 8),
    ("sparse_file", "punch", 1),
    ("journal", "save", 20),
    ("os", "rename", 0),
    ("shutil", "rmtree", 0),
)


@pytest.mark.parametrize(("place", "call", "after"), KILLS, ids=lambda value: str(value))
def test_a_kill_at_any_moment_is_continued(hub, shards, capsys, place, call, after):
    assert run_killed(hub, place, call, after, "pack", REPO, "streamed") == -9
    assert pack(capsys)[0] == 0
    assert packed_files("streamed") == shards and not Path("streamed.part").exists()


def test_a_directory_that_only_lacked_cleaning_is_not_that_of_another_request(hub, shards, capsys):
    assert run_killed(hub, "shutil", "rmtree", 0, "pack", REPO, "streamed") == -9
    assert "exists; give a new directory" in refused(capsys, "--preset", "fast", status=2)
    assert packed_files("streamed") == shards


def test_many_kills_lose_little(hub, shards, capsys):
    kills = 0
    while run_killed(hub, "journal", "save", 5, "pack", REPO, "streamed") == -9:
        kills += 1
        assert kills < 60
    assert kills and packed_files("streamed") == shards
    sent = sum(1 for method, path, _ in hub.requests if method == "GET" and path.endswith(".safetensors"))
    size = sum(len(body) for path, body in hub.files.items() if path.endswith(".safetensors"))
    assert sent < 3 * (size / RANGE + 3 * kills)  # no run began again


def test_broken_connections_are_continued(hub, shards, capsys):
    hub.break_after[SHARD] = [20_000] * (3 * download.NUM_ATTEMPTS)
    assert pack(capsys)[0] == 0
    assert packed_files("streamed") == shards


def test_a_server_that_goes_away_leaves_what_has_arrived(hub, shards, capsys):
    calls = []

    def gone(path: str, start: int):
        calls.append(start)
        return (503, {}) if len(calls) > 10 else None

    hub.on_get = gone
    assert "then run the same command: it continues where it stopped" in refused(capsys)
    assert sum(len(file["arrived"]) for file in journal()["files"].values())
    hub.on_get = lambda path, start: None
    assert "GB of it here" in pack(capsys)[1]
    assert packed_files("streamed") == shards


def test_a_server_without_ranges_is_read_in_one_stream(hub, shards, capsys):
    hub.ignores_range = True
    assert pack(capsys)[0] == 0
    assert packed_files("streamed") == shards
    assert len(hub.got(SHARD)) <= 8  # a header, the first range of each connection, then one for the rest


@pytest.mark.parametrize("place", [0, -1], ids=["in the header", "in a number"])
def test_wrong_bytes_are_fetched_again(hub, shards, capsys, place):
    good, gets = hub.files[SHARD], []
    at = good.index(b"F8_E4M3") if place == 0 else len(good) - 20
    bad = good[:at] + (b"F8_E5M2" if place == 0 else b"\x7f" * 7) + good[at + 7 :]
    hub.bodies[SHARD] = bad if place else good

    def heals(path: str, start: int) -> None:
        gets.extend([start] if path == SHARD else [])
        if gets.count(0) > 1:  # the first is for the header
            hub.bodies[SHARD] = good

    hub.on_get = heals
    if place == 0:
        hub.bodies[SHARD] = bad
        assert "F8_E5M2" in refused(capsys)  # a header is judged as it comes; nothing stays
        hub.bodies[SHARD] = good
        assert not Path("streamed.part").exists()
    status, err = pack(capsys)
    assert status == 0 and packed_files("streamed") == shards
    assert place == 0 or f"{SHARD}: its sha256 is" in err


def test_a_checksum_that_is_wrong_twice_removes_the_result_and_names_the_file(hub, shards, capsys):
    good = hub.files[SHARD]
    hub.bodies[SHARD] = good[:-20] + bytes(20)
    line = refused(capsys)
    assert SHARD in line and "twice" in line and "removed" in line
    assert not Path("streamed.part").exists() and not Path("streamed").exists()


def test_a_kill_after_a_wrong_checksum_is_continued(hub, shards, capsys):
    good = hub.files[SHARD]
    hub.bodies[SHARD] = good[:-20] + bytes(20)
    assert run_killed(hub, "file", "empty", 0, "pack", REPO, "streamed") == -9
    assert {name: file["failures"] for name, file in journal()["files"].items() if file["failures"]} == {SHARD: 1}
    del hub.bodies[SHARD]
    assert pack(capsys)[0] == 0
    assert packed_files("streamed") == shards


def test_a_number_that_cannot_be_is_named_once_the_file_is_known_to_be_right(hub, tmp_path, capsys):
    bf16(tmp_path / NAME)
    in_shards(tmp_path / NAME, 3)
    file = tmp_path / NAME / SHARD
    file.write_bytes(file.read_bytes()[:-2] + b"\xc0\x7f")
    serve(hub, tmp_path / NAME)
    line = refused(capsys)
    assert "holds nan" in line and not Path("streamed").exists()
    assert refused(capsys) == line


DAMAGES = (
    (lambda text: text[:-3], "not readable"),
    (lambda text: "[" * 100_000, "not readable"),
    (lambda text: "{}", "not readable"),
    (lambda text: text.replace('"hashed": ', '"hashed": 1'), "checksum is wrong"),
    (lambda text: text.replace('"version": 2', '"version": 1'), "checksum is wrong"),
)


def test_a_damaged_journal_is_refused_with_the_next_step(hub, shards, capsys):
    begin(hub)
    path = Path("streamed.part/stream.json")
    text = path.read_text()
    for damage, says in DAMAGES:
        path.write_text(damage(text))
        line = refused(capsys, status=2)
        assert says in line and "remove" in line and "pack again" in line


@pytest.mark.parametrize("what", ["a packed byte", "a packed file", "a source"])
def test_what_was_damaged_meanwhile_is_fetched_again(hub, shards, capsys, what):
    begin(hub)
    part = Path("streamed.part")
    assert journal()["tensors"]
    [packed] = part.glob("*.safetensors")
    source = next((part / "source").rglob(SHARD))
    if what == "a packed byte":
        name = next(iter(journal()["tensors"]))
        header = json.loads(packed.read_bytes()[8 : 8 + int.from_bytes(packed.read_bytes()[:8], "little")])
        at = header[name]["data_offsets"][0] + 8 + int.from_bytes(packed.read_bytes()[:8], "little")
        with open(packed, "r+b") as file:
            file.seek(at)
            file.write(b"\xff\xfe\xfd")
    else:
        (packed if what == "a packed file" else source).unlink()
    assert pack(capsys)[0] == 0
    assert packed_files("streamed") == shards


def flip(path: Path, places: list[int]) -> None:
    body = bytearray(path.read_bytes())
    for at in places:
        body[at] ^= 1
    path.write_bytes(body)


def test_bytes_that_wait_and_are_in_the_checksum_already_are_fetched_again_if_they_changed(hub, shards, capsys):
    begin(hub)
    for name, file in journal()["files"].items():
        body, [path] = hub.files[name], Path("streamed.part/source").rglob(name)
        header = 8 + int.from_bytes(body[:8], "little")
        hashed = [i for start, stop in file["arrived"] for i in range(max(start, header), min(stop, file["hashed"]))]
        here = path.read_bytes()
        flip(path, [i for i in hashed[::500] if here[i] == body[i] != 0])
    status, err = pack(capsys)
    assert status == 0 and "packed or waits is damaged" in err and packed_files("streamed") == shards


def test_packed_pieces_of_a_tensor_that_is_not_complete_are_made_again_if_they_changed(hub, shards, capsys):
    for kills in range(40):
        assert run_killed(hub, "os", "pwrite", 20 + kills, "pack", REPO, "streamed") == -9
        if pieces := journal()["pieces"] if Path("streamed.part/stream.json").exists() else None:
            break
    [packed] = Path("streamed.part").glob("*.safetensors")
    body = packed.read_bytes()
    end = 8 + int.from_bytes(body[:8], "little")
    header = json.loads(body[8:end])
    name = next(name for name, sums in pieces.items() if sums and sums[0][0] == 0)
    flip(packed, [end + header[name]["data_offsets"][0]])
    status, err = pack(capsys)
    assert status == 0 and "packed or waits is damaged" in err and packed_files("streamed") == shards


def test_two_processes_do_not_pack_into_one_directory(hub, shards, capsys):
    with stream.StreamedPack.open(Path("streamed").resolve(), REPO, COMMIT):
        assert "another process is packing into it" in refused(capsys, status=2)


def test_a_new_commit_with_the_same_weights_is_continued(hub, shards, capsys):
    begin(hub)
    hub.commit, hub.files["README.md"] = "f" * 40, b"# New\n"
    assert "GB of it here" in pack(capsys)[1]
    assert packed_files("streamed") == shards


def test_a_new_commit_with_other_weights_is_refused_with_both_ways_on(hub, shards, capsys):
    begin(hub)
    hub.commit, hub.files[SHARD] = "f" * 40, hub.files[SHARD][:-1] + b"\1"
    line = refused(capsys, status=2)
    assert SHARD in line and f"--revision {COMMIT}" in line and "remove" in line


def test_another_preset_than_that_of_the_run_before_is_refused(hub, shards, capsys):
    begin(hub)
    assert "was begun with other options" in refused(capsys, "--preset", "fast", status=2)


def test_a_full_disk_is_said_and_continued(hub, shards, capsys, monkeypatch):
    calls, pwrite = [], sparse_file.os.pwrite

    def full(handle, data, at):
        calls.append(at)
        if len(calls) > 30:
            raise OSError(28, "No space left on device")
        return pwrite(handle, data, at)

    monkeypatch.setattr(sparse_file.os, "pwrite", full)
    assert "No space left on device; make room, then run the same command again" in refused(capsys)
    monkeypatch.setattr(sparse_file.os, "pwrite", pwrite)
    assert pack(capsys)[0] == 0
    assert packed_files("streamed") == shards


def test_an_interruption_says_how_much_is_there(hub, shards, capsys, monkeypatch):
    monkeypatch.setattr(conductor.Conductor, "_balance", _interrupted)
    status, err = pack(capsys)
    assert status == 130 and "the same command continues from there" in err
    assert Path("streamed.part/stream.json").exists()


def _interrupted(self: conductor.Conductor) -> None:
    raise KeyboardInterrupt


def test_connections_wait_while_too_much_is_held(hub, tmp_path, monkeypatch, capsys):
    one_gguf(tmp_path / NAME)
    serve(hub, tmp_path / NAME)
    monkeypatch.setattr(stream, "RESERVE", 700_000)
    monkeypatch.setattr(conductor, "MARGIN", 0)
    held = []
    commit = conductor.Conductor._commit

    def watched(self) -> None:
        held.append(sum(file.num_present for file in self.files) * CHUNK)
        commit(self)

    monkeypatch.setattr(conductor.Conductor, "_commit", watched)
    assert pack(capsys)[0] == 0
    size = sum(map(len, hub.files.values()))
    assert max(held) < 1_000_000 + 4 * RANGE + 32 * 5_000 < size / 2  # 0.3 MB must be held
    assert packed_files("streamed") == local_pack(tmp_path / NAME)
