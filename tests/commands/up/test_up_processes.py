"""`a3b up` as a process: killed at any step and run again, asked at a real terminal, behind a proxy, and serving."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from a3b.cli import main
from a3b.commands import model_sources, up
from a3b.commands.model_home import ModelHome, StoredModel
from a3b.engine.engine import nano_directory
from a3b.formats.packed import verify
from tests.support.hub_server import REPO, FakeHub
from tests.support.model_places import in_hub_cache

pytestmark = pytest.mark.slow  # starts servers or commands, or computes for seconds

UP = [sys.executable, "-m", "tests.support.up_process"]
FILES = {path.name: path.read_bytes() for path in nano_directory().iterdir() if path.is_file()}
WEIGHTS = "model.safetensors"


@pytest.fixture
def hub():
    server = FakeHub(dict(FILES))
    yield server
    server.close()


@pytest.fixture
def environ(hub, tmp_path):
    """Variables of a user with nothing on the disk."""
    unset = (
        "A3B_CACHE",
        "HF_TOKEN",
        "HF_HOME",
        "HF_HUB_CACHE",
        "LLAMA_CACHE",
        "OLLAMA_MODELS",
        "HTTP_PROXY",
        "http_proxy",
    )
    kept = {name: value for name, value in os.environ.items() if name not in unset}
    return {**kept, "HOME": str(tmp_path), "A3B_HOME": str(tmp_path / "home"), "HF_ENDPOINT": hub.endpoint}


@pytest.fixture
def again(environ, hub, monkeypatch, capsys):
    """Run `a3b up` to its end in this process; servers do not start."""
    from huggingface_hub import constants

    for name in ("HOME", "A3B_HOME"):
        monkeypatch.setenv(name, environ[name])
    monkeypatch.delenv("A3B_CACHE", raising=False)
    monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
    monkeypatch.setattr(model_sources, "predicted", lambda *_: None)
    monkeypatch.setattr(up.serve, "run", lambda args, after: 0)

    def run(*argv: str) -> str:
        assert main(["up", *argv]) == 0
        return capsys.readouterr().err

    yield run
    from huggingface_hub.utils import close_session

    close_session()


def complete(environ: dict[str, str]) -> StoredModel:
    """The one model of the home, every byte of it checked."""
    (model,) = ModelHome(environ["A3B_HOME"]).stored()
    assert model.complete and verify(model.folder) == []
    return model


@contextmanager
def running(environ: dict[str, str], *argv: str) -> Iterator[subprocess.Popen]:
    with subprocess.Popen([*UP, *argv], stderr=subprocess.PIPE, text=True, env=environ) as process:
        try:
            yield process
        finally:
            process.kill()


def served(process: subprocess.Popen) -> str:
    """The address that its banner names."""
    said = []
    for line in process.stderr:
        said.append(line)
        if found := re.search(r"Anthropic: (http://\S+)", line):
            return found[1]
    raise AssertionError("".join(said))


def test_a_model_is_fetched_packed_and_answers(hub, environ, tmp_path):
    with running(environ, REPO, "--yes", "--port", "0", "--no-persist") as process:
        url = served(process)
        assert "a3b launch claude" in process.stderr.readline()
        with urllib.request.urlopen(f"{url}/v1/models", timeout=30) as reply:
            assert json.load(reply)["data"][0]["id"] == "Owner--Model-1B-faithful"
        process.terminate()
        assert process.wait(30) == 0


@pytest.mark.parametrize("at", [1, 3])
def test_killed_while_it_fetches_it_continues_unasked_with_what_it_has(hub, environ, again, at):
    """The bytes come in pieces; the process is killed when it asks for the next."""
    hub.break_after = {WEIGHTS: [1_200_000, *[6_000_000] * 8]}
    killed = []

    def kill(path: str, start: int) -> None:
        if path == WEIGHTS and start and len(killed) < at:
            killed.append(start)
            if len(killed) == at:
                process.kill()

    hub.on_get = kill
    with running(environ, REPO, "--yes") as process:
        process.wait(60)
    assert process.returncode == -signal.SIGKILL
    (stopped,) = ModelHome(environ["A3B_HOME"]).stored()
    assert not stopped.complete
    hub.on_get = lambda path, start: None
    hub.requests.clear()
    assert "continues with what is here" in again(REPO)
    assert min(hub.got(WEIGHTS)) > 0 and complete(environ).record == stopped.record


def test_killed_while_it_packs_a_file_it_continues(environ, tmp_path, again):
    source = tmp_path / "checkpoint"
    source.mkdir()
    for name, content in FILES.items():
        (source / name).write_bytes(content)
    home = ModelHome(tmp_path / "home")
    with running(environ, str(source), "--yes") as process:
        for line in process.stderr:
            if line.startswith("then about"):
                break
        while not any(home.models.glob("*.part/*.safetensors*")):
            assert process.poll() is None
        process.kill()
        process.wait(30)
    (stopped,) = home.stored()
    assert not stopped.complete and stopped.record.source == str(source)
    again(str(source))
    assert complete(environ).record == stopped.record


def test_a_real_terminal_is_asked_and_no_leaves_nothing(hub, environ, tmp_path):
    leader, follower = pty.openpty()
    with subprocess.Popen([*UP, REPO], stdin=follower, stderr=follower, stdout=follower, env=environ) as process:
        os.close(follower)
        said = b""
        while b"[Y/n]" not in said:
            said += os.read(leader, 4096)
        os.write(leader, b"n\n")
        assert process.wait(60) == 1
    os.close(leader)
    assert b"tokens/s here" in said and set(hub.got(WEIGHTS)) <= {0}  # no more than its header
    assert ModelHome(environ["A3B_HOME"]).stored() == []


class Proxy(BaseHTTPRequestHandler):
    """Fetches from the hub whatever host is asked for."""

    hub: FakeHub
    asked: list[str]

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.asked.append(self.path)
        path = re.sub(r"^http://[^/]+", "", self.path)
        headers = {name: value for name, value in self.headers.items() if name.lower() in ("range", "authorization")}
        request = urllib.request.Request(self.hub.endpoint + path, headers=headers)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=30) as reply:
            body = reply.read()
            self.send_response(reply.status)
            for name in ("Content-Range", "ETag"):
                if reply.headers[name]:
                    self.send_header(name, reply.headers[name])
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)


def test_proxy_token_and_endpoint_of_the_environment_are_used(hub, environ, tmp_path):
    handler = type("Handler", (Proxy,), {"hub": hub, "asked": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            given = {
                "HF_ENDPOINT": "http://hub.invalid",
                "HTTP_PROXY": f"http://127.0.0.1:{proxy.server_port}",
                "HF_TOKEN": "hf_secret",
                "NO_PROXY": "",
            }
            with running({**environ, **given}, REPO, "--yes", "--port", "0", "--no-persist") as process:
                served(process)
        finally:
            proxy.shutdown()
            thread.join()
    assert handler.asked and all(path.startswith("http://hub.invalid/") for path in handler.asked)
    assert "Bearer hf_secret" in hub.tokens
    beside = complete(environ).folder.parent.glob("*.json")
    assert "hf_secret" not in "".join(path.read_text() for path in beside)


def test_the_hub_cache_of_hf_home_is_looked_at(hub, environ, tmp_path):
    in_hub_cache(tmp_path / "hf" / "hub", REPO, FILES)
    with running({**environ, "HF_HOME": str(tmp_path / "hf")}, REPO, "--yes", "--port", "0", "--no-persist") as process:
        served(process)
    assert hub.requests == []
    assert complete(environ).record.source.startswith(str(tmp_path / "hf"))


def test_two_runs_at_the_same_time_do_not_disturb_each_other(hub, environ, tmp_path):
    waiting, go = threading.Event(), threading.Event()

    def hold(path: str, start: int) -> None:
        if path == WEIGHTS and start:
            waiting.set()
            go.wait(60)

    hub.on_get = hold
    with running(environ, REPO, "--yes", "--port", "0", "--no-persist") as process:
        assert waiting.wait(60)
        done = subprocess.run(
            [*UP, REPO, "--yes"], capture_output=True, text=True, env=environ, timeout=60, check=False
        )
        assert done.returncode == 2 and f"another a3b makes or removes it (process {process.pid})" in done.stderr
        go.set()
        served(process)
    complete(environ)
