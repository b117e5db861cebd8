"""What tests of OpenAI's APIs share."""

from __future__ import annotations

import openai
import pytest

from a3b.server.app import create_app
from tests.support.openai_answers import ANSWER
from tests.support.responses_server import client_of
from tests.support.scripted_service import ScriptedService
from tests.support.serving import served


@pytest.fixture(scope="module")
def client():
    """Of the Responses API; chooses what the engine answers."""
    with client_of() as made:
        yield made


@pytest.fixture(scope="module")
def server():
    """A scripted service, and OpenAI's own client of the server before it."""
    service = ScriptedService(ANSWER)
    with served(create_app(service)) as port:
        with openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="any", max_retries=0) as client:
            yield service, client


@pytest.fixture
def service(server):
    server[0].requests.clear()
    server[0].events = ANSWER
    return server[0]


@pytest.fixture
def sdk(server):
    return server[1]
