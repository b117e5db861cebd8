"""What happens to each field of a chat or text completion, of OpenAI's clients and of those of other servers. Enter at
`CHAT`."""

from __future__ import annotations

from a3b.server import response_format
from a3b.server.fields import FieldRules, HarmlessIf, is_empty
from a3b.server.sampling_fields import COMPLETION_SAMPLING

UNSUPPORTED: dict[str, HarmlessIf] = {
    "audio": None,
    "web_search_options": None,
    "moderation": None,
    "modalities": lambda value: value == ["text"],
    # of vLLM, SGLang and llama.cpp
    "bad_words": is_empty,
    "stop_token_ids": is_empty,
    "min_tokens": is_empty,
    "ignore_eos": is_empty,
    "use_beam_search": is_empty,
    "continue_final_message": is_empty,
    "add_generation_prompt": lambda value: value is True,
    "skip_special_tokens": lambda value: value is True,
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
        is_empty,
    ),
    **dict.fromkeys(("typical_p", "tfs_z", "length_penalty"), lambda value: value == 1),
    **dict.fromkeys(("top_n_sigma", "t_max_predict_ms"), lambda value: value in (0, -1)),
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
    read=(
        *COMPLETION_SAMPLING,
        "model",
        "messages",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "functions",
        "function_call",
        *response_format.FIELDS,
        "n",
        "logprobs",
        "top_logprobs",
        "stream",
        "stream_options",
        "reasoning_effort",
        "reasoning",
        "thinking",
        "enable_thinking",
        "include_reasoning",
        "thinking_budget",
        "thinking_token_budget",
        "task_thinking_budget",
        "preserve_thinking",
        "thinking_policy",
        "chat_template_kwargs",
    ),
    refused={**UNSUPPORTED, **response_format.UNSUPPORTED},
    warned={"verbosity": (lambda value: value == "medium", SHORTER)},
    harmless=HARMLESS,
)
STREAM_OPTIONS = FieldRules(
    read=("include_usage",), harmless={"include_obfuscation": "pads against eavesdroppers, which TLS is for"}
)
REASONING = FieldRules(
    read=("effort", "max_tokens", "exclude", "enabled"), harmless={"summary": "the thinking is returned in full"}
)
THINKING = FieldRules(read=("type", "budget_tokens", "clear_thinking"))
# marks of other servers on a last message that the model is to continue
UNFINISHED = {"prefix": is_empty, "partial": is_empty}
