"""Answers whose tokens a test says instead of the sampler, drafted ones too."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from a3b.engine.sampler import Sampler


def write(monkeypatch: pytest.MonkeyPatch, ids: Sequence[int]) -> None:
    """The next answer begins with these ids; what is behind them, and every other answer, is sampled."""
    sample, answer = Sampler.sample, {}

    def told(self, logits, counts, position, allowed=None):
        sampler, first = answer.setdefault("begins", (self, position))
        place = position - first
        return ids[place] if self is sampler and place < len(ids) else sample(self, logits, counts, position, allowed)

    monkeypatch.setattr(Sampler, "sample", told)
