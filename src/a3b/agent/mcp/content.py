"""Answers of servers as text for the model. Characters that terminals obey go; images and other bytes are named, but
not shown. Enter at `result_text`, `resource_text`, `prompt_text`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from a3b.agent.mcp.schemas import UNFIT, clean_text

if TYPE_CHECKING:
    from mcp_types import CallToolResult, GetPromptResult, ReadResourceResult

NOTHING = "[no output]"


def result_text(result: CallToolResult) -> str:
    """What a call gave. Structured content is left out if the text says the same."""
    parts = [_block_text(block) for block in result.content]
    structured = result.structured_content
    if structured is not None and not _says_the_same(parts, structured):
        parts.append(json.dumps(structured, ensure_ascii=False))
    return "\n".join(parts) or NOTHING


def resource_text(result: ReadResourceResult) -> str:
    """What a resource holds; the URI of each part is told if there are several."""
    texts = [_contents(contents) for contents in result.contents]
    if len(texts) == 1:
        return texts[0] or NOTHING
    named = zip(result.contents, texts, strict=True)
    return "\n".join(f"[{clean_text(contents.uri, 500)}]\n{text}" for contents, text in named) or NOTHING


def prompt_text(result: GetPromptResult) -> str:
    """The messages of a prompt, each under its role if there are several."""
    if len(result.messages) == 1:
        return _block_text(result.messages[0].content) or NOTHING
    return "\n\n".join(f"[{message.role}]\n{_block_text(message.content)}" for message in result.messages) or NOTHING


def _block_text(block: Any) -> str:
    """One block of content."""
    if block.type == "text":
        return UNFIT.sub("", block.text)
    if block.type in ("image", "audio"):
        return _not_shown(block.type, block.mime_type, block.data)
    if block.type == "resource":
        return f"[resource {clean_text(block.resource.uri, 500)}]\n{_contents(block.resource)}"
    return f"[resource {clean_text(block.uri, 500)}: {clean_text(block.description or block.name, 200)}]"


def _contents(contents: Any) -> str:
    if hasattr(contents, "text"):
        return UNFIT.sub("", contents.text)
    return _not_shown("data", contents.mime_type or "unknown type", contents.blob)


def _not_shown(kind: str, mime_type: str, base64: str) -> str:
    num_bytes = len(base64) * 3 // 4 - base64[-2:].count("=")
    return f"[{kind}, {clean_text(mime_type, 100)}, {num_bytes:,} bytes: not shown]"


def _says_the_same(texts: list[str], structured: Any) -> bool:
    """Whether the text blocks are the structured content once more; servers wrap what is no object in one."""
    bare = next(iter(structured.values())) if isinstance(structured, dict) and len(structured) == 1 else structured
    read = [_read(text) for text in texts]
    wanted = bare if isinstance(bare, list) else [bare]
    return read in ([structured], [bare], wanted) or texts == [bare] or texts == wanted


def _read(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
