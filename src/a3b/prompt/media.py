"""Images, sounds, videos and files in what tools return.

This model reads text only, so a note replaces them. A refusal would end an agent's conversation, because results stay
in all later requests. Enter at `media_in`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SEEN = ("image", "audio", "video")  # a part of such a type is always media
FILES = ("file", "document", "resource")  # a part of such a type is a file only if it has one of CONTENT
CONTENT = (  # otherwise it is data about a file
    "data",
    "blob",
    "source",
    "url",
    "file",
    "file_data",
    "file_id",
    "file_url",
    "document",
    "document_url",
    "resource",
)
_NAMES = {
    form.format(kind): kind
    for kind in (*SEEN, *FILES)
    for form in ("{}", "{}_url", "input_{}", "{}_file", "{}-data", "{}-url", "{}-file")
}


def media_in(part: Any) -> str | None:
    """The kind of media in a part of a tool's output: image, audio, video, file or document; None for text and data."""
    if not isinstance(part, Mapping):
        return None
    kind = part.get("type")
    if kind is None:
        return (
            None
            if "text" in part
            else next((name for key, name in _NAMES.items() if _is_content(key, part.get(key))), None)
        )
    if kind == "media":  # its type is in the field next to it
        kind = str(part.get("mediaType") or part.get("mimeType") or "file").partition("/")[0]
    name = _NAMES.get(kind) if isinstance(kind, str) else None
    if name in SEEN or kind == "input_file":
        return name
    return _file(name, part) if name else None


def left_out(kind: str) -> str:
    """What the model reads in place of an image or a file."""
    return f"[{kind} left out: this model reads text only]"


def _file(name: str, part: Mapping[str, Any]) -> str | None:
    held = [part[key] for key in CONTENT if part.get(key) is not None]
    for value in held:
        if isinstance(value, Mapping) and (
            value.get("type") in ("text", "content") or isinstance(value.get("text"), str)
        ):
            return None  # a document of text
    return ("file" if name == "resource" else name) if held else None


def _is_content(key: str, value: Any) -> bool:
    """Whether the value of a key in a part without a type is an image or a file, and not just its name or address."""
    if isinstance(value, Mapping):
        return key not in (*SEEN, *FILES) and isinstance(
            value.get("url") or value.get("data") or value.get("file_data"), str
        )
    return isinstance(value, str) and value[:5].lower() == "data:"
