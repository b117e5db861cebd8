"""Items of the Responses API: their ids, and how lists show them. Enter at `new_id` and `listed`."""

from __future__ import annotations

import json
import uuid
from typing import Any

from a3b.server.response_store import ResponseItem

PREFIXES = {
    "message": "msg",
    "reasoning": "rs",
    "function_call": "fc",
    "custom_tool_call": "ctc",
    "function_call_output": "fco",
    "custom_tool_call_output": "ctco",
    "compaction": "cmp",
}


def new_id(kind: str) -> str:
    """An id for an item of this type."""
    return f"{PREFIXES.get(kind, 'item')}_{uuid.uuid4().hex}"


def listed(item: ResponseItem) -> ResponseItem:
    """An item as lists show it, however the client wrote it: with a status, and a content of typed parts."""
    if item["type"] == "message":
        is_output = item.get("role") == "assistant"
        parts = _parts(item.get("content") or [], "output_text" if is_output else "input_text")
        whole: dict[str, Any] = {"annotations": [], "logprobs": []} if is_output else {}
        content = [{**whole, **part} if part.get("type") == "output_text" else part for part in parts]
        return {"status": "completed", **item, "content": content}
    if item["type"] == "reasoning":
        return {"summary": [], **item}
    if item["type"] in ("function_call_output", "custom_tool_call_output"):
        match item.get("output"):
            case list() as parts:
                item = {**item, "output": _parts(parts, "input_text")}
            case dict() as value:
                item = {**item, "output": json.dumps(value, ensure_ascii=False)}
    return {"status": "completed", **item}


def _parts(content: str | list[Any], kind: str) -> list[dict[str, Any]]:
    given = [{"text": content}] if isinstance(content, str) else content
    return [{**part, "type": kind if part.get("type") in (None, "text") else part["type"]} for part in given]
