"""What tests of the Messages API share."""

from __future__ import annotations

import pytest

from a3b.server.anthropic import messages
from tests.support.served import ChosenService, app_of, served


@pytest.fixture(scope="module")
def url_of():
    """Chooses what a real server answers; gives its address and the service that remembers the requests."""
    service = ChosenService()
    with served(app_of(messages, service)) as url:
        yield lambda events: (url, service.choose(events))
