"""Turns any history into one that chat templates accept. Knows no template and no ids. Enter at `normalise_messages`.

These changes are made, in this order, each with a note unless it is only another spelling of the same thing:

* Roles: `developer` is system, `function` is tool, `human` is user, `ai` and `model` are assistant; any other role, or
  none, is user.
* Content: null is ""; text parts are joined as templates join them, with nothing in between; image and video parts stay
  parts in the form that templates know; other parts and values become JSON text. In a tool's result images, sounds and
  files become a note (`a3b.prompt.media`).
* Thinking of the assistant: `reasoning`, `thinking` and the texts of `reasoning_details`, or parts of those types,
  become `reasoning_content`.
* Calls: `function_call` is a tool call; arguments are parsed if they are a JSON string; null is {}, and so is [], as
PHP
  writes it. Arguments that are not a JSON object are kept under the key "arguments". Anything that is not a call
  becomes text of the message.
* Results of tools are put right after their calls (`a3b.prompt.tool_results`).
* System messages before the first turn of the assistant are merged into the first message, in their order, separated by
  blank lines. Later ones stay where they are, so that nothing before them changes: they become user messages in
  reminder tags, marked with `REMINDER_KEY`. Images in either are replaced by a word.
* A conversation without a question of the user (only tool results, only the assistant, or nothing) gets an empty user
  message after the system message: the order is kept, and all thinking counts as part of the current task. So does one
  that begins with a tool result, which would belong to no turn.

Other keys pass unchanged. The input is not modified."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from a3b.errors import ConversationError
from a3b.isolation import deadlines
from a3b.isolation.bounded_json import TooMuchJSON, loads
from a3b.prompt.chat_template import check_messages
from a3b.prompt.media import left_out, media_in
from a3b.prompt.tool_results import KNOWN, ROLES, pair_results

REMINDER_KEY = "_reminder"  # in a message that was a late system message
_TEXT_TYPES = ("text", "input_text", "output_text")
_THINKING_KEYS = ("reasoning_content", "reasoning", "thinking")

Message = dict[str, Any]


def normalise_messages(messages: Any) -> tuple[list[Message], list[str]]:
    """(messages that templates accept, notes on what was changed).

    Raises ConversationError for what is not a list of objects, or is nested too deeply."""
    notes: list[str] = []
    try:
        done = [
            _MessageNormaliser(m, f"messages[{i}]", notes).message() for i, m in enumerate(check_messages(messages))
        ]
    except RecursionError:
        raise ConversationError("messages: nested too deeply; send flatter JSON") from None
    return _with_query(_with_one_system(_with_results_paired(done, notes), notes), notes), notes


class _MessageNormaliser:
    """One message, and the notes on it."""

    def __init__(self, message: Mapping[str, Any], where: str, notes: list[str]):
        self.given, self.where, self.notes = message, where, notes
        self.thinking: list[str] = []

    def note(self, text: str) -> None:
        """Note a change to this message."""
        self.notes.append(f"{self.where}: {text}")

    def message(self) -> Message:
        """The message in the form that templates accept."""
        deadlines.check()
        message = dict(self.given)
        message["role"] = self._role(message.get("role"))
        message["content"] = self._content(message.get("content"), message["role"])
        if message["role"] == "assistant":
            self._add_thinking(message)
            self._add_calls(message)
        return message

    def _role(self, role: Any) -> str:
        name = role.strip().lower() if isinstance(role, str) else role
        if isinstance(name, str) and name in KNOWN:
            return name
        if isinstance(name, str) and name in ROLES:
            self.note(f"role {name} taken as {ROLES[name]}")
            return ROLES[name]
        self.note(f"role {_short(role)} is unknown, taken as user")
        return "user"

    # -- content

    def _content(self, content: Any, role: str) -> str | list[Message]:
        if content is None:
            return ""
        if isinstance(content, str):
            return content
        if isinstance(content, Mapping):
            if not _is_part(content):
                self.note("content is an object, kept as JSON text")
                return _json(content)
            content = [content]
        if not isinstance(content, (list, tuple)):
            self.note(f"content is {_short(content)}, kept as text")
            return _json(content)
        if role == "tool" and content and not any(isinstance(p, str) or _is_part(p) for p in content):
            self.note("content is a list without parts, kept as JSON text")
            return _json(content)
        parts = [part for item in content for part in self._part(item, role)]
        if role == "tool" and any(map(media_in, content)):  # notes are lines of their own
            return "\n".join(part["text"] for part in parts)
        return self._joined(parts)

    def _part(self, part: Any, role: str) -> list[Message]:
        """A content part as at most one part that templates know."""
        if part is None:
            return []
        if isinstance(part, str):
            return [_text(part)]
        if not isinstance(part, Mapping):
            self.note(f"content part {_short(part)} kept as JSON text")
            return [_text(_json(part))]
        kind = part.get("type")
        if role == "tool":
            if (left := media_in(part)) is not None:
                self.note(f"{left} in the result of a tool left out")
                return [_text(left_out(left))]
        elif (media := _media(part)) is not None:
            if role == "system":
                self.note(f"{media} in a system message left out")
                return [_text(f"[{media}]")]
            given = {key: value for key, value in part.items() if value is not None}  # some clients send every key
            return [{**given, "type": media, media: given.get(media, given.get(f"{media}_url"))}]
        if kind in ("thinking", "reasoning") and role == "assistant":
            self.thinking.append(_as_text(part.get("thinking", part.get("text", part.get("reasoning")))))
            return []
        if kind == "refusal" and isinstance(part.get("refusal"), str):
            return [_text(part["refusal"])]
        if kind in _TEXT_TYPES or (kind is None and "text" in part):
            return [_text(_as_text(part.get("text")))]
        self.note(f"content part of type {_short(kind)} kept as JSON text")
        return [_text(_json(part))]

    def _joined(self, parts: list[Message]) -> str | list[Message]:
        if all(part["type"] == "text" for part in parts):
            return "".join(part["text"] for part in parts)
        return parts

    # -- what only an assistant has

    def _add_thinking(self, message: Message) -> None:
        given = [message.pop(key) for key in _THINKING_KEYS if key in message]
        given.append(_details(message.pop("reasoning_details", None)))
        texts = [_as_text(value) for value in given if value is not None]
        if self.thinking:
            texts.append("\n".join(self.thinking))
        filled = [text for text in texts if text.strip()]
        if len({text.strip() for text in filled}) > 1:
            self.note("reasoning differs under two names, the first is kept")
        if texts:
            message["reasoning_content"] = filled[0] if filled else texts[0]

    def _add_calls(self, message: Message) -> None:
        calls = message.pop("tool_calls", None)
        calls = [calls] if isinstance(calls, (Mapping, str)) else calls
        if calls is not None and not isinstance(calls, (list, tuple)):
            calls = [calls]
        calls = list(calls or [])
        if (legacy := message.pop("function_call", None)) is not None:
            calls.append({"function": legacy})
        kept = []
        for i, call in enumerate(calls):
            call, where = self._call(call, f"tool_calls[{i}]"), f"tool_calls[{i}]"
            if isinstance(call, str):
                self.note(f"{where} is not a call, kept as text")
                message["content"] = _append_text(message["content"], call)
            else:
                kept.append(call)
        if kept:
            message["tool_calls"] = kept

    def _call(self, call: Any, where: str) -> Message | str:
        function = call.get("function", call) if isinstance(call, Mapping) else None
        if isinstance(function, str):  # the name alone, arguments next to it
            function = {"name": function, "arguments": call.get("arguments")}
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), (str, int)):
            return call if isinstance(call, str) else _json(call)
        given = [holder.get(key) for holder in (function, call) for key in ("arguments", "input")]
        arguments = self._arguments(next((value for value in given if value is not None), None), where)
        rest = {key: value for key, value in call.items() if key not in ("function", "name", "arguments", "input")}
        return {
            **rest,
            "type": "function",
            "function": {**function, "name": str(function["name"]), "arguments": arguments},
        }

    def _arguments(self, given: Any, where: str) -> dict[str, Any]:
        value = given
        if isinstance(given, str):
            try:
                value = loads(given) if given.strip() else {}
            except TooMuchJSON as error:
                raise ConversationError(f"{self.where}.{where}: arguments {error}") from None
            except ValueError:
                self.note(f"{where}: arguments are not JSON, kept under the key 'arguments'")
                return {"arguments": given}
        if value is None or value == []:
            return {}
        if isinstance(value, Mapping):
            return {str(key): item for key, item in value.items()}
        self.note(f"{where}: arguments are {_short(value)}, not an object; kept under the key 'arguments'")
        return {"arguments": value}


# -- the conversation as a whole


def _with_results_paired(messages: list[Message], notes: list[str]) -> list[Message]:
    paired, _ = pair_results(messages)
    if [id(message) for message in paired] != [id(message) for message in messages]:
        notes.append("tool results were moved next to their calls")
    return paired


def _with_one_system(messages: list[Message], notes: list[str]) -> list[Message]:
    """At most one system message, at the beginning; those after a turn of the assistant become reminders."""
    begun = next((i for i, message in enumerate(messages) if message["role"] == "assistant"), len(messages))
    systems = [message for message in messages[:begun] if message["role"] == "system"]
    texts = [text for message in systems if (text := message["content"].strip())]
    if len(systems) > 1:
        notes.append(f"{len(systems)} system messages were merged into the first")
        systems = [{**systems[0], "content": "\n\n".join(texts)}]
    elif systems and messages[0] is not systems[0]:
        notes.append("a late system message was moved to the first place")
        systems = [{**systems[0], "content": "".join(texts)}]
    out = systems + [message for message in messages[:begun] if message["role"] != "system"]
    for message in messages[begun:]:
        if message["role"] != "system":
            out.append(message)
        elif text := message["content"].strip():
            out.append({"role": "user", "content": _as_reminder(text), REMINDER_KEY: True})
            notes.append("a system message after a turn of the assistant became a reminder in its place")
    return out


def _as_reminder(text: str) -> str:
    return text if text.startswith("<system-reminder>") else f"<system-reminder>\n{text}\n</system-reminder>"


def _with_query(messages: list[Message], notes: list[str]) -> list[Message]:
    """At least one question of the user, and no tool result at the beginning."""
    starts_with_result = bool(messages) and messages[0]["role"] == "tool"
    if any(map(_is_query, messages)) and not starts_with_result:
        return messages
    notes.append("no user turn to answer: an empty one was put before the first message")
    at = 1 if messages and messages[0]["role"] == "system" else 0
    return [*messages[:at], {"role": "user", "content": ""}, *messages[at:]]


def _is_query(message: Message) -> bool:
    """Whether templates see a question, and not a tool result sent with role "user"."""
    if message["role"] != "user":
        return False
    parts = message["content"]
    if not isinstance(parts, str):
        parts = "".join(part["text"] if part["type"] == "text" else "<>" for part in parts)
    text = parts.strip()
    return not (text.startswith("<tool_response>") and text.endswith("</tool_response>"))


# -- values


def _details(value: Any) -> str | None:
    """The texts in `reasoning_details`; None if there are none, as when they are encrypted."""
    items = value if isinstance(value, (list, tuple)) else [value]
    texts = [item.get("text") for item in items if isinstance(item, Mapping)]
    return "".join(text for text in texts if isinstance(text, str)) or None


def _is_part(value: Any) -> bool:
    return isinstance(value, Mapping) and (
        _media(value) is not None or isinstance(value.get("type"), str) or "text" in value
    )


def _media(part: Mapping[str, Any]) -> str | None:
    """ "image" or "video" for such a part, otherwise None."""
    kind = part.get("type")
    for media in ("image", "video"):
        if kind in (media, f"{media}_url", f"input_{media}"):
            return media
        if part.get(media) is not None or part.get(f"{media}_url") is not None:
            return media
    return None


def _text(text: str) -> Message:
    return {"type": "text", "text": text}


def _append_text(content: str | list[Message], text: str) -> str | list[Message]:
    if isinstance(content, str):
        return f"{content}\n\n{text}" if content.strip() else text
    return [*content, _text("\n\n" + text)]


def _as_text(value: Any) -> str:
    """The text of a string, of a text part or of a list of these; other values as JSON."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, Sequence):
        return "".join(_as_text(item) for item in value)
    if isinstance(value, Mapping) and isinstance(text := value.get("text"), str):
        return text
    return _json(value)


def _json(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, default=str)
    except (TypeError, ValueError):  # keys that JSON does not have, or a list inside itself
        return str(value)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
