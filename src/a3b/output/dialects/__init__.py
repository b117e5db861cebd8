"""The dialects of tool calls that are understood, one file each."""

from __future__ import annotations

from a3b.output.dialects.dialect import Dialect
from a3b.output.dialects.json_call import JSON_CALL
from a3b.output.dialects.qwen_xml import QWEN_XML

DIALECTS: tuple[Dialect, ...] = (QWEN_XML, JSON_CALL)
"""In the order in which the parser asks them. Grammars are written in the first, that of the chat template."""
