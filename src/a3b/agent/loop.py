"""The agent's loop: ask the model, run what it calls, give it the results, until it is done. Enter at `TaskLoop.run`.

The conversation only grows at its end: results first, then notices and what the user typed meanwhile."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from a3b.agent.answer import ModelAnswer, WrittenCall, fit_arguments
from a3b.agent.client import ModelServerError
from a3b.agent.control import TaskControl, TaskHalted
from a3b.agent.events import (
    AgentEvent,
    Notice,
    Steered,
    TaskFinished,
    TokenUsage,
    ToolFinished,
    ToolOutput,
    ToolStarted,
    TurnFinished,
    TurnStarted,
)
from a3b.agent.loop_guard import LoopGuard
from a3b.agent.requests import BYTES_A_TOKEN, AnswerCutShort, PromptSize, RequestMaker, used_ids
from a3b.agent.tools.tool import ToolCallContext, ToolError, ToolResult
from a3b.agent.tools.toolbox import Toolbox
from a3b.agent.transcript import AgentTranscript
from a3b.errors import A3BError

MAX_NUDGES = 3  # answers in a row that lead nowhere
KEPT_CALL = 4_000  # characters of a cut call that stay in the conversation
TOO_LONG = (
    "the conversation has {:,} tokens, and the server's context {:,}: a message in it is too long to begin anew from; "
    "put long texts into a file, and go on from an earlier turn (/fork) or in a new session"
)
ABORTED = "Error: aborted by the user {when}."
OUT_OF_TIME = "Error: aborted {when}: the time of the task is over."
NOT_BEGUN, BEGUN = "before it ran; nothing was done", "while it ran; it may have had an effect in part"


@dataclass
class LoopParts:
    """What a loop acts through. make_room: called before each request with its size; may begin
    the conversation anew. around_call: runs a call, and says beside its result whether files changed. reports: what
    background jobs have to tell. waited: seconds that the user was waited for, which are no call's."""

    requests: RequestMaker
    toolbox: Toolbox
    transcript: AgentTranscript
    emit: Callable[[AgentEvent], None]
    make_room: Callable[[PromptSize], Awaitable[object]]
    around_call: Callable[
        [str, str, int, Callable[[], Awaitable[ToolResult]]], Coroutine[Any, Any, tuple[ToolResult, bool]]
    ]
    reports: Callable[[], list[str]]
    waited: Callable[[], float] = lambda: 0.0


class TaskLoop:
    """Works on one task."""

    def __init__(self, parts: LoopParts, control: TaskControl):
        self.parts, self.control = parts, control
        self.transcript, self.emit = parts.transcript, parts.emit
        self._guard = LoopGuard()
        self._notices: list[str] = []  # for the model, after the results
        self._started: set[str] = set()  # ids of calls
        self._nudges = 0
        self._made_room = False

    async def run(self) -> TaskFinished:
        """Goes on with a conversation whose last message is the user's. Never raises but for errors of this program."""
        try:
            status, text = await self._work()
        except TaskHalted as halted:
            status, text = halted.status, str(halted)
        except A3BError as error:
            status, text = "failed", str(error)
        with suppress(A3BError):  # a full disk, which is the reason then
            self.transcript.note(end=status, words=text[:2000])
        return TaskFinished(status, text, self.control.turns, self.control.usage)

    async def _work(self) -> tuple[str, str]:
        while True:
            self.control.check()
            self._say_news()
            size = await self.parts.requests.size(self.transcript.state)
            await self.parts.make_room(size)
            answer = await self._turn()
            if answer is None:
                continue
            if answer.calls:
                await self._run_calls(answer)
            elif (done := self._is_done(answer)) is not None:
                return done

    def _say_news(self) -> None:
        """Everything that is new since the last answer, at the end: notices, reports of jobs, the user's words."""
        for text in [*self._notices, *self.parts.reports()]:
            self.transcript.say({"role": "user", "content": text})
        self._notices.clear()
        while self.control.steering:
            text = self.control.steering.popleft()
            self._guard = LoopGuard()  # he may want the same again
            self.transcript.say({"role": "user", "content": text}, task=text)
            self.emit(Steered(text))

    # -- one turn

    async def _turn(self) -> ModelAnswer | None:
        """Asks and records; None if the answer was cut short and the model is to try again."""
        transcript, requests = self.transcript, self.parts.requests
        self.control.turns += 1
        self.emit(TurnStarted(transcript.turn + 1))
        size = await requests.size(transcript.state)
        if size.is_exact and size.tokens >= requests.facts.context:
            raise TaskHalted("failed", TOO_LONG.format(size.tokens, requests.facts.context))
        most = requests.answer_tokens(size, self.control.tokens_left)
        try:
            answer = await self.control.until_stopped(
                requests.ask(transcript.messages, most, used_ids(transcript.messages), self.emit)
            )
        except TaskHalted:
            if (begun := requests.client.reader.beginning()) is not None and not requests.client.reader.finish:
                transcript.answer(begun, TokenUsage(0, 0, 0), reason="stopped")
            raise
        except ModelServerError as error:
            if not error.is_length or self._made_room:
                raise
            self._made_room = True  # once: a server whose context is smaller than it says
            await self.parts.make_room(PromptSize(requests.facts.context, requests.facts.context))
            return None
        except AnswerCutShort as cut:
            if cut.message is not None:
                transcript.answer(cut.message, TokenUsage(0, 0, 0), reason="cut short")
            self._nudge(cut.advice)
            return None
        self._made_room = False
        return self._recorded(answer, size)

    def _recorded(self, answer: ModelAnswer, size: PromptSize) -> ModelAnswer:
        state = self.transcript.state
        recomputed = recomputed_tokens(state.prompt, state.written, answer.cached)
        if answer.prompt is None and self.control.tokens_left is not None:
            answer = replace(answer, usage=self.parts.requests.estimated(size, answer.message))
        self.control.spend(answer.usage)
        message, calls = answer.message, answer.calls
        if answer.is_cut and len(calls[-1].arguments) > KEPT_CALL:
            message = {**message, "tool_calls": message["tool_calls"][:-1]}
            if not message["tool_calls"]:
                del message["tool_calls"]
            calls = calls[:-1]
            self._nudge(self._cut_call(answer.calls[-1]))
        told = {"prompt": answer.prompt, "recomputed": recomputed, "reason": answer.reason}
        self.transcript.answer(message, answer.usage, **told)
        self.emit(TurnFinished(self.transcript.turn, answer.reason, answer.usage, recomputed))
        is_cut = answer.is_cut and calls == answer.calls
        return ModelAnswer(message, calls, answer.reason, answer.usage, is_cut=is_cut)

    def _is_done(self, answer: ModelAnswer) -> tuple[str, str] | None:
        """How the task ended, of an answer without calls; None if the model has to go on."""
        if self._notices:  # of a call that was cut off
            return None
        if answer.reason == "length":
            self._nudge(
                f"Your answer reached its limit of {answer.usage.written:,} tokens and was cut off there. Go on in "
                "smaller steps."
            )
            return None
        if not answer.text.strip():
            self._nudge("Your answer was empty. Go on with the task, or say what you have done.")
            return None
        return None if self.control.steering else ("done", answer.text)

    def _nudge(self, text: str) -> None:
        """Has the model try again, a few times in a row."""
        self._count_nudge(text)
        self._notices.append(f"<notice>\n{text}\n</notice>")

    def _count_nudge(self, text: str) -> None:
        self._nudges += 1
        if self._nudges > MAX_NUDGES:
            raise TaskHalted("stuck", f"{MAX_NUDGES + 1} answers in a row led nowhere; the last: {text}")

    # -- calls

    async def _run_calls(self, answer: ModelAnswer) -> None:
        for i, call in enumerate(answer.calls):
            if self.control.is_stopped:
                self._finish(call, ToolResult(ABORTED.format(when=NOT_BEGUN), is_error=True))
            elif answer.is_cut and i == len(answer.calls) - 1:
                self._finish(call, ToolResult(f"Error: {self._cut_call(call)}", is_error=True))
                self._count_nudge(self._cut_call(call))
            else:
                try:
                    await self._run_call(call)
                    self._nudges = 0
                except TaskHalted as halted:
                    for rest in answer.calls[i + 1 :]:
                        self._finish(rest, ToolResult(f"Error: not run: {halted}.", is_error=True))
                    raise

    async def _run_call(self, call: WrittenCall) -> None:
        try:
            tool, arguments = self.parts.toolbox.read_call(call.name, call.arguments)
        except ToolError as error:
            self._finish(call, ToolResult(f"Error: {error}", is_error=True))
            self._watch(call.name, {"text": call.arguments}, f"Error: {error}", False)
            return
        self.emit(ToolStarted(call.id, tool.name, arguments, tool.summary(arguments)))
        self._started.add(call.id)
        self.transcript.begun(call.id)
        begun, changed = self._now(), False
        context = ToolCallContext(call.id, lambda text: self.emit(ToolOutput(call.id, text)))
        try:
            result, changed = await self.control.until_stopped(
                self.parts.around_call(
                    tool.name, tool.summary(arguments), self.transcript.turn, lambda: tool.run(arguments, context)
                )
            )
        except (ToolError, OSError) as error:  # OSError: a full disk, no more processes
            text = str(error)
            result = ToolResult(text if text.startswith("Error: ") else f"Error: {text}", is_error=True)
        except TaskHalted as halted:
            text = ABORTED if halted.status == "stopped" else OUT_OF_TIME
            self._finish(call, ToolResult(text.format(when=BEGUN), is_error=True), begun)
            raise
        self._finish(call, self._fitting(result), begun)
        seconds = self._now() - begun
        self._watch(tool.name, arguments, result.text, changed and not result.is_error, seconds)

    def _now(self) -> float:
        """Seconds on a clock that stands still while the user is asked."""
        return time.monotonic() - self.parts.waited()

    def _finish(self, call: WrittenCall, result: ToolResult, begun: float | None = None) -> None:
        self.transcript.say({"role": "tool", "tool_call_id": call.id, "content": result.text})
        if call.id not in self._started:  # front ends get both events of each call
            given = json.loads(fit_arguments(call.arguments[:KEPT_CALL]))
            self.emit(ToolStarted(call.id, call.name, given, f"{call.name} (not run)"))
        seconds = 0.0 if begun is None else round(self._now() - begun, 3)
        self.emit(ToolFinished(call.id, call.name, result.text, result.is_error, result.diff, seconds))

    def _watch(self, tool: str, arguments: dict[str, object], result: str, changed: bool, seconds: float = 0.0) -> None:
        found = self._guard.seen(tool, arguments, result, changed, seconds)
        if found is None:
            return
        if found.is_over:
            raise TaskHalted("stuck", f"stopped, since it goes in circles. {found.what}")
        self.emit(Notice(f"The agent goes in circles, and was told so. {found.what}", "warning"))
        self._notices.append(found.text)

    def _fitting(self, result: ToolResult) -> ToolResult:
        """A result that leaves room for an answer, whatever the context is."""
        state, facts = self.transcript.state, self.parts.requests.facts
        room = facts.context - (state.prompt or 0) - (state.written or 0) - self.parts.requests.reserve
        most = max(room * BYTES_A_TOKEN // 4, 1_000)
        if len(result.text) <= most:
            return result
        half = most // 2
        text = (
            f"{result.text[:half]}\n[... {len(result.text) - 2 * half:,} characters left out: the context has no room "
            f"for more; ask for smaller parts]\n{result.text[-half:]}"
        )
        return ToolResult(text, result.is_error, result.diff)

    def _cut_call(self, call: WrittenCall) -> str:
        return (
            f"the answer reached its limit inside this call of {call.name}, so nothing was done. Go on in parts: write "
            "at most 300 lines a call, and continue the file with append."
        )


def recomputed_tokens(prompt: int | None, written: int | None, cached: int | None) -> int | None:
    """Tokens of the last prompt and its answer that were read again; the last token of an answer was never read."""
    if cached is None or prompt is None or written is None:
        return None if cached is None else 0
    return max(prompt + written - 1 - cached, 0)
