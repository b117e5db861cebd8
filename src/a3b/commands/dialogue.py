"""What `chat` and `run` share: sampling options, a conversation kept fit for the template, and streaming to a
terminal."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TextIO

from a3b.commands.progress import Progress
from a3b.engine.engine import Engine
from a3b.interface.events import (
    Event,
    Finished,
    TextDelta,
    ThinkingDelta,
    ToolCallDelta,
    ToolCallEnd,
    ToolCallStart,
    assistant_message,
)
from a3b.interface.sampling_params import SamplingParams, preset
from a3b.printable import fit_for, say
from a3b.prompt.chat_template import REPLAY_KEY, Closed
from a3b.prompt.normalise_messages import normalise_messages
from a3b.prompt.segments import END_OF_TURN

FIELDS = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "seed",
    "max_tokens",
)
DIM, PLAIN = "\x1b[2m", "\x1b[0m"


def check_sampling(args: Namespace) -> None:
    """Refuse wrong options before a model is loaded. Raises UsageError."""
    preset(args.preset or "thinking", **_given(args))


def _given(args: Namespace) -> dict[str, Any]:
    given = {name: getattr(args, name) for name in FIELDS if getattr(args, name) is not None}
    if args.stop:
        given["stop"] = tuple(args.stop)
    return given


def sampling(args: Namespace, engine: Engine, has_tools: bool) -> SamplingParams:
    """The preset asked for (or the one that fits the model), with the options given on the command line on top."""
    given = _given(args)
    name = args.preset or ("nano" if engine.is_nano else "instruct" if args.no_think else "thinking")
    return preset(name, has_tools=has_tools, is_nano=engine.is_nano, **given)


def load(args: Namespace) -> Engine:
    """The engine for `args.model`, what it has to say on stderr."""
    engine = Engine.load(
        args.model, context=args.context, isa=args.runtime.isa, threads=args.runtime.threads, kv=args.runtime.kv
    )
    for note in engine.notes:
        say(note)
    return engine


@dataclass
class Dialogue:
    """Messages and the model's state; answers are replayed as sampled, so that a prompt only ever grows."""

    engine: Engine
    system: str | None = None
    think: bool = True
    preserve: bool = True
    tools: list[dict[str, Any]] | None = None
    messages: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self):
        self.sequence = self.engine.new_sequence()

    def clear(self) -> None:
        self.messages.clear()
        self.sequence = self.engine.new_sequence()

    def ask(
        self,
        text: str,
        params: SamplingParams,
        show: Callable[[Event], None],
        cancel: Callable[[], bool] = lambda: False,
    ) -> tuple[dict[str, Any], Finished]:
        """Add a user turn and generate the answer; every event goes to `show`. Gives the message and the last event.

        If the engine refuses, the user turn is taken back."""
        self.messages.append({"role": "user", "content": text})
        try:
            events = list(self._stream(params, show, cancel))
        except BaseException:
            self.messages.pop()
            raise
        message, finished = assistant_message(events), events[-1]
        whole = finished.reason in ("stop", "tool_calls") and finished.stop_string is None
        closed = self.sequence.answer_ids[-1:] == (self.engine.tokenizer.control_id(END_OF_TURN),)
        ids = self.sequence.answer_ids
        replay = {REPLAY_KEY: ids if self.think else Closed(ids)} if whole and closed else {}
        self.messages.append({**message, **replay})
        return message, finished

    def _stream(self, params: SamplingParams, show, cancel):
        system = [{"role": "system", "content": self.system}] if self.system else []
        messages, _ = normalise_messages(system + self.messages)
        kwargs = {"preserve_thinking": True} if self.preserve else {}
        if not self.think:
            kwargs["enable_thinking"] = False
        prompt = self.engine.template.render(messages, tools=self.tools, **kwargs)
        progress = Progress("reading", 0)

        def on_prefill(done: int, total: int) -> None:
            progress.total = total
            progress(done)

        for event in self.engine.generate(
            prompt, params, sequence=self.sequence, tools=self.tools, cancel=cancel, on_prefill=on_prefill
        ):
            progress.close()
            show(event)
            yield event


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
    if finished.reason in ("length", "cancelled"):
        parts.append({"length": "stopped at the token limit", "cancelled": "stopped by you"}[finished.reason])
    return ", ".join(parts)
