"""Messages of a chat completion, checked; their contents stay in OpenAI's form. Enter at `read_messages`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from a3b.prompt.chat_template import REPLAY_KEY
from a3b.prompt.media import media_in
from a3b.prompt.normalise_messages import REMINDER_KEY
from a3b.prompt.tool_results import KNOWN, NO_RESULT_KEY, ROLES, result_warnings
from a3b.server.errors import ApiError
from a3b.server.fields import Fields
from a3b.server.openai.chat_fields import UNFINISHED

OWN_KEYS = (REPLAY_KEY, REMINDER_KEY, NO_RESULT_KEY)  # only this server sets these in messages
MEDIA = (
    "image",
    "image_url",
    "input_image",
    "audio",
    "audio_url",
    "input_audio",
    "video",
    "video_url",
    "input_video",
    "file",
    "input_file",
)


def read_messages(fields: Fields, warnings: list[str]) -> list[dict[str, Any]]:
    """The messages for a Request; adds warnings about what the model does not see. Raises ApiError."""
    messages = fields.items("messages")
    if not messages:
        raise fields.invalid("messages", "a list of at least one message")
    for i, message in enumerate(messages):
        _check(Fields(message, f"messages[{i}]"), warnings)
    if any(
        message.get("name") is not None and message["role"] in ("user", "system", "developer") for message in messages
    ):
        warnings.append("messages[].name: the model sees roles, no names; put a name into the content")
    if any(message.get("audio") is not None for message in messages):
        warnings.append("messages[].audio: left out, as this model reads text only")
    own = [_own(message) for message in messages]
    warnings += result_warnings(own)
    return own


def _check(message: Fields, warnings: list[str]) -> None:
    message.refuse(UNFINISHED)
    role = (message.string("role") or "").strip().lower()
    if role not in (*KNOWN, *ROLES):
        raise message.invalid("role", "system, developer, user, assistant or tool")
    content: Any = message.get("content", (str, list, Mapping), "text or a list of parts", "")
    parts = [content] if isinstance(content, Mapping) else content if isinstance(content, list) else []
    for i, part in enumerate(parts):
        where = message.name("content") + (f"[{i}]" if isinstance(content, list) else "")
        if role in ("tool", "function"):  # a result stays in all later requests, so it must not fail them
            if (left := media_in(part)) is not None:
                warnings.append(f"{where}: {left} left out: this model reads text only")
        elif isinstance(part, Mapping):
            _refuse_media(part, where)


def _own(message: Mapping[str, Any]) -> dict[str, Any]:
    """The message without the keys that only this server sets. A refusal becomes the content if there is none."""
    own = {key: value for key, value in message.items() if key not in OWN_KEYS}
    if isinstance(own.get("refusal"), str) and not own.get("content"):
        own["content"] = own["refusal"]
    return own


def _refuse_media(part: Mapping[str, Any], where: str) -> None:
    kind = part.get("type")
    found = kind if kind in MEDIA else next((key for key in MEDIA if part.get(key) is not None), None)
    if found is not None:
        field = f"{where}.type" if found == kind else f"{where}.{found}"
        message = f"{field}: {found} is not supported by this server; send text"
        raise ApiError(400, message, "unsupported_parameter", field)
