"""A model that gives NaN for some prompts: these are answered with an error that says so, all others as if nothing
were."""

from __future__ import annotations

import asyncio
import json
import logging

import numpy as np
import pytest

from a3b.cli import main
from a3b.engine.engine import Engine, nano_directory
from a3b.engine.sampler import LogitsError
from a3b.server.app import create_app
from a3b.server.middleware import ServerSettings
from tests.support.serving import ask
from tests.support.traced_server import GREEDY, Server, user

pytestmark = pytest.mark.slow  # starts servers or commands, or computes for seconds

WORD, TOLD = "banana", "the weights are damaged"


@pytest.fixture(scope="module")
def sound() -> tuple[Engine, dict]:
    """The embedded model, and what it answers."""
    engine = Engine.load()
    with Server(engine) as server:
        return engine, server.ask([user("hello")])[0]


@pytest.fixture
def engine(sound, monkeypatch) -> Engine:
    """The embedded model with NaN in the row of one token."""
    engine = sound[0]
    embed, bad = engine.model._embed, engine.tokenizer.encode_text(WORD)[0]

    def spoiled(ids: np.ndarray) -> np.ndarray:
        rows = embed(ids)
        rows[ids == bad] = np.nan
        return rows

    monkeypatch.setattr(engine.model, "_embed", spoiled)
    return engine


def test_one_poisoned_prompt_fails_alone_and_the_server_goes_on(sound, engine):
    expected = sound[1]

    async def together(server: Server) -> list:
        asked = [server.answer([user(text)]) for text in ("hello", WORD, "hello", f"{WORD}, please.")]
        return await asyncio.gather(*asked, return_exceptions=True)

    with Server(engine) as server:
        for _ in range(2):
            good, bad, again, worse = asyncio.run(together(server))
            assert good[0] == again[0] == expected
            assert all(isinstance(error, LogitsError) and TOLD in str(error) for error in (bad, worse))
        assert server.ask([user("hello")])[0] == expected


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/responses"])
@pytest.mark.parametrize("stream", [False, True])
def test_every_api_answers_500_with_the_reason(engine, path, stream, caplog):
    caplog.set_level(logging.CRITICAL)
    body = {"model": "a3b-nano", "stream": stream, "temperature": 0}
    body |= {"input": WORD} if path.endswith("responses") else {"messages": [user(WORD)]}
    body |= {"max_tokens": 20} if not path.endswith("responses") else {}
    with Server(engine) as server:
        reply = asyncio.run(ask(create_app(server.service, ServerSettings()), path, body))
        assert (reply.status, TOLD in reply.body.decode()) == (200 if stream and reply.status == 200 else 500, True)
        assert "NaN" in reply.body.decode() and "Traceback" not in reply.body.decode()
        healthy = asyncio.run(server.answer([user("hello")], sampling=GREEDY))
        assert healthy[1].reason in ("stop", "length")


def test_the_commands_refuse_what_is_not_finite(tmp_path, capsys, engine, monkeypatch):
    monkeypatch.setattr(Engine, "load", lambda *args, **kwargs: engine)
    assert main(["run", WORD]) == 1
    assert TOLD in capsys.readouterr().err
    ids, out = tmp_path / "ids.json", tmp_path / "out.npy"
    ids.write_text(json.dumps(engine.tokenizer.encode_text(f"{WORD} one")))
    monkeypatch.setattr("a3b.commands.logits.Model", lambda *args: engine.model)
    assert main(["logits", str(nano_directory()), "--ids", str(ids), "--out", str(out)]) == 1
    assert TOLD in capsys.readouterr().err and not out.exists()
    (tmp_path / "text").write_text(f"{WORD} two three")
    assert main(["eval", "quality", "--text", str(tmp_path / "text"), "--tokens", "10"]) == 1
    assert TOLD in capsys.readouterr().err
