"""The turns a server has generated, put back where a client sends them again, with or without their thinking.

What was sampled is replayed token for token. A turn that the client changed is the client's: if its calls, content or
thinking differ from what is remembered, nothing from memory is used. Thinking of which a client lost a part is not a
change (`a3b.thinking.remnants`), nor is a stop string of the request at the end of the content: it follows what was
sampled, as text. Which thinking then stays in the prompt is a policy (`a3b.thinking.policy`). Knows no tokenizer, no
template and no HTTP. Enter at `TurnMemory.recall`.

Stopped turns. A client that left in mid-stream has a beginning of what was sampled. At the turn's place any beginning
of its text is that turn, since its thinking was complete. It is replayed up to the last token that the client has; what
the client has of the next token, and its note that it was interrupted, follow as text. Of a turn stopped while it was
thinking, any beginning of the thinking is recognised, and an empty turn; the thinking is then closed. Text that the
client does not send never comes back.

Split turns. Assistant messages in a row are one turn if together they are a turn that is known; so are messages with
results of tools between them, by the ids of their calls (`TurnMemory.rejoined`).

Dates. A turn knows the dates that its conversation began with (`a3b.thinking.stable_dates`), so a conversation is known
by any turn in it that is recognised. Turns that a client wrote as examples are never recognised."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from a3b.isolation import deadlines
from a3b.prompt.chat_template import REPLAY_KEY, Closed
from a3b.prompt.tool_results import NO_RESULT_KEY, pair_results
from a3b.thinking.conversation_key import ConversationKey, key_of_parts
from a3b.thinking.known_turns import MAX_ALIKE, MAX_TOKENS, KnownTurns, TurnRecords
from a3b.thinking.policy import ThinkingBlock
from a3b.thinking.stable_dates import Dates, undated
from a3b.thinking.turn import Message, Turn, call_ids, joined, may_be_part, thinking_of
from a3b.thinking.turn_matching import TurnTailEncoder, holds_thinking
from a3b.thinking.turn_search import Recognised, TurnSearch


class TurnMemory:
    """Remembers turns per namespace. Used by any thread; messages are as `normalise_messages` gives them."""

    def __init__(self, records: TurnRecords | None = None, max_tokens: int = MAX_TOKENS):
        """records: where turns outlive the process. max_tokens: of turns in memory."""
        self._known = KnownTurns(records, max_tokens)

    def remember(
        self, namespace: str, before: Sequence[Message], turn: Turn, persist: bool = True, node: bytes | None = None
    ) -> None:
        """Keep a turn that answers the messages `before`. persist: in the records too, as long as `node` is there."""
        conversation = ConversationKey()
        for message in undated(before):
            conversation.add(message)
        for key in conversation.keys_to_remember(turn):
            self._known.add(namespace, key, turn, persist, node)

    def rejoined(self, namespace: str, messages: Sequence[Message]) -> list[Message]:
        """The messages with the calls of one turn joined in one message where tool results separate them.

        The results follow it in the order of the calls."""
        self._known.follow_records()
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
        """The end of a turn that begins at `at` and has results between its calls; `at` if there is none."""
        ids = call_ids(messages[at])
        if not ids or not ids[0] or at + 1 == len(messages) or messages[at + 1]["role"] != "tool":
            return at
        known = self._known.at(namespace, key_of_parts(ids[0]).value)
        wholes = [[call[0] for call in turn.calls] for turn in known]
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
        """(the conversation with what was sampled put back, the thinking in it).

        count: tokens of a text, for thinking that only the client knows. encode_turn_tail: the ids of a stopped turn,
        from those that are kept, the rest of its thinking (None: it is closed) and the rest of its text."""
        out: list[Message] = []
        blocks: list[ThinkingBlock] = []
        for message, turns in self._walk(namespace, messages, encode_turn_tail):
            sent = thinking_of(message) if message["role"] == "assistant" else ""
            if turns:
                turn = turns[-1]
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
        """The dates that a conversation began with, for each text in `own`, the dates it begins with now.

        They are those of its last turn that is recognised. If conversations that are alike so far began with other
        dates, `own` stay if they are those of one of them, or if there are too many to remember them all; otherwise the
        dates of the one answered last count."""
        known: list[Dates] = []
        is_full = False
        for _, turns in self._walk(namespace, messages, lambda kept, thinking, text: kept):
            if alike := [turn.dates for turn in turns if turn.dates.keys() & own.keys()]:
                known, is_full = alike, len(turns) >= MAX_ALIKE
        if not known or any(all(own.get(digest, kept) == kept for digest, kept in dates.items()) for dates in known):
            return own
        if is_full and any(dates != known[-1] for dates in known):
            return own
        return {digest: known[-1].get(digest, dates) for digest, dates in own.items()}

    def _walk(
        self, namespace: str, messages: Sequence[Message], encode_turn_tail: TurnTailEncoder
    ) -> Iterator[Recognised]:
        self._known.follow_records()
        return TurnSearch(lambda key: self._known.at(namespace, key), encode_turn_tail).walk(messages)
