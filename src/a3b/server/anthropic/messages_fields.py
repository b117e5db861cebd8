"""What happens to each field of a request of Anthropic's Messages API. Enter at `check`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from a3b.interface.sampling_params import SAMPLING_FIELDS
from a3b.server import response_format
from a3b.server.fields import EMPTY, FieldRules, Fields
from a3b.server.shared_fields import (
    ANY_MODEL,
    BUDGET,
    CALLED_DIRECTLY,
    CONVERSATION,
    EFFORT,
    POLICY,
    STOPS,
    STREAM,
    TASK_BUDGET,
)

CLEARED_THINKING = "clear_thinking_20251015"
NUMBERS = ("temperature", "top_p", "top_k")  # the sampling fields of this API
MESSAGE = FieldRules(
    read={
        "model": ANY_MODEL,
        "messages": "the conversation, the last message the user's; " + CONVERSATION,
        "system": "text or blocks of text; lines that begin with `x-anthropic-billing-header:` are left out",
        "max_tokens": "must be given; 0 reads the prompt into the cache and writes nothing",
        "tools": "tools with an `input_schema`, which the client runs",
        "tool_choice": "`auto`, `any`, `tool` or `none`",
        **{name: SAMPLING_FIELDS[name].meaning for name in NUMBERS},
        "stop_sequences": STOPS,
        "stream": STREAM,
        "thinking": "whether to think, for how long, and whether to show it: below",
        "output_config": "`effort`, and `format`, a JSON schema that the answer follows",
        "output_format": "the older form of `output_config.format`",
        **response_format.FIELDS,
        "thread": "the server holds the conversation; each request brings only what is new",
        "context_management": f"edits of type `{CLEARED_THINKING}` choose the thinking that stays: `keep` is "
        "`all` or one turn; other edits are reported and not done",
        "thinking_policy": POLICY,
        "task_thinking_budget": TASK_BUDGET,
    },
    refused={"mcp_servers": EMPTY, "container": EMPTY, "compaction": None, **response_format.UNSUPPORTED},
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
    read={
        "type": "`enabled`, `disabled` or `adaptive`",
        "budget_tokens": BUDGET,
        "display": "`summarized` or `updates`: thinking is sent whole; `omitted`: its blocks are empty and "
        "their signature holds it, encrypted",
    },
    harmless={"block_binding": "thinking that fails its check is left out"},
)
OUTPUT = FieldRules(
    read={
        "effort": EFFORT,
        "format": "`json_schema` with a `schema`",
    },
    warned={"task_budget": (None, "not told to the model; task_thinking_budget limits its thinking in a task")},
)
TOOL = FieldRules(
    read={
        "type": "`custom` or absent; tools of Anthropic's servers are refused",
        "name": "what the model calls; not empty, not used twice",
        "description": "shown to the model",
        "input_schema": "JSON schema of the arguments",
        "strict": "true: the arguments follow the schema",
        "input_examples": "shown to the model after the description",
    },
    refused={"allowed_callers": CALLED_DIRECTLY},
    warned={"defer_loading": (EMPTY, "the tool is offered from the beginning")},
    harmless={"cache_control": "all prompts are cached", "eager_input_streaming": "arguments are always streamed"},
)
CHOICE = FieldRules(
    read={
        "type": "`auto`, `any` (some call), `tool` (this one) or `none`",
        "name": "of the tool",
        "disable_parallel_tool_use": "true: at most one call in an answer",
    }
)


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
