"""`a3b pull` from a hub that breaks off, is busy, sends other bytes or goes away."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from a3b.cli import main
from a3b.hub import client, download
from a3b.hub.client import TransientFailure, _first_position
from tests.support.hub_fixture import fake_hub
from tests.support.hub_server import COMMIT, REPO
from tests.support.pulling import SHARD, WANTED, here, model_files, noise, parts, pull, refused

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("hub_session"),
]  # starts servers or commands, or computes for seconds


@pytest.fixture
def hub(monkeypatch, tmp_path):
    yield from fake_hub(monkeypatch, tmp_path, model_files())


def test_many_breaks_are_no_failure_while_bytes_still_come(capsys, hub):
    hub.break_after[SHARD] = [3000] * (3 * download.NUM_ATTEMPTS)
    assert pull(capsys, REPO)[0] == 0
    assert here() == {name: hub.files[name] for name in WANTED}
    assert len(hub.got(SHARD)) > 2 * download.NUM_ATTEMPTS


@pytest.mark.parametrize("content_range", ["", "bytes 6-9/10", "bytes 4-9/10", "bytes */10", "bits 5-9/10"])
def test_another_part_of_a_file_than_was_asked_for_is_not_taken(content_range):
    def answer(status: int, content_range: str) -> SimpleNamespace:
        return SimpleNamespace(status_code=status, headers={"Content-Range": content_range} if content_range else {})

    assert _first_position(answer(206, "bytes 5-9/10"), 5) == 5
    assert _first_position(answer(200, ""), 5) == 0  # from the beginning, as the status says
    with pytest.raises(TransientFailure, match="a different part of the file"):
        _first_position(answer(206, content_range), 5)


def test_a_connection_that_breaks_is_continued_where_it_broke(capsys, hub):
    hub.break_after[SHARD] = [30_000, 0, 1, 20_000]
    status, err = pull(capsys, REPO)
    assert status == 0 and here()[SHARD] == hub.files[SHARD]
    assert hub.got(SHARD) == [0, 30_000, 30_000, 30_001, 50_001]
    assert "next attempt in" in err


def test_a_server_that_cannot_continue_is_read_from_the_start(capsys, hub):
    hub.break_after[SHARD] = [30_000]
    hub.ignores_range = True
    assert pull(capsys, REPO)[0] == 0
    assert here()[SHARD] == hub.files[SHARD]


@pytest.mark.parametrize("breaks", [[30_000], [30_000, 10_000]])
def test_a_server_that_cannot_continue_and_never_gets_further_is_not_asked_for_ever(capsys, hub, breaks):
    hub.break_after[SHARD] = breaks * (download.NUM_ATTEMPTS + 5)
    hub.ignores_range = True
    assert "cannot be reached" in refused(capsys, REPO)
    assert len(hub.got(SHARD)) == download.NUM_ATTEMPTS


def test_a_server_that_goes_away_leaves_a_part_that_the_next_pull_continues(capsys, hub):
    hub.break_after[SHARD] = [30_000] + [0] * (download.NUM_ATTEMPTS - 1)
    line = refused(capsys, REPO)
    assert "cannot be reached" in line and "continues where it stopped" in line
    assert SHARD not in here() and hub.files[SHARD][:30_000] in parts()
    assert pull(capsys, REPO)[0] == 0
    assert here() == {name: hub.files[name] for name in WANTED} and parts() == []
    assert hub.got(SHARD)[-1] == 30_000


def test_a_part_of_another_version_is_not_continued(capsys, hub):
    hub.break_after[SHARD] = [30_000] + [0] * (download.NUM_ATTEMPTS - 1)
    refused(capsys, REPO)
    hub.files[SHARD] = noise("new version", 65_000)
    hub.requests.clear()
    assert pull(capsys, REPO)[0] == 0
    assert hub.got(SHARD) == [0] and here()[SHARD] == hub.files[SHARD] and parts() == []


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_is_asked_again(capsys, hub, status):
    answers = [(status, {"Retry-After": "0"}), (status, {})]
    hub.on_get = lambda path, start: answers.pop() if path == SHARD and answers else None
    code, err = pull(capsys, REPO)
    assert code == 0 and len(hub.got(SHARD)) == 3 and f"HTTP {status}; next attempt" in err


def test_a_pause_that_is_no_number_of_seconds_is_our_own(capsys, hub, pauses):
    answers = ["soon", "Wed, 21 Oct 2026 07:28:00 GMT", "\xb2"]
    hub.on_get = lambda path, start: (503, {"Retry-After": answers.pop()}) if path == SHARD and answers else None
    assert pull(capsys, REPO)[0] == 0
    assert pauses == [download.FIRST_WAIT_S * times for times in (1, 2, 4)]


@pytest.fixture
def pauses(monkeypatch):
    """Seconds between attempts; the test waits for none of them."""
    asked: list[float] = []

    class Hurried(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            asked.append(timeout)
            return self.is_set()

    monkeypatch.setattr(download, "threading", SimpleNamespace(**{**vars(threading), "Event": Hurried}))
    return asked


def test_pauses_become_longer_until_bytes_come_again(capsys, hub, pauses):
    hub.break_after[SHARD] = [0, 0, 0, 10, 0]
    assert pull(capsys, REPO)[0] == 0
    first = download.FIRST_WAIT_S
    assert pauses == [first, 2 * first, 4 * first, first, 2 * first]


def test_a_server_that_wants_a_long_pause_is_reported(capsys, hub, pauses):
    hub.on_get = lambda path, start: (429, {"Retry-After": "3600"})
    assert "HTTP 429" in refused(capsys, REPO) and pauses == []
    hub.on_list = lambda: (429, {"Retry-After": "300"})
    line = refused(capsys, REPO)
    assert "run the same command in 300 s; with HF_TOKEN the limit is higher" in line


def test_wrong_bytes_never_get_the_name_of_the_file(capsys, hub):
    hub.bodies[SHARD] = noise("wrong", 70_000)
    line = refused(capsys, REPO)
    wrong, right = (hashlib.sha256(data).hexdigest() for data in (hub.bodies[SHARD], hub.files[SHARD]))
    assert f"its sha256 is {wrong}, the hub says {right}" in line
    assert len(hub.got(SHARD)) == 2 and SHARD not in here() and noise("wrong", 70_000) not in parts()
    hub.bodies.clear()
    assert pull(capsys, REPO)[0] == 0 and here()[SHARD] == hub.files[SHARD]


def test_wrong_bytes_of_a_small_file_are_noticed_too(capsys, hub):
    hub.bodies["README.md"] = b"# a MODEL\n"
    assert "its git-sha1 is" in refused(capsys, REPO)


def test_a_part_that_went_bad_is_fetched_anew(capsys, hub):
    hub.break_after[SHARD] = [30_000] + [0] * (download.NUM_ATTEMPTS - 1)
    refused(capsys, REPO)
    (part,) = (p for p in (Path("Model-1B") / download.INNER).glob("*.part") if SHARD in p.name)
    part.write_bytes(b"x" + part.read_bytes()[1:])
    assert pull(capsys, REPO)[0] == 0
    assert hub.got(SHARD)[-2:] == [30_000, 0] and here()[SHARD] == hub.files[SHARD]


def test_ctrl_c_leaves_a_download_that_the_same_command_continues(capsys, hub, tmp_path):
    hub.files[SHARD] = noise("long", 3_000_000)
    hub.break_after[SHARD] = [2_500_000]
    answers = [None, (503, {"Retry-After": "50"})]
    hub.on_get = lambda path, start: answers.pop(0) if path == SHARD and answers else None
    env = {**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_TELEMETRY": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "a3b.cli", "pull", REPO], env=env, stderr=subprocess.PIPE, text=True
    )
    for line in process.stderr:
        if "next attempt in 50 s" in line:
            break
    start = time.monotonic()
    process.send_signal(signal.SIGINT)
    err = process.communicate(timeout=20)[1]
    assert process.returncode == 130 and "the same command continues from there" in err and "Traceback" not in err
    assert time.monotonic() - start < 5
    assert len(parts()[-1]) >= 2_000_000 and SHARD not in here()
    assert pull(capsys, REPO)[0] == 0
    assert here()[SHARD] == hub.files[SHARD] and hub.got(SHARD)[-1] >= 2_000_000


def test_a_list_of_files_that_does_not_end_is_given_up(hub, monkeypatch, capsys):
    monkeypatch.setattr(client, "MAX_LISTING_BYTES", 1 << 20)
    hub.listing = {"id": REPO, "sha": COMMIT, "siblings": [], "padding": "x" * (2 << 20)}
    assert main(["pull", REPO]) == 1
    assert "the hub's list of its files does not end within 1 MiB" in capsys.readouterr().err


def test_a_list_of_files_that_comes_too_slowly_is_given_up(hub, monkeypatch, capsys):
    monkeypatch.setattr(client, "LISTING_S", -1.0)
    assert main(["pull", REPO]) == 1
    assert "the hub's list of its files does not end" in capsys.readouterr().err
