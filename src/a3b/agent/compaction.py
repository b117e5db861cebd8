"""Begins a long conversation anew from a summary.

The summary is asked for at the end of the same conversation, with the same tools, so that it costs its own tokens only.
The new conversation begins with what every session begins with (the system prompt), the first message of the user, the
summary and the last turns; the thinking of earlier turns stays behind with them. The transcript keeps everything.
Enter at `Compactor`."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from a3b.agent.answer import ModelAnswer
from a3b.agent.client import ModelServerError
from a3b.agent.control import TaskControl
from a3b.agent.events import AgentEvent, Compacted, Notice
from a3b.agent.requests import MOST_MARKS, AnswerCutShort, PromptSize, RequestMaker, used_ids
from a3b.agent.transcript import AgentTranscript, Message, TranscriptState

SUMMARY_TOKENS = 4_096
LEAST_SUMMARY = 40  # characters
KEPT_TURNS = 3  # the last ones stay as they were
KEPT_SHARE = 4  # ... if they take at most a quarter of what is allowed
MOST_LISTED = 8_000  # characters of a list of calls
SHORT_RESULT = 400  # characters of a result that a summary without a model keeps
ASKED = """\
<notice>
The conversation is about to begin anew, and only what you write now stays. Call no tool. Write down, in this order:
1. the task, in the user's words, and what the user decided or forbade
2. what is done, and what was found out (also what did not work, and why)
3. the state of each file that matters: path, what changed, what is still wrong
4. commands that run the tests, and their last result
5. open steps, the next one first
</notice>"""
LEAST_SUMMARY_ROOM = 1_024  # tokens for what is asked, and an answer
BEGUN = """\
<summary>
The conversation before this point was long and begins anew here. You wrote this summary of it; the files are as you
left them.

{summary}
</summary>"""
NOTES = "\n\nYour notes (plan):\n{notes}"
FALLBACK = "No summary could be written ({why}). These are the calls so far and how each ended:"


@dataclass(frozen=True)
class NewBeginning:
    """The messages that a conversation goes on from, and the summary among them."""

    messages: list[Message]
    summary: str


class Compactor:
    """Of one session. notes: the agent's plan, "" if it has none."""

    def __init__(
        self,
        requests: RequestMaker,
        transcript: AgentTranscript,
        emit: Callable[[AgentEvent], None],
        notes: Callable[[], str],
        compact_at: int,
    ):
        self.requests, self.transcript, self.emit, self.notes = requests, transcript, emit, notes
        self.compact_at = min(compact_at, requests.facts.context - requests.reserve)

    async def make_room(self, size: PromptSize, control: TaskControl) -> bool:
        """Compacts if a prompt of that size is too long; whether it did. Raises TaskHalted."""
        if size.tokens < self.compact_at or not self._can_shrink():
            return False
        await self.compact(size, control)
        return True

    def _can_shrink(self) -> bool:
        """Whether there are turns that a summary could stand for."""
        rest = self.transcript.messages[2:]
        return any(message["role"] == "assistant" and message not in self._last_turns(rest) for message in rest)

    async def compact(self, size: PromptSize, control: TaskControl, must_gain: bool = False) -> None:
        """must_gain: leave the conversation as it is if it would become no shorter. Raises TaskHalted if the user stops
        it; the conversation is then as it was."""
        self.emit(Notice(f"The conversation has {size.tokens:,} tokens: it begins anew from a summary.", "info"))
        summary, why = await self._summary(size, control)
        if not summary:
            self.emit(Notice(f"No summary could be written ({why}); a list of the calls takes its place.", "warning"))
            summary = listed_calls(self.transcript.messages, why, self.compact_at // 2)
        notes = self.notes()
        new = self._beginning(summary + (NOTES.format(notes=notes) if notes else ""))
        after = (await self.requests.size(TranscriptState(new.messages))).tokens
        if must_gain and after >= size.tokens:
            said = f"{size.tokens:,} tokens would become {after:,}: there is nothing to gain, and all stays as it is"
            self.emit(Notice(said, "info"))
            return
        self.transcript.begin_anew(new.messages, summary=summary, notes=notes, before=size.tokens, after=after)
        self.emit(Compacted(size.tokens, after, summary))

    async def _summary(self, size: PromptSize, control: TaskControl) -> tuple[str, str]:
        """(what the model wrote, "") or ("", why there is none)."""
        if size.tokens + LEAST_SUMMARY_ROOM > self.requests.facts.context:
            return "", "the context has no room for it"
        asked = [*self.transcript.messages, {"role": "user", "content": ASKED}]
        room = max(min(SUMMARY_TOKENS, self.compact_at // KEPT_SHARE), LEAST_SUMMARY_ROOM // 2)
        at = size.most + len(ASKED) + MOST_MARKS  # a token has at least a byte
        most = self.requests.answer_tokens(PromptSize(at, at), room)
        try:
            answer = await control.until_stopped(self.requests.ask(asked, most, used_ids(asked), self.emit))
        except (ModelServerError, AnswerCutShort) as error:
            return "", str(error)[:200]
        control.spend(answer.usage)
        self.transcript.spent(answer.usage, prompt=answer.prompt, reason="summary")
        return usable(answer)

    def _beginning(self, summary: str) -> NewBeginning:
        messages = self.transcript.messages
        first = [m for m in messages[:2] if m["role"] in ("system", "user")]
        begun = {"role": "user", "content": BEGUN.format(summary=summary)}
        kept = self._last_turns(messages[len(first) :])
        return NewBeginning([*first, begun, *kept], summary)

    def _last_turns(self, messages: Sequence[Message]) -> list[Message]:
        """Whole turns from the end with their results and their thinking, as far as they are short."""
        starts = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
        room = self.compact_at // KEPT_SHARE * 3  # characters, of three a token
        for start in starts[-KEPT_TURNS:]:
            kept = list(messages[start:])
            if sum(len(str(message)) for message in kept) <= room:
                return kept
        users = [message for message in messages[starts[-1] + 1 if starts else 0 :] if message["role"] == "user"]
        return [message for message in users if len(message["content"]) <= room]


def usable(answer: ModelAnswer) -> tuple[str, str]:
    """(a summary, "") or ("", what is wrong with the answer)."""
    text = re.sub(r"</?summary>", "", answer.text).strip()
    if answer.calls and len(text) < LEAST_SUMMARY:
        return "", "the model called a tool instead"
    if answer.reason == "length":
        return "", "it became too long"
    if len(text) < LEAST_SUMMARY:
        return "", "the model wrote nothing"
    return text, ""


def listed_calls(messages: Sequence[dict[str, Any]], why: str, most: int) -> str:
    """What stands for a summary that could not be written: the user's words, the calls and how each result ends; the
    last ones, in at most so many characters."""
    lines = [FALLBACK.format(why=why)]
    for message in messages[2:]:
        text = " ".join(message["content"].split())
        if message["role"] == "user":
            lines.append(f"user: {text[:SHORT_RESULT]}")
        elif message["role"] == "tool":
            lines.append(f"  -> {text[-SHORT_RESULT // 4 :]}")
        for call in message.get("tool_calls", ()):
            lines.append(f"{call['function']['name']} {call['function']['arguments'][: SHORT_RESULT // 2]}")
    kept: list[str] = []
    room = min(most, MOST_LISTED)
    for line in reversed(lines[1:]):
        room -= len(line)
        if room < 0:
            break
        kept.append(line)
    return "\n".join([lines[0], *reversed(kept)])
