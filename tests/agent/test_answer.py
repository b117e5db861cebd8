"""Answers whose pieces never end."""

from __future__ import annotations

import pytest

from a3b.agent.answer import MAX_ANSWER, AnswerReader
from a3b.agent.event_lines import BadStreamError

PIECE = "x" * (MAX_ANSWER // 4)
CALL = {"tool_calls": [{"index": 0, "id": "a", "function": {"name": "bash", "arguments": PIECE}}]}


@pytest.mark.parametrize("delta", [{"content": PIECE}, {"reasoning_content": PIECE}, CALL])
def test_an_answer_without_end_is_refused(delta):
    reader = AnswerReader()
    for _ in range(4):
        list(reader.add({"choices": [{"delta": delta}]}))
    with pytest.raises(BadStreamError, match="more than 8 MiB"):
        list(reader.add({"choices": [{"delta": delta}]}))
