"""The turns a server has generated, recognised when a client sends them back, with or without their thinking.

A turn is known by the ids of its calls, or by its content at its place in a conversation; thinking takes no part in that. What was
sampled goes back in token for token. A turn that the client changed is the client's: its calls, content or thinking differ from
what is remembered, and nothing of the memory is used. Which thinking then stays in the prompt is a policy. Knows no tokenizer, no
template and no HTTP. Enter at `Turns.recall`, then `apply_policy`.

Stopped turns. A client that left in mid-stream got a beginning of what was sampled. At the turn's place any beginning of its text is
that turn: the thinking before it was complete. It goes back cut behind the last token that the client has; what the client has
of the next token, and its note that it was interrupted, follow as text. Of a turn stopped while it was thinking, any beginning of
the thinking is known, or an empty turn; the thinking is then closed. Nothing comes back of text that the client does not send.

Split turns. Assistant messages in a row are taken as one turn if together they are one that is known.

Places. A turn is found by the whole conversation before it (system messages left out: clients put dates there) or, where that was
shortened or rewritten, by the one message before it, or the first paragraph of that (some clients append reminders and take them away
again); these only if all turns found there are the same, and if message and turn say enough to be told from others. Of several
answers in the same words at the same place the one is meant whose thinking comes back with it, else the latest.

A turn knows the dates that its conversation began with (`a3b.volatile`): by a turn that is recognised a conversation is known, and
examples of answers that a client made up are none of ours.
"""

from __future__ import annotations

import json
import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from hashlib import blake2b
from itertools import takewhile
from typing import Any, Protocol

from a3b.events import Cut, ThinkingInContext
from a3b.requests import check_policy
from a3b.tokens.chat import REPLAY_KEY, Closed
from a3b.tokens.fit import REMINDER_KEY
from a3b.volatile import Dates, undated

MAX_TOKENS = 2 << 20  # of turns in memory; older ones are found in the store, if there is one
TURN_TOKENS = 64  # what a turn counts beside its tokens
DATE_TOKENS = 8  # what a date counts
NEIGHBOURS_LEN = 80  # characters of a turn and the message before it, from which these alone tell it from others
MAX_ALIKE = 16  # answers of the same text at the same place, the latest of them
MAX_PARTS = 8  # messages in a row that may be one turn
INTERRUPTED = "interrupted"  # so say clients in brackets behind a text that they stopped
KEEP_OF_BUDGET = 2  # a batch of old thinking leaves until this part of the budget is left

Message = dict[str, Any]
Calls = Sequence[tuple[str, str, str]]  # id, name, arguments as canonical JSON
Spell = Callable[[Sequence[int], str | None, str], Sequence[int]]


class Records(Protocol):
    """Where turns outlive the process."""

    def put_record(self, namespace: str, key: bytes, value: bytes, node: bytes | None = None) -> None: ...

    def get_records(self, namespace: str, key: bytes) -> list[bytes]: ...

    def changes(self) -> int:
        """Another number after another process has forgotten something."""


@dataclass(frozen=True)
class Turn:
    """What the model wrote, as text and as it was sampled."""

    ids: tuple[int, ...]  # with the end of the turn, if it was not stopped; () if they do not make up the whole turn
    closed: bool  # thinking was off: the ids follow a closed block
    thinking: str
    thinking_tokens: int
    content: str
    calls: tuple[tuple[str, str, str], ...]  # id, name, arguments as canonical JSON
    cuts: tuple[Cut, ...] = ()  # of a stopped turn: where it can be cut, ascending
    dates: Dates = field(default_factory=dict, compare=False)  # at the beginning of the prompt

    @classmethod
    def of(cls, message: Mapping[str, Any], ids: Sequence[int], closed: bool, thinking_tokens: int, cuts: Iterable[Cut] = (),
           dates: Dates | None = None) -> Turn:  # fmt: skip
        thinking, content, calls = message.get("reasoning_content", ""), text_of(message), calls_of(message)
        return cls(tuple(ids), closed, thinking, thinking_tokens, content, calls, tuple(cuts), dates or {})

    def to_bytes(self) -> bytes:
        return json.dumps(asdict(self), separators=(",", ":")).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Turn:
        """Raises ValueError for what is no turn."""
        found = json.loads(data)
        try:
            ids, calls = found["ids"], found["calls"]
            dates = {digest: tuple(texts) for digest, texts in found.get("dates", {}).items()}
            texts = (found["thinking"], found["content"], *(part for parts in (*calls, *dates.values()) for part in parts))
            if not all(isinstance(i, int) for i in ids) or not all(isinstance(text, str) for text in texts):
                raise ValueError("a turn of other types")
            calls = tuple((call[0], call[1], call[2]) for call in calls)
            cuts = tuple(Cut(int(cut[0]), bool(cut[1]), int(cut[2]), int(cut[3])) for cut in found.get("cuts", ()))
            thinking, num = found["thinking"], int(found["thinking_tokens"])
            return cls(tuple(ids), bool(found["closed"]), thinking, num, found["content"], calls, cuts, dates)
        except (KeyError, TypeError, IndexError, AttributeError) as error:
            raise ValueError(f"no turn: {error}") from None


@dataclass(frozen=True)
class Block:
    """Thinking of an earlier turn in a conversation as recalled."""

    index: int  # of the message
    tokens: int
    is_restored: bool  # by us; else the client sent it


class Turns:
    """Remembers turns per namespace. Used by one thread."""

    def __init__(self, records: Records | None = None, max_tokens: int = MAX_TOKENS):
        self._records, self._max_tokens, self._num_tokens = records, max_tokens, 0
        self._known: OrderedDict[tuple[str, bytes], list[Turn]] = OrderedDict()
        self._written: set[tuple[str, bytes]] = set()  # keys of `_known` that the records hold, too
        self._changes = records.changes() if records else 0

    def remember(self, namespace: str, before: Sequence[Message], turn: Turn, persist: bool = True, node: bytes | None = None) -> None:
        """`before`: the messages that the turn answers, as `recall` takes them."""
        told = _Told()
        for message in undated(before):
            told.add(message)
        for key in told.stopped_keys() if turn.cuts else told.keys(turn.content, turn.calls):
            others = [t for t in self._turns(namespace, key) if (t, t.dates) != (turn, turn.dates)]
            self._keep((namespace, key), [*others, turn][-MAX_ALIKE:])
            if persist and self._records is not None:
                self._records.put_record(namespace, key, turn.to_bytes(), node)
                self._written.add((namespace, key))

    def forget(self, namespace: str | None = None) -> None:
        """All turns in memory, or those of one namespace."""
        for key in [key for key in self._known if namespace is None or key[0] == namespace]:
            self._drop(key)

    def _keep(self, key: tuple[str, bytes], turns: list[Turn]) -> None:
        """Make `turns` what is known under a key, used last, and drop what was not used for longest."""
        self._num_tokens += _size(turns) - _size(self._known.pop(key, []))
        self._known[key] = turns
        while self._num_tokens > self._max_tokens and len(self._known) > 1:
            self._drop(next(iter(self._known)))

    def _drop(self, key: tuple[str, bytes]) -> None:
        self._num_tokens -= _size(self._known.pop(key))
        self._written.discard(key)

    def _follow_records(self) -> None:
        """What another process made the records forget is forgotten here, too."""
        changes = self._records.changes() if self._records else 0
        if changes != self._changes:
            self._changes = changes
            for key in list(self._written):
                self._drop(key)

    def recall(self, namespace: str, messages: Sequence[Message], count: Callable[[str], int],
               spell: Spell) -> tuple[list[Message], list[Block]]:  # fmt: skip
        """The conversation with what was sampled put back: (messages, thinking in them). `messages` as `fit_messages` gives them.

        count: tokens of a text, for thinking that only the client knows. spell: the ids of a stopped turn, from those that are kept, the
        rest of its thinking (None: it is closed) and the rest of its text."""
        self._follow_records()
        out: list[Message] = []
        blocks: list[Block] = []
        for message, sent, found in self._recognised(namespace, messages, spell):
            if found:
                turn = found[-1]
                message = {**message, "reasoning_content": turn.thinking}
                if turn.ids:
                    message[REPLAY_KEY] = Closed(turn.ids) if turn.closed else turn.ids
                if turn.thinking:
                    blocks.append(Block(len(out), turn.thinking_tokens, not sent))
            elif sent:
                blocks.append(Block(len(out), count(sent), False))
            out.append(message)
        return out, blocks

    def dates(self, namespace: str, messages: Sequence[Message], own: Dates) -> Dates:
        """The dates that a conversation began with, for each text in `own`, which has those it begins with now.

        They are those of its last turn that is recognised. If conversations that are alike so far began with others, `own` stay if they
        are those of one, or if there are too many to remember them all; else those count that were answered last."""
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

    def _recognised(self, namespace: str, messages: Sequence[Message], spell: Spell) -> Iterator[tuple[Message, str, list[Turn]]]:
        """Each message, thinking apart and parts of a turn joined: (it, thinking the client sent, turns it may be, the likeliest last)."""
        told, undated_messages, at = _Told(), undated(messages), 0
        while at < len(messages):
            if messages[at]["role"] != "assistant":
                yield messages[at], "", []
                told.add(undated_messages[at])
                at += 1
                continue
            message, found, num = self._recognise(namespace, told, messages[at : at + MAX_PARTS], spell)
            yield message, _thinking_of(message), found
            told.add(message)
            at += num

    def _recognise(self, namespace: str, told: _Told, messages: Sequence[Message], spell: Spell) -> tuple[Message, list[Turn], int]:
        """The next message of the assistant, turns that it may be, and of how many messages it was made."""
        run = [_with_thinking_apart(message) for message in takewhile(_may_be_part, messages)] or [messages[0]]
        for num in range(len(run), 0, -1):
            message = _joined(run[:num])
            sent, content, calls = _thinking_of(message), text_of(message), calls_of(message)
            is_all = num == len(run) and not told.by_assistant  # else its text may be in another message
            found = self._find(namespace, told, content, calls, sent, may_lack_text=is_all)
            found = found or self._find_stopped(namespace, told, content, calls, sent, spell)
            if found:
                break
        return message, found, num

    def _find(self, namespace: str, told: _Told, content: str, calls: Calls, sent: str, may_lack_text: bool) -> list[Turn]:
        """sent: thinking that the client has; only turns with the same will do."""
        for key in told.keys(content, calls):
            found = [turn for turn in self._turns(namespace, key) if _is_same(turn, content, calls, may_lack_text)]
            found = [turn for turn in found if not sent or turn.thinking.strip() == sent]
            if found and (sent or key[:1] in b"cp" or len(set(found)) == 1):
                return found
        return []

    def _find_stopped(self, namespace: str, told: _Told, content: str, calls: Calls, sent: str, spell: Spell) -> list[Turn]:
        says_enough = len(content) + len(sent) >= NEIGHBOURS_LEN
        for key in told.stopped_keys(says_enough):
            found = [turn for whole in self._turns(namespace, key) if (turn := _as_sent(whole, content, calls, sent, spell))]
            if found and (key[:2] == b"sp" or len(set(found)) == 1):
                return found
        return []

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
    return sum(TURN_TOKENS + len(turn.ids) + len(turn.cuts) * len(Cut._fields) + DATE_TOKENS * sum(map(len, turn.dates.values()))
               for turn in turns)  # fmt: skip


class _Told:
    """A conversation so far, as digests: a place costs no more the longer it is."""

    def __init__(self) -> None:
        self._all = b""
        self._near: dict[bytes, tuple[bytes, int]] = {}  # kind of place: (digest, characters of what it is made of)
        self.by_assistant = False  # the last message

    def add(self, message: Message) -> None:
        if message["role"] != "system" and not message.get(REMINDER_KEY):
            self.by_assistant = message["role"] == "assistant"
            role, text, *rest = _wording(message)
            last = _hash([role, text, *rest])
            first = text.partition("\n\n")[0]
            self._near = {b"n": (last, len(text) + len(str(rest))), b"f": (_hash([role, first, *rest]), len(first) + len(str(rest)))}
            self._all = blake2b(self._all + last, digest_size=24).digest()

    def keys(self, content: str, calls: Calls) -> list[bytes]:
        """Where a turn is looked for, surest place first: ids of calls, all before it, its neighbour, its neighbour's first paragraph."""
        named = sorted(call[0] for call in calls if call[0])
        keys = [b"c" + _hash(named)] if named else []
        wording = [content if not calls else "", [call[1:] for call in calls]]
        keys.append(b"p" + _hash([self._all.hex(), wording]))
        size = len(str(wording))
        return keys + [kind + _hash([near.hex(), wording]) for kind, (near, num) in self._near.items() if num + size >= NEIGHBOURS_LEN]

    def stopped_keys(self, says_enough: bool = True) -> list[bytes]:
        """Where a stopped turn is looked for; says_enough: its beginning can be told from others by its neighbour alone."""
        near = self._near.items() if says_enough else ()
        return [b"sp" + _hash(self._all.hex()), *(b"s" + kind + _hash(digest.hex()) for kind, (digest, _) in near)]


def _is_same(turn: Turn, content: str, calls: Calls, may_lack_text: bool) -> bool:
    """Whether the client's turn is ours; beside calls the content may be missing, as some clients drop it."""
    if [call[1:] for call in calls] != [call[1:] for call in turn.calls]:
        return False
    return content == turn.content or (bool(calls) and not content and may_lack_text)


def _as_sent(turn: Turn, content: str, calls: Calls, sent: str, spell: Spell) -> Turn | None:
    """A stopped turn, up to where the client has it, with the ids that replay it; None if the client's is another."""
    ours, thinking = _without_note(content), sent or turn.thinking
    has_text = bool(ours or calls)
    if [call[1:] for call in calls] != [call[1:] for call in turn.calls[: len(calls)]] or not turn.content.startswith(ours):
        return None
    if not (has_text or sent) and (turn.content or turn.calls):
        return None  # the client took the text away
    was_closed = any(not cut.in_thinking for cut in turn.cuts)
    in_thinking = not has_text and (not was_closed or thinking != turn.thinking)  # where the client's part ends
    if not (turn.thinking.startswith(thinking) if in_thinking else turn.thinking == thinking):
        return None
    whole, part = (turn.thinking, thinking) if in_thinking else (turn.content, content)
    most = len(ours)  # characters that may be kept
    if whole.startswith(part):  # and white space, where nothing follows that would have to be put behind it
        tail = whole[len(part) :].lstrip()
        most = len(whole) - len(tail) if tail else math.inf
    place = (in_thinking, len(calls))
    cut = next((cut for cut in reversed(turn.cuts) if (cut.in_thinking, cut.num_calls) == place and cut.num_chars <= most), None)
    if cut is None:
        return replace(turn, ids=(), cuts=(), thinking=thinking)
    kept, rest = turn.ids[: cut.num_ids], part[cut.num_chars :]
    ids = spell(kept, rest, content) if in_thinking else spell(kept, None, rest)
    return replace(turn, ids=tuple(ids), cuts=(), thinking=thinking, thinking_tokens=min(turn.thinking_tokens, len(kept)))


def _without_note(content: str) -> str:
    """Without what a client put behind the text, in brackets, to say that it was stopped."""
    text, _, note = content.rpartition("[")
    return text.rstrip() if note.endswith("]") and INTERRUPTED in note.lower() else content


def _thinking_of(message: Message) -> str:
    return (message.get("reasoning_content") or "").strip()


def _may_be_part(message: Message) -> bool:
    return message["role"] == "assistant" and isinstance(message.get("content") or "", str)


def _joined(parts: Sequence[Message]) -> Message:
    """Messages of the assistant as one."""
    if len(parts) == 1:
        return parts[0]
    thinking = dict.fromkeys(part["reasoning_content"] for part in parts if part.get("reasoning_content"))
    calls = [call for part in parts for call in part.get("tool_calls") or ()]
    content = "".join(part.get("content") or "" for part in parts)
    return {**parts[0], "content": content, "reasoning_content": "\n".join(thinking)} | ({"tool_calls": calls} if calls else {})


def _wording(message: Message) -> Any:
    """What of a message tells conversations apart: no thinking, no ids."""
    if message["role"] != "assistant":
        return [message["role"], text_of(message)]
    return ["assistant", text_of(message), [call[1:] for call in calls_of(message)]]


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
        found.append((call_id if isinstance(call_id, str) else "", function["name"], canonical(function.get("arguments"))))
    return tuple(found)


def canonical(value: Any) -> str:
    return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _plain(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _hash(value: Any) -> bytes:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, default=str)
    return blake2b(text.encode(), digest_size=24).digest()


def _with_thinking_apart(message: Message) -> Message:
    """Thinking that stands inline before the content becomes `reasoning_content`, as templates split it."""
    content = message.get("content")
    if not isinstance(content, str) or message.get("reasoning_content") or "</think>" not in content:
        return message
    head, _, rest = content.partition("</think>")
    opening, _, thinking = head.rpartition("<think>")
    if opening.strip():
        return message  # prose about tags
    return {**message, "content": rest.lstrip("\n"), "reasoning_content": thinking.strip("\n")}


# -- policies


def last_question(messages: Sequence[Message]) -> int:
    """Index of the last turn of the user; -1 if there is none."""
    return max((i for i, message in enumerate(messages) if message["role"] == "user"), default=-1)


def apply_policy(messages: Sequence[Message], blocks: Sequence[Block], policy: str) -> tuple[list[Message], ThinkingInContext, bool]:
    """(messages, tokens of thinking by fate, whether templates must keep thinking of earlier tasks).

    budget:N goes through the turns in order; when more than N tokens are there, the oldest leave until N / KEEP_OF_BUDGET are left.
    So what stays depends on the turns alone, and the beginning of the prompt changes once in a while and not with every turn."""
    check_policy(policy)
    name, _, number = policy.partition(":")
    if name == "current-task":
        question = last_question(messages)
        dropped = {block.index for block in blocks if block.index < question}
        return list(messages), _fates(blocks, dropped), False
    dropped = {block.index for block in blocks} if name == "none" else set()
    if name == "budget":
        kept: list[Block] = []
        for block in blocks:
            kept.append(block)
            if _tokens(kept) > int(number):
                while kept and _tokens(kept) > int(number) // KEEP_OF_BUDGET:
                    dropped.add(kept.pop(0).index)
    out = []
    for i, message in enumerate(messages):
        if i in dropped:
            message = {**{key: value for key, value in message.items() if key != REPLAY_KEY}, "reasoning_content": ""}
        out.append(message)
    return out, _fates(blocks, dropped), True


def _tokens(blocks: Iterable[Block]) -> int:
    return sum(block.tokens for block in blocks)


def _fates(blocks: Sequence[Block], dropped: set[int]) -> ThinkingInContext:
    kept = [block for block in blocks if block.index not in dropped]
    return ThinkingInContext(
        sent=_tokens(block for block in kept if not block.is_restored),
        restored=_tokens(block for block in kept if block.is_restored),
        dropped=_tokens(block for block in blocks if block.index in dropped),
    )
