"""The turns a server has generated, recognised when a client sends them back, with or without their thinking.

A turn is known by the ids of its calls, or by its content at its place in a conversation; thinking takes no part in
that. What was sampled goes back in token for token. A turn that the client changed is the client's: its calls, content
or thinking differ from what is remembered, and nothing of the memory is used. Thinking that a client lost in part is
not a change (`a3b.thinking.remnants`), nor is a stop string of the request at the end of the content: it follows what
was sampled, as text. Which thinking then stays in the prompt is a policy. Knows no tokenizer, no template and no HTTP.
Enter at `TurnMemory.recall`, then `apply_policy`.

Stopped turns. A client that left in mid-stream got a beginning of what was sampled. At the turn's place any beginning
of its text is that turn: the thinking before it was complete. It goes back cut behind the last token that the client
has; what the client has of the next token, and its note that it was interrupted, follow as text. Of a turn stopped
while it was thinking, any beginning of the thinking is known, or an empty turn; the thinking is then closed. Nothing
comes back of text that the client does not send.

Split turns. Assistant messages in a row are taken as one turn if together they are one that is known; so are messages
with results of tools between them, by the ids of their calls (`TurnMemory.rejoined`).

Places. A turn is found by the whole conversation before it (system messages left out: clients put dates there) or,
where that was shortened or rewritten, by the one message before it, or the first paragraph of that (some clients append
reminders and take them away again); these only if all turns found there are the same, and if message and turn say
enough to be told from others. Of several answers in the same words at the same place the one is meant whose thinking
comes back with it, else the latest.

A turn knows the dates that its conversation began with (`a3b.thinking.stable_dates`): by a turn that is recognised a
conversation is known, and examples of answers that a client made up are none of ours."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from itertools import takewhile
from typing import Any, Protocol

from a3b.interface.events import TruncationPoint
from a3b.isolation import deadlines
from a3b.prompt.chat_template import REPLAY_KEY, Closed
from a3b.prompt.tool_results import NO_RESULT_KEY, pair_results
from a3b.thinking.conversation_key import NEIGHBOURS_LEN, ConversationKey, parts_key
from a3b.thinking.policy import ThinkingBlock
from a3b.thinking.stable_dates import Dates, undated
from a3b.thinking.turn import (
    Calls,
    Message,
    Turn,
    TurnTailEncoder,
    as_ended,
    as_sent,
    by_thinking,
    call_ids,
    calls_of,
    holds_thinking,
    is_alike,
    joined,
    may_be_part,
    text_of,
    thinking_of,
    with_thinking_apart,
    without_mark,
)

MAX_TOKENS = 2 << 20  # of turns in memory; older ones are found in the store, if there is one
TURN_TOKENS = 64  # what a turn counts beside its tokens
DATE_TOKENS = 8  # what a date counts
MAX_ALIKE = 16  # answers of the same text at the same place, the latest of them
MAX_PARTS = 8  # messages in a row that may be one turn


def _alone(method: Callable) -> Callable:
    """Lets one thread at a time into such methods; none of them takes longer in a longer conversation."""

    @wraps(method)
    def locked(self: TurnMemory, *args: Any, **kwargs: Any) -> Any:
        with self._lock:
            return method(self, *args, **kwargs)

    return locked


class TurnRecords(Protocol):
    """Where turns outlive the process."""

    def put_record(self, namespace: str, key: bytes, value: bytes, node: bytes | None = None) -> None: ...

    def get_records(self, namespace: str, key: bytes) -> list[bytes]: ...

    def changes(self) -> int:
        """Another number after another process has forgotten something."""


class TurnMemory:
    """Remembers turns per namespace. Used by any thread."""

    def __init__(self, records: TurnRecords | None = None, max_tokens: int = MAX_TOKENS):
        self._records, self._max_tokens, self._num_tokens = records, max_tokens, 0
        self._lock = threading.RLock()
        self._known: OrderedDict[tuple[str, bytes], list[Turn]] = OrderedDict()
        self._tokens_of: Counter[str] = Counter()  # of each namespace
        self._written: set[tuple[str, bytes]] = set()  # keys of `_known` that the records hold, too
        self._changes = records.changes() if records else 0

    def remember(
        self, namespace: str, before: Sequence[Message], turn: Turn, persist: bool = True, node: bytes | None = None
    ) -> None:
        """`before`: the messages that the turn answers, as `recall` takes them."""
        conversation = ConversationKey()
        for message in undated(before):
            conversation.add(message)
        for key in conversation.stopped_keys() if turn.cuts else conversation.all_keys(turn):
            self._add(namespace, key, turn, persist, node)

    @_alone
    def _add(self, namespace: str, key: bytes, turn: Turn, persist: bool, node: bytes | None) -> None:
        others = [t for t in self._turns(namespace, key) if (t, t.dates) != (turn, turn.dates)]
        self._keep((namespace, key), [*others, turn][-MAX_ALIKE:])
        if persist and self._records is not None:
            self._records.put_record(namespace, key, turn.to_bytes(), node)
            self._written.add((namespace, key))

    @_alone
    def forget(self, namespace: str | None = None) -> None:
        """All turns in memory, or those of one namespace."""
        for key in [key for key in self._known if namespace is None or key[0] == namespace]:
            self._drop(key)

    def _keep(self, key: tuple[str, bytes], turns: list[Turn]) -> None:
        """Make `turns` what is known under a key, used last; the namespace that has most drops what it did not use for
        longest."""
        self._count(key, _size(turns) - _size(self._known.pop(key, [])))
        self._known[key] = turns
        while self._num_tokens > self._max_tokens and len(self._known) > 1:
            most = max(self._tokens_of, key=self._tokens_of.__getitem__)
            self._drop(next(known for known in self._known if known[0] == most))

    def _drop(self, key: tuple[str, bytes]) -> None:
        self._count(key, -_size(self._known.pop(key, [])))
        self._written.discard(key)

    def _count(self, key: tuple[str, bytes], num_tokens: int) -> None:
        self._num_tokens += num_tokens
        self._tokens_of[key[0]] += num_tokens

    @_alone
    def _follow_records(self) -> None:
        """What another process made the records forget is forgotten here, too."""
        changes = self._records.changes() if self._records else 0
        if changes != self._changes:
            self._changes = changes
            for key in list(self._written):
                self._drop(key)

    def rejoined(self, namespace: str, messages: Sequence[Message]) -> list[Message]:
        """The same messages, with the calls of one turn in one message where results of tools stand between them; the
        results follow it in the order of the calls. `messages` as `normalise_messages` gives them."""
        self._follow_records()
        out: list[Message] = []
        at = 0
        while at < len(messages):
            deadlines.check()
            end = self._end_of_parts(namespace, messages, at)
            if end == at:
                out.append(messages[at])
                at += 1
                continue
            whole = joined([message for message in messages[at:end] if message["role"] == "assistant"])
            while end < len(messages) and messages[end]["role"] != "assistant":
                end += 1
            sent = [
                message
                for message in messages[at:end]
                if message["role"] != "assistant" and NO_RESULT_KEY not in message
            ]
            out += pair_results([whole, *sent])[0]
            at = end
        return out

    def _end_of_parts(self, namespace: str, messages: Sequence[Message], at: int) -> int:
        """The end of a turn that begins here and has results between its calls; `at` if there is none."""
        ids = call_ids(messages[at])
        if not ids or not ids[0] or at + 1 == len(messages) or messages[at + 1]["role"] != "tool":
            return at
        wholes = [[call[0] for call in turn.calls] for turn in self._turns(namespace, parts_key(ids[0]))]
        for end in range(at + 1, len(messages)):
            message = messages[end]
            wholes = [whole for whole in wholes if len(whole) > len(ids) and whole[: len(ids)] == ids]
            if not wholes or (message["role"] != "tool" and not may_be_part(message)):
                break
            ids += call_ids(message)
            if ids in wholes:
                return end + 1
        return at

    def recall(
        self,
        namespace: str,
        messages: Sequence[Message],
        count: Callable[[str], int],
        encode_turn_tail: TurnTailEncoder,
    ) -> tuple[list[Message], list[ThinkingBlock]]:
        """The conversation with what was sampled put back: (messages, thinking in them). `messages` as
        `normalise_messages` gives them.

        count: tokens of a text, for thinking that only the client knows. encode_turn_tail: the ids of a stopped turn,
        from those that are kept, the rest of its thinking (None: it is closed) and the rest of its text."""
        self._follow_records()
        out: list[Message] = []
        blocks: list[ThinkingBlock] = []
        for message, sent, found in self._recognised(namespace, messages, encode_turn_tail):
            if found:
                turn = found[-1]
                message = {**message, "reasoning_content": turn.thinking}
                if turn.ids:
                    message[REPLAY_KEY] = Closed(turn.ids) if turn.closed else turn.ids
                if turn.thinking:
                    blocks.append(ThinkingBlock(len(out), turn.thinking_tokens, not holds_thinking(turn, sent)))
            elif sent:
                blocks.append(ThinkingBlock(len(out), count(sent), False))
            out.append(message)
        return out, blocks

    def dates(self, namespace: str, messages: Sequence[Message], own: Dates) -> Dates:
        """The dates that a conversation began with, for each text in `own`, which has those it begins with now.

        They are those of its last turn that is recognised. If conversations that are alike so far began with others,
        `own` stay if they are those of one, or if there are too many to remember them all; else those count that were
        answered last."""
        self._follow_records()
        known: list[Dates] = []
        is_full = False
        for _, _, found in self._recognised(namespace, messages, lambda kept, thinking, text: kept):
            if alike := [turn.dates for turn in found if turn.dates.keys() & own.keys()]:
                known, is_full = alike, len(found) >= MAX_ALIKE
        if not known or any(all(own.get(digest, kept) == kept for digest, kept in dates.items()) for dates in known):
            return own
        if is_full and any(dates != known[-1] for dates in known):
            return own
        return {digest: known[-1].get(digest, dates) for digest, dates in own.items()}

    def _recognised(
        self, namespace: str, messages: Sequence[Message], encode_turn_tail: TurnTailEncoder
    ) -> Iterator[tuple[Message, str, list[Turn]]]:
        """Each message, thinking apart and parts of a turn joined: (it, thinking the client sent, turns it may be, the
        likeliest last)."""
        conversation, undated_messages, at = ConversationKey(), undated(messages), 0
        while at < len(messages):
            deadlines.check()
            if messages[at]["role"] != "assistant":
                yield messages[at], "", []
                conversation.add(undated_messages[at])
                at += 1
                continue
            message, found, num = self._recognise(
                namespace, conversation, messages[at : at + MAX_PARTS], encode_turn_tail
            )
            yield message, thinking_of(message), found
            conversation.add(message)
            if found:
                conversation.thought.appendleft(found[-1])
            at += num

    def _recognise(
        self,
        namespace: str,
        conversation: ConversationKey,
        messages: Sequence[Message],
        encode_turn_tail: TurnTailEncoder,
    ) -> tuple[Message, list[Turn], int]:
        """The next message of the assistant, turns that it may be, and of how many messages it was made."""
        run = [with_thinking_apart(message) for message in takewhile(may_be_part, messages)] or [messages[0]]
        for num in range(len(run), 0, -1):
            message = joined(run[:num])
            is_all = num == len(run) and not conversation.by_assistant  # else its text may be in another message
            if found := self._find_any(namespace, conversation, message, is_all, encode_turn_tail):
                break
            if (bare := without_mark(message)) and (
                found := self._find_any(namespace, conversation, bare, is_all, encode_turn_tail)
            ):
                message = bare
                break
        return message, found, num

    def _find_any(
        self,
        namespace: str,
        conversation: ConversationKey,
        message: Message,
        is_all: bool,
        encode_turn_tail: TurnTailEncoder,
    ) -> list[Turn]:
        sent, content, calls = thinking_of(message), text_of(message), calls_of(message)
        return (
            self._find(namespace, conversation, content, calls, sent, is_all)
            or self._find_stopped(namespace, conversation, content, calls, sent, encode_turn_tail)
            or self._find_ended(namespace, conversation, content, calls, sent, encode_turn_tail)
        )

    def _find(
        self, namespace: str, conversation: ConversationKey, content: str, calls: Calls, sent: str, may_lack_text: bool
    ) -> list[Turn]:
        """sent: thinking that the client has; only turns with the same count, or, at a certain place, those of whose it
        is a remnant."""
        for key in conversation.keys(content, calls):
            alike = [turn for turn in self._turns(namespace, key) if is_alike(turn, content, calls, may_lack_text)]
            found = by_thinking(alike, sent, conversation.thought)
            is_sure = key[:1] in b"cp" or bool(sent and found and found[-1].thinking.strip() == sent)
            if found and (is_sure or len(set(found)) == 1):
                return found
        return []

    def _find_ended(
        self,
        namespace: str,
        conversation: ConversationKey,
        content: str,
        calls: Calls,
        sent: str,
        encode_turn_tail: TurnTailEncoder,
    ) -> list[Turn]:
        """Turns whose content the client sent with a stop string of their request after it."""
        turns = [] if calls else self._turns(namespace, conversation.ended_key())
        found = [turn for whole in turns if (turn := as_ended(whole, content, encode_turn_tail))]
        return by_thinking(found, sent, conversation.thought)

    def _find_stopped(
        self,
        namespace: str,
        conversation: ConversationKey,
        content: str,
        calls: Calls,
        sent: str,
        encode_turn_tail: TurnTailEncoder,
    ) -> list[Turn]:
        says_enough = len(content) + len(sent) >= NEIGHBOURS_LEN
        for key in conversation.stopped_keys(says_enough):
            found = [
                turn
                for whole in self._turns(namespace, key)
                if (turn := as_sent(whole, content, calls, sent, encode_turn_tail))
            ]
            found = [turn for turn in found if turn.thinking.strip() == sent] or found
            if found and (key[:2] == b"sp" or len(set(found)) == 1):
                return found
        return []

    @_alone
    def _turns(self, namespace: str, key: bytes) -> list[Turn]:
        known = self._known.get((namespace, key))
        if known is None and self._records is not None:
            known = []
            for data in self._records.get_records(namespace, key):
                try:
                    known.append(Turn.from_bytes(data))
                except ValueError:
                    pass  # not a turn of ours: as if it were not there
            if known:
                self._written.add((namespace, key))
                self._keep((namespace, key), known[-MAX_ALIKE:])
        return known or []


def _size(turns: Sequence[Turn]) -> int:
    return sum(
        TURN_TOKENS
        + len(turn.ids)
        + len(turn.cuts) * len(TruncationPoint._fields)
        + DATE_TOKENS * sum(map(len, turn.dates.values()))
        for turn in turns
    )


# -- policies
