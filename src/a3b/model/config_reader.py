"""Reads config.json, and refuses by the name of its key whatever contradicts itself or is not implemented.

Every key is used, checked, or on the list of keys that cannot change the result. Enter at `read_config`."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from a3b.errors import ConfigError
from a3b.files import read_text
from a3b.model.config import (
    ATTENTION,
    DELTA,
    MAX_CHOSEN,
    MAX_CONV,
    MAX_SIZE,
    MODEL_TYPES,
    PACKED,
    Fp8Config,
    GptqConfig,
    ModelConfig,
    RopeConfig,
)

MAX_CONFIG_BYTES = 1_000_000
IGNORED = frozenset(
    "architectures transformers_version torch_dtype attention_dropout initializer_range use_cache pad_token_id "
    "bos_token_id router_aux_loss_coef output_router_logits model_type image_token_id video_token_id "
    "vision_start_token_id vision_end_token_id text_config vision_config return_dict output_hidden_states "
    "output_attentions problem_type id2label label2id chunk_size_feed_forward is_encoder_decoder _name_or_path "
    "language_model_only intermediate_size mlp_only_layers mtp_use_dedicated_embeddings tie_encoder_decoder "
    "cross_attention_hidden_size add_cross_attention is_decoder dtype auto_map pruned_heads".split()
)


def read_config(path: str | Path) -> ModelConfig:
    """Read a directory's config.json (with the end tokens of generation_config.json), or a config file.

    Raises ConfigError naming the key, what was found and what was expected.
    """
    path = Path(path)
    file = path / "config.json" if path.is_dir() else path
    config = config_from_dict(_read_json(file), str(file))
    generation = file.with_name("generation_config.json")
    if file.name == "config.json" and generation.exists():
        ends = _ends(_read_json(generation).get("eos_token_id"), config.vocab_size, str(generation))
        config = replace(config, eos_token_ids=tuple(dict.fromkeys(ends + config.eos_token_ids)))
    return config


def config_from_dict(value: Any, where: str = "config.json") -> ModelConfig:
    """Check a config. Raises ConfigError naming the key, what was found and what was expected."""
    return _Reader(value, where).config()


class _Mlp(NamedTuple):
    experts: int
    chosen: int
    width: int
    shared_width: int


class _Reader:
    """Takes keys from a config one by one; those left over at the end must be known to be harmless."""

    def __init__(self, value: Any, where: str):
        self.where = where
        outer = self._mapping(value, "the file")
        kind = outer.get("model_type")
        if not isinstance(kind, str) or kind not in MODEL_TYPES:
            self.fail("model_type", kind, f"one of {', '.join(MODEL_TYPES)}; other architectures are not implemented")
        self.kind = kind
        self.outer = outer if MODEL_TYPES[kind] else {}
        self.text = self._mapping(outer.get("text_config"), "text_config") if self.outer else outer
        if self.outer:
            inner, expected = self.text.get("model_type", kind + "_text"), kind + "_text"
            if inner != expected:
                self.fail("text_config.model_type", inner, expected)
        self.used: set[str] = set()

    def config(self) -> ModelConfig:
        layer_types = self._layer_types()
        Hq, Hkv, head_dim = (self.size(key) for key in ("num_attention_heads", "num_key_value_heads", "head_dim"))
        Hk, Hv = self.size("linear_num_key_heads"), self.size("linear_num_value_heads")
        self.divides("num_key_value_heads", Hkv, "num_attention_heads", Hq)
        self.divides("linear_num_key_heads", Hk, "linear_num_value_heads", Hv)
        for key, expected in (
            ("hidden_act", "silu"),
            ("attention_bias", False),
            ("attn_output_gate", True),
            ("mamba_ssm_dtype", "float32"),
            ("decoder_sparse_step", 1),
            ("norm_topk_prob", True),
            ("output_gate_type", "silu"),
        ):
            found = self.take(key, expected)
            if found is not expected and (type(found) is not type(expected) or found != expected):
                if (key, found) != ("output_gate_type", "swish"):
                    self.fail(key, found, f"{expected!r}; nothing else is implemented")
        vocab_size, max_context = self.size("vocab_size"), self.size("max_position_embeddings")
        mlp, (fp8, gptq) = self._mlp(), self._quantised()
        config = ModelConfig(
            model_type=self.kind,
            vocab_size=vocab_size,
            hidden_size=self.size("hidden_size"),
            num_layers=len(layer_types),
            layer_types=layer_types,
            num_attention_heads=Hq,
            num_key_value_heads=Hkv,
            head_dim=head_dim,
            linear_num_key_heads=Hk,
            linear_num_value_heads=Hv,
            linear_key_head_dim=self.size("linear_key_head_dim"),
            linear_value_head_dim=self.size("linear_value_head_dim"),
            linear_conv_kernel_dim=self.size("linear_conv_kernel_dim", most=MAX_CONV),
            num_experts=mlp.experts,
            num_experts_per_tok=mlp.chosen,
            intermediate_size=mlp.width,
            shared_expert_intermediate_size=mlp.shared_width,
            norm_eps=self.number("rms_norm_eps", 1e-6, 1.0),
            max_context=max_context,
            tie_word_embeddings=self._tied(),
            rope=self._rope(head_dim, max_context),
            eos_token_ids=_ends(self.take("eos_token_id", None), vocab_size, self.where),
            mtp_layers=self._mtp_layers(),
            vision=self._vision(),
            fp8=fp8,
            gptq=gptq,
        )
        self._leftovers()
        return config

    def fail(self, key: str, found: Any, expected: str) -> NoReturn:
        try:
            shown = json.dumps(found, default=str)
        except RecursionError:
            shown = "nested too deeply to be shown"
        raise ConfigError(f"{self.where}: {key[:200]} is {shown[:120]}; expected {expected}")

    def _mapping(self, value: Any, name: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise ConfigError(f"{self.where}: {name} is {type(value).__name__}; expected a JSON object")
        return value

    def take(self, key: str, default: Any) -> Any:
        """The value of a key of the text config; null counts as absent."""
        self.used.add(key)
        value = self.text.get(key)
        return default if value is None else value

    def size(self, key: str, default: int | None = None, least: int = 1, most: int = MAX_SIZE) -> int:
        value = self.take(key, default)
        if type(value) is not int or not least <= value <= most:
            self.fail(key, value, f"a whole number from {least} to {most}")
        return value

    def number(self, key: str, default: float, highest: float) -> float:
        value = self.take(key, default)
        if type(value) not in (int, float) or not 0 < value <= highest:
            self.fail(key, value, f"a number above 0 and at most {highest:g}")
        return float(value)

    def divides(self, small: str, a: int, large: str, b: int) -> None:
        if b % a:
            self.fail(large, b, f"a multiple of {small}, {a}")

    def _mlp(self) -> _Mlp:
        if not self.kind.startswith("qwen3_5_moe"):
            return _Mlp(0, 0, self.size("intermediate_size"), 0)
        E, K = self.size("num_experts"), self.size("num_experts_per_tok", most=MAX_CHOSEN)
        if K > E:
            self.fail("num_experts_per_tok", K, f"at most num_experts, {E}")
        return _Mlp(E, K, self.size("moe_intermediate_size"), self.size("shared_expert_intermediate_size"))

    def _layer_types(self) -> tuple[str, ...]:
        count = self.size("num_hidden_layers")
        if count > 4096:
            self.fail("num_hidden_layers", count, "at most 4096")
        interval = self.take("full_attention_interval", None)
        if interval is not None:
            interval = self.size("full_attention_interval")
        regular = tuple(ATTENTION if (i + 1) % (interval or 4) == 0 else DELTA for i in range(count))
        types = self.take("layer_types", list(regular))
        if not isinstance(types, list) or len(types) != count:
            self.fail("layer_types", types, f"a list of num_hidden_layers, {count}, names")
        for i, name in enumerate(types):
            if name not in (ATTENTION, DELTA):
                self.fail(f"layer_types[{i}]", name, f"{ATTENTION} or {DELTA}")
        if interval is not None and tuple(types) != regular:
            self.fail("layer_types", types, f"{ATTENTION} at every full_attention_interval, {interval}")
        return tuple(types)

    def _mtp_layers(self) -> int:
        count = self.size("mtp_num_hidden_layers", 0, least=0)
        other = self.size("num_nextn_predict_layers", count, least=0)  # the name of other models and tools
        if self.text.get("mtp_num_hidden_layers") is not None and other != count:
            self.fail("num_nextn_predict_layers", other, f"the same as mtp_num_hidden_layers, {count}")
        return other

    def _tied(self) -> bool:
        inner, outer = self.take("tie_word_embeddings", None), self.outer.get("tie_word_embeddings")
        found = [v for v in (inner, outer) if v is not None]
        if any(type(v) is not bool for v in found) or len(set(found)) > 1:
            self.fail("tie_word_embeddings", found, "one boolean, the same for the text model and around it")
        return found[0] if found else False

    def _rope(self, head_dim: int, max_context: int) -> RopeConfig:
        new, old = self.take("rope_parameters", None), self.take("rope_scaling", None)
        rope = self._mapping(new if new is not None else old if old is not None else {}, "rope_parameters")
        if new is not None and old is not None and new != old:
            self.fail("rope_scaling", old, "the same as rope_parameters, or absent")
        allowed = {
            "rope_type",
            "type",
            "rope_theta",
            "partial_rotary_factor",
            "mrope_section",
            "mrope_interleaved",
            "factor",
            "original_max_position_embeddings",
            "beta_fast",
            "beta_slow",
            "attention_factor",
        }
        for key in rope.keys() - allowed:
            self.fail(f"rope_parameters.{key}", rope[key], "no such key; it is not implemented")
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind not in ("default", "yarn"):
            self.fail("rope_parameters.rope_type", kind, '"default" or "yarn"; nothing else is implemented')
        theta = self._agreed("rope_theta", rope, 10_000.0, 1e15)
        if theta <= 1:
            self.fail("rope_theta", theta, "a number above 1")
        partial = self._agreed("partial_rotary_factor", rope, 0.25, 1.0)
        rotary = int(head_dim * partial)
        if rotary < 2 or rotary % 2 or abs(rotary - head_dim * partial) > 1e-6:
            self.fail(
                "partial_rotary_factor", partial, f"a share of head_dim, {head_dim}, that is a positive even number"
            )
        if rope.get("mrope_interleaved", True) is not True:
            self.fail(
                "rope_parameters.mrope_interleaved", rope["mrope_interleaved"], "true; nothing else is implemented"
            )
        third = rotary // 2 // 3
        section = rope.get("mrope_section", [rotary // 2 - 2 * third, third, third])
        if (
            not isinstance(section, list)
            or len(section) != 3
            or any(type(n) is not int or n < 0 for n in section)
            or sum(section) != rotary // 2
        ):
            self.fail("rope_parameters.mrope_section", section, f"three whole numbers with the sum {rotary // 2}")
        base = RopeConfig(kind, theta, rotary, tuple(section), original_context=max_context)
        return base if kind == "default" else self._yarn(base, rope, max_context)

    def _yarn(self, base: RopeConfig, rope: dict[str, Any], max_context: int) -> RopeConfig:
        def number(key: str, default: float | None, low: float, high: float) -> float:
            value = rope.get(key)
            value = default if value is None else value
            if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
                self.fail(f"rope_parameters.{key}", value, f"a number from {low:g} to {high:g}")
            return float(value)

        factor = number("factor", None, 1.0, 1024.0)
        original = number("original_max_position_embeddings", max_context, 1, MAX_SIZE)
        return replace(
            base,
            factor=factor,
            original_context=int(original),
            beta_fast=number("beta_fast", 32.0, 1e-3, 1e6),
            beta_slow=number("beta_slow", 1.0, 1e-3, 1e6),
            attention_factor=number("attention_factor", 0.1 * math.log(factor) + 1, 1e-3, 1e3),
        )

    def _agreed(self, key: str, rope: dict[str, Any], default: float, highest: float) -> float:
        """A number of the text config, of rope_parameters, or of both if they agree."""
        found = [v for v in (self.take(key, None), rope.get(key)) if v is not None]
        for value in found:
            if type(value) not in (int, float) or not 0 < value <= highest:
                self.fail(key, value, f"a number above 0 and at most {highest:g}")
        if len({float(v) for v in found}) > 1:
            self.fail(key, found, "the same number in rope_parameters as outside them")
        return float(found[0]) if found else default

    def _vision(self) -> dict[str, Any] | None:
        vision = self.outer.get("vision_config")
        if vision is None:
            return None
        return self._mapping(vision, "vision_config")

    def _quantised(self) -> tuple[Fp8Config | None, GptqConfig | None]:
        """What quantization_config says."""
        value = self.outer.get("quantization_config", self.take("quantization_config", None))
        self.used.add("quantization_config")
        if value is None:
            return None, None
        q = self._mapping(value, "quantization_config")
        method = q.get("quant_method")
        if method == PACKED:
            return None, None
        if method == "gptq":
            return None, self._gptq(q)
        if method != "fp8":
            self.fail(
                "quantization_config.quant_method",
                method,
                '"fp8", the official block-scaled form, or "gptq"; others cannot be read',
            )
        return self._fp8(q), None

    def _gptq(self, q: dict[str, Any]) -> GptqConfig:
        bits, group, form = q.get("bits"), q.get("group_size"), q.get("checkpoint_format", "gptq")
        if bits != 4 or type(bits) is not int:
            self.fail("quantization_config.bits", bits, "4; other GPTQ widths cannot be read")
        if type(group) is not int or (group != -1 and not 1 <= group <= MAX_SIZE):
            self.fail("quantization_config.group_size", group, "a positive whole number, or -1")
        if form not in ("gptq", "gptq_v2"):
            self.fail("quantization_config.checkpoint_format", form, '"gptq" or "gptq_v2"')
        return GptqConfig(group, 1 if form == "gptq" else 0)

    def _fp8(self, q: dict[str, Any]) -> Fp8Config:
        if q.get("fmt", "e4m3") != "e4m3" or q.get("activation_scheme", "dynamic") != "dynamic":
            self.fail("quantization_config", q, 'fmt "e4m3" and activation_scheme "dynamic"')
        block = q.get("weight_block_size")
        if (
            not isinstance(block, list)
            or len(block) != 2
            or any(type(n) is not int or not 1 <= n <= 65536 for n in block)
        ):
            self.fail("quantization_config.weight_block_size", block, "two positive whole numbers")
        kept = q.get("modules_to_not_convert") or []
        if not isinstance(kept, list) or not all(isinstance(name, str) for name in kept):
            self.fail("quantization_config.modules_to_not_convert", kept, "a list of names")
        return Fp8Config((block[0], block[1]), tuple(kept))

    def _leftovers(self) -> None:
        for name, keys in (("", self.outer), ("text_config." if self.outer else "", self.text)):
            known = IGNORED | self.used | {"tie_word_embeddings", "quantization_config"}
            for key in keys.keys() - known:
                self.fail(name + key, keys[key], "no such key; it may change the result and is not implemented")


def _ends(value: Any, V: int, where: str) -> tuple[int, ...]:
    ends = [] if value is None else value if isinstance(value, list) else [value]
    for token in ends:
        if type(token) is not int or not 0 <= token < V:
            raise ConfigError(f"{where}: eos_token_id is {json.dumps(value)[:80]}; expected ids from 0 to {V - 1}")
    return tuple(ends)


def _read_json(file: Path) -> dict[str, Any]:
    try:
        if file.stat().st_size > MAX_CONFIG_BYTES:
            raise ConfigError(f"{file}: {file.stat().st_size} bytes; expected at most {MAX_CONFIG_BYTES}")
        value = json.loads(read_text(file), parse_constant=_no_constant)
    except FileNotFoundError:
        raise ConfigError(f"{file}: not found; give the directory of a checkpoint, which has a config.json") from None
    except (OSError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise ConfigError(f"{file}: not readable as JSON: {getattr(error, 'strerror', None) or error}") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{file}: {type(value).__name__}; expected a JSON object")
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
