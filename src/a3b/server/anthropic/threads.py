"""Threads of Anthropic's API: the server holds a conversation, and each request brings only what is new. Enter at
`Threads`.

Each answer of a thread is kept under its id with the whole conversation before it, so that any of them may be
continued, more than once. `system` and `tools` stay those of the thread's creation. The codes of errors are those after
which the SDKs send the whole history again."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from a3b.server.errors import ApiError
from a3b.server.fields import FieldRules, Fields
from a3b.server.response_store import MAX_RECORD_BYTES, Recorder

FIXED = ("system", "tools")  # of a thread, from its creation on
CREATE = FieldRules(read={"type": "`create`: this conversation is held from now on"})
CONTINUE = FieldRules(
    read={"type": "`continue`", "previous_message_id": "the answer after which `messages` go on; any, more than once"}
)
Thread = dict[str, Any]


class Threads:
    """Keeps the latest threads: in memory at most `max_count` and `max_bytes` of JSON per namespace."""

    def __init__(self, recorder: Recorder, max_count: int = 1000, max_bytes: int = 32 << 20):
        self.max_count, self.max_bytes, self._recorder = max_count, max_bytes, recorder
        self._kept: dict[str, OrderedDict[str, tuple[Thread, int]]] = {}  # namespace: {id: (thread, bytes)}

    def resolve(self, fields: Fields, namespace: str) -> tuple[Fields, int]:
        """The request with the conversation that it continues, and the number of messages held. Raises ApiError."""
        given = fields.object("thread")
        if given is None:
            return fields, 0
        thread_fields = Fields(given, "thread")
        kind = thread_fields.one_of("type", ("create", "continue"))
        if kind is None:
            raise thread_fields.invalid("type", "create or continue")
        if (unknown := (CREATE if kind == "create" else CONTINUE).check(thread_fields)) != []:
            raise ApiError(400, unknown[0], "unsupported_parameter", "thread")
        if kind == "create":
            return fields, 0
        thread = self.get(namespace, thread_fields.required("previous_message_id"))
        if thread is None:
            raise ApiError(
                404,
                f"thread: no answer {thread_fields.body['previous_message_id'][:100]!r} "
                "of a thread is held here; send the whole "
                'conversation with thread: {"type": "create"}',
                "thread_not_found",
                "thread.previous_message_id",
            )
        changed = [key for key in FIXED if fields.body.get(key) is not None and fields.body[key] != thread[key]]
        if changed:
            raise ApiError(
                400,
                f"{' and '.join(changed)}: not those of the thread; leave them "
                "out, or send the whole conversation with "
                'thread: {"type": "create"}',
                "thread_fingerprint_mismatch",
                changed[0],
            )
        held = thread["messages"]
        return Fields(
            {**fields.body, **{key: thread[key] for key in FIXED}, "messages": [*held, *fields.items("messages")]}
        ), len(held)

    def put(self, namespace: str, message_id: str, request: Mapping[str, Any], content: list[dict[str, Any]]) -> None:
        """Keep a request, with the whole conversation, and the content of its answer."""
        messages = [*request["messages"], {"role": "assistant", "content": content}]
        thread = {**{key: request.get(key) for key in FIXED}, "messages": messages}
        if self._keep(namespace, message_id, thread) <= MAX_RECORD_BYTES:
            self._recorder.write(namespace, f"thread {message_id}", thread)

    def get(self, namespace: str, message_id: str) -> Thread | None:
        kept = self._kept.get(namespace, OrderedDict())
        if message_id in kept:
            kept.move_to_end(message_id)
            return kept[message_id][0]
        match self._recorder.read(namespace, f"thread {message_id}"):
            case {"messages": list(), "system": _, "tools": _} as found:
                thread: Thread = found
                self._keep(namespace, message_id, thread)
                return thread
        return None

    def _keep(self, namespace: str, message_id: str, thread: Thread) -> int:
        """Its size in bytes."""
        kept = self._kept.setdefault(namespace, OrderedDict())
        num_bytes = len(json.dumps(thread, ensure_ascii=False))
        if num_bytes <= self.max_bytes:
            kept[message_id] = thread, num_bytes
        while len(kept) > self.max_count or sum(size for _, size in kept.values()) > self.max_bytes:
            kept.popitem(last=False)
        return num_bytes
