"""Configs of published models by the names of their shapes, to plan and measure with before anything is downloaded.

Which models have them is in `known_models`. Enter at `shape`."""

from __future__ import annotations

from typing import Any

from a3b.errors import UsageError
from a3b.model.config import ModelConfig
from a3b.model.config_reader import config_from_dict

_MOE = {
    "num_experts": 256,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 512,
    "shared_expert_intermediate_size": 512,
}
_SMALL = {
    "hidden_size": 2048,
    "num_hidden_layers": 40,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "linear_num_value_heads": 32,
}
_LARGE = {
    "hidden_size": 5120,
    "num_hidden_layers": 64,
    "num_attention_heads": 24,
    "num_key_value_heads": 4,
    "linear_num_value_heads": 48,
}
_COMMON = {
    "vocab_size": 248320,
    "head_dim": 256,
    "linear_num_key_heads": 16,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_conv_kernel_dim": 4,
    "full_attention_interval": 4,
    "max_position_embeddings": 262144,
    "rope_parameters": {"rope_theta": 10_000_000, "partial_rotary_factor": 0.25, "mrope_section": [11, 11, 10]},
    "eos_token_id": 248044,
}
# from its card; they add up to the 122 B parameters and 10 B active ones of its name
_LARGEST = {
    "hidden_size": 3072,
    "num_hidden_layers": 48,
    "num_attention_heads": 32,
    "num_key_value_heads": 2,
    "linear_num_value_heads": 64,
}
SHAPES: dict[str, dict[str, Any]] = {
    "35b-a3b": {"model_type": "qwen3_5_moe_text", **_COMMON, **_SMALL, **_MOE, "mtp_num_hidden_layers": 1},
    "27b": {
        "model_type": "qwen3_5_text",
        **_COMMON,
        **_LARGE,
        "intermediate_size": 17408,
        "mtp_num_hidden_layers": 1,
    },
    # 35b-a3b's active size, no experts
    "3b-dense": {"model_type": "qwen3_5_text", **_COMMON, **_SMALL, "intermediate_size": 4608},
    # for comparison; never trained
    "31b-dense": {"model_type": "qwen3_5_text", **_COMMON, **_LARGE, "intermediate_size": 21504},
    "122b-a10b": {
        "model_type": "qwen3_5_moe_text",
        **_COMMON,
        **_LARGEST,
        **_MOE,
        "moe_intermediate_size": 1024,
        "shared_expert_intermediate_size": 1024,
        "mtp_num_hidden_layers": 1,
    },
}


def shape(name: str) -> ModelConfig:
    """The config of a known shape. Raises UsageError for other names."""
    if name not in SHAPES:
        raise UsageError(f"shape: {name!r} is unknown; known: {', '.join(SHAPES)}")
    return config_from_dict(SHAPES[name], name)
