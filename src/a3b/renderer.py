"""Prompts by the chat template: short conversations at once, long ones in a process of their own.

A template is a program that runs in Python: a long conversation would keep all other threads waiting, and cannot be stopped. Enter at
`Renderer.render`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from a3b import work
from a3b.errors import A3BError, TemplateError
from a3b.isolation.host import Host, Task, TaskKilled
from a3b.isolation.worker import Conversation, processor_limit
from a3b.tokens.chat import ChatTemplate
from a3b.tokens.segments import Prompt
from a3b.tokens.template_files import template_error

AT_ONCE = 1_000  # values of a conversation that is rendered here
CHARS_AT_ONCE = 1 << 20
RENDER_S, RENDER_BYTES = 30, 768 << 20  # processor time and memory
RENDER_WALL_S = 60


class Renderer:
    """A template for the conversations of a server. Used by any thread."""

    def __init__(self, template: ChatTemplate):
        self._template = template
        self._host = Host(RENDER_BYTES, ChatTemplate, *template.arguments)

    def render(self, messages: Sequence[Mapping[str, Any]], **kwargs: Any) -> Prompt:
        """As `ChatTemplate.render`."""
        if not _is_long((messages, kwargs)):
            return self._template.render(messages, **kwargs)
        task: Task | None = None
        try:
            task = self._host.start(_render, messages, kwargs)
            found = task.receive(RENDER_WALL_S)
        except TaskKilled:
            raise template_error(f"chat template: takes more than {RENDER_S} s or {RENDER_BYTES >> 20} MiB for a conversation of "
                                 f"{len(messages)} messages; shorten the conversation") from None  # fmt: skip
        finally:
            if task is not None:
                task.close()
        if isinstance(found, A3BError):
            raise found
        return found

    def close(self) -> None:
        self._host.close()


def _render(conversation: Conversation, template: ChatTemplate, messages: Any, kwargs: dict[str, Any]) -> None:
    with processor_limit(RENDER_S):
        try:
            found: Any = template.render(messages, **kwargs)
        except A3BError as error:
            found = error
        except MemoryError:
            found = TemplateError("chat template: not enough memory for the conversation; shorten it")
        found = found.with_traceback(None) if isinstance(found, A3BError) else found
    conversation.send(found)


def _is_long(value: Any) -> bool:
    """Whether there are many values in a value, or many characters."""
    level, num, chars = list(value), 0, 0
    while level:
        work.check()
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
