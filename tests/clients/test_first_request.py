"""A client shows what it sends first: twice, from two directories, on two days, with the user's settings."""

from __future__ import annotations

import json
import os
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from a3b.clients import first_request
from a3b.clients.first_request import ZONES, ClientError, Program, first_requests
from a3b.clients.setup import Client, Endpoint, JsonFile, Setup, Way
from tests.support.fake_clients import ASKING, FakeClient

pytestmark = pytest.mark.slow  # starts servers or commands, or computes for seconds

TERMINAL = f"""\
if not (os.isatty(0) and os.isatty(1)):
    sys.exit("no terminal")
import tty
tty.setcbreak(0)
sys.stdout.write("\\x1b[6n\\x1b[31mwelcome\\x1b[0m\\n")
sys.stdout.flush()
assert os.read(0, 1)
{ASKING}
import time
time.sleep(60)
"""


def setup(server: Endpoint, directory: Path) -> Setup:
    return Setup(
        environment={
            "ANTHROPIC_BASE_URL": server.url,
            "ANTHROPIC_AUTH_TOKEN": server.token,
            "OWN": str(directory),
        },
        files={"settings.json": JsonFile({"model": server.name}, {"theme": "dark"})},
    )


HEADLESS, SHOWN = Way("fake -p", ("hello",)), Way("terminal", ("hello",), terminal=True)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """The client's own directory, as earlier launches left it."""
    own = tmp_path / "a3b" / "fake"
    own.mkdir(parents=True)
    return own


def program(tmp_path: Path, then: str = ASKING, carried: tuple[str, ...] = ()) -> tuple[Program, FakeClient]:
    fake = FakeClient(tmp_path / "bin", "fake", then)
    client = Client("fake", "Fake", "fake", "pip install fake", setup, 100, "1", carried=carried)
    return Program(client, str(fake.path), {**os.environ, "HOME": str(tmp_path)}), fake


def test_two_requests_come_from_two_directories_on_two_days(tmp_path, own):
    one, two = first_requests(program(tmp_path)[0], HEADLESS, "m", 4096, own)
    assert one.path == two.path == "/v1/messages" and one.body["tools"] == two.body["tools"]
    assert one.body["system"] != two.body["system"]
    assert [ZONES[0] in one.body["system"], ZONES[1] in two.body["system"]] == [True, True]


def test_it_is_never_the_same_day_in_both_time_zones():
    for hour in range(24):
        then = datetime(2026, 11, 30, hour, 30, tzinfo=ZoneInfo("UTC"))
        assert len({then.astimezone(ZoneInfo(zone)).date() for zone in ZONES}) == 2


def test_a_client_that_wants_a_terminal_gets_one_and_is_ended_once_it_has_asked(tmp_path, own, monkeypatch):
    monkeypatch.setattr(first_request, "SETTLE_S", 0.1)
    (one, _) = first_requests(program(tmp_path, TERMINAL)[0], SHOWN, "m", 4096, own)
    assert one.body["messages"][0]["content"] == "hello"


def test_the_directories_are_gone_afterwards_and_the_client_s_own_is_as_before(tmp_path, own):
    made, fake = program(tmp_path)
    (own / "settings.json").write_text('{"theme": "light"}')
    first_requests(made, HEADLESS, "m", 4096, own)
    assert not Path(fake.record["cwd"]).exists() and not Path(fake.record["env"]["OWN"]).exists()
    assert [path.name for path in own.iterdir()] == ["settings.json"]
    assert (own / "settings.json").read_text() == '{"theme": "light"}'


def test_what_the_user_keeps_among_the_settings_is_there(tmp_path, own):
    """It may stand in the instructions."""
    shows = 'print(open(os.environ["OWN"] + "/settings.json").read(), os.listdir(os.environ["OWN"]), flush=True)\n'
    made, _ = program(tmp_path, shows + "sys.exit(1)", carried=("RULES.md", "skills", "absent"))
    (own / "settings.json").write_text('{"theme": "light", "mine": 1}')
    (own / "RULES.md").write_text("Be brief.")
    (own / "skills").mkdir()
    (own / "secrets").write_text("not carried")
    with pytest.raises(ClientError) as refused:
        first_requests(made, HEADLESS, "m", 4096, own)
    said = str(refused.value)
    assert '"theme": "light"' in said and '"mine": 1' in said and '"model": "m"' in said
    assert "RULES.md" in said and "skills" in said and "secrets" not in said


def test_the_request_with_the_instructions_is_the_one_with_the_most_tools(tmp_path, own):
    title = ASKING.replace('body["tools"] = [{"name": "look", "input_schema": {}}]', "").replace(
        'body["system"] = ', 'body["system"] = "x" * 5000 + '
    )
    (one, _) = first_requests(program(tmp_path, f"{title}\n{ASKING}\n{title}")[0], HEADLESS, "m", 4096, own)
    assert one.body["system"].startswith("Be brief.")


def test_a_client_that_asks_nothing_is_told_with_its_last_words_made_harmless(tmp_path, own):
    made, _ = program(tmp_path, "print('first')\nprint('please log in')\nsys.exit(1)")
    with pytest.raises(ClientError, match="Fake sent no request .*first / please log in"):
        first_requests(made, HEADLESS, "m", 4096, own)


def test_a_client_that_never_ends_is_ended(tmp_path, own, monkeypatch):
    monkeypatch.setattr(first_request, "WAIT_S", 0.5)
    monkeypatch.setattr(first_request, "END_S", 0.5)
    stubborn = "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(60)"
    made, fake = program(tmp_path, stubborn)
    with pytest.raises(ClientError, match="last words: none"):
        first_requests(made, HEADLESS, "m", 4096, own)
    assert fake.was_started


def test_a_program_that_is_none_is_named(tmp_path, own):
    made, fake = program(tmp_path)
    fake.path.write_text("no program")
    with pytest.raises(ClientError, match=str(fake.path)):
        first_requests(made, HEADLESS, "m", 4096, own)


def test_large_things_among_the_settings_are_not_carried(tmp_path, own, monkeypatch):
    monkeypatch.setattr(first_request, "MAX_CARRIED", 100)
    shows = 'print(os.listdir(os.environ["OWN"]))\nsys.exit(1)'
    made, _ = program(tmp_path, shows, carried=("skills",))
    (own / "skills").mkdir()
    (own / "skills" / "large").write_text("x" * 1000)
    with pytest.raises(ClientError) as refused:
        first_requests(made, HEADLESS, "m", 4096, own)
    assert "settings.json" in str(refused.value) and "skills" not in str(refused.value)


def test_json_settings_join_what_is_there_and_what_is_needed():
    file = JsonFile({"a": {"list": [1], "x": 1}}, {"a": {"y": 2}, "b": 1})
    found = {"a": {"list": [2, 1], "x": 9, "y": 3}, "c": None}
    assert file.merged(found) == {"a": {"list": [2, 1], "x": 1, "y": 3}, "b": 1, "c": None}
    assert json.loads(json.dumps(file.merged({}))) == {"a": {"list": [1], "x": 1, "y": 2}, "b": 1}
