"""The place of a turn in a conversation, as the keys under which turns are remembered and looked for.

A turn is found by the ids of its calls, by the whole conversation before it (without system messages, where clients put
dates) or, where that was shortened or rewritten, by the one message before it or the first paragraph of that (some
clients append reminders and take them away again). Those two do not identify a turn, so they count only if message and
turn say enough, and if only one turn is found. Does not know where turns are stored. Enter at `ConversationKey`."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, NamedTuple

from a3b.prompt.normalise_messages import REMINDER_KEY
from a3b.thinking.remnants import settled
from a3b.thinking.turn import Calls, Turn, digest_of, wording_of

NEIGHBOURS_LEN = 80  # characters of a turn and the message before it that together distinguish it from others


class TurnKey(NamedTuple):
    """A key under which turns are kept, by `value`.

    is_certain: it identifies the place; otherwise different turns may share it."""

    value: bytes
    is_certain: bool


class _Neighbour(NamedTuple):
    """The message before a turn, or its first paragraph."""

    kind: bytes
    digest: bytes
    num_chars: int


class ConversationKey:
    """A conversation so far, as digests: the keys of the next turn cost the same however long it is.

    ends_with_assistant: whether the last message is the assistant's."""

    def __init__(self) -> None:
        self._all = b""
        self._neighbours: list[_Neighbour] = []
        self.ends_with_assistant = False

    def add(self, message: Mapping[str, Any]) -> None:
        """Append a message. System messages and reminders made of them do not count."""
        if message["role"] == "system" or message.get(REMINDER_KEY):
            return
        self.ends_with_assistant = message["role"] == "assistant"
        role, text, *rest = wording_of(message)
        whole, first = digest_of([role, text, *rest]), text.partition("\n\n")[0]
        self._neighbours = [
            _Neighbour(b"n", whole, len(text) + len(str(rest))),
            _Neighbour(b"f", digest_of([role, first, *rest]), len(first) + len(str(rest))),
        ]
        self._all = blake2b(self._all + whole, digest_size=24).digest()

    def keys_of(self, content: str, calls: Calls) -> list[TurnKey]:
        """Where to look for a whole turn, the most certain key first."""
        named = sorted(call[0] for call in calls if call[0])
        wording = [settled(content) if not calls else "", [call[1:] for call in calls]]
        size = len(str(wording))
        return [
            *([TurnKey(b"c" + digest_of(named), True)] if named else ()),
            TurnKey(b"p" + digest_of([self._all.hex(), wording]), True),
            *(
                TurnKey(near.kind + digest_of([near.digest.hex(), wording]), False)
                for near in self._neighbours
                if near.num_chars + size >= NEIGHBOURS_LEN
            ),
        ]

    def key_with_stop_string(self) -> TurnKey:
        """Where to look for a turn that a stop string may have ended."""
        return TurnKey(b"e" + digest_of(self._all.hex()), True)

    def keys_of_stopped(self, num_chars: int) -> list[TurnKey]:
        """Where to look for a stopped turn of which the client has so many characters."""
        near = self._neighbours if num_chars >= NEIGHBOURS_LEN else ()
        return [
            TurnKey(b"sp" + digest_of(self._all.hex()), True),
            *(TurnKey(b"s" + near.kind + digest_of(near.digest.hex()), False) for near in near),
        ]

    def keys_to_remember(self, turn: Turn) -> list[bytes]:
        """The keys under which to remember a turn, so that every lookup above finds it."""
        if turn.cuts:
            return [key.value for key in self.keys_of_stopped(NEIGHBOURS_LEN)]
        keys = self.keys_of(turn.content, turn.calls)
        keys += [self.key_with_stop_string()] if turn.stops and not turn.calls else []
        keys += [key_of_parts(turn.calls[0][0])] if len(turn.calls) > 1 else []
        return [key.value for key in keys]


def key_of_parts(call_id: str) -> TurnKey:
    """Where to look for a turn of several calls by the id of the first."""
    return TurnKey(b"m" + digest_of(call_id), True)
