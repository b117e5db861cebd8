"""Turns and conversations for tests of their memory; a token of text is a character."""

from __future__ import annotations

from a3b.interface.events import TruncationPoint
from a3b.prompt.normalise_messages import normalise_messages
from a3b.thinking.turn import Turn
from a3b.thinking.turn_memory import TurnMemory

IDS = (11, 12, 13, 99)


def user(text: str) -> dict:
    return {"role": "user", "content": text}


def answer(content: str = "It is blue.", thinking: str | None = None, calls: list | None = None) -> dict:
    message = {"role": "assistant", "content": content}
    if thinking is not None:
        message["reasoning_content"] = thinking
    if calls:
        message["tool_calls"] = calls
    return message


def call(arguments: object, call_id: str = "call_1", name: str = "get") -> dict:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def remembered(before: list, message: dict, namespace: str = "", closed: bool = False, records=None) -> TurnMemory:
    turns = TurnMemory(records)
    turns.remember(namespace, before, Turn.of(message, IDS, closed, 7))
    return turns


def encode_turn_tail(ids, thinking: str | None, text: str) -> list:
    """A token of text is a character here."""
    return [*ids, *([] if thinking is None else [*thinking, "close"]), *text, "end"]


def recall(turns: TurnMemory, messages: list, namespace: str = ""):
    return turns.recall(namespace, normalise_messages(messages)[0], lambda text: len(text.split()), encode_turn_tail)


WRITTEN = answer(thinking="The sky, so blue.")
BEFORE = [user("What colour?")]


class Book:
    """Records as a store keeps them."""

    def __init__(self):
        self.pages: dict[tuple[str, bytes], list[bytes]] = {}
        self.version = 1

    def put_record(self, namespace, key, value, node=None):
        self.pages.setdefault((namespace, key), []).append(value)

    def get_records(self, namespace, key):
        return self.pages.get((namespace, key), [])

    def changes(self):
        return self.version


# -- turns that were stopped in mid-stream


STOPPED_IDS = (*"abc", "close", *"ABCDE")
STOPPED_CUTS = [
    TruncationPoint(0, True, 0, 0),
    TruncationPoint(1, True, 4, 0),
    TruncationPoint(3, True, 18, 0),
    TruncationPoint(4, False, 0, 0),
    TruncationPoint(5, False, 3, 0),
    TruncationPoint(7, False, 6, 0),
    TruncationPoint(8, False, 10, 0),
    TruncationPoint(9, False, 11, 0),
]


def stopped(
    before: list, message: dict, ids=STOPPED_IDS, cuts=STOPPED_CUTS, closed=False, namespace="", records=None
) -> TurnMemory:
    turns = TurnMemory(records)
    turns.remember(namespace, before, Turn.of(message, ids, closed, 3, cuts))
    return turns


# -- a turn in two messages


LOOK = answer("I look.", "Look.", [call({"path": "a"})])
RESULT = {"role": "tool", "content": "x", "tool_call_id": "call_1"}
