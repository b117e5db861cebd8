"""Configs of published models by name, to plan and measure with before anything is downloaded. Enter at `shape`."""

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
SHAPES: dict[str, dict[str, Any]] = {
    "35b-a3b": {"model_type": "qwen3_5_moe_text", **_COMMON, **_SMALL, **_MOE},
    "27b": {"model_type": "qwen3_5_text", **_COMMON, **_LARGE, "intermediate_size": 17408},
    # 35b-a3b's active size, no experts
    "3b-dense": {"model_type": "qwen3_5_text", **_COMMON, **_SMALL, "intermediate_size": 4608},
    # for comparison; never trained
    "31b-dense": {"model_type": "qwen3_5_text", **_COMMON, **_LARGE, "intermediate_size": 21504},
}

REPOSITORIES = {"35b-a3b": "Qwen/Qwen3.6-35B-A3B", "27b": "Qwen/Qwen3.6-27B"}  # of the trained shapes


def known_shape(name: str) -> str | None:
    """The name in SHAPES of a model, which may also be given by its repository; case does not matter."""
    name = name.lower()
    return next(
        (shape for shape, repository in REPOSITORIES.items() if repository.lower() == name),
        name if name in SHAPES else None,
    )


def how_to_get(name: str) -> str:
    """What a name of SHAPES is, and the commands that get its weights."""
    repository = REPOSITORIES.get(name)
    if repository is None:
        return (
            f"{name!r} is a shape for planning and measuring that was never trained: "
            f"a3b plan {name}, a3b bench speed --shape {name}"
        )
    packed = f"{name}-packed"
    return (
        f"{name!r} is known but not here; get it: a3b pull {repository} {name}, "
        f"then a3b pack {name} {packed}, and give {packed}"
    )


def shape(name: str) -> ModelConfig:
    """The config of a known shape. Raises UsageError for other names."""
    if name not in SHAPES:
        raise UsageError(f"shape: {name!r} is unknown; known: {', '.join(SHAPES)}")
    return config_from_dict(SHAPES[name], name)
