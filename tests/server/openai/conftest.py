"""What tests of OpenAI's APIs share."""

from __future__ import annotations

import pytest

from tests.support.responses_server import client_of


@pytest.fixture(scope="module")
def client():
    """Of the Responses API; chooses what the engine answers."""
    with client_of() as made:
        yield made
