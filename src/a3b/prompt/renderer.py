"""Prompts by the chat template: short conversations in this thread, long ones in a separate process.

A template is a program that runs in Python: with a long conversation it would keep all other threads waiting, and it
cannot be interrupted. Knows neither messages nor ids. Enter at `Renderer.render`."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from a3b.errors import A3BError, OverloadedError, TemplateError
from a3b.isolation import deadlines
from a3b.isolation.host import Host, Task, TaskKilled, TaskNotStarted
from a3b.isolation.slots import Slots
from a3b.isolation.worker import Channel, processor_limit
from a3b.prompt.chat_template import ChatTemplate
from a3b.prompt.segments import Prompt
from a3b.prompt.template_files import template_error

MAX_VALUES_HERE = 1_000  # in a conversation that is rendered in this process
MAX_CHARS_HERE = 1 << 20
RENDER_S, RENDER_BYTES = 30, 768 << 20  # CPU time and memory
RENDER_WALL_S = 60
MAX_RENDERING, MAX_RENDERING_EACH = 4, 2  # processes at a time: in total, and per namespace
BATCH = 2_000  # messages or segments sent in one piece


class Renderer:
    """Renders the conversations of a server. Used by any thread."""

    def __init__(self, template: ChatTemplate):
        self._template = template
        self._slots = Slots(MAX_RENDERING, MAX_RENDERING_EACH)
        self._host = Host(RENDER_BYTES, ChatTemplate, *template.arguments)

    def render(self, messages: Sequence[Mapping[str, Any]], namespace: str, **kwargs: Any) -> Prompt:
        """The prompt, as `ChatTemplate.render` returns it; raises the same errors.

        Raises OverloadedError if no process can be started, and whatever ends the work of this thread."""
        if not _is_long((messages, kwargs)):
            return self._template.render(messages, **kwargs)
        with self._slots.one(namespace):
            return self._render_apart(messages, kwargs)

    def _render_apart(self, messages: Sequence[Mapping[str, Any]], kwargs: dict[str, Any]) -> Prompt:
        task: Task | None = None
        try:
            task = self._host.start(_render, kwargs)
            for start in range(0, len(messages), BATCH):  # pickling holds the interpreter's lock
                task.send(messages[start : start + BATCH])
                deadlines.check()
            task.send([])
            prompt: Prompt = []
            until = time.monotonic() + RENDER_WALL_S
            while isinstance(batch := task.receive(until - time.monotonic()), list) and batch:
                prompt += [kind(value) for kind, value in batch]
                deadlines.check()
        except TaskNotStarted:
            raise OverloadedError("no process for the chat template can be started; try again later") from None
        except TaskKilled:
            raise template_error(
                f"chat template: takes more than {RENDER_S} s or {RENDER_BYTES >> 20} MiB for a conversation of "
                f"{len(messages)} messages; shorten the conversation"
            ) from None
        finally:
            if task is not None:
                task.close()
        if isinstance(batch, A3BError):
            raise batch
        return prompt

    def close(self) -> None:
        """End what is still running."""
        self._host.close()


def _render(channel: Channel, template: ChatTemplate, kwargs: dict[str, Any]) -> None:
    """In the other process: receive messages, send segments or an error. Batches end with an empty one."""
    messages: list[Any] = []
    while batch := channel.receive():
        messages += batch
    try:
        with processor_limit(RENDER_S):
            prompt = template.render(messages, **kwargs)
    except A3BError as error:
        channel.send(error)
        return
    except MemoryError:
        channel.send(TemplateError("chat template: not enough memory for the conversation; shorten it"))
        return
    parts = [(type(segment), *vars(segment).values()) for segment in prompt]
    for start in range(0, len(parts), BATCH):
        channel.send(parts[start : start + BATCH])
    channel.send([])


def _is_long(value: Any) -> bool:
    """Whether a value contains many values, or many characters."""
    level, num, chars = list(value), 0, 0
    while level:
        deadlines.check()
        below: list[Any] = []
        for item in level:
            if isinstance(item, str):
                chars += len(item)
            elif isinstance(item, Mapping):
                below += item.values()
                num += len(item)
            elif isinstance(item, list):  # a tuple holds replayed ids
                below += item
                num += len(item)
        if num > MAX_VALUES_HERE or chars > MAX_CHARS_HERE:
            return True
        level = below
    return False
