"""One turn of the model: what is remembered of it, and what in a message distinguishes turns and conversations.

Reads messages as `normalise_messages` gives them. Does not know where turns are kept (`a3b.thinking.known_turns`) or
when a client's message is one of them (`a3b.thinking.turn_matching`). Enter at `Turn`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from hashlib import blake2b
from typing import Any, TypeAlias

from a3b.interface.events import TruncationPoint
from a3b.prompt.segments import END_OF_TURN
from a3b.thinking.remnants import is_remnant, plain, settled
from a3b.thinking.stable_dates import Dates

END_MARKS = (END_OF_TURN, "<|endoftext|>")  # as text, which some clients leave in the content

Message: TypeAlias = dict[str, Any]
Calls: TypeAlias = tuple[tuple[str, str, str], ...]  # id, name, arguments as canonical JSON


@dataclass(frozen=True)
class Turn:
    """What the model wrote, as text and as it was sampled."""

    ids: tuple[int, ...]  # with the end of the turn, unless it was stopped; () if they are not the whole turn
    closed: bool  # thinking was off: the ids follow a closed block
    thinking: str
    thinking_tokens: int
    content: str
    calls: Calls
    cuts: tuple[TruncationPoint, ...] = ()  # of a stopped turn: points where it can be cut, ascending
    dates: Dates = field(default_factory=dict, compare=False)  # at the beginning of the prompt
    stops: tuple[str, ...] = ()  # the stop strings of its request

    @cached_property
    def settled_content(self) -> str:
        """The content without what clients change in passing."""
        return settled(self.content)

    @cached_property
    def plain_thinking(self) -> str:
        """The thinking reduced to what distinguishes two thoughts."""
        return plain(self.thinking)

    @classmethod
    def of(
        cls,
        message: Mapping[str, Any],
        ids: Sequence[int],
        closed: bool,
        thinking_tokens: int,
        cuts: Iterable[TruncationPoint] = (),
        dates: Dates | None = None,
        stops: Iterable[str] = (),
    ) -> Turn:
        """The turn that was sampled as `ids` and given out as `message`."""
        thinking, content, calls = message.get("reasoning_content", ""), text_of(message), calls_of(message)
        return cls(
            tuple(ids), closed, thinking, thinking_tokens, content, calls, tuple(cuts), dates or {}, tuple(stops)
        )

    def to_bytes(self) -> bytes:
        """The turn as a record holds it: JSON."""
        return json.dumps(asdict(self), separators=(",", ":")).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Turn:
        """The turn of a record. Raises ValueError if `data` is not one."""
        found = json.loads(data)
        try:
            ids, calls = found["ids"], found["calls"]
            dates = {digest: tuple(texts) for digest, texts in found.get("dates", {}).items()}
            stops = tuple(found.get("stops", ()))
            texts = (
                found["thinking"],
                found["content"],
                *stops,
                *(part for parts in (*calls, *dates.values()) for part in parts),
            )
            if not all(isinstance(i, int) for i in ids) or not all(isinstance(text, str) for text in texts):
                raise ValueError("a turn of other types")
            calls = tuple((call[0], call[1], call[2]) for call in calls)
            cuts = tuple(
                TruncationPoint(int(cut[0]), bool(cut[1]), int(cut[2]), int(cut[3])) for cut in found.get("cuts", ())
            )
            thinking, num = found["thinking"], int(found["thinking_tokens"])
            return cls(tuple(ids), bool(found["closed"]), thinking, num, found["content"], calls, cuts, dates, stops)
        except (KeyError, TypeError, IndexError, AttributeError) as error:
            raise ValueError(f"not a turn: {error}") from None


# -- reading messages


def text_of(message: Mapping[str, Any]) -> str:
    """The content of a message; parts as JSON."""
    content = message.get("content") or ""
    if not isinstance(content, str):
        content = json.dumps(content, sort_keys=True, default=str)
    return content.strip()


def thinking_of(message: Mapping[str, Any]) -> str:
    """The thinking that a client sent apart from the content."""
    return (message.get("reasoning_content") or "").strip()


def calls_of(message: Mapping[str, Any]) -> Calls:
    """(id, name, arguments) of each call; spacing, key order and the spelling of numbers make no difference."""
    found = []
    for call in message.get("tool_calls") or []:
        function = call.get("function", call)
        call_id = call.get("id")
        found.append(
            (call_id if isinstance(call_id, str) else "", function["name"], canonical(function.get("arguments")))
        )
    return tuple(found)


def call_ids(message: Mapping[str, Any]) -> list[str]:
    """The ids in `calls_of`; none of a message that cannot be part of a turn."""
    ids = [call.get("id") for call in message.get("tool_calls") or []] if may_be_part(message) else []
    return [call_id if isinstance(call_id, str) else "" for call_id in ids]


def wording_of(message: Mapping[str, Any]) -> list[Any]:
    """[role, text, ...]: what in a message distinguishes conversations; neither thinking nor ids."""
    if message["role"] != "assistant":
        return [message["role"], text_of(message)]
    return ["assistant", settled(text_of(message)), [call[1:] for call in calls_of(message)]]


def digest_of(value: Any) -> bytes:
    """A digest of a JSON value."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, default=str)
    return blake2b(text.encode(), digest_size=24).digest()


def canonical(value: Any) -> str:
    """A JSON value as text that is the same however a client spells it."""
    return json.dumps(_canonical_value(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _canonical_value(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    if isinstance(value, int) and 2**53 <= abs(value) < 2**1000:  # JavaScript has only the nearest float
        return float(value)
    if isinstance(value, Mapping):
        return {str(key): _canonical_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical_value(item) for item in value]
    return value


# -- turns that a client spelled in another way


def may_be_part(message: Mapping[str, Any]) -> bool:
    """Whether a message may be a turn of the model, or part of one."""
    return message["role"] == "assistant" and isinstance(message.get("content") or "", str)


def joined(parts: Sequence[Message]) -> Message:
    """Messages of the assistant as one."""
    if len(parts) == 1:
        return parts[0]
    thinking = dict.fromkeys(part["reasoning_content"] for part in parts if part.get("reasoning_content"))
    calls = [call for part in parts for call in part.get("tool_calls") or ()]
    content = "".join(part.get("content") or "" for part in parts)
    return {**parts[0], "content": content, "reasoning_content": "\n".join(thinking)} | (
        {"tool_calls": calls} if calls else {}
    )


def without_end_mark(message: Message) -> Message | None:
    """The message without an end of turn written out in its text; None if it has none."""
    content = message.get("content")
    if not isinstance(content, str) or not content.rstrip().endswith(END_MARKS):
        return None
    text = content.rstrip()
    return {**message, "content": next(text.removesuffix(mark) for mark in END_MARKS if text.endswith(mark))}


def with_thinking_apart(message: Message) -> Message:
    """The message with thinking that is inline before the content moved to `reasoning_content`, as templates split it.

    Where a client sends both, they are one if either is a remnant of the other; otherwise the message stays as it
    is."""
    content, sent = message.get("content"), message.get("reasoning_content") or ""
    if not isinstance(content, str) or "</think>" not in content:
        return message
    head, _, rest = content.partition("</think>")
    opening, _, thinking = head.rpartition("<think>")
    if opening.strip():
        return message  # prose about tags
    if sent and is_remnant(thinking, plain(sent)):
        thinking = sent
    elif sent and not is_remnant(sent, plain(thinking)):
        return message
    return {**message, "content": rest.lstrip("\n"), "reasoning_content": thinking.strip("\n")}
