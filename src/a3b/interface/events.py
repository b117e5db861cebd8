"""What leaves the engine: values that say what the model wrote, in the order it wrote it.

Owns the event types, merging of neighbouring deltas and the assistant message that a list of events
amounts to. Knows neither tokens nor syntax nor transport. Enter at `assistant_message`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any, Literal, NamedTuple


@dataclass(frozen=True)
class ThinkingDelta:
    """A piece of the model's thinking."""

    text: str


@dataclass(frozen=True)
class TextDelta:
    """A piece of the answer."""

    text: str


@dataclass(frozen=True)
class ToolCallStart:
    """The model began to call the tool `name`; `index` counts the calls of one answer from 0."""

    index: int
    id: str
    name: str


@dataclass(frozen=True)
class ToolCallDelta:
    """A fragment of the JSON object of arguments; all fragments of a call joined are valid JSON."""

    index: int
    text: str


@dataclass(frozen=True)
class ToolCallEnd:
    """A call is over; `arguments` equals the joined fragments, parsed.

    `complete` is False when the output ended inside the call. Its arguments may then be cut off
    anywhere, so it should be shown and reported back rather than carried out.
    """

    index: int
    id: str
    name: str
    arguments: dict[str, Any]
    complete: bool = True


@dataclass(frozen=True)
class ThinkingInContext:
    """Tokens of earlier thinking: sent by the client, put back by us, or left out by policy."""

    sent: int = 0
    restored: int = 0
    dropped: int = 0


MissReason = Literal["none", "new", "diverged", "evicted", "settings"]


@dataclass(frozen=True)
class CacheReport:
    """How much of a prompt was reused, and why no more.

    miss: "none" (all but the last tokens were there), "new" (nothing known begins like this), "diverged" (known tokens
    differ from `position` on), "evicted" (the tokens were known, their state is gone), "settings" (known under another
    model, RoPE scaling or kind of keys and values). expected and found are the text at a divergence, of this caller's
    own prompts. kept_dates: dates in the prompt that are those its conversation began with, and not those of the
    request."""

    reused: int = 0
    miss: MissReason = "new"
    position: int = 0
    expected: str = ""
    found: str = ""
    kept_dates: int = 0


DraftSource = Literal["forced", "repeated", "mtp"]
"""What guessed a token: a grammar that left no choice; what followed the same tokens before; the model's MTP module."""


@dataclass(frozen=True)
class DraftCount:
    """Tokens that were read ahead, and those of them that the answer has."""

    drafted: int = 0
    accepted: int = 0


@dataclass(frozen=True)
class Speculation:
    """What drafting did for an answer; it never changes a token.

    steps: passes of the model, each of which gave a token and those accepted. plain_s: seconds that they would have
    taken without drafts, by steps measured without; None if there were none. sources: what the drafts came from."""

    steps: int = 0
    plain_s: float | None = None
    sources: Mapping[DraftSource, DraftCount] = field(default_factory=dict)

    @property
    def drafted(self) -> int:
        return sum(count.drafted for count in self.sources.values())

    @property
    def accepted(self) -> int:
        return sum(count.accepted for count in self.sources.values())

    @property
    def tokens_per_step(self) -> float | None:
        return 1 + self.accepted / self.steps if self.steps else None

    def gain(self, decode_s: float) -> float | None:
        """How many times faster the answer came than without drafts."""
        return self.plain_s / decode_s if self.plain_s is not None and decode_s > 0 else None


@dataclass(frozen=True)
class Usage:
    """Tokens counted and seconds spent for one answer; `completion_tokens` includes thinking and calls."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    thinking_tokens: int = 0
    prefill_s: float = 0.0
    decode_s: float = 0.0
    cache: CacheReport = CacheReport()
    thinking: ThinkingInContext = ThinkingInContext()
    speculation: Speculation = Speculation()


@dataclass(frozen=True)
class Started:
    """The first event of an answer: the request was accepted, and what the cache has of it is known.

    warnings: what the request asked for and does not get."""

    usage: Usage
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reading:
    """How many tokens of the prompt were read, of those that the cache did not have."""

    done: int
    total: int


@dataclass(frozen=True)
class TokenLogprobs:
    """Natural logarithms of the probability of a token of the text (temperature 1, no cuts), and of the most likely
    tokens in its place."""

    token_id: int
    token: bytes
    logprob: float
    top: tuple[tuple[int, bytes, float], ...]  # likeliest first: (id, bytes, logprob)


@dataclass(frozen=True)
class PromptLogprobs:
    """The same for a token of the prompt. The first one has no logprob, as nothing precedes it."""

    token_id: int
    token: bytes
    logprob: float | None
    top: tuple[tuple[int, bytes, float], ...] = ()


class TruncationPoint(NamedTuple):
    """Where an answer may be cut: after a token that leaves no call, tag or character half written."""

    num_ids: int
    in_thinking: bool
    num_chars: int  # of the thinking or, after it, of the text, with trailing whitespace
    num_calls: int


Reason = Literal["stop", "length", "tool_calls", "cancelled"]
ThinkingStop = Literal["", "closed", "budget", "repetition", "length"]


@dataclass(frozen=True)
class Finished:
    """The last event of an answer. `stop_string` is the caller's stop string that ended it, if one did.

    thinking_stop says who ended the thinking: the model ("closed") or we
    ("budget", "repetition"); "" if there was none."""

    reason: Reason
    usage: Usage = Usage()
    stop_string: str | None = None
    thinking_stop: ThinkingStop = ""


Event = (
    ThinkingDelta
    | TextDelta
    | ToolCallStart
    | ToolCallDelta
    | ToolCallEnd
    | Finished
    | Started
    | Reading
    | TokenLogprobs
    | PromptLogprobs
)


def merge_events(events: Iterable[Event]) -> list[Event]:
    """Join neighbouring deltas of one kind (and one call); empty deltas vanish. The rest is kept as it is."""

    def kind(event: Event) -> tuple[type, int | None]:
        return type(event), getattr(event, "index", None)

    kept = (event for event in events if getattr(event, "text", None) != "")
    merged: list[Event] = []
    for _, group in groupby(kept, kind):
        run = list(group)
        deltas = [event for event in run if isinstance(event, ThinkingDelta | TextDelta | ToolCallDelta)]
        if deltas:
            merged.append(replace(deltas[0], text="".join(delta.text for delta in deltas)))
        else:
            merged.extend(run)
    return merged


def assistant_message(events: Iterable[Event]) -> dict[str, Any]:
    """The message to append to a conversation after an answer, in the form chat templates read.

    Keys: role, content, reasoning_content (both always strings, so that no template looks for thinking
    inside the content) and, if there are calls, tool_calls with arguments as a dict. A call in which the output
    ended has complete: False. Text before, between and after calls becomes one content, because a message has one.
    """
    thinking: list[str] = []
    text: list[str] = []
    calls: list[dict[str, Any]] = []
    for event in events:
        match event:
            case ThinkingDelta(piece):
                thinking.append(piece)
            case TextDelta(piece):
                text.append(piece)
            case ToolCallEnd():
                function = {"name": event.name, "arguments": event.arguments}
                cut = {} if event.complete else {"complete": False}
                calls.append({"id": event.id, "type": "function", "function": function, **cut})
    message: dict[str, Any] = {
        "role": "assistant",
        "content": "".join(text),
        "reasoning_content": "".join(thinking),
    }
    if calls:
        message["tool_calls"] = calls
    return message
