"""Paths with and without /v1, and those that clients of llama.cpp ask for."""

from __future__ import annotations

import asyncio

import pytest

from a3b.interface.events import Finished, TextDelta
from a3b.server.app import create_app
from tests.support.scripted_service import STARTED, USAGE, ScriptedService
from tests.support.serving import ask

HI = [{"role": "user", "content": "hi"}]
MESSAGES = {"max_tokens": 9, "messages": HI}
BODIES = {
    "/chat/completions": {"messages": HI},
    "/completions": {"prompt": "hi"},
    "/responses": {"input": "hi"},
    "/messages": MESSAGES,
    "/messages/count_tokens": MESSAGES,
    "/responses/input_tokens": {"input": "hi"},
    "/tokenize": {"content": "hi"},
    "/detokenize": {"tokens": [104]},
    "/apply-template": {"messages": HI},
    "/models": None,
    "/models/a3b-nano": None,
    "/props": None,
}


def asked(path: str, body: dict | None = None):
    return asyncio.run(
        ask(create_app(ScriptedService([STARTED, TextDelta("ok"), Finished("stop", USAGE)])), path, body)
    )


@pytest.mark.parametrize("path", BODIES)
def test_a_path_is_the_same_without_v1(path):
    replies = [asked(f"{root}{path}", BODIES[path]) for root in ("/v1", "")]
    assert [reply.status for reply in replies] == [200, 200]
    assert replies[0].json().keys() == replies[1].json().keys()


@pytest.mark.parametrize(
    ("path", "keys"), [("/messages", {"type", "error", "request_id"}), ("/chat/completions", {"error"})]
)
def test_errors_have_the_form_of_their_api_without_v1_too(path, keys):
    for root in ("/v1", ""):
        reply = asked(f"{root}{path}", {})
        assert reply.status == 400 and reply.json().keys() == keys


def test_props_say_how_long_a_context_is_and_how_prompts_are_made():
    found = asked("/props").json()
    assert (found["default_generation_settings"]["n_ctx"], found["total_slots"]) == (8192, 4)
    assert found["default_generation_settings"]["params"]["temperature"] == 1.0
    assert (found["chat_template"], found["model_alias"]) == ("{{ messages }}", "a3b-nano")
    assert found["modalities"] == {"vision": False, "audio": False}


def test_a_template_is_applied_without_an_answer():
    service = ScriptedService(RuntimeError("nothing is to be written"))
    reply = asyncio.run(
        ask(create_app(service), "/apply-template", {"messages": HI, "enable_thinking": False, "made_up": 1})
    )
    assert reply.json() == {"prompt": "\x07" * 42} and service.requests[0].think is False
    assert "made_up" in reply.headers["x-a3b-warnings"]


@pytest.mark.parametrize("path", ["/v1/embeddings", "/embeddings"])
def test_embeddings_are_refused_in_words(path):
    reply = asked(path, {"input": "hi"})
    assert reply.status == 404 and "makes no embeddings" in reply.json()["error"]["message"]
