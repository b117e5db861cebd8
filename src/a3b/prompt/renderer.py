"""Prompts by the chat template: short conversations at once, long ones in a separate process.

A template is a program that runs in Python: a long conversation would keep all other threads waiting, and cannot be
stopped. Enter at `Renderer.render`."""

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

AT_ONCE = 1_000  # values of a conversation that is rendered here
CHARS_AT_ONCE = 1 << 20
RENDER_S, RENDER_BYTES = 30, 768 << 20  # processor time and memory
RENDER_WALL_S = 60
MAX_RENDERING, MAX_RENDERING_EACH = 4, 2  # at once: in all, and of one namespace
BATCH = 2_000  # messages or segments that are sent at once


class Renderer:
    """A template for the conversations of a server. Used by any thread."""

    def __init__(self, template: ChatTemplate):
        self._template = template
        self._slots = Slots(MAX_RENDERING, MAX_RENDERING_EACH)
        self._host = Host(RENDER_BYTES, ChatTemplate, *template.arguments)

    def render(self, messages: Sequence[Mapping[str, Any]], namespace: str, **kwargs: Any) -> Prompt:
        """As `ChatTemplate.render`, for a request of a namespace."""
        if not _is_long((messages, kwargs)):
            return self._template.render(messages, **kwargs)
        with self._slots.one(namespace):
            return self._render_apart(messages, kwargs)

    def _render_apart(self, messages: Sequence[Mapping[str, Any]], kwargs: dict[str, Any]) -> Prompt:
        task: Task | None = None
        try:
            task = self._host.start(_render, kwargs)
            for start in range(0, len(messages), BATCH):  # each message of ours keeps the interpreter's lock
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
        self._host.close()


def _render(conversation: Channel, template: ChatTemplate, kwargs: dict[str, Any]) -> None:
    """Messages in, then segments out, both in batches until one is empty; or an error."""
    messages: list[Any] = []
    while batch := conversation.receive():
        messages += batch
    try:
        with processor_limit(RENDER_S):
            prompt = template.render(messages, **kwargs)
    except A3BError as error:
        conversation.send(error)
        return
    except MemoryError:
        conversation.send(TemplateError("chat template: not enough memory for the conversation; shorten it"))
        return
    parts = [(type(segment), *vars(segment).values()) for segment in prompt]
    for start in range(0, len(parts), BATCH):
        conversation.send(parts[start : start + BATCH])
    conversation.send([])


def _is_long(value: Any) -> bool:
    """Whether there are many values in a value, or many characters."""
    level, num, chars = list(value), 0, 0
    while level:
        deadlines.check()
        below = []
        for item in level:
            if isinstance(item, str):
                chars += len(item)
            elif isinstance(item, Mapping):
                below += item.values()
                num += len(item)
            elif isinstance(item, list):  # a tuple holds ids to be replayed
                below += item
                num += len(item)
        if num > AT_ONCE or chars > CHARS_AT_ONCE:
            return True
        level = below
    return False
