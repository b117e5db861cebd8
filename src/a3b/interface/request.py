"""What every API asks of the engine, in one form that is independent of any wire format. Enter at `Request`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from a3b.errors import UsageError

Policy = str
"""Which thinking of earlier turns stays in the prompt: "all", "current-task", "none" or "budget:N" (N tokens)."""

ToolChoice = Literal["auto", "none", "required", "named"]
"""Whether tools may be called: as the model likes, never, at least one, or one by name."""


@dataclass(frozen=True)
class Request:
    """A request for one answer.

    messages: OpenAI chat messages, as `a3b.prompt.normalise_messages` takes them: roles system, user, assistant, tool;
    text or parts as content; `reasoning_content`; `tool_calls` with ids. tools: OpenAI form, {"type": "function",
    "function": {...}}. prompt: text or token ids to be continued instead of messages. Fields of `sampling` are those of
    SamplingParams; absent fields take the server's defaults."""

    messages: list[dict[str, Any]] = field(default_factory=list)
    prompt: str | list[int] | None = None
    tools: list[dict[str, Any]] = field(default_factory=list)
    tool_choice: ToolChoice = "auto"
    tool_name: str | None = None  # of "named"
    parallel_tool_calls: bool = True
    schema: Mapping[str, Any] | None = None  # JSON schema that the text after the thinking must satisfy
    sampling: Mapping[str, Any] = field(default_factory=dict)
    top_logprobs: int | None = None  # None: no logprobs; otherwise the number of alternatives
    scores_prompt: bool = False  # logprobs of the tokens of the prompt too
    only_reads: bool = False  # the prompt is read and nothing written
    begins_many: bool = False  # its end is what many conversations begin with, and is kept as such
    think: bool | None = None  # None: the server's default
    thinking_budget: int | None = None  # tokens of thinking in this answer
    task_budget: int | None = None  # tokens of thinking since the last turn of the user
    policy: Policy | None = None
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    namespace: str = ""  # whose cache and thinking; never a key itself
    request_id: str = ""


def check_policy(policy: Any) -> str:
    """The policy, if it is one. Raises UsageError."""
    if isinstance(policy, str):
        name, _, number = policy.partition(":")
        if (name in ("all", "current-task", "none") and not number) or (
            name == "budget" and number.isdecimal() and len(number) < 10
        ):
            return policy
    raise UsageError(f"thinking policy: {policy!r}; expected all, current-task, none or budget:N")
