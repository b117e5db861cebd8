"""Items of the Responses API as messages of a chat. Enter at `ConversationReader`.

Neighbouring items of the assistant (reasoning, message, calls) become one message: that is what the model wrote in one
turn.

Reasoning is taken from, in this order: `encrypted_content`, which must be ours (otherwise the item is left out, with a
warning); `content`; the stored item of that id; `summary`."""

from __future__ import annotations

import json
from typing import Any

from a3b.prompt.media import left_out, media_in
from a3b.server.errors import ApiError
from a3b.server.fields import Fields
from a3b.server.foreign_items import CLIENT_CALLS, CLIENT_OUTPUTS, READ_AS_TEXT, SUMMARIES, SUMMARY, item_text, plain
from a3b.server.openai.responses_items import new_id
from a3b.server.openai.responses_tools import ToolTable
from a3b.server.response_store import ResponseItem, ResponseStore
from a3b.server.thinking_signatures import ThinkingSigner

TEXT_PARTS = ("input_text", "output_text", "text")
THOUGHT_PARTS = ("reasoning_text", "text")


class ConversationReader:
    """Reads items one by one into messages. `items` are the ones to store: each with an id, references resolved."""

    def __init__(self, signer: ThinkingSigner, store: ResponseStore, namespace: str, tools: ToolTable):
        self.signer, self.store, self.namespace, self.tools = signer, store, namespace, tools
        self.messages: list[dict[str, Any]] = []
        self.items: list[ResponseItem] = []
        self.warnings: list[str] = []

    def add(self, given: Any, where: str) -> None:
        item = Fields(given, where)
        kind = item.string("type") or ("message" if "role" in item.body else "item_reference")
        if kind == "item_reference":
            kept = self.store.item(self.namespace, item.required("id"))
            if kept is None:
                raise ApiError(
                    400,
                    f"{item.name('id')}: no such item is stored; send the item itself",
                    "item_not_found",
                    item.name("id"),
                )
            item = Fields(kept, where)
            kind = kept["type"]
        match kind:
            case "message":
                self._message(item)
            case "reasoning":
                self._reasoning(item)
            case "function_call":
                self._call(item, item.required("arguments"))
            case "custom_tool_call":
                self._call(item, {"input": item.required("input")})
            case "function_call_output" | "custom_tool_call_output":
                content = _output_text(item, self.warnings)
                self.messages.append({"role": "tool", "tool_call_id": item.required("call_id"), "content": content})
            case _:
                self._foreign(item, kind)
        self.items.append({**item.body, "type": kind, "id": item.string("id") or new_id(kind)})

    def _foreign(self, item: Fields, kind: str) -> None:
        """What a tool of OpenAI's left: run by a client, it becomes a call and its result; run by a server, text."""
        if kind in SUMMARIES:
            self._summary(item, kind)
            return
        if kind in CLIENT_CALLS:
            given = plain(item.body.get(CLIENT_CALLS[kind]) or {})
            arguments = given if isinstance(given, dict) else {"input": given}
            function = {"name": kind.removesuffix("_call"), "arguments": arguments}
            id = item.string("call_id") or item.required("id")
            self._turn().setdefault("tool_calls", []).append({"id": id, "type": "function", "function": function})
        elif kind in CLIENT_OUTPUTS:
            output = plain(item.body.get(CLIENT_OUTPUTS[kind]) or item.string("status") or "")
            content = output if isinstance(output, str) else json.dumps(output, ensure_ascii=False)
            id = item.string("call_id") or item.required("id")
            self.messages.append({"role": "tool", "tool_call_id": id, "content": content})
        elif (text := item_text(item, kind)) is not None:
            lines = [self._turn()["content"], text]
            self._turn()["content"] = "\n".join(line for line in lines if line)
        else:
            message = f"{item.where}: items of type {kind[:60]} are not supported by this server"
            raise ApiError(400, message, "unsupported_content", item.where)
        self.warnings.append(f"{item.where}: {kind} {READ_AS_TEXT}")

    def _summary(self, item: Fields, kind: str) -> None:
        """A compacted conversation: ours is encrypted, that of others may have text."""
        verified = self.signer.verify(item.string("encrypted_content") or "", self.namespace)
        parts = (*TEXT_PARTS, "summary_text")
        readable = "\n".join(text for key in ("content", "summary") for text in _texts(item, key, parts))
        text = readable if verified is None else verified
        self._turn()["content"] += f"{SUMMARY}{text}\n" if text else ""
        if verified is None:
            outcome = READ_AS_TEXT if text else "left out: only its maker can read it"
            self.warnings.append(f"{item.where}: {kind} {outcome}")

    def _message(self, item: Fields) -> None:
        role = item.one_of("role", ("user", "assistant", "system", "developer"))
        if role is None:
            raise item.invalid("role", "user, assistant, system or developer")
        texts = _texts(item, "content")
        if role == "assistant":
            self._turn()["content"] += "".join(texts)
        elif role == "user" and len(texts) > 1:
            self.messages.append({"role": "user", "content": [{"type": "text", "text": text} for text in texts]})
        else:
            self.messages.append({"role": "user" if role == "user" else "system", "content": "".join(texts)})

    def _call(self, item: Fields, arguments: Any) -> None:
        function = {"name": self.tools.shown(item.required("name"), item.string("namespace")), "arguments": arguments}
        self._turn().setdefault("tool_calls", []).append(
            {"id": item.required("call_id"), "type": "function", "function": function}
        )

    def _reasoning(self, item: Fields) -> None:
        text = self._thinking(item)
        if text is not None:
            turn = self._turn()
            turn["reasoning_content"] = turn.get("reasoning_content", "") + text

    def _thinking(self, item: Fields) -> str | None:
        """The thinking of a reasoning item; None, with a warning, if there is none that this server can read."""
        content, summary = _texts(item, "content", THOUGHT_PARTS), _texts(item, "summary", ("summary_text",))
        if encrypted := item.string("encrypted_content"):
            text = self.signer.verify(encrypted, self.namespace)
            if text is None:
                why = "its encrypted_content is not of this server, for this key"
                self.warnings.append(f"{item.where}: reasoning left out: {why}")
            return text
        if content:
            return "".join(content)
        kept = self.store.item(self.namespace, item.string("id") or "")
        if kept is not None and kept["type"] == "reasoning":
            if known := "".join(_texts(Fields(kept, item.where), "content", THOUGHT_PARTS)):
                return known
        if summary:
            return "\n\n".join(summary)
        why = "it has no text, and this server has none stored under its id"
        self.warnings.append(f"{item.where}: reasoning left out: {why}")
        return None

    def _turn(self) -> dict[str, Any]:
        """The message of the assistant that neighbouring items make up."""
        if not self.messages or self.messages[-1]["role"] != "assistant":
            self.messages.append({"role": "assistant", "content": ""})
        return self.messages[-1]


def _texts(
    item: Fields, key: str, kinds: tuple[str, ...] = (*TEXT_PARTS, "refusal"), left: list[str] | None = None
) -> list[str]:
    """The texts of a content: a string, a list of parts of these types, or null.

    left: collects a warning for each image or file, and a note takes its place; None: they are refused."""
    value = item.body.get(key)
    if value is None or isinstance(value, str):
        return [value] if value else []
    if not isinstance(value, list):
        raise item.invalid(key, "text or a list of parts")
    found = []
    for i, given in enumerate(value):
        part = Fields(given, f"{item.name(key)}[{i}]")
        if left is not None and (media := media_in(part.body)) is not None:
            left.append(f"{part.where}: {media} left out: this model reads text only")
            found.append(left_out(media))
            continue
        kind = part.string("type") or "text"
        if kind not in kinds:
            raise ApiError(
                400,
                f"{part.where}: content of type {kind[:60]} is not supported here; expected {kinds[0]}",
                "unsupported_content",
                part.where,
            )
        found.append(part.required("refusal" if kind == "refusal" else "text"))
    return found


def _output_text(item: Fields, warnings: list[str]) -> str:
    """A tool's output; each part is a line."""
    value = item.body.get("output")
    if isinstance(value, dict):
        if media_in(value) is not None:
            return _output_text(Fields({"output": [value]}, item.where), warnings)
        return json.dumps(value, ensure_ascii=False)  # older clients send {"content", "success"}
    return "\n".join(_texts(item, "output", left=warnings))
