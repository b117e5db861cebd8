"""What tests of the engine share."""

from __future__ import annotations

import pytest

from a3b.engine.draft_prices import Balance, Effort, Prices, StepCosts
from tests.support import drafted_answers


@pytest.fixture(scope="session")
def engines_of_drafts():
    """Lets them go before the interpreter ends, which would call them leaked."""
    yield
    drafted_answers.loaded.cache_clear()


@pytest.fixture
def drafting_at_each_step(monkeypatch, engines_of_drafts):
    """Drafters are asked and their drafts are read at each step, whatever that costs."""
    monkeypatch.setattr(Effort, "is_spent", False)
    monkeypatch.setattr(StepCosts, "prices", lambda self, num_answers: Prices(0.01, 0.01))
    monkeypatch.setattr(Balance, "affords", lambda self, paid: True)
