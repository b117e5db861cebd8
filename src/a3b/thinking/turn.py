"""One turn of the model: what is remembered of it, and whether a message that a client sends is that turn.

Knows messages as `normalise_messages` gives them, no places and no memory: those are `a3b.thinking.turn_memory`'s.
Enter at `Turn`, `is_alike`, `as_sent`."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from hashlib import blake2b
from typing import Any

from a3b.interface.events import TruncationPoint
from a3b.prompt.segments import END_OF_TURN
from a3b.thinking.remnants import is_remnant, plain, settled
from a3b.thinking.stable_dates import Dates

END_MARKS = (END_OF_TURN, "<|endoftext|>")  # as text, which some clients leave in the content
INTERRUPTED = "interrupted"  # what clients write in brackets after a text that they stopped

Message = dict[str, Any]
Calls = Sequence[tuple[str, str, str]]  # id, name, arguments as canonical JSON
TurnTailEncoder = Callable[[Sequence[int], str | None, str], Sequence[int]]


@dataclass(frozen=True)
class Turn:
    """What the model wrote, as text and as it was sampled."""

    ids: tuple[int, ...]  # with the end of the turn, if it was not stopped; () if they do not make up the whole turn
    closed: bool  # thinking was off: the ids follow a closed block
    thinking: str
    thinking_tokens: int
    content: str
    calls: tuple[tuple[str, str, str], ...]  # id, name, arguments as canonical JSON
    cuts: tuple[TruncationPoint, ...] = ()  # of a stopped turn: where it can be cut, ascending
    dates: Dates = field(default_factory=dict, compare=False)  # at the beginning of the prompt
    stops: tuple[str, ...] = ()  # strings that were to end it

    @cached_property
    def settled_content(self) -> str:
        return settled(self.content)

    @cached_property
    def plain_thinking(self) -> str:
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
        thinking, content, calls = message.get("reasoning_content", ""), text_of(message), calls_of(message)
        return cls(
            tuple(ids), closed, thinking, thinking_tokens, content, calls, tuple(cuts), dates or {}, tuple(stops)
        )

    def to_bytes(self) -> bytes:
        return json.dumps(asdict(self), separators=(",", ":")).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Turn:
        """Raises ValueError if `data` is not a turn."""
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


def is_alike(turn: Turn, content: str, calls: Calls, may_lack_text: bool) -> bool:
    """Whether the client's turn is ours; beside calls the content may be missing, as some clients drop it."""
    if [call[1:] for call in calls] != [call[1:] for call in turn.calls]:
        return False
    return settled(content) == turn.settled_content or (bool(calls) and not content and may_lack_text)


def by_thinking(turns: Sequence[Turn], sent: str, earlier: Sequence[Turn]) -> Sequence[Turn]:
    """Those whose thinking the client sent; if there are none, those whose thinking it has lost in part. earlier:
    turns, latest first."""
    if not sent or not turns:
        return turns
    if exact := [turn for turn in turns if turn.thinking.strip() == sent]:
        return exact
    text = plain(sent)
    return [turn for turn in turns if turn.plain_thinking == text] or [
        turn for turn in turns if is_remnant(sent, turn.plain_thinking, (other.plain_thinking for other in earlier))
    ]


def holds_thinking(turn: Turn, sent: str) -> bool:
    """Whether a client sent the thinking of a turn, and not what it kept of it."""
    return bool(sent) and (turn.thinking.strip() == sent or turn.plain_thinking == plain(sent))


def as_ended(turn: Turn, content: str, encode_turn_tail: TurnTailEncoder) -> Turn | None:
    """A turn with the stop string that the client put at its end; None if the client's content is another."""
    ending = content[len(turn.content) :]
    if not content.startswith(turn.content) or ending.strip() not in {stop.strip() for stop in turn.stops}:
        return None
    return replace(turn, ids=tuple(encode_turn_tail(turn.ids[:-1], None, ending)) if turn.ids else ())


def without_mark(message: Message) -> Message | None:
    """The message without an end of a turn in its text; None if it has none."""
    content = message.get("content")
    if not isinstance(content, str) or not content.rstrip().endswith(END_MARKS):
        return None
    text = content.rstrip()
    return {**message, "content": next(text.removesuffix(mark) for mark in END_MARKS if text.endswith(mark))}


def as_sent(turn: Turn, content: str, calls: Calls, sent: str, encode_turn_tail: TurnTailEncoder) -> Turn | None:
    """A stopped turn, up to where the client has it, with the ids that replay it; None if the client's is another."""
    ours, thinking = _without_note(content), sent or turn.thinking
    has_text = bool(ours or calls)
    if [call[1:] for call in calls] != [call[1:] for call in turn.calls[: len(calls)]] or not turn.content.startswith(
        ours
    ):
        return None
    if not (has_text or sent) and (turn.content or turn.calls):
        return None  # the client took the text away
    was_closed = any(not cut.in_thinking for cut in turn.cuts)
    in_thinking = not has_text and (not was_closed or thinking != turn.thinking)  # where the client's part ends
    if not turn.thinking.startswith(thinking) if in_thinking else turn.thinking != thinking:
        # a beginning says where the thinking was stopped
        if not is_remnant(thinking, turn.plain_thinking, only_end=True):
            return None
        thinking = turn.thinking
    whole, part = (turn.thinking, thinking) if in_thinking else (turn.content, content)
    most = len(ours)  # characters that may be kept
    if whole.startswith(part):  # and white space, unless something has to follow it
        tail = whole[len(part) :].lstrip()
        most = len(whole) - len(tail) if tail else math.inf
    place = (in_thinking, len(calls))
    cut = next(
        (cut for cut in reversed(turn.cuts) if (cut.in_thinking, cut.num_calls) == place and cut.num_chars <= most),
        None,
    )
    if cut is None:
        return replace(turn, ids=(), cuts=(), thinking=thinking)
    kept, rest = turn.ids[: cut.num_ids], part[cut.num_chars :]
    ids = encode_turn_tail(kept, rest, content) if in_thinking else encode_turn_tail(kept, None, rest)
    return replace(
        turn, ids=tuple(ids), cuts=(), thinking=thinking, thinking_tokens=min(turn.thinking_tokens, len(kept))
    )


def _without_note(content: str) -> str:
    """The content without the note in brackets by which a client says that it was stopped."""
    text, _, note = content.rpartition("[")
    return text.rstrip() if note.endswith("]") and INTERRUPTED in note.lower() else content


def thinking_of(message: Message) -> str:
    return (message.get("reasoning_content") or "").strip()


def may_be_part(message: Message) -> bool:
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


def wording_of(message: Message) -> Any:
    """What of a message tells conversations apart: no thinking, no ids."""
    if message["role"] != "assistant":
        return [message["role"], text_of(message)]
    return ["assistant", settled(text_of(message)), [call[1:] for call in calls_of(message)]]


def text_of(message: Mapping[str, Any]) -> str:
    content = message.get("content") or ""
    if not isinstance(content, str):
        content = json.dumps(content, sort_keys=True, default=str)
    return content.strip()


def calls_of(message: Mapping[str, Any]) -> tuple[tuple[str, str, str], ...]:
    """(id, name, arguments) of each call; spacing, order of keys and spelling of numbers make no difference."""
    found = []
    for call in message.get("tool_calls") or []:
        function = call.get("function", call)
        call_id = call.get("id")
        found.append(
            (call_id if isinstance(call_id, str) else "", function["name"], canonical(function.get("arguments")))
        )
    return tuple(found)


def call_ids(message: Mapping[str, Any]) -> list[str]:
    """Those of `calls_of`; none of a message that cannot be a part of a turn."""
    ids = [call.get("id") for call in message.get("tool_calls") or []] if may_be_part(message) else []
    return [call_id if isinstance(call_id, str) else "" for call_id in ids]


def canonical(value: Any) -> str:
    return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _plain(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    if isinstance(value, int) and 2**53 <= abs(value) < 2**1000:  # to JavaScript no more than this
        return float(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def digest_of(value: Any) -> bytes:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, default=str)
    return blake2b(text.encode(), digest_size=24).digest()


def with_thinking_apart(message: Message) -> Message:
    """Thinking that stands inline before the content becomes `reasoning_content`, as templates split it.

    Where both are there, the inline thinking is the other once more, whole or in part, or the message stays as it
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
