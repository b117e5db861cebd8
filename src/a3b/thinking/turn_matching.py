"""Whether what a client sends is a given turn of the model: as it was, stopped earlier, or with a stop string.

A client may lose thinking, whitespace and ids; whatever else differs is an edit, and the turn is then the client's.
Each function takes time in proportion to the texts. Does not know where turns are looked for;
`a3b.thinking.turn_search` does. Enter at `is_same`, `truncated_as_sent`, `with_stop_string`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from a3b.interface.events import TruncationPoint
from a3b.thinking.remnants import is_remnant, plain, settled
from a3b.thinking.turn import Calls, Message, Turn, calls_of, text_of, thinking_of

INTERRUPTED = "interrupted"  # what clients write in brackets after a text that they stopped

TurnTailEncoder: TypeAlias = Callable[[Sequence[int], str | None, str], Sequence[int]]
"""(ids that are kept, rest of the thinking or None if it is closed, rest of the text) -> ids of the turn up to
there."""


@dataclass(frozen=True)
class SentTurn:
    """What a client sends as a turn of the model."""

    thinking: str
    content: str
    calls: Calls
    may_lack_text: bool  # it has calls: no neighbouring message can hold the rest of the text

    @classmethod
    def of(cls, message: Message, may_lack_text: bool) -> SentTurn:
        """The turn that a message is, with its thinking apart."""
        return cls(thinking_of(message), text_of(message), calls_of(message), may_lack_text)


def is_same(turn: Turn, sent: SentTurn) -> bool:
    """Whether content and calls are those of a turn; if there are calls, the content may be missing, as some clients
    drop it."""
    if not _has_calls(sent, turn.calls):
        return False
    return settled(sent.content) == turn.settled_content or (
        bool(sent.calls) and not sent.content and sent.may_lack_text
    )


def choose_by_thinking(turns: Sequence[Turn], thinking: str, earlier: Iterable[Turn]) -> list[Turn]:
    """The turns whose thinking the client sent; if there are none, those whose thinking it kept in part.

    earlier: turns before these in the conversation, latest first."""
    if not thinking or not turns:
        return list(turns)
    if exact := [turn for turn in turns if turn.thinking.strip() == thinking]:
        return exact
    text, before = plain(thinking), list(earlier)
    return [turn for turn in turns if turn.plain_thinking == text] or [
        turn for turn in turns if is_remnant(thinking, turn.plain_thinking, (other.plain_thinking for other in before))
    ]


def holds_thinking(turn: Turn, thinking: str) -> bool:
    """Whether a client sent all the thinking of a turn, and not a remnant of it."""
    return bool(thinking) and (turn.thinking.strip() == thinking or turn.plain_thinking == plain(thinking))


def with_stop_string(turn: Turn, sent: SentTurn, encode_turn_tail: TurnTailEncoder) -> Turn | None:
    """A turn with the stop string that the client put at its end; None if the client's content is another."""
    ending = sent.content[len(turn.content) :]
    if not sent.content.startswith(turn.content) or ending.strip() not in {stop.strip() for stop in turn.stops}:
        return None
    return replace(turn, ids=tuple(encode_turn_tail(turn.ids[:-1], None, ending)) if turn.ids else ())


def truncated_as_sent(turn: Turn, sent: SentTurn, encode_turn_tail: TurnTailEncoder) -> Turn | None:
    """A stopped turn up to where the client has it, with the ids that replay it; None if it is another turn.

    The ids are kept up to the last point that the client has; what it has beyond follows as text."""
    text = _without_note(sent.content)
    if not _is_beginning(turn, sent, text):
        return None
    thinking = sent.thinking or turn.thinking
    in_thinking = not (text or sent.calls) and not (_has_closed(turn) and thinking == turn.thinking)
    if not (turn.thinking.startswith(thinking) if in_thinking else turn.thinking == thinking):
        if not is_remnant(thinking, turn.plain_thinking, only_end=True):  # a beginning would say where it was stopped
            return None
        thinking = turn.thinking
    part = thinking if in_thinking else sent.content
    most = _num_kept(turn.thinking if in_thinking else turn.content, part, len(text))
    point = _last_point(turn, in_thinking, len(sent.calls), most)
    if point is None:
        return replace(turn, ids=(), cuts=(), thinking=thinking)
    kept, rest = turn.ids[: point.num_ids], part[point.num_chars :]
    ids = encode_turn_tail(kept, rest, sent.content) if in_thinking else encode_turn_tail(kept, None, rest)
    num = min(turn.thinking_tokens, len(kept))
    return replace(turn, ids=tuple(ids), cuts=(), thinking=thinking, thinking_tokens=num)


def _is_beginning(turn: Turn, sent: SentTurn, text: str) -> bool:
    """Whether the client has a beginning of a stopped turn's text and calls. text: its content without a note."""
    if not _has_calls(sent, turn.calls[: len(sent.calls)]) or not turn.content.startswith(text):
        return False
    has_something = bool(text or sent.calls or sent.thinking)
    return has_something or not (turn.content or turn.calls)  # otherwise the client removed the text


def _has_calls(sent: SentTurn, calls: Calls) -> bool:
    """Whether the client's calls are these, whatever their ids."""
    return [call[1:] for call in sent.calls] == [call[1:] for call in calls]


def _has_closed(turn: Turn) -> bool:
    """Whether a stopped turn got beyond its thinking."""
    return any(not cut.in_thinking for cut in turn.cuts)


def _num_kept(whole: str, part: str, num_without_note: int) -> float:
    """How many characters of `whole` may be kept when a client has `part` of it: those, the whitespace after them
    and, if nothing else follows, whatever was sampled. A part with a note counts without it."""
    if not whole.startswith(part):
        return num_without_note
    tail = whole[len(part) :].lstrip()
    return len(whole) - len(tail) if tail else math.inf


def _last_point(turn: Turn, in_thinking: bool, num_calls: int, most: float) -> TruncationPoint | None:
    """The last point in that part of a turn with at most so many characters before it."""
    for point in reversed(turn.cuts):
        if (point.in_thinking, point.num_calls) == (in_thinking, num_calls) and point.num_chars <= most:
            return point
    return None


def _without_note(content: str) -> str:
    """The content without the note in brackets by which a client says that it was stopped."""
    text, _, note = content.rpartition("[")
    return text.rstrip() if note.endswith("]") and INTERRUPTED in note.lower() else content
