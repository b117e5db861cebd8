"""Sessions of a server that ran with the MTP module are of no use to one without, and the other way round: it says so
when it starts."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from argparse import Namespace
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest

from a3b.cache.disk_store import DAY, Store
from a3b.cache.identity import cache_identity
from a3b.cli import main
from a3b.commands import client_server
from a3b.commands.stored_otherwise import UNUSED, read_otherwise
from a3b.engine.engine import Engine, nano_directory
from a3b.engine.local import local_service
from a3b.interface.request import Request
from a3b.settings import RuntimeConfig

pytestmark = pytest.mark.slow  # starts servers, or computes for seconds

QUESTION = [{"role": "user", "content": "What are you? " * 12}]


@pytest.fixture(scope="module")
def engines() -> dict[bool, Engine]:
    """With the module, and without."""
    return {mtp: Engine.load(mtp=mtp) for mtp in (True, False)}


def ask(engine: Engine, directory: Path, store: Store) -> int:
    """Tokens of the prompt that were stored."""
    model = engine.model
    identity = cache_identity(engine.config, nano_directory(), model.kv, model.isa, mtp=model.mtp is not None)
    with closing(local_service(engine, store=store, identity=identity)) as service:
        events = list(service.answer(Request(messages=QUESTION, sampling={"temperature": 0.0, "max_tokens": 12})))
    assert store.flush()
    return events[-1].usage.cached_tokens


@pytest.mark.parametrize(
    ("mtp", "words"),
    [
        (True, "read with the MTP module, .* which reads without the MTP module. Serve with --drafts auto to use them"),
        (False, "read without the MTP module, .* which reads with the MTP module. Serve with --drafts off to use them"),
    ],
)
def test_sessions_stored_with_the_other_setting_are_counted_with_what_uses_and_removes_them(
    mtp, words, engines, tmp_path
):
    with Store(tmp_path, max_age_s=7 * DAY) as store:
        assert ask(engines[mtp], tmp_path, store) == 0
        num_bytes = store.num_bytes
        assert num_bytes and list(read_otherwise(engines[mtp], nano_directory(), store)) == []
        for stored in (0, 1):  # whether there are sessions of its own too
            (line,) = read_otherwise(engines[not mtp], nano_directory(), store, " --dir X")
            assert re.search(words, line) and "\n" not in line
            assert line.startswith(f"1 conversation on disk ({num_bytes / 1e6:.1f} MB): ")
            shown, removed = "a3b cache list --dir X shows them", "a3b cache forget --dir X ID removes one"
            assert line.endswith(f"; {shown}, {removed}; unused, they go after 7 days")
            assert (ask(engines[not mtp], tmp_path, store) > 0) == stored


def test_sessions_with_other_positions_and_another_module_are_told_with_both_options(engines, tmp_path):
    with Store(tmp_path) as store:
        ask(Engine.load(context=16384, mtp=False), tmp_path, store)
        (line,) = read_otherwise(engines[True], nano_directory(), store)
        assert "read with YaRN factor 2 and without the MTP module, so kept but not used by this server" in line
        assert "Serve with --context 16384 --drafts off to use them" in line


def started(arguments: list[str], home: Path) -> list[str]:
    """What a server says until it listens."""
    command = [sys.executable, "-m", "a3b.cli", "serve", "--port", "0", *arguments]
    environment = {**os.environ, "A3B_HOME": str(home)}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        try:
            lines = []
            for line in process.stderr:
                lines.append(line.rstrip("\n"))
                if line.startswith("OpenAI"):
                    break
        finally:
            process.send_signal(signal.SIGINT)
            process.stderr.read()
        return lines


def test_serve_says_it_before_its_banner_and_the_commands_it_names_work(engines, tmp_path, capsys):
    kept = tmp_path / "a place"
    with Store(kept) as store:
        ask(engines[True], kept, store)
    place = ["--cache-dir", str(kept)]
    (line,) = [said for said in started([*place, "--drafts", "off"], tmp_path) if "not used" in said]
    where = f" --dir '{kept}'"
    assert f"a3b cache list{where} shows them, a3b cache forget{where} ID removes one" in line
    assert [said for said in started(place, tmp_path) if "not used" in said] == []
    assert main(["cache", "list", "--dir", str(kept)]) == 0
    id = capsys.readouterr().out.splitlines()[1].split()[0]
    assert main(["cache", "forget", "--dir", str(kept), id]) == 0
    assert [said for said in started([*place, "--drafts", "off"], tmp_path) if "not used" in said] == []


def test_what_starts_a_server_passes_it_on(tmp_path, capsys):
    log = tmp_path / "log"
    log.write_text(f"a note\n1 conversation on disk: so {UNUSED}, which\nOpenAI: http://127.0.0.1:80/v1 \n")
    args = Namespace(command="code", model="nano", named="nano", runtime=RuntimeConfig(home=str(tmp_path)))
    client_server._ready(SimpleNamespace(poll=lambda: None), args, log)
    said = capsys.readouterr().err
    assert f"1 conversation on disk: so {UNUSED}, which\n" in said and "a note" not in said
