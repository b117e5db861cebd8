"""Calls in Qwen3.6's XML, as its chat template writes them:

    <tool_call>
    <function=NAME>
    <parameter=KEY>
    VALUE
    </parameter>
    </function>
    </tool_call>

Only `<tool_call>` and `</tool_call>` are control tokens. The object of the dialect; the tags are read in
`qwen_xml_tags`, a call in `qwen_xml_reader`. Enter at `QWEN_XML`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from a3b.output.buffer import Buffer, peek, skip_blank
from a3b.output.call_writer import CallWriter
from a3b.output.dialects.dialect import CallReader, Dialect, HeldCall, NameRule, RawParameters, Rules
from a3b.output.dialects.qwen_xml_reader import XmlReader
from a3b.output.dialects.qwen_xml_tags import (
    CLOSER,
    FUNCTION,
    FUNCTION_END,
    MAX_NAME,
    OPENER,
    PARAMETER,
    PARAMETER_END,
    SPELLED_CALL_END,
    read_name,
    tag_at,
)
from a3b.output.dialects.qwen_xml_thoughts import ThoughtCall
from a3b.output.json_text import dumps

_CHAR = r"""[^\s<>"']"""


class _QwenXml(Dialect):
    opener, closer, lead = OPENER, CLOSER, "\n"
    head = (FUNCTION, ">\n")
    first_chars = bare_start = "<"
    tool_names = NameRule(
        re.compile(rf"{_CHAR}{{1,{MAX_NAME}}}\Z"),
        f"1 to {MAX_NAME} characters without spaces, quotes, < and >",
    )
    parameter_names = NameRule(
        re.compile(rf"{_CHAR}(?:(?:{_CHAR}| ){{0,{MAX_NAME - 2}}}{_CHAR})?\Z"),
        "a name without line breaks, quotes, < and >",
    )
    raw = RawParameters(
        before=PARAMETER,
        after=">\n",
        close=f"\n{PARAMETER_END}\n",
        any_key=f"{_CHAR}{{1,{MAX_NAME}}}",
        text_ends=(PARAMETER_END, f"{FUNCTION_END} <", f"\n{PARAMETER}"),
        free_ends=(f"{PARAMETER_END} <", f"{FUNCTION_END} <", f"\n{PARAMETER}"),
    )

    def open(self, buffer: Buffer, at: int, calls: CallWriter, is_bare: bool = False) -> CallReader | None:
        if peek(buffer.text, at, FUNCTION) == "":
            return None
        name, end = read_name(buffer.text, at + len(FUNCTION))
        if not calls.may_call(name):
            return None
        buffer.take(end)
        calls.begin(name)
        return XmlReader(buffer, calls, is_bare)

    def may_follow(self, last: Dialect) -> bool:
        return last.opener == self.opener

    def skip_closing(self, text: str, at: int) -> int:
        tag, end = tag_at(text, at)
        return end if tag in (FUNCTION_END, PARAMETER_END, SPELLED_CALL_END) else 0

    def find_bare(self, text: str, calls: CallWriter) -> int:
        """`<function=NAME>` of a tool, if a parameter or the end of the function follows."""
        if peek(text, 0, FUNCTION) == "":
            return 0
        name, end = read_name(text, len(FUNCTION))
        if not calls.schemas.offers_loose(name):
            return 0
        return end if tag_at(text, skip_blank(text, end))[0] in (PARAMETER, FUNCTION_END) else 0

    def hold(self, head_end: int, calls: CallWriter) -> HeldCall:
        return ThoughtCall(head_end, calls.schemas.offers_loose)

    def arguments_rule(self, rules: Rules) -> str:
        return f'{rules.raw_parameters()} "{FUNCTION_END}\\n"'

    def arguments_text(self, arguments: Mapping[str, Any]) -> str:
        """Strings as they are, everything else as JSON."""
        texts = {key: value if isinstance(value, str) else dumps(value) for key, value in arguments.items()}
        parameters = "".join(f"{PARAMETER}{key}>\n{text}\n{PARAMETER_END}\n" for key, text in texts.items())
        return f"{parameters}{FUNCTION_END}\n"


QWEN_XML = _QwenXml()
