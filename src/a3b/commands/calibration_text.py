"""Text for calibration and evaluation, cut into sequences: a file, or a list of conversations.

A file is read as plain text, or, if it ends in .json, as a list of conversations {"messages": [...], "tools": [...]} in
the form of `a3b render`. Enter at `read_text`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from a3b.errors import UsageError
from a3b.files import read_given
from a3b.prompt.chat_template import ChatTemplate
from a3b.prompt.segments import END_OF_TURN, Control, Text
from a3b.prompt.tokenizer import Tokenizer

PIECE = 512  # tokens of plain text that are read as one sequence
ASSISTANT = "assistant\n"


@dataclass(frozen=True)
class Piece:
    """One sequence; judged [T] marks the tokens whose prediction counts."""

    ids: list[int]
    judged: list[bool]


def read_text(path: Path, tokenizer: Tokenizer, template: ChatTemplate) -> Iterator[Piece]:
    """The sequences of a file. Raises UsageError if it cannot be read or has another form."""
    try:
        text = read_given(path.expanduser())
        values = json.loads(text) if path.suffix == ".json" else None
    except (OSError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise UsageError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if values is None:
        ids = tokenizer.encode_text(text)
        return (Piece(ids[at : at + PIECE], [True] * len(ids[at : at + PIECE])) for at in range(0, len(ids), PIECE))
    if not isinstance(values, list) or not all(
        isinstance(v, dict) and isinstance(v.get("messages"), list) for v in values
    ):
        raise UsageError(f"{path}: expected a JSON list of objects with messages")
    return (conversation(v["messages"], v.get("tools"), tokenizer, template) for v in values)


def conversation(
    messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None, tokenizer: Tokenizer, template: ChatTemplate
) -> Piece:
    """A whole conversation with its thinking; the text of assistant turns is judged."""
    prompt = template.render(messages, tools=tools, add_generation_prompt=False, preserve_thinking=True)
    ids, judged = [], []
    begins = inside = False
    for segment in prompt:
        found = tokenizer.encode([segment])
        head = 0
        if begins and isinstance(segment, Text) and segment.text.startswith(ASSISTANT):
            inside, head = True, len(tokenizer.encode_text(ASSISTANT))
        judged += [inside and i >= head for i in range(len(found))]
        ids += found
        begins = segment == Control("<|im_start|>")
        inside = inside and segment != Control(END_OF_TURN)
    return Piece(ids, judged)
