"""Finds the turns of the model among the messages of a conversation. Enter at `TurnSearch.walk`.

For each message of the assistant, in this order:

1. It is joined with those that follow it directly, as many as possible first, because some clients split a turn.
2. The result is looked for as it is, then without an end of turn written out in its text.
3. It is a known turn by the first row that finds one:

   | it is                  | looked for under                                            | if                  |
   |------------------------|-------------------------------------------------------------|---------------------|
   | a whole turn           | ids of its calls; all messages before it; the one before it | `is_same`           |
   | a stopped turn         | all messages before it; the one before it                   | `truncated_as_sent` |
   | a turn and a stop text | all messages before it                                      | `with_stop_string`  |

Under a key that does not identify a place, the turns found count only if they are all the same, or if the client sent
their thinking. Of several turns with the same wording, the best match is the one whose thinking the client sent,
otherwise the latest."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import takewhile
from typing import NamedTuple

from a3b.isolation import deadlines
from a3b.thinking.conversation_key import ConversationKey
from a3b.thinking.stable_dates import undated
from a3b.thinking.turn import (
    Message,
    Turn,
    joined,
    may_be_part,
    with_thinking_apart,
    without_end_mark,
)
from a3b.thinking.turn_matching import (
    SentTurn,
    TurnTailEncoder,
    choose_by_thinking,
    is_same,
    truncated_as_sent,
    with_stop_string,
)

MAX_PARTS = 8  # messages in a row that may be one turn
MAX_EARLIER = 64  # turns whose thinking a client may have put before that of a later one


class Recognised(NamedTuple):
    """A message of a conversation, and the turns that it may be."""

    message: Message  # with its thinking apart, and joined if it was sent in parts
    turns: list[Turn]  # the most likely last; none if it is not known, or not the assistant's


class TurnSearch:
    """One walk through a conversation, from its beginning."""

    def __init__(self, turns_at: Callable[[bytes], list[Turn]], encode_turn_tail: TurnTailEncoder):
        """turns_at: the known turns under a key, the latest last."""
        self._turns_at, self._encode_turn_tail = turns_at, encode_turn_tail
        self._before = ConversationKey()
        self._earlier: deque[Turn] = deque(maxlen=MAX_EARLIER)  # recognised so far, the latest first

    def walk(self, messages: Sequence[Message]) -> Iterator[Recognised]:
        """Every message in order. Time is linear in their number."""
        keyed, at = undated(messages), 0
        while at < len(messages):
            deadlines.check()
            if messages[at]["role"] != "assistant":
                yield Recognised(messages[at], [])
                self._before.add(keyed[at])
                at += 1
                continue
            found, num = self._recognise(messages[at : at + MAX_PARTS])
            yield found
            self._before.add(found.message)
            if found.turns:
                self._earlier.appendleft(found.turns[-1])
            at += num

    def _recognise(self, messages: Sequence[Message]) -> tuple[Recognised, int]:
        """The turn that these messages begin with, and how many of them it takes; one, if no turn is known."""
        parts = [with_thinking_apart(message) for message in takewhile(may_be_part, messages)] or [messages[0]]
        for num in range(len(parts), 0, -1):
            whole = joined(parts[:num])
            is_alone = num == len(parts) and not self._before.ends_with_assistant
            for message in (whole, without_end_mark(whole)):
                if message is not None and (turns := self._find(SentTurn.of(message, may_lack_text=is_alone))):
                    return Recognised(message, turns), num
        return Recognised(parts[0], []), 1

    def _find(self, sent: SentTurn) -> list[Turn]:
        return self._find_whole(sent) or self._find_stopped(sent) or self._find_with_stop_string(sent)

    def _find_whole(self, sent: SentTurn) -> list[Turn]:
        for key in self._before.keys_of(sent.content, sent.calls):
            same = [turn for turn in self._turns_at(key.value) if is_same(turn, sent)]
            found = choose_by_thinking(same, sent.thinking, self._earlier)
            if found and (key.is_certain or _has_thinking(found[-1], sent) or len(set(found)) == 1):
                return found
        return []

    def _find_stopped(self, sent: SentTurn) -> list[Turn]:
        for key in self._before.keys_of_stopped(len(sent.content) + len(sent.thinking)):
            cut = [truncated_as_sent(turn, sent, self._encode_turn_tail) for turn in self._turns_at(key.value)]
            found = [turn for turn in cut if turn is not None]
            found = [turn for turn in found if turn.thinking.strip() == sent.thinking] or found
            if found and (key.is_certain or len(set(found)) == 1):
                return found
        return []

    def _find_with_stop_string(self, sent: SentTurn) -> list[Turn]:
        if sent.calls:
            return []
        known = self._turns_at(self._before.key_with_stop_string().value)
        ended = [with_stop_string(turn, sent, self._encode_turn_tail) for turn in known]
        return choose_by_thinking([turn for turn in ended if turn is not None], sent.thinking, self._earlier)


def _has_thinking(turn: Turn, sent: SentTurn) -> bool:
    """Whether the client sent the thinking of a turn to the letter."""
    return bool(sent.thinking) and turn.thinking.strip() == sent.thinking
