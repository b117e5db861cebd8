"""What `chat` and `run` share: sampling options, a conversation with a service, and streaming to a terminal."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from typing import Any, TextIO

from a3b.commands.progress import Progress
from a3b.commands.transcripts import TurnIds
from a3b.engine.engine import Engine
from a3b.engine.local import TERMINAL, local_service
from a3b.interface.events import (
    Event,
    Finished,
    Reading,
    Started,
    TextDelta,
    ThinkingDelta,
    ToolCallDelta,
    ToolCallEnd,
    ToolCallStart,
    assistant_message,
)
from a3b.interface.request import Request
from a3b.interface.sampling_params import SAMPLING_FIELDS, SamplingParams, preset
from a3b.printable import fit_for, say

DIM, PLAIN = "\x1b[2m", "\x1b[0m"


def check_sampling(args: Namespace) -> None:
    """Refuse wrong options before a model is loaded. Raises UsageError."""
    preset(args.preset or "thinking", **_given(args))


def _given(args: Namespace) -> dict[str, Any]:
    given = {name: getattr(args, name) for name in SAMPLING_FIELDS if getattr(args, name) is not None}
    if args.stop:
        given["stop"] = tuple(args.stop)
    return given


def sampling(args: Namespace, engine: Engine, has_tools: bool) -> SamplingParams:
    """The preset asked for (or the one that fits the model), with the options given on the command line on top."""
    given = _given(args)
    name = args.preset or ("nano" if engine.is_nano else "instruct" if args.no_think else "thinking")
    return preset(name, has_tools=has_tools, is_nano=engine.is_nano, **given)


def load(args: Namespace) -> Engine:
    """The engine for `args.model`; its notices go to stderr."""
    runtime, mtp = args.runtime, drafts(args)  # a wrong value is refused before weights are read
    engine = Engine.load(
        args.model, context=args.context, isa=runtime.isa, threads=runtime.threads, kv=runtime.kv, mtp=mtp
    )
    for note in engine.notes:
        say(note)
    return engine


def drafts(args: Namespace) -> bool:
    """Whether tokens may be read ahead. Raises UsageError for a wrong A3B_DRAFTS."""
    return bool((args.drafts or args.runtime.drafts) != "off")


class Dialogue:
    """A conversation with a service: its messages, and the options of the next question. Close it when done."""

    def __init__(
        self,
        engine: Engine,
        system: str | None = None,
        think: bool = True,
        preserve: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        drafts: bool = True,
    ):
        """preserve: keep the thinking of earlier turns in the prompt. drafts: as for `local_service`."""
        self.engine, self.system, self.think, self.preserve = engine, system, think, preserve
        self.tools = [dict(tool) for tool in tools or ()]
        self.messages: list[dict[str, Any]] = []
        self.service = local_service(engine, TERMINAL, drafts=drafts)
        self._num_begun = 0  # conversations, each with a namespace of its own

    def close(self) -> None:
        self.service.close()

    def clear(self) -> None:
        """Begin another conversation."""
        self.messages.clear()
        self._num_begun += 1

    def resume(self, system: str | None, messages: Sequence[dict[str, Any]], turns: Sequence[TurnIds | None]) -> None:
        """Continue an earlier conversation. turns: of each message, the ids that replay it."""
        self.clear()
        self.system, self.messages = system, list(messages)
        for place, turn in enumerate(turns):
            if turn is not None:
                before = self._request_messages(place)
                self.service.recorder.add(self._namespace, before, self.messages[place], turn.ids, turn.closed)

    def ask(
        self,
        text: str,
        params: SamplingParams,
        show: Callable[[Event], None],
        cancel: Callable[[], bool] = lambda: False,
    ) -> tuple[dict[str, Any], Finished, TurnIds | None]:
        """Add a user turn and generate the answer; every event of it goes to `show`. Returns the message, the last
        event and the ids that replay the turn.

        If the service refuses, the user turn is taken back."""
        self.messages.append({"role": "user", "content": text})
        try:
            events, ids = self._answer(params, show, cancel)
        except BaseException:
            self.messages.pop()
            raise
        finished = events[-1]
        assert isinstance(finished, Finished)
        message = assistant_message(events)
        self.messages.append(message)
        return message, finished, TurnIds(ids, not self.think) if ids else None

    def _answer(
        self, params: SamplingParams, show: Callable[[Event], None], cancel: Callable[[], bool]
    ) -> tuple[list[Event], tuple[int, ...]]:
        stream = self.service.answer(self._request(params))
        events: list[Event] = []
        progress = Progress("reading", 0)
        with closing(stream):
            for event in stream:
                if cancel():
                    stream.cancel()
                if isinstance(event, Reading):
                    progress.total = event.total
                    progress(event.done)
                elif not isinstance(event, Started):
                    progress.close()
                    show(event)
                    events.append(event)
        return events, stream.turn_ids

    def _request(self, params: SamplingParams) -> Request:
        return Request(
            messages=self._request_messages(len(self.messages)),
            tools=self.tools,
            think=self.think,
            policy="all" if self.preserve else "current-task",
            sampling=vars(params),
            namespace=self._namespace,
        )

    def _request_messages(self, num: int) -> list[dict[str, Any]]:
        system = [{"role": "system", "content": self.system}] if self.system else []
        return system + self.messages[:num]

    @property
    def _namespace(self) -> str:
        return f"chat-{self._num_begun}"


class Printer:
    """Events to a terminal: thinking to `aside` (dim where that is a terminal), the answer to `out`."""

    def __init__(self, out: TextIO | None = None, aside: TextIO | None = None, thinking: bool = True):
        self.out, self.aside, self.thinking = out or sys.stdout, aside or sys.stderr, thinking
        self.dim, self.plain = (DIM, PLAIN) if self.aside.isatty() else ("", "")
        self.open = False  # thinking on screen, its line not ended

    def __call__(self, event: Event) -> None:
        match event:
            case ThinkingDelta(text) if self.thinking:
                self._write(self.aside, self.dim + fit_for(self.aside, text) + self.plain)
                self.open = True
            case TextDelta(text):
                self._end_thinking()
                self._write(self.out, fit_for(self.out, text))
            case ToolCallStart(name=name):
                self._end_thinking()
                self._write(self.out, fit_for(self.out, f"[call {name} "))
            case ToolCallDelta(text=text):
                self._write(self.out, fit_for(self.out, text))
            case ToolCallEnd(complete=complete):
                self._write(self.out, "]\n" if complete else " ... cut off]\n")
            case Finished():
                self._end_thinking()
                self._write(self.out, "\n")

    def _end_thinking(self) -> None:
        if self.open:
            self._write(self.aside, "\n")
            self.open = False

    def _write(self, stream: TextIO, text: str) -> None:
        stream.write(text)
        stream.flush()


def speed(finished: Finished) -> str:
    """One line: tokens and tokens per second of an answer."""
    u = finished.usage
    read = u.prompt_tokens - u.cached_tokens
    parts = [f"{read} read" + (f" (+{u.cached_tokens} kept)" if u.cached_tokens else "")]
    if u.prefill_s > 0:
        parts[0] += f" at {read / u.prefill_s:,.0f} tokens/s"
    parts.append(f"{u.completion_tokens} written ({u.thinking_tokens} thinking)")
    if u.decode_s > 0:
        parts[1] += f" at {u.completion_tokens / u.decode_s:,.0f} tokens/s"
    if u.speculation.drafted:
        parts.append(f"{u.speculation.accepted:,} of {u.speculation.drafted:,} drafts right")
    if finished.reason in ("length", "cancelled"):
        parts.append({"length": "stopped at the token limit", "cancelled": "stopped by you"}[finished.reason])
    return ", ".join(parts)
