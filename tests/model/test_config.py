"""config.json: exact counts, and refusal by name of anything contradictory or not implemented."""

from __future__ import annotations

import copy
import hashlib
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from a3b.errors import ConfigError, UsageError
from a3b.kernels import _native, open_kernels
from a3b.model.config_reader import config_from_dict, read_config
from a3b.model.forward import Model
from a3b.model.parameters import count_parameters
from a3b.settings import RuntimeConfig
from tests.support.paths import DATA
from tests.support.random_model import SIZES, config_dict, model_weights, random_tensors

REAL = json.loads((DATA / "config-35b-a3b.json").read_text())
SMALL = config_dict(SIZES["one"])
SMALL_DENSE = config_dict(SIZES["dense"])


def dense_27b() -> dict:
    """Qwen3.6-27B: the same mixers, 64 layers, one MLP instead of experts."""
    text = {
        k: v
        for k, v in REAL["text_config"].items()
        if "expert" not in k and "router" not in k and not k.startswith("moe_")
    }
    text |= {
        "model_type": "qwen3_5_text",
        "hidden_size": 5120,
        "intermediate_size": 17408,
        "num_attention_heads": 24,
        "num_key_value_heads": 4,
        "linear_num_value_heads": 48,
        "num_hidden_layers": 64,
        "output_gate_type": "swish",
        "layer_types": ["full_attention" if i % 4 == 3 else "linear_attention" for i in range(64)],
    }
    vision = {**REAL["vision_config"], "out_hidden_size": 5120}
    return {**REAL, "model_type": "qwen3_5", "language_model_only": False, "text_config": text, "vision_config": vision}


def test_the_35b_model_is_counted_exactly():
    count = count_parameters(config_from_dict(REAL))
    assert (count.total, count.active, count.mtp, count.vision) == (
        34_660_610_688,
        2_946_429_568,
        844_640_768,
        446_571_248,
    )
    assert sum(count.breakdown.values()) == count.total


def test_the_dense_27b_model_is_counted_exactly():
    """As transformers counts it, vision included; the MTP layer by the sizes of its tensors."""
    count = count_parameters(config_from_dict(dense_27b()))
    assert count.total + count.vision == 27_356_728_560 and count.vision == 460_730_096
    assert count.total + count.vision + count.mtp == 27_781_427_952
    assert count.active == count.total - 248320 * 5120  # everything but the embedding
    assert sum(count.breakdown.values()) == count.total


def test_the_layers_for_drafts_may_be_counted_under_the_name_of_other_models():
    text = {key: value for key, value in REAL["text_config"].items() if key != "mtp_num_hidden_layers"}
    assert config_from_dict({**REAL, "text_config": {**text, "num_nextn_predict_layers": 1}}).mtp_layers == 1
    both = {**text, "mtp_num_hidden_layers": 1, "num_nextn_predict_layers": 2}
    with pytest.raises(ConfigError, match="num_nextn_predict_layers is 2; expected the same as mtp_num_hidden_layers"):
        config_from_dict({**REAL, "text_config": both})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("intermediate_size", None),
        ("intermediate_size", 0),
        ("num_experts", 8),
        ("moe_intermediate_size", 8),
        ("hidden_act", "gelu"),
    ],
)
def test_a_dense_config_has_one_width_and_no_experts(key, value):
    assert config_from_dict(SMALL_DENSE).intermediate_size == SIZES["dense"]["F"]
    with pytest.raises(ConfigError, match=key):
        config_from_dict({**SMALL_DENSE, key: value})


def test_a_wrapper_holds_a_text_model_of_its_own_kind():
    config = {**dense_27b(), "model_type": "qwen3_5_moe"}
    with pytest.raises(ConfigError, match=r'text_config.model_type is "qwen3_5_text"; expected qwen3_5_moe_text'):
        config_from_dict(config)


def test_end_tokens_come_from_both_files(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(REAL))
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [248046, 248044]}')
    assert read_config(tmp_path).eos_token_ids == (248046, 248044)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hidden_size", 0),
        ("hidden_size", "48"),
        ("hidden_size", True),
        ("hidden_size", 2**40),
        ("hidden_act", "gelu"),
        ("attention_bias", True),
        ("attn_output_gate", False),
        ("num_key_value_heads", 4),
        ("linear_num_key_heads", 2),
        ("num_experts_per_tok", 12),
        ("layer_types", ["full_attention"]),
        ("layer_types", ["sliding_attention"] * 4),
        ("layer_types", ["full_attention"] * 4),
        ("num_hidden_layers", 10**6),
        ("rms_norm_eps", -1),
        ("eos_token_id", 211),
        ("partial_rotary_factor", 0.9),
        ("rope_scaling", {"rope_type": "linear", "factor": 2.0}),
        ("norm_topk_prob", False),
        ("mamba_ssm_dtype", "bfloat16"),
        ("sliding_window", 4096),
        ("decoder_sparse_step", 2),
        ("vocab_size", None),
        ("quantization_config", {"quant_method": "gptq"}),
        ("tie_word_embeddings", "yes"),
    ],
)
def test_what_is_wrong_or_not_implemented_is_refused_by_its_key(key, value):
    told = {
        "num_key_value_heads": "num_attention_heads",
        "linear_num_key_heads": "linear_num_value_heads",
        "rope_scaling": "rope_parameters",
    }
    with pytest.raises(ConfigError, match=told.get(key, key)):
        config_from_dict({**SMALL, key: value})


@pytest.mark.parametrize(
    ("key", "most", "more"),
    [
        ("num_experts_per_tok", _native.MAX_CHOSEN, {"num_experts": 80}),
        ("linear_conv_kernel_dim", _native.MAX_CONV, {}),
    ],
)
def test_what_the_kernels_cannot_hold_is_refused_by_its_key_and_what_they_can_runs(key, most, more):
    sizes = {**SIZES["one"], "E": 80, "layers": 2, "every": 2}
    config = config_from_dict({**config_dict(sizes), **more, key: most})
    tensors = random_tensors(sizes, seed=3)
    if key == "linear_conv_kernel_dim":
        tensors = {
            name: np.repeat(value, most // 4, axis=2) if "conv1d" in name else value for name, value in tensors.items()
        }
    outs = []
    for isa in (*_native.isas(), "reference"):
        model = Model(config, model_weights(config, tensors), open_kernels(isa), "f32")
        outs.append(model.forward(np.arange(20), model.new_state(), logits="all"))
        np.testing.assert_allclose(outs[-1], outs[0], rtol=0, atol=1e-3)
    with pytest.raises(ConfigError, match=f"{key} is {most + 1}; expected a whole number from 1 to {most}"):
        config_from_dict({**SMALL, **more, key: most + 1})


def test_other_architectures_are_refused_by_name():
    with pytest.raises(ConfigError, match=r'model_type is "llama"'):
        config_from_dict({"model_type": "llama"})


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b'{"a": NaN}', b"[" * 100000, b" " * 1_000_001])
def test_files_that_are_no_config_are_refused(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ConfigError, match=r"config\.json"):
        read_config(tmp_path)


HOSTILE = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


def places(value, path=()):
    for key, inner in value.items():
        yield (*path, key)
        if isinstance(inner, dict):
            yield from places(inner, (*path, key))


@pytest.mark.slow
@settings(max_examples=500, deadline=None)
@given(place=st.sampled_from(sorted(places(REAL))), value=HOSTILE)
def test_any_value_in_any_place_is_taken_or_refused_as_a_config_error(place, value):
    config = copy.deepcopy(REAL)
    target = config
    for key in place[:-1]:
        target = target[key]
    target[place[-1]] = value
    try:
        count_parameters(config_from_dict(config))
    except ConfigError as error:
        assert len(str(error)) < 2000


def test_a_rope_base_that_turns_nothing_is_refused():
    rope = {**SMALL["rope_parameters"], "rope_theta": 1.0, "rope_type": "yarn", "factor": 2.0}
    with pytest.raises(ConfigError, match="rope_theta"):
        config_from_dict({**SMALL, "rope_parameters": rope})


@pytest.mark.parametrize(
    ("name", "value"), [("A3B_THREADS", "0"), ("A3B_THREADS", "two"), ("A3B_CONTEXT", "-1"), ("A3B_PORT", "65536")]
)
def test_environment_variables_are_checked_by_name(name, value):
    with pytest.raises(UsageError, match=name):
        getattr(RuntimeConfig.from_env({name: value}), name.removeprefix("A3B_").lower())


def test_stores_written_before_are_found_whatever_fields_are_called():
    """Stored states are named by a digest of these keys and values: with another key no old session is found."""
    facts = json.dumps(config_from_dict(REAL).identity(), sort_keys=True)
    assert (
        hashlib.sha256(facts.encode()).hexdigest() == "029a33c199f4411f952faa558b784ab37bd894af37fe82b16dcb6c1281f38b4f"
    )
