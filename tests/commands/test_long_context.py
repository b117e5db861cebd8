"""Beyond the native context: announced by whatever loads or starts a model, never mixed with native states, and said of
a conversation that goes on with other positions."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import a3b
from a3b.cache.disk_store import Store
from a3b.cache.identity import cache_identity
from a3b.cli import build_parser, main
from a3b.commands import client_server
from a3b.commands.server_answers import ServedModel
from a3b.commands.stored_otherwise import read_otherwise
from a3b.engine.engine import Engine, nano_directory
from a3b.engine.local import local_service
from a3b.errors import UsageError
from a3b.interface.request import Request
from a3b.settings import RuntimeConfig

pytestmark = pytest.mark.slow  # starts servers or commands, or computes for seconds

SAID = "YaRN factor 2"
QUESTION = [{"role": "user", "content": "What are you? " * 12}]


def engine_for(context: int | None) -> Engine:
    return Engine.load(context=context)


@contextmanager
def serving(engine: Engine, directory: Path):
    """A service over sessions on disk."""
    model = engine.model
    identity = cache_identity(engine.config, nano_directory(), model.kv, model.isa, mtp=model.mtp is not None)
    with Store(directory) as store:
        service = local_service(engine, store=store, identity=identity)
        try:
            yield service, store
        finally:
            service.close()


def ask(engine: Engine, directory: Path):
    """(usage, text) of one greedy answer."""
    with serving(engine, directory) as (service, store):
        events = list(service.answer(Request(messages=QUESTION, sampling={"temperature": 0.0, "max_tokens": 12})))
        assert store.flush()
    return events[-1].usage


def test_a_state_is_never_used_under_another_scaling_and_the_miss_says_why(tmp_path):
    native, scaled = engine_for(None), engine_for(16384)
    assert ask(native, tmp_path).cache.miss == "new"
    assert ask(native, tmp_path).cached_tokens > 0
    first = ask(scaled, tmp_path)
    assert (first.cached_tokens, first.cache.miss) == (0, "settings")
    assert ask(scaled, tmp_path).cached_tokens > 0
    assert ask(native, tmp_path).cached_tokens > 0  # its own are still there
    other = ask(engine_for(32768), tmp_path)
    assert (other.cached_tokens, other.cache.miss) == (0, "settings")


def test_a_yarn_store_is_not_used_natively(tmp_path):
    assert ask(engine_for(16384), tmp_path).cache.miss == "new"
    first = ask(engine_for(8192), tmp_path)
    assert (first.cached_tokens, first.cache.miss) == (0, "settings")


def test_a_server_says_how_many_conversations_were_read_otherwise(tmp_path):
    native, scaled = engine_for(None), engine_for(16384)
    ask(native, tmp_path)
    with Store(tmp_path) as store:
        for engine, lines in ((scaled, 1), (native, 0)):
            found = list(read_otherwise(engine, nano_directory(), store))
            assert len(found) == lines
        (line,) = read_otherwise(scaled, nano_directory(), store)
        assert line.startswith("1 conversation on disk (0.3 MB): read with native positions") and SAID in line
        assert "Serve with --context 8192 to use them" in line


def test_serve_announces_the_factor_in_its_notes_its_banner_and_its_health(tmp_path):
    command = [sys.executable, "-m", "a3b.cli", "serve", "--port", "0", "--context", "16k"]
    environment = {**os.environ, "A3B_HOME": str(tmp_path)}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        try:
            lines = []
            for line in process.stderr:
                lines.append(line)
                if found := re.search(r"Anthropic: (http://\S+)", line):
                    break
            with urllib.request.urlopen(found[1] + "/health", timeout=30) as answer:
                health = json.load(answer)
        finally:
            process.kill()
    said = "".join(lines)
    assert "context 16,384 is beyond the native 8,192: positions are read with YaRN factor 2" in said
    assert "context 16,384 (YaRN factor 2)" in said
    assert (health["context"], health["positions"]) == (16384, SAID)


@pytest.mark.parametrize(
    "argv",
    [["run", "hello", "--max-tokens", "2"], ["chat", "--no-history", "--max-tokens", "2"], ["info"]],
    ids=lambda argv: argv[0],
)
@pytest.mark.parametrize("context", ["16k", "16384", "16,384", "16_384", "16ki", "0.015625M"])
def test_the_factor_is_announced_however_the_context_is_written(argv, context, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("A3B_HOME", str(tmp_path))
    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert main([*argv, "--context", context]) == 0
    assert SAID in "".join(capsys.readouterr())


def test_the_python_api_says_it_too():
    with a3b.load(context=16384) as model:
        assert any(SAID in note for note in model.notes)


def test_scaling_in_config_json_is_announced_without_a_context(tmp_path):
    directory = Path(shutil.copytree(nano_directory(), tmp_path / "m"))
    config = json.loads((directory / "config.json").read_text())
    config["rope_parameters"] |= {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8192}
    (directory / "config.json").write_text(json.dumps(config))
    engine = Engine.load(directory)
    assert any("YaRN factor 4, as config.json says" in note for note in engine.notes)


def client_args(*options: str):
    args = build_parser().parse_args(["code", "-p", "x", *options])
    args.runtime, args.named = RuntimeConfig(), getattr(args, "named", None)
    return args


def test_a_command_that_starts_a_server_announces_it_itself_as_nobody_reads_its_log(capsys, monkeypatch):
    monkeypatch.setattr(client_server, "model_of", lambda _: None)
    assert client_server.planned(client_args("--context", "16k")) == ServedModel("a3b-nano", 16384)
    assert SAID in capsys.readouterr().err


def test_a_running_server_with_less_context_than_asked_is_not_taken_silently(monkeypatch):
    monkeypatch.setattr(client_server.Asker, "model", lambda _: ServedModel("a3b-nano", 8192))
    with pytest.raises(UsageError, match="runs with a context of 8,192"):
        client_server.found(client_args("--context", "16k"))
    assert client_server.found(client_args("--context", "8k")).model.context == 8192


def chatted(tmp_path, monkeypatch, capsys, *options: str) -> str:
    monkeypatch.setenv("A3B_HOME", str(tmp_path))
    monkeypatch.setattr("sys.stdin", io.StringIO("hello\n"))
    assert main(["chat", "--seed", "1", "--max-tokens", "8", *options]) == 0
    return capsys.readouterr().err


def test_a_chat_that_goes_on_with_other_positions_is_told(tmp_path, monkeypatch, capsys):
    assert "it began with" not in chatted(tmp_path, monkeypatch, capsys)
    assert "it began with" not in chatted(tmp_path, monkeypatch, capsys, "--continue")
    said = chatted(tmp_path, monkeypatch, capsys, "--continue", "--context", "16k")
    assert "it began with native positions; all of it is now read with YaRN factor 2" in said


def test_a_chat_of_an_earlier_version_says_nothing_of_positions(tmp_path, monkeypatch, capsys):
    chatted(tmp_path, monkeypatch, capsys)
    (path,) = (tmp_path / "chats").glob("*.jsonl")
    head, *rest = path.read_text().splitlines()
    path.write_text("\n".join([json.dumps({k: v for k, v in json.loads(head).items() if k != "positions"}), *rest, ""]))
    assert "it began with" not in chatted(tmp_path, monkeypatch, capsys, "--continue", "--context", "16k")


def test_logits_beyond_the_native_length_are_those_of_the_scaled_positions():
    """A position has the same number in a short and in a long text, and under YaRN other logits than natively."""
    ids = np.arange(300) % 90 + 5
    native, two, again = (engine_for(context).model for context in (None, 16384, 9000))
    logits = [model.forward(ids, model.new_state()) for model in (native, two, again)]
    assert (logits[1] == logits[2]).all() and (logits[0] != logits[1]).any()
