"""The place of a turn in a conversation, as hashes. Enter at `ConversationKey`."""

from __future__ import annotations

from collections import deque
from hashlib import blake2b

from a3b.prompt.normalise_messages import REMINDER_KEY
from a3b.thinking.remnants import settled
from a3b.thinking.turn import (
    Calls,
    Message,
    Turn,
    digest_of,
    wording_of,
)

MAX_EARLIER = 64  # turns whose thinking may stand before that of a later one
NEIGHBOURS_LEN = 80  # characters of a turn and the message before it, from which these alone tell it from others


class ConversationKey:
    """A conversation so far, as digests: a place costs no more the longer it is."""

    def __init__(self) -> None:
        self._all = b""
        self._near: dict[bytes, tuple[bytes, int]] = {}  # kind of place: (digest, characters of what it is made of)
        self.thought: deque[Turn] = deque(maxlen=MAX_EARLIER)  # that were recognised, the latest first
        self.by_assistant = False  # the last message

    def add(self, message: Message) -> None:
        if message["role"] != "system" and not message.get(REMINDER_KEY):
            self.by_assistant = message["role"] == "assistant"
            role, text, *rest = wording_of(message)
            last = digest_of([role, text, *rest])
            first = text.partition("\n\n")[0]
            self._near = {
                b"n": (last, len(text) + len(str(rest))),
                b"f": (digest_of([role, first, *rest]), len(first) + len(str(rest))),
            }
            self._all = blake2b(self._all + last, digest_size=24).digest()

    def keys(self, content: str, calls: Calls) -> list[bytes]:
        """Where a turn is looked for, surest place first: ids of calls, all before it, its neighbour, its neighbour's
        first paragraph."""
        named = sorted(call[0] for call in calls if call[0])
        keys = [b"c" + digest_of(named)] if named else []
        wording = [settled(content) if not calls else "", [call[1:] for call in calls]]
        keys.append(b"p" + digest_of([self._all.hex(), wording]))
        size = len(str(wording))
        return keys + [
            kind + digest_of([near.hex(), wording])
            for kind, (near, num) in self._near.items()
            if num + size >= NEIGHBOURS_LEN
        ]

    def all_keys(self, turn: Turn) -> list[bytes]:
        """Where a whole turn is remembered."""
        keys = self.keys(turn.content, turn.calls)
        keys += [self.ended_key()] if turn.stops and not turn.calls else []
        return keys + ([parts_key(turn.calls[0][0])] if len(turn.calls) > 1 else [])

    def ended_key(self) -> bytes:
        """Where a turn is looked for that a stop string was to end."""
        return b"e" + digest_of(self._all.hex())

    def stopped_keys(self, says_enough: bool = True) -> list[bytes]:
        """Where a stopped turn is looked for; says_enough: its beginning can be told from others by its neighbour
        alone."""
        near = self._near.items() if says_enough else ()
        return [
            b"sp" + digest_of(self._all.hex()),
            *(b"s" + kind + digest_of(digest.hex()) for kind, (digest, _) in near),
        ]


def parts_key(call_id: str) -> bytes:
    """Where a turn of several calls is looked for by the first of them."""
    return b"m" + digest_of(call_id)
