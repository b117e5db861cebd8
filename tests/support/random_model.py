"""Small random models for tests: a config.json as a dict, and its tensors under their checkpoint names.

The numbers come from a seeded PCG64 stream, which NumPy keeps stable, so no weights need to be stored. Scales
are chosen so that logits vary, routing is decided by clear margins and gates open and close. The delta state
remembers for several tokens at least: a memory that fades at once leaves q·k of a single token, which is near zero
now and then, and the norm behind it then magnifies rounding a hundredfold, in any implementation.
"""

from __future__ import annotations

import numpy as np

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


def random_tensors(sizes: dict, seed: int) -> dict[str, np.ndarray]:
    """Checkpoint name -> float32 array: text-only prefix `model.`, experts fused."""
    s, rng = sizes, np.random.Generator(np.random.PCG64(seed))

    def normal(*shape: int, scale: float = 1.0) -> np.ndarray:
        return (rng.standard_normal(shape) * scale).astype(np.float32)

    def matrix(*shape: int, gain: float = 1.0) -> np.ndarray:
        return normal(*shape, scale=gain * shape[-1] ** -0.5)

    D, E, F, Fs = s["D"], s["E"], s["F"], s["Fs"]
    q_dim, kv_dim, v_dim = s["Hq"] * s["Dh"], s["Hkv"] * s["Dh"], s["Hv"] * s["Dv"]
    channels = 2 * s["Hk"] * s["Dk"] + v_dim
    out = {"model.embed_tokens.weight": normal(s["V"], D), "model.norm.weight": normal(D, scale=0.3)}
    out["lm_head.weight"] = matrix(s["V"], D, gain=2.0)
    for i in range(s["layers"]):
        p = f"model.layers.{i}."
        out[p + "input_layernorm.weight"] = normal(D, scale=0.3)
        out[p + "post_attention_layernorm.weight"] = normal(D, scale=0.3)
        if (i + 1) % s["every"]:
            p += "linear_attn."
            qkv, keys = matrix(channels, D, gain=1.5), s["Hk"] * s["Dk"]
            qkv[keys : 2 * keys] = 0.8 * qkv[:keys] + 0.6 * qkv[keys : 2 * keys]  # queries find what keys stored
            out[p + "in_proj_qkv.weight"] = qkv
            out[p + "in_proj_z.weight"] = matrix(v_dim, D, gain=1.5)
            out[p + "in_proj_b.weight"] = matrix(s["Hv"], D)
            out[p + "in_proj_a.weight"] = matrix(s["Hv"], D)
            out[p + "conv1d.weight"] = normal(channels, 1, 4, scale=0.5)
            out[p + "dt_bias"] = normal(s["Hv"]) - 2
            out[p + "A_log"] = np.log(rng.uniform(0.02, 2.0, s["Hv"])).astype(np.float32)
            out[p + "norm.weight"] = 1 + normal(s["Dv"], scale=0.3)
            out[p + "out_proj.weight"] = matrix(D, v_dim, gain=0.5)
        else:
            p += "self_attn."
            out[p + "q_proj.weight"] = matrix(2 * q_dim, D, gain=1.5)
            out[p + "k_proj.weight"] = matrix(kv_dim, D)
            out[p + "v_proj.weight"] = matrix(kv_dim, D)
            out[p + "o_proj.weight"] = matrix(D, q_dim, gain=2.0)
            out[p + "q_norm.weight"] = 0.7 + normal(s["Dh"], scale=0.3)
            out[p + "k_norm.weight"] = normal(s["Dh"], scale=0.3)
        p = f"model.layers.{i}.mlp."
        if not E:
            out[p + "gate_proj.weight"] = matrix(F, D)
            out[p + "up_proj.weight"] = matrix(F, D)
            out[p + "down_proj.weight"] = matrix(D, F)
            continue
        out[p + "gate.weight"] = matrix(E, D, gain=2.0)
        out[p + "experts.gate_up_proj"] = matrix(E, 2 * F, D)
        out[p + "experts.down_proj"] = matrix(E, D, F)
        out[p + "shared_expert.gate_proj.weight"] = matrix(Fs, D)
        out[p + "shared_expert.up_proj.weight"] = matrix(Fs, D)
        out[p + "shared_expert.down_proj.weight"] = matrix(D, Fs, gain=0.7)
        out[p + "shared_expert_gate.weight"] = matrix(1, D, gain=2.0)
    return out


def model_weights(config, tensors: dict[str, np.ndarray]):
    """Tensors of `random_tensors` as ModelWeights, without a file in between."""
    from a3b.model import loader as w

    def mixer(i: int, kind: str):
        if kind == "full_attention":
            names = ("q_proj", "k_proj", "v_proj", "o_proj", "q_norm", "k_norm")
            return w.AttentionWeights(**{n: tensors[f"model.layers.{i}.self_attn.{n}.weight"] for n in names})
        p = f"model.layers.{i}.linear_attn."
        names = ("in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a", "norm", "out_proj")
        return w.DeltaNetWeights(
            conv1d=tensors[p + "conv1d.weight"][:, 0],
            dt_bias=tensors[p + "dt_bias"],
            A_log=tensors[p + "A_log"],
            **{n: tensors[f"{p}{n}.weight"] for n in names},
        )

    def mlp(i: int):
        p = f"model.layers.{i}.mlp."
        if config.dense:
            gate_up = np.concatenate([tensors[f"{p}{n}_proj.weight"] for n in ("gate", "up")])
            return w.DenseWeights(gate_up=gate_up, down=tensors[p + "down_proj.weight"])
        gate, up = (tensors[f"{p}shared_expert.{n}_proj.weight"] for n in ("gate", "up"))
        return w.MoEWeights(
            router=tensors[p + "gate.weight"],
            gate_up=tensors[p + "experts.gate_up_proj"],
            down=tensors[p + "experts.down_proj"],
            shared_gate_up=np.concatenate((gate, up)),
            shared_down=tensors[p + "shared_expert.down_proj.weight"],
            shared_expert_gate=tensors[p + "shared_expert_gate.weight"],
        )

    layers = tuple(
        w.LayerWeights(
            input_norm=tensors[f"model.layers.{i}.input_layernorm.weight"],
            mixer=mixer(i, kind),
            post_norm=tensors[f"model.layers.{i}.post_attention_layernorm.weight"],
            moe=mlp(i),
        )
        for i, kind in enumerate(config.layer_types)
    )
    return w.ModelWeights(
        embed=tensors["model.embed_tokens.weight"],
        layers=layers,
        norm=tensors["model.norm.weight"],
        lm_head=tensors["lm_head.weight"],
        residency="float32",
    )


def random_model(name: str, isa: str | None = "reference", num_threads: int = 1, kv: str = "f32"):
    """The Model called `name` in SIZES."""
    from a3b.kernels import open_kernels
    from a3b.model.config_reader import config_from_dict
    from a3b.model.forward import Model

    config = config_from_dict(config_dict(SIZES[name], YARN.get(name)), where=name)
    weights = model_weights(config, random_tensors(SIZES[name], SEEDS[name]))
    return Model(config, weights, open_kernels(isa, num_threads), kv)


def random_ids(name: str, num: int, seed: int = 0) -> np.ndarray:
    """int64 [num] token ids of the model `name`, from a stable stream."""
    return np.random.Generator(np.random.PCG64(1000 + seed)).integers(0, SIZES[name]["V"], num)
