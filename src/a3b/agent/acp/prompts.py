"""What an editor sends as a prompt, as text for the model. Enter at `prompt_text`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from acp import RequestError
from acp.schema import (
    AudioContentBlock,
    EmbeddedResourceContentBlock,
    ImageContentBlock,
    ResourceContentBlock,
    TextContentBlock,
    TextResourceContents,
)

MAX_PROMPT = 4 << 20  # characters


def prompt_text(blocks: Sequence[Any], directory: Path) -> str:
    """The blocks in order. Files are named as the agent's tools name them; embedded ones come with their text.

    Raises RequestError for what the model cannot read."""
    parts = [_part(block, directory) for block in blocks]
    text = "".join(parts).strip()
    if not text:
        raise RequestError.invalid_params({"prompt": "is empty"})
    if len(text) > MAX_PROMPT:
        raise RequestError.invalid_params({"prompt": f"has {len(text):,} characters; expected {MAX_PROMPT:,} at most"})
    return text


def _part(block: Any, directory: Path) -> str:
    if isinstance(block, TextContentBlock):
        return block.text
    if isinstance(block, ResourceContentBlock):
        return _name(block.uri, directory)
    if isinstance(block, EmbeddedResourceContentBlock) and isinstance(block.resource, TextResourceContents):
        name = _name(block.resource.uri, directory).replace('"', "%22")
        return f'\n<file path="{name}">\n{block.resource.text}\n</file>\n'
    kind = (
        "an image" if isinstance(block, ImageContentBlock) else "audio" if isinstance(block, AudioContentBlock) else "a"
    )
    raise RequestError.invalid_params({"prompt": f"has {kind} block; the model reads text, links and embedded text"})


def _name(uri: str, directory: Path) -> str:
    """A file below the directory as a relative path, any other file as an absolute one, the rest as it is."""
    try:
        parts = urlsplit(uri)
    except ValueError:
        return uri
    if parts.scheme != "file":
        return uri
    path = Path(unquote(parts.path))
    return str(path.relative_to(directory)) if path.is_relative_to(directory) else str(path)
