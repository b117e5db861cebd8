"""What each option of `a3b serve` does to the server, and where its sessions are kept."""

from __future__ import annotations

import os
import resource
import socket
import stat
from argparse import Namespace
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest

from a3b import __version__, cli
from a3b.cache.disk_store import Store
from a3b.cache.identity import cache_identity
from a3b.cache.index_database import INDEX
from a3b.commands import cache_directories, serve
from a3b.engine.engine import Engine, nano_directory
from a3b.errors import UsageError
from a3b.formats.packed import MANIFEST
from a3b.server.limits import MiB
from tests.support.options import options_of

pytestmark = pytest.mark.slow  # starts servers or commands, or computes for seconds


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine.load()


@pytest.fixture
def started(engine, monkeypatch, tmp_path):
    """Everything that `a3b serve` made, just before it would listen, for some options."""
    monkeypatch.setenv("A3B_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "keys").write_text("c\nd\n")
    made: dict[str, object] = {}

    def note(name, call):
        def noted(*args, **kwargs):
            made[name] = value = call(*args, **kwargs)
            made[name, "given"] = (args, kwargs)
            return value

        return noted

    class Server:
        def __init__(self, config):
            made["config"] = config

        def run(self, sockets):
            made["sockets"] = sockets

    def start(*options, fails=False):
        made.clear()
        status = cli.main(["serve", *options])
        assert status in ((1, 2) if fails else (0,))
        if (given := made.get(("build", "given"))) and (trace := given[0][3]):
            stack.callback(trace.close)
        made["sessions"] = made.get("open_store") and made["open_store"].directory
        return SimpleNamespace(**{key: value for key, value in made.items() if isinstance(key, str)}, made=made)

    def bound(host, port):
        made["address"] = (host, port)
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        return stack.enter_context(sock)

    for name in ("open_store", "build", "responses", "create_app", "secret"):
        monkeypatch.setattr(serve, name, note(name, getattr(serve, name)))
    for name in ("Scheduler", "PrefixCache", "TurnMemory"):
        monkeypatch.setattr(serve, name, note(name, getattr(serve, name)))
    monkeypatch.setattr(serve, "load", note("load", lambda args: engine))
    monkeypatch.setattr(serve, "bound", bound)
    monkeypatch.setattr(serve.signal, "signal", lambda *_: None)
    monkeypatch.setattr(serve.logs, "configure_logging", lambda level: made.update(level=level))
    monkeypatch.setattr("uvicorn.Server", Server)
    with ExitStack() as stack:
        yield start


def app(server):
    return server.made["create_app", "given"][0][1]


def test_health_says_what_computes_and_with_which_weights(started, engine):
    model = engine.model
    identity = cache_identity(engine.config, nano_directory(), model.kv, model.isa, mtp=model.mtp is not None)
    about = {"version": __version__, "instruction_set": model.isa, "kv": "q8", "preset": "not packed"}
    health = started().build.health()
    assert about | {"identity": identity.hex()} == {name: health[name] for name in (*about, "identity")}


@pytest.mark.parametrize(("preset", "said"), [("fast", "fast"), (None, "own types")])
def test_health_says_the_preset_of_packed_weights(engine, tmp_path, monkeypatch, preset, said):
    (tmp_path / MANIFEST).touch()
    monkeypatch.setattr(serve.Manifest, "read", lambda directory: SimpleNamespace(preset=preset))
    assert serve.told_of(engine, tmp_path, b"1")["preset"] == said


EFFECTS = [  # options, what of the server, its value; without the options it is another
    ("--session-days 2", lambda s: s.open_store.max_age_s, 2 * 86400),
    ("--cache-disk 3G", lambda s: s.open_store.max_bytes, 3 << 30),
    ("--cache-ram 300M", lambda s: s.made["PrefixCache", "given"][0][2], 300 << 20),
    ("--cache-ram 0", lambda s: s.made["PrefixCache", "given"][0][2], 0),
    ("--cache-dir own", lambda s: s.sessions, Path("own")),
    (
        "--cache-dir own --cache-disk 3G --session-days 2",
        lambda s: (s.open_store.max_bytes, s.open_store.max_age_s),
        (3 << 30, 2 * 86400),
    ),
    ("--parallel 2", lambda s: s.Scheduler.max_active, 2),
    ("--queue 7", lambda s: s.Scheduler.max_waiting, 7),
    ("--verify-cache 5", lambda s: s.Scheduler.verify_every, 5),
    ("--drafts off", lambda s: s.Scheduler.drafts, False),
    ("--no-persist", lambda s: s.sessions, None),
    ("--no-persist", lambda s: s.made["PrefixCache", "given"][0][3], None),
    (
        "--no-persist-thinking",
        lambda s: s.made["responses", "given"][0][1] is not None and s.responses.recorder._records,
        None,
    ),
    ("--no-persist-thinking", lambda s: s.made["TurnMemory", "given"][0], (None,)),
    ("--no-persist-thinking", lambda s: s.build.settings.persist_thinking, False),
    ("--preserve-thinking none", lambda s: s.build.settings.policy, "none"),
    ("--no-think", lambda s: s.build.settings.think, False),
    ("--thinking-budget 1k", lambda s: s.build.settings.thinking_budget, 1024),
    ("--task-thinking-budget 2k", lambda s: s.build.settings.task_budget, 2048),
    ("--exact-dates", lambda s: s.build.settings.exact_dates, True),
    ("--max-body 1M", lambda s: app(s).max_body_bytes, MiB),
    ("--max-body 64M", lambda s: (app(s).limits.all_bodies_bytes, app(s).limits.drain_bytes), (512 * MiB, 256 * MiB)),
    ("--max-connections 20", lambda s: app(s).limits.connections, 20),
    ("--api-key a --api-key b", lambda s: app(s).api_keys, ("a", "b")),
    ("--api-key a --api-key-file keys", lambda s: app(s).api_keys, ("a", "c", "d")),
    ("--trace given", lambda s: getattr(s.made["build", "given"][0][3], "name", None), "given"),
    ("--allow-host Box.lan:8080 --allow-host [::2]:1", lambda s: app(s).hosts, ("box.lan", "::2")),
    (
        "--allow-origin HTTPS://chat.example:443/ --allow-origin *",
        lambda s: app(s).cors_origins,
        ("https://chat.example", "*"),
    ),
    ("--host 127.0.0.2", lambda s: (app(s).host, s.address[0]), ("127.0.0.2", "127.0.0.2")),
    ("--host 0.0.0.0", lambda s: app(s).limits.per_peer, 250),
    ("--port 0", lambda s: s.address[1], 0),
    ("--log-level error", lambda s: s.level, "error"),
    ("--context 2k", lambda s: s.made["load", "given"][0][0].context, 2048),
    ("--yes", lambda s: s.made["load", "given"][0][0].yes, True),  # test_up has what it does
]


@pytest.mark.parametrize(
    ("options", "what", "value"), EFFECTS, ids=[f"{i} {options}" for i, (options, *_) in enumerate(EFFECTS)]
)
def test_an_option_has_its_effect(options, what, value, started):
    plain = what(started())
    assert (what(started(*options.split())), plain == value) == (value, False)


def test_every_option_has_an_effect_in_the_table():
    words = {word.partition("=")[0] for options, *_ in EFFECTS for word in options.split() if word.startswith("--")}
    assert words == options_of(cli.build_parser())["serve"]


@pytest.mark.parametrize(
    ("name", "value", "what", "found"),
    [
        ("A3B_HOST", "127.0.0.3", lambda s: s.address[0], "127.0.0.3"),
        ("A3B_PORT", "9999", lambda s: s.address[1], 9999),
        ("A3B_API_KEY", "a, b", lambda s: app(s).api_keys, ("a", "b")),
        ("A3B_ALLOW_HOST", "x,y", lambda s: app(s).hosts, ("x", "y")),
        ("A3B_ALLOW_ORIGIN", "http://x", lambda s: app(s).cors_origins, ("http://x",)),
        ("A3B_LOG_LEVEL", "debug", lambda s: s.level, "debug"),
        ("A3B_DRAFTS", "off", lambda s: s.Scheduler.drafts, False),
    ],
)
def test_a_variable_has_the_same_effect(name, value, what, found, started, monkeypatch):
    monkeypatch.setenv(name, value)
    assert what(started()) == found


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("--allow-host http://x", "--allow-host 'http://x': expected a name"),
        ("--allow-origin x", "--allow-origin 'x': expected SCHEME://HOST"),
        ("--allow-origin https://x/path", "expected SCHEME://HOST"),
        ("--api-key=", "an API key is empty"),
        ("--preserve-thinking some", "some"),
        ("--api-key-file /nonexistent", "--api-key-file"),
    ],
)
def test_a_wrong_value_is_refused_by_the_name_of_its_option(options, told, started, capsys):
    started(*options.split(), fails=True)
    assert told in capsys.readouterr().err


# -- files of its own


def test_the_secret_is_this_users_alone_and_stays(started):
    server = started()
    path = server.sessions / "secret"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and path.read_bytes() == server.secret
    assert started().secret == server.secret != started("--no-persist").secret


def test_the_secret_is_private_before_it_has_its_name(tmp_path, monkeypatch):
    modes, rename = [], Path.rename

    def renamed(path, target):
        modes.append(stat.S_IMODE(path.stat().st_mode))
        return rename(path, target)

    with Store(tmp_path / "kept") as store:
        monkeypatch.setattr(Path, "rename", renamed)
        serve.secret(store)
    assert modes == [0o600]


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path)])
def test_what_is_no_file_is_no_secret(make, tmp_path):
    with Store(tmp_path / "kept") as store:
        make(store.directory / "secret")
        with pytest.raises(UsageError, match="secret: .*remove it"):
            serve.secret(store)


def test_a_wrong_secret_is_reported_before_anything_runs(started, capsys):
    (started().sessions / "secret").write_bytes(b"short")
    assert "build" not in started(fails=True).made and "5 bytes; expected 32" in capsys.readouterr().err


def test_a_trace_is_this_users_alone_whatever_it_was(tmp_path):
    path = tmp_path / "trace"
    path.touch(0o644)
    serve.opened(str(path)).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_no_trace(make, tmp_path):
    make(tmp_path / "trace")
    with pytest.raises(UsageError, match="--trace .*: .*; give a writable file"):
        serve.opened(str(tmp_path / "trace"))


def test_more_connections_than_files_are_reported_and_cut(monkeypatch, capsys):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 400))
    raised = []
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: raised.append(limits))
    limits = serve.limits(Namespace(max_connections=1000, max_body=MiB, host="127.0.0.1"))
    assert (raised, limits.connections) == ([(400, 400)], 144)
    assert "144 connections instead of 1000, as 400 files may be open" in capsys.readouterr().err


# -- the model, and where its sessions lie


def test_a_missing_model_is_reported_before_any_lock(started, tmp_path, capsys):
    with Store(cache_directories.root(str(tmp_path)) / "a3b-nano"):
        started(str(tmp_path / "nothing"), fails=True)
        assert "nothing' is not a directory" in capsys.readouterr().err
        (tmp_path / "empty").mkdir()
        started(str(tmp_path / "empty"), fails=True)
    assert "config.json: not found" in capsys.readouterr().err


def test_a_locked_directory_is_refused_with_the_option_that_helps(started, tmp_path, capsys):
    with Store(tmp_path / "own"):
        started("--cache-dir", str(tmp_path / "own"), fails=True)
    err = capsys.readouterr().err
    assert f"in use by the server with process id {os.getpid()}" in err and "--cache-dir" in err


def test_a_model_has_a_directory_of_its_own(started, tmp_path):
    assert started().sessions == tmp_path / "sessions" / "a3b-nano"
    for parent in ("one", "two"):
        (tmp_path / parent / "packed").mkdir(parents=True)
    one, same, two = (
        cache_directories.name_of(str(tmp_path / name)) for name in ("one/packed", "two/../one/packed", "two/packed")
    )
    assert one == same != two and one.startswith("packed-")


def test_servers_of_the_same_model_get_one_each_and_find_it_again(started, tmp_path):
    parent = tmp_path / "sessions"
    with Store(parent / "a3b-nano"):
        assert started("--port", "8081").sessions == parent / "a3b-nano.8081"
        assert started("--port", "0").sessions == parent / "a3b-nano.2"
        with Store(parent / "a3b-nano.2"):
            assert started("--port", "0").sessions == parent / "a3b-nano.3"
    assert started("--port", "8081").sessions == parent / "a3b-nano.8081"  # whoever starts first
    assert started("--port", "8082").sessions == parent / "a3b-nano"


def test_the_directory_of_earlier_versions_goes_on_being_used(started, tmp_path):
    parent = tmp_path / "sessions"
    Store(parent).close()
    assert started().sessions == parent
    with Store(parent):
        assert started().sessions == parent / "a3b-nano"


@pytest.mark.parametrize("argv", ["list --json", "list", "verify", "prune --max-bytes 1", "forget ab"])
def test_a_damaged_directory_among_others_is_reported(argv, started, tmp_path, capsys):
    for name in ("one", "two"):
        Store(tmp_path / "sessions" / name).close()
    (tmp_path / "sessions" / "one" / INDEX).write_bytes(b"nonsense" * 1000)
    assert cli.main(["cache", *argv.split(), "--dir", str(tmp_path / "sessions")]) in (1, 2)
    assert "sessions/one" in capsys.readouterr().err


def test_the_parent_of_all_sessions_is_this_users_alone(started, tmp_path):
    started()
    assert stat.S_IMODE((tmp_path / "sessions").stat().st_mode) == 0o700


@pytest.mark.parametrize("name", ["...", "a b", "\x1b[2J", "ü" * 200])
def test_a_model_of_any_name_gets_a_plain_directory(name, tmp_path):
    path = tmp_path / name[:80]
    path.mkdir()
    found = cache_directories.name_of(str(path))
    assert (
        found.isascii() and "/" not in found and not found.startswith(".") and len(found) < 80 and found.isprintable()
    )


def test_keys_of_a_file_are_its_lines_after_those_of_the_command_line_each_once(tmp_path):
    file = tmp_path / "keys"
    file.write_text(" file-a \n\nfile-b\nkey\n")
    args = Namespace(api_key=["key"], api_key_file=str(file), runtime=SimpleNamespace(api_key=("variable",)))
    assert serve.api_keys(args) == ("key", "file-a", "file-b")
    args.api_key, args.api_key_file = None, None
    assert serve.api_keys(args) == ("variable",)


def test_a_trace_goes_on_after_what_is_in_the_file(tmp_path):
    for text in ("one\n", "two\n"):
        with serve.opened(str(tmp_path / "trace")) as file:
            file.write(text)
    assert (tmp_path / "trace").read_text() == "one\ntwo\n"
