"""What happens to each field of a chat or text completion, of OpenAI's clients and of those of other servers. Enter at
`CHAT`."""

from __future__ import annotations

from a3b.server import response_format
from a3b.server.fields import EMPTY, FieldRules, HarmlessIf, only
from a3b.server.sampling_fields import COMPLETION_SAMPLING
from a3b.server.shared_fields import ANY_MODEL, BUDGET, CONVERSATION, EFFORT, INCLUDE_USAGE, POLICY, STREAM, TASK_BUDGET

MAX_CHOICES, MAX_LOGPROBS = 8, 20
UNSUPPORTED: dict[str, HarmlessIf] = {
    "audio": None,
    "web_search_options": None,
    "moderation": None,
    "modalities": only(["text"]),
    # of vLLM, SGLang and llama.cpp
    "bad_words": EMPTY,
    "stop_token_ids": EMPTY,
    "min_tokens": EMPTY,
    "ignore_eos": EMPTY,
    "use_beam_search": EMPTY,
    "continue_final_message": EMPTY,
    "add_generation_prompt": only(True),
    "skip_special_tokens": only(True),
    **dict.fromkeys(
        (
            "allowed_token_ids",
            "prompt_logprobs",
            "truncate_prompt_tokens",
            "chat_template",
            "documents",
            "logits_processors",
            "include_stop_str_in_output",
            "lora",
            "mirostat",
            "mirostat_mode",
            "dynatemp_range",
            "xtc_probability",
            "dry_multiplier",
            "top_a",
            "smoothing_factor",
        ),
        EMPTY,
    ),
    **dict.fromkeys(("typical_p", "tfs_z", "length_penalty"), only(1)),
    **dict.fromkeys(("top_n_sigma", "t_max_predict_ms"), only(0, -1)),
}
HARMLESS = {
    "user": "says who asks",
    "safety_identifier": "says who asks",
    "metadata": "is for lists of completions, which are not kept",
    "store": "as metadata",
    "service_tier": "there is one",
    "prompt_cache_key": "all prompts are cached",
    "prompt_cache_options": "as prompt_cache_key",
    "prompt_cache_retention": "as prompt_cache_key",
    "cache_prompt": "as prompt_cache_key",
    "prediction": "would only save time",
}
SHORTER = "this model has no such setting; ask for short or long answers in the instructions"
CHAT = FieldRules(
    read={
        "model": ANY_MODEL,
        "messages": "the conversation, at least one message; " + CONVERSATION,
        "tools": "functions that the model may call; `strict: true` enforces the schema of the arguments",
        "tool_choice": "`auto`, `none`, `required`, one function, or `allowed_tools`",
        "parallel_tool_calls": "false: at most one call in an answer; default true",
        "functions": "the older form of `tools`; the answer then has `function_call`",
        "function_call": "the older form of `tool_choice`",
        **COMPLETION_SAMPLING,
        **response_format.FIELDS,
        "n": f"how many answers, up to {MAX_CHOICES}; a `seed` counts up from one to the next",
        "logprobs": "true: the logarithm of each token's probability",
        "top_logprobs": f"so many likely tokens in the place of each, up to {MAX_LOGPROBS}; needs `logprobs`",
        "stream": STREAM,
        "stream_options": "`include_usage`: " + INCLUDE_USAGE,
        "return_progress": "true: while a prompt is read, chunks of a stream say how far it is; llama.cpp's "
        "`prompt_progress`, with `total`, `cache` and `processed` tokens and `time_ms`",
        "reasoning_effort": EFFORT,
        "reasoning": "OpenRouter's form: `effort`, `max_tokens`, `exclude`, `enabled`",
        "thinking": "`type` is `enabled`, `disabled` or `adaptive`; `budget_tokens`; `clear_thinking`",
        "enable_thinking": "whether to think; counts before all other fields that say so",
        "include_reasoning": "false: the answer does not show the thinking; it is kept all the same",
        "thinking_budget": BUDGET + "; -1 is no limit",
        "thinking_token_budget": "the same, vLLM's name",
        "task_thinking_budget": TASK_BUDGET,
        "preserve_thinking": "true is the policy `all`, false `current-task`",
        "thinking_policy": POLICY,
        "chat_template_kwargs": "variables for the chat template; `enable_thinking` and `preserve_thinking` as above",
    },
    refused={**UNSUPPORTED, **response_format.UNSUPPORTED},
    warned={"verbosity": (only("medium"), SHORTER)},
    harmless=HARMLESS,
)
STREAM_OPTIONS = FieldRules(
    read={"include_usage": INCLUDE_USAGE},
    harmless={"include_obfuscation": "pads against eavesdroppers, which TLS is for"},
)
REASONING = FieldRules(
    read={
        "effort": "as `reasoning_effort`",
        "max_tokens": "as `thinking_budget`",
        "exclude": "true: the answer does not show the thinking",
        "enabled": "whether to think",
    },
    harmless={"summary": "the thinking is returned in full"},
)
THINKING = FieldRules(
    read={
        "type": "`enabled`, `disabled` or `adaptive`",
        "budget_tokens": "as `thinking_budget`",
        "clear_thinking": "true is the policy `current-task`, false `all`",
    }
)
# marks of other servers on a last message that the model is to continue
UNFINISHED = {"prefix": EMPTY, "partial": EMPTY}
