"""What happens to each field of a request of Anthropic's Messages API. Enter at `check`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from a3b.server import response_format
from a3b.server.fields import FieldRules, Fields, is_empty

NUMBERS = ("temperature", "top_p", "top_k")  # the sampling fields of this API
MESSAGE = FieldRules(
    read=(
        "model",
        "messages",
        "system",
        "max_tokens",
        "stream",
        "stop_sequences",
        *NUMBERS,
        "tools",
        "tool_choice",
        "thinking",
        "thread",
        "output_config",
        "output_format",
        "context_management",
        "thinking_policy",
        "task_thinking_budget",
        *response_format.FIELDS,
    ),
    refused={"mcp_servers": is_empty, "container": is_empty, "compaction": None, **response_format.UNSUPPORTED},
    harmless={
        "cache_control": "all prompts are cached",
        "diagnostics": "a3b.cache says where a prompt diverged",
        "metadata": "says who asks",
        "user_profile_id": "says who asks",
        "workspace_id": "says who asks",
        "billing_policy": "nothing is billed",
        "fallback_credit_token": "nothing is billed",
        "fallbacks": "nothing is refused for policy",
        "inference_geo": "there is one place",
        "service_tier": "there is one",
        "speed": "there is one",
        "betas": "is a header",
    },
)
THINKING = FieldRules(
    read=("type", "budget_tokens", "display"), harmless={"block_binding": "thinking that fails its check is left out"}
)
OUTPUT = FieldRules(
    read=("effort", "format"),
    warned={"task_budget": (None, "not told to the model; task_thinking_budget limits its thinking in a task")},
)
TOOL = FieldRules(
    read=("type", "name", "description", "input_schema", "strict", "input_examples"),
    refused={"allowed_callers": lambda value: value == [] or (isinstance(value, list) and "direct" in value)},
    warned={"defer_loading": (is_empty, "the tool is offered from the beginning")},
    harmless={"cache_control": "all prompts are cached", "eager_input_streaming": "arguments are always streamed"},
)
CHOICE = FieldRules(read=("type", "name", "disable_parallel_tool_use"))
CLEARED_THINKING = "clear_thinking_20251015"


def check(fields: Fields) -> list[str]:
    """Warnings about fields that are not followed, the nested ones included. Raises ApiError for a refused one."""
    warnings = MESSAGE.check(fields)
    for key, rules in (("thinking", THINKING), ("output_config", OUTPUT), ("tool_choice", CHOICE)):
        warnings += rules.check(fields.nested(key))
    for i, tool in enumerate(fields.items("tools")):
        warnings += TOOL.check(Fields(tool, f"tools[{i}]"))
    return warnings


def policy_of(fields: Fields, warnings: list[str]) -> str | None:
    """Which thinking of earlier turns stays, by `thinking_policy` or an edit of `context_management`.

    Other edits shorten a long history on the server. This server cuts nothing: what does not fit is refused, and the
    client shortens it."""
    management = fields.nested("context_management")
    found = fields.policy("thinking_policy")
    for i, given in enumerate(management.items("edits")):
        edit = Fields(given, f"context_management.edits[{i}]")
        if edit.required("type") != CLEARED_THINKING:
            warnings.append(f"{edit.where}: {edit.body['type'][:60]} is not done; the history stays whole")
            continue
        policy = _kept(edit)
        found = found or policy
    return found


def _kept(edit: Fields) -> str:
    keep: Any = edit.body.get("keep")
    keep = keep.get("type") if isinstance(keep, Mapping) and keep.get("type") == "all" else keep
    if keep == "all":
        return "all"
    if keep is not None and Fields(keep, edit.name("keep")).integer("value", least=1) not in (None, 1):
        raise edit.invalid("keep", '"all" or one turn; this server keeps all thinking or that of the current task')
    return "current-task"
