"""Small random models for tests: a config.json as a dict, and its tensors under their checkpoint names.

The numbers come from a seeded PCG64 stream, which NumPy keeps stable, so no weights need to be stored. Scales
are chosen so that logits vary, routing is decided by clear margins and gates open and close. The delta state
remembers for several tokens at least: a memory that fades at once leaves q·k of a single token, which is near zero
now and then, and the norm behind it then magnifies rounding a hundredfold, in any implementation.
"""

from __future__ import annotations

import numpy as np

from a3b.kernels import open_kernels
from a3b.model.config import ModelConfig
from a3b.model.config_reader import config_from_dict
from a3b.model.forward import Model
from a3b.model.tensor_names import BY_ROLE, GATE_UP, MTP_LAYER, Tensor, is_mtp, layer_name, places_of
from a3b.model.weights import ModelWeights, assemble

AXES = ("V", "D", "layers", "every", "Hq", "Hkv", "Dh", "rotary", "Hk", "Hv", "Dk", "Dv", "E", "K", "F", "Fs")
SIZES = {  # as in ModelConfig; every `every`-th layer is attention, `rotary` of Dh dimensions turn
    "one": dict(zip(AXES, (211, 48, 4, 4, 6, 2, 24, 8, 3, 3, 12, 20, 11, 3, 14, 18), strict=True)),
    "two": dict(zip(AXES, (157, 40, 5, 2, 4, 4, 20, 20, 2, 4, 24, 10, 7, 2, 22, 9), strict=True)),
    "three": dict(zip(AXES, (97, 56, 6, 3, 5, 1, 32, 16, 2, 6, 16, 28, 13, 5, 10, 26), strict=True)),
    "dense": dict(zip(AXES, (61, 44, 5, 3, 6, 3, 20, 12, 3, 9, 18, 14, 0, 0, 38, 0), strict=True)),  # F: of the MLP
}
YARN = {"three": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}}
SEEDS = {"one": 101, "two": 202, "three": 303, "dense": 406}
NANO = dict(zip(AXES, (4122, 128, 8, 4, 4, 1, 64, 16, 2, 4, 32, 32, 112, 3, 64, 64), strict=True))


def config_dict(sizes: dict, rope: dict | None = None) -> dict:
    """A text-only config.json of `sizes`, its RoPE parameters overridden by `rope`."""
    s, half = sizes, sizes["rotary"] // 2
    mlp = {
        "num_experts": s["E"],
        "num_experts_per_tok": s["K"],
        "moe_intermediate_size": s["F"],
        "shared_expert_intermediate_size": s["Fs"],
        "router_aux_loss_coef": 0.001,
        "output_router_logits": False,
    }
    return {
        "architectures": ["Qwen3_5MoeForCausalLM" if s["E"] else "Qwen3_5ForCausalLM"],
        "model_type": "qwen3_5_moe_text" if s["E"] else "qwen3_5_text",
        "dtype": "float32",
        "vocab_size": s["V"],
        "hidden_size": s["D"],
        "num_hidden_layers": s["layers"],
        "layer_types": [
            "full_attention" if (i + 1) % s["every"] == 0 else "linear_attention" for i in range(s["layers"])
        ],
        "full_attention_interval": s["every"],
        "num_attention_heads": s["Hq"],
        "num_key_value_heads": s["Hkv"],
        "head_dim": s["Dh"],
        "attn_output_gate": True,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 1024,
        "partial_rotary_factor": s["rotary"] / s["Dh"],
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "partial_rotary_factor": s["rotary"] / s["Dh"],
            "mrope_interleaved": True,
            "mrope_section": [half - 2 * (half // 3), half // 3, half // 3],
            **(rope or {}),
        },
        "linear_num_key_heads": s["Hk"],
        "linear_num_value_heads": s["Hv"],
        "linear_key_head_dim": s["Dk"],
        "linear_value_head_dim": s["Dv"],
        "linear_conv_kernel_dim": 4,
        "mamba_ssm_dtype": "float32",
        **(mlp if s["E"] else {"intermediate_size": s["F"]}),
        "initializer_range": 0.02,
        "tie_word_embeddings": False,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": None,
        "use_cache": True,
    }


MATRIX_GAINS = {  # spread times the root of the inputs, 1 if not here
    "lm_head": 2.0,
    "in_proj_qkv": 1.5,
    "in_proj_z": 1.5,
    "out_proj": 0.5,
    "q_proj": 1.5,
    "o_proj": 2.0,
    "router": 2.0,
    "shared.down": 0.7,
    "shared_gate": 2.0,
}
NORMALS = {  # mean and spread
    "embed": (0, 1.0),
    "norm": (0, 0.3),
    "input_norm": (0, 0.3),
    "post_norm": (0, 0.3),
    "conv1d": (0, 0.5),
    "dt_bias": (-2, 1.0),
    "delta_norm": (1, 0.3),
    "q_norm": (0.7, 0.3),
    "k_norm": (0, 0.3),
    "mtp.embedding_norm": (0, 0.3),
    "mtp.hidden_norm": (0, 0.3),
    "mtp.norm": (0, 0.3),
}
DRAWN_ONCE = ("embed", "norm", "lm_head")  # the order in which the stream of numbers is used, which goldens depend on
DRAWN_PER_LAYER = (
    *("input_norm", "post_norm"),
    *("in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a", "conv1d", "dt_bias", "A_log", "delta_norm", "out_proj"),
    *("q_proj", "k_proj", "v_proj", "o_proj", "q_norm", "k_norm"),
    *("gate", "up", "down"),
    *("router", "experts.gate", "experts.down", "shared.gate", "shared.up", "shared.down", "shared_gate"),
    *("mtp.fc", "mtp.embedding_norm", "mtp.hidden_norm", "mtp.norm"),
)


def random_tensors(sizes: dict, seed: int, mtp: bool = False) -> dict[str, np.ndarray]:
    """Checkpoint name -> float32 array: text-only prefix `model.`, experts fused. mtp: with an MTP module; the other
    numbers are the same without it."""
    config = config_from_dict(config_dict(sizes))
    rng, axes, out = np.random.Generator(np.random.PCG64(seed)), config.axes, {}

    def numbers(role: str, shape: tuple[int, ...]) -> np.ndarray:
        if role == "A_log":
            return np.log(rng.uniform(0.02, 2.0, shape)).astype(np.float32)
        mean, spread = NORMALS.get(role) or (0, MATRIX_GAINS.get(role, 1.0) * shape[-1] ** -0.5)
        values = mean + (rng.standard_normal(shape) * spread).astype(np.float32)
        if role == "in_proj_qkv":
            keys = axes.Hk * axes.Dk
            values[keys : 2 * keys] = 0.8 * values[:keys] + 0.6 * values[keys : 2 * keys]  # queries find stored keys
        return values

    for role in DRAWN_ONCE:
        out[BY_ROLE[role].full_name(None)] = numbers(role, BY_ROLE[role].shape(axes))
    for layer in (*range(config.num_layers), *((MTP_LAYER,) if mtp else ())):
        for tensor in (BY_ROLE[role] for role in DRAWN_PER_LAYER):
            name, shape = tensor.full_name(layer), tensor.shape(axes)
            if tensor.role == "experts.gate":  # drawn with up, as a checkpoint has them
                name, shape = layer_name(GATE_UP, layer), (shape[0], 2 * shape[1], shape[2])
            if tensor.place in places_of(config, layer):
                out[name] = numbers(tensor.role, shape)
    return out


class Tensors:
    """Tensors of `random_tensors` as `assemble` asks for them."""

    def __init__(self, config: ModelConfig, tensors: dict[str, np.ndarray]):
        self.config, self.tensors = config, tensors

    def matrix(self, tensor: Tensor, layer: int | None) -> np.ndarray:
        return self.tensors[tensor.full_name(layer)]

    def vector(self, tensor: Tensor, layer: int | None) -> np.ndarray:
        return self.matrix(tensor, layer).reshape(tensor.memory_shape(self.config.axes))

    def gate_up(self, gate: Tensor, up: Tensor, layer: int) -> np.ndarray:
        if gate.is_routed:
            return self.tensors[layer_name(GATE_UP, layer)]
        return np.concatenate((self.matrix(gate, layer), self.matrix(up, layer)))


def model_weights(config: ModelConfig, tensors: dict[str, np.ndarray]) -> ModelWeights:
    """Tensors of `random_tensors` as ModelWeights, without a file in between."""
    return assemble(config, Tensors(config, tensors), "float32", mtp=any(map(is_mtp, tensors)))


def random_model(
    name: str, isa: str | None = "reference", num_threads: int = 1, kv: str = "f32", mtp: bool = False
) -> Model:
    """The Model called `name` in SIZES. mtp: with an MTP module."""
    config = config_from_dict(config_dict(SIZES[name], YARN.get(name)), where=name)
    weights = model_weights(config, random_tensors(SIZES[name], SEEDS[name], mtp))
    return Model(config, weights, open_kernels(isa, num_threads), kv)


def random_ids(name: str, num: int, seed: int = 0) -> np.ndarray:
    """int64 [num] token ids of the model `name`, from a stable stream."""
    return np.random.Generator(np.random.PCG64(1000 + seed)).integers(0, SIZES[name]["V"], num)
