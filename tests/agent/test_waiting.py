"""How long the agent waits for a server that asks it to."""

from __future__ import annotations

import pytest

from a3b.agent.client import MAX_WAIT_S, _retry_after


@pytest.mark.parametrize(
    ("given", "seconds"),
    [(None, 1.0), ("0", 0.0), ("7", 7.0), ("1e999", MAX_WAIT_S), ("nan", 1.0), ("-5", 1.0), ("Mon, 30 Nov 2026", 5.0)],
)
def test_a_wait_is_a_bounded_number_of_seconds_whatever_the_header_says(given, seconds):
    assert _retry_after(given) == seconds
