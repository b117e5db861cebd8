"""Text for what other servers leave in a history: their searches, the tools they run, documents, summaries. Enter at
`block_text` and `item_text`.

The model reads the question and the outcome. Media are left out, and so is what only its maker can read (encrypted
contents, signatures)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from a3b.server.fields import Fields

READ_AS_TEXT = "read as text"
SUMMARY = "Summary of the conversation before:\n"
SERVER_BLOCKS = (
    "server_tool_use",
    "mcp_tool_use",
    "mcp_tool_result",
    "mcp_tool_listing",
    "web_search_tool_result",
    "web_fetch_tool_result",
    "code_execution_tool_result",
    "bash_code_execution_tool_result",
    "text_editor_code_execution_tool_result",
    "tool_search_tool_result",
    "advisor_tool_result",
)
SERVER_ITEMS = (
    "web_search_call",
    "file_search_call",
    "code_interpreter_call",
    "image_generation_call",
    "mcp_call",
    "mcp_list_tools",
    "mcp_approval_request",
    "mcp_approval_response",
    "program",
    "program_output",
)
CLIENT_CALLS = {
    "local_shell_call": "action",
    "shell_call": "action",
    "apply_patch_call": "operation",
    "computer_call": "action",
    "tool_search_call": "arguments",
}  # OpenAI's tools that a client runs: the field of their arguments
CLIENT_OUTPUTS = {
    "local_shell_call_output": "output",
    "shell_call_output": "output",
    "apply_patch_call_output": "output",
    "computer_call_output": "output",
    "tool_search_output": "tools",
}
SUMMARIES = ("compaction", "compaction_summary", "context_compaction")
OPAQUE = (
    "id",
    "call_id",
    "tool_use_id",
    "caller",
    "cache_control",
    "citations",
    "signature",
    "encrypted_content",
    "encrypted_index",
    "encrypted_stdout",
    "fingerprint",
    "acknowledged_safety_checks",
    "pending_safety_checks",
)
TEXTS, DONE = ("text", "input_text", "output_text"), ("status", "completed")
LEFT_OUT = "[left out]"


def block_text(block: Fields) -> str | None:
    """Text for a content block other than text, thinking and the client's tools; None if it has none.

    Raises ApiError for a document or a search result that lacks a required field."""
    kind = block.string("type")
    match kind:
        case "search_result":
            return _titled(block, block.required("source"), _texts(block.body.get("content")))
        case "document":
            return _document(block)
        case "tool_reference":
            return f"[tool {block.required('tool_name')} was found and may be called]"
        case "compaction":
            return SUMMARY + text + "\n" if (text := block.string("content")) else ""
        case "fallback":  # marks where another model took over; it has no content
            return ""
    return _as_json(kind, block.body) if kind in SERVER_BLOCKS else None


def item_text(item: Fields, kind: str) -> str | None:
    """Text for an item that a tool on OpenAI's servers made; None for other items."""
    return _as_json(kind, item.body) if kind in SERVER_ITEMS else None


def plain(value: Any) -> Any:
    """The value without opaque fields and media; parts that hold only text become that text."""
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, str):
        return LEFT_OUT if value.startswith("data:") else value
    if not isinstance(value, Mapping):
        return value
    if value.get("type") in ("base64", "image", "input_image", "computer_screenshot"):
        return LEFT_OUT
    kept = {
        key: plain(item)
        for key, item in value.items()
        if key not in OPAQUE and item is not None and (key, item) != DONE
    }
    return kept["text"] if kept.get("type") in TEXTS and kept.keys() <= {"type", "text"} else kept


def _as_json(kind: str, body: Mapping[str, Any]) -> str:
    media = ("result",) if kind == "image_generation_call" else ()
    told = plain({key: value for key, value in body.items() if key not in ("type", *media)})
    return f"[{kind}] {json.dumps(told, ensure_ascii=False)}"


def _document(block: Fields) -> str | None:
    source = Fields(block.object("source") or {}, block.name("source"))
    match source.string("type"):
        case "text":
            text = source.required("data")
        case "content":
            text = _texts(source.body.get("content"))
        case _:  # a PDF or a file
            return None
    return _titled(block, block.string("context") or "", text)


def _titled(block: Fields, about: str, text: str) -> str:
    return "\n".join(line for line in (block.string("title") or "", about, text) if line)


def _texts(content: Any) -> str:
    if isinstance(content, str):
        return content
    parts = [plain(part) for part in content] if isinstance(content, list) else []
    return "\n".join(part if isinstance(part, str) else json.dumps(part, ensure_ascii=False) for part in parts)
