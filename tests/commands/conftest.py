"""What tests of commands share."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module")
def hub_session():
    """One client of huggingface_hub for all tests of a file: making one reads all certificates."""
    yield
    from huggingface_hub.utils import close_session

    close_session()
