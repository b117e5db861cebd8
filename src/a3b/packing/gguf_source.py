"""A GGUF file of architecture qwen35moe, or qwen35, which is dense, as a source: its config, its matrices with their
own integers, its tokenizer.

What the converter did to small tensors is undone (norms + 1, -exp(A_log)). Value heads stay in the order of the file
(`tiled_v_heads`), so that wide matrices are kept bit for bit. Names, shapes and transforms come from
`a3b.model.tensor_names`. Ollama's own files differ: they count key-value heads layer by layer, leave `.bias` out of a
name, and hold the vision tower and, under other names, the MTP module, which are skipped. Enter at `open_gguf`. Source
of the transforms: Qwen3NextModel and Qwen3_5MoeModel of llama.cpp's converter."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from a3b.errors import FileFormatError, TensorError
from a3b.formats.ggml_blocks import FORMAT_OF, decode, unpack
from a3b.formats.gguf import GgufFile, UnreadableTypes
from a3b.formats.tiles import Format, Parts
from a3b.kernels import GateUp
from a3b.model.config import ATTENTION, DELTA, ModelConfig
from a3b.model.config_reader import config_from_dict
from a3b.model.matrices import checked_finite
from a3b.model.tensor_names import BY_ROLE, GGUF_GATE_UP, MTP_LAYER, Tensor, gguf_layer_name, gguf_layer_of, mtp_fault
from a3b.model.weights import Floats, ModelWeights, assemble
from a3b.packing.gguf_tokenizer import tokenizer_files
from a3b.packing.plan import Half
from a3b.packing.source import Source, fingerprint, mtp_notes, packed_config, side_files

ARCHS = ("qwen35moe", "qwen35")  # with experts, dense
MAX_LAYERS, MAX_SPLITS = 4096, 1000
PARTS = {"mtp.": "mtp", "v.": "vision", "mm.": "vision"}  # beginnings of names in Ollama's files
UNSAID = ".bias"  # Ollama leaves it out
HEAD_ORDER_NOTE = (
    "value heads are taken to be in llama.cpp's tiled order; files converted before February 2026 may differ"
)


@dataclass(frozen=True)
class GgufMatrix:
    """A matrix [out, in], or experts [E, out, in], left in its file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    rows: np.ndarray  # uint8 [product of the outer axes, bytes of a row]

    @property
    def format(self) -> Format | None:
        """The format of tiles that holds it exactly; None for floats."""
        return FORMAT_OF.get(self.dtype)

    def parts(self, start: int, stop: int) -> Parts:
        return unpack(self.dtype, self.rows[start:stop])

    def f32_rows(self, start: int, stop: int) -> np.ndarray:
        return checked_finite(self.name, decode(self.dtype, self.rows[start:stop]))

    def expert(self, e: int) -> GgufMatrix:
        out = self.shape[1]
        return GgufMatrix(f"{self.name}[{e}]", self.dtype, self.shape[1:], self.rows[e * out : (e + 1) * out])

    def f32_expert(self, e: int) -> np.ndarray:
        return self.expert(e).f32_rows(0, self.shape[1])


def open_gguf(path: Path, tokenizer: Path | None, mtp: bool = True, deferred: list[str] | None = None) -> Source:
    """Open a file as a source; mtp: with its MTP module. Raises CheckpointError for another model, missing tensors or
    an unusable tokenizer.

    deferred: as `open_source` takes it."""
    value, config, reader = _opened(path)
    reader.deferred = deferred
    files, metadata = reader.files, reader.files[0].metadata
    weights = reader.model(config, mtp)
    skipped = reader.skipped(config)
    side: dict[str, bytes | Path] = {"config.json": packed_config(value)}
    notes: tuple[str, ...] = ()
    if tokenizer is None:
        side = {**tokenizer_files(path, metadata), **side}
    else:
        found, notes = side_files(tokenizer)
        side = {**found, **side}
    notes += mtp_notes(weights, reader.why_no_mtp(config)) if mtp else ()
    notes += (HEAD_ORDER_NOTE,) if weights.tiled_v_heads and not reader.says_order else ()
    kept = any(name in FORMAT_OF for name in {info.dtype for file in files for info in file.tensors.values()})
    return Source(
        "gguf",
        path,
        config,
        weights,
        side,
        fingerprint([file.path for file in files]),
        kept,
        reader.release,
        skipped,
        notes,
        tuple(files),
    )


def describe_gguf(path: Path) -> tuple[ModelConfig, list[GgufFile]]:
    """The config and the files of a model, every tensor checked; matrices are not read. Raises CheckpointError.

    The config has an MTP module where the files have one, whatever their metadata says."""
    _, config, reader = _opened(path)
    reader.model(config)
    has_module = any(reader.is_mtp(name, config) for name in reader.owner)
    return config if has_module else replace(config, mtp_layers=0), reader.files


def _opened(path: Path) -> tuple[dict[str, Any], ModelConfig, _Reader]:
    files = _files(path)
    reader = _Reader(path, files)
    value = config_dict(path, files[0].metadata, reader)
    return value, config_from_dict(value, str(path)), reader


def _files(path: Path) -> list[GgufFile]:
    """The file, or all files of the split model it is part of."""
    unreadable: dict[str, int] = {}

    def opened(each: Path) -> GgufFile | dict[str, Any]:
        """The file, or its metadata if it has tensors that cannot be read."""
        try:
            return GgufFile(each)
        except UnreadableTypes as error:
            unreadable.update({name: unreadable.get(name, 0) + count for name, count in error.types.items()})
            return error.metadata

    first = opened(path)
    metadata = first.metadata if isinstance(first, GgufFile) else first
    arch = metadata.get("general.architecture")
    if arch not in ARCHS:
        raise FileFormatError(
            f"{path}: general.architecture is {str(arch)[:60]!r}; expected {' or '.join(map(repr, ARCHS))}, "
            "which is what a3b runs"
        )
    found = [first, *map(opened, _other_splits(path, metadata))]
    if unreadable:
        raise UnreadableTypes(path, metadata, unreadable)
    return [file for file in found if isinstance(file, GgufFile)]


def _other_splits(path: Path, metadata: dict[str, Any]) -> list[Path]:
    """The files of a split model after its first one."""
    count = metadata.get("split.count", 1)
    if type(count) is not int or not 0 <= count <= MAX_SPLITS:
        raise FileFormatError(f"{path}: split.count is {str(count)[:40]}; expected at most {MAX_SPLITS}")
    ending = f"-00001-of-{count:05}.gguf"
    if count <= 1:
        return []
    if not path.name.endswith(ending):
        raise FileFormatError(f"{path}: is one of {count} files; give the one that ends in {ending}")
    stem = path.name.removesuffix(ending)
    return [path.with_name(f"{stem}-{i:05}-of-{count:05}.gguf") for i in range(2, count + 1)]


class _Metadata:
    """The metadata of a file's architecture, by keys without its name."""

    def __init__(self, path: Path, values: dict[str, Any]):
        self.path, self.values, self.arch = path, values, values["general.architecture"]

    def optional(self, key: str, default: Any = None) -> Any:
        return self.values.get(f"{self.arch}.{key}", default)

    def get(self, key: str, default: Any = None) -> Any:
        found = self.optional(key, default)
        if found is None:
            raise FileFormatError(f"{self.path}: key {self.arch}.{key} is missing")
        return found

    def number(self, key: str, default: int | None = None) -> int:
        found = self.get(key, default)
        if type(found) is not int or not 0 <= found <= 1 << 24:
            raise FileFormatError(f"{self.path}: {self.arch}.{key} is {str(found)[:60]}; expected a whole number")
        return found

    def real(self, key: str) -> float:
        found = self.get(key)
        if type(found) not in (int, float) or not 0 < found < 1e30:
            raise FileFormatError(f"{self.path}: {self.arch}.{key} is {str(found)[:60]!r}; expected a positive number")
        return float(found)

    def key_value_heads(self) -> int:
        """Of a layer of attention. Ollama lists all layers, with 0 for the others."""
        key = "attention.head_count_kv"
        found = self.get(key)
        if not isinstance(found, list):
            return self.number(key)
        count = max((n for n in found if type(n) is int), default=0)
        if not 0 < count <= 1 << 24 or any(n not in (0, count) for n in found):
            raise FileFormatError(f"{self.path}: {self.arch}.{key} is {str(found)[:60]}; expected one number, or zero")
        return count

    def layer_types(self) -> list[str]:
        """The mixer of each layer, without the layers of multi-token prediction."""
        layers = self.number("block_count") - self.number("nextn_predict_layers", 0)
        if not 0 < layers <= MAX_LAYERS:
            raise FileFormatError(f"{self.path}: {layers} layers; expected 1 to {MAX_LAYERS}")
        interval = self.number("full_attention_interval", 4)
        recurrent = self.optional("attention.recurrent_layers")
        if recurrent is None:
            recurrent = [(i + 1) % max(interval, 1) != 0 for i in range(layers)]
        if not isinstance(recurrent, list) or len(recurrent) < layers:
            raise FileFormatError(f"{self.path}: attention.recurrent_layers: expected a list of {layers} truth values")
        return [DELTA if is_recurrent else ATTENTION for is_recurrent in recurrent[:layers]]

    def head_sizes(self) -> tuple[int, int, int]:
        """(value heads of the delta rule, their width, width of an attention head)."""
        heads, inner = self.number("ssm.time_step_rank"), self.number("ssm.inner_size")
        head_dim = self.number("attention.key_length")
        if not heads or inner % heads or not head_dim or self.number("attention.value_length", head_dim) != head_dim:
            raise FileFormatError(
                f"{self.path}: {inner} inner columns over {heads} heads, keys of {head_dim}: these do not fit together"
            )
        return heads, inner // heads, head_dim


def config_dict(path: Path, metadata: dict[str, Any], reader: _Reader) -> dict[str, Any]:
    """The config.json that a file's metadata amounts to, for the text model only."""
    given = _Metadata(path, metadata)
    is_moe = given.arch == ARCHS[0]
    scaling = given.optional("rope.scaling.type", "none")
    if scaling != "none":
        raise FileFormatError(
            f"{path}: rope.scaling.type is {str(scaling)[:40]!r}; expected none: give a context when the model runs"
        )
    layer_types = given.layer_types()
    value_heads, value_dim, head_dim = given.head_sizes()
    drafts = given.number("nextn_predict_layers", 0)
    share = given.number("rope.dimension_count") / head_dim
    sections = given.get("rope.dimension_sections")
    ends = [metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "bos")]
    embed, lm_head = (BY_ROLE[role].gguf_name(None) for role in ("embed", "lm_head"))
    vocabulary = reader.shape(embed)
    if vocabulary is None:
        raise TensorError(f"{path}: tensor {embed!r} is missing")
    return {
        "architectures": ["Qwen3_5MoeForCausalLM" if is_moe else "Qwen3_5ForCausalLM"],
        "model_type": "qwen3_5_moe_text" if is_moe else "qwen3_5_text",
        "dtype": "bfloat16",
        "vocab_size": vocabulary[0],
        "hidden_size": given.number("embedding_length"),
        "num_hidden_layers": len(layer_types),
        "layer_types": layer_types,
        "num_attention_heads": given.number("attention.head_count"),
        "num_key_value_heads": given.key_value_heads(),
        "head_dim": head_dim,
        "attn_output_gate": True,
        "attention_bias": False,
        "hidden_act": "silu",
        "rms_norm_eps": given.real("attention.layer_norm_rms_epsilon"),
        "max_position_embeddings": given.number("context_length"),
        "partial_rotary_factor": share,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": given.real("rope.freq_base"),
            "partial_rotary_factor": share,
            "mrope_interleaved": True,
            "mrope_section": sections[:3] if isinstance(sections, list) else sections,
        },
        "linear_num_key_heads": given.number("ssm.group_count"),
        "linear_num_value_heads": value_heads,
        "linear_key_head_dim": given.number("ssm.state_size"),
        "linear_value_head_dim": value_dim,
        "linear_conv_kernel_dim": given.number("ssm.conv_kernel"),
        "mamba_ssm_dtype": "float32",
        **(_experts(given) if is_moe else {"intermediate_size": given.number("feed_forward_length")}),
        "tie_word_embeddings": reader.shape(lm_head) is None,
        "eos_token_id": [token for i, token in enumerate(ends) if token is not None and token not in ends[:i]],
        **({"mtp_num_hidden_layers": drafts} if drafts else {}),
    }


def _experts(given: _Metadata) -> dict[str, int]:
    return {
        "num_experts": given.number("expert_count"),
        "num_experts_per_tok": given.number("expert_used_count"),
        "moe_intermediate_size": given.number("expert_feed_forward_length"),
        "shared_expert_intermediate_size": given.number("expert_shared_feed_forward_length"),
    }


class _Reader:
    """What `assemble` asks a GGUF file for; all complaints are raised at once."""

    def __init__(self, path: Path, files: list[GgufFile]):
        self.path, self.files = path, files
        self.owner = {name: file for file in files for name in file.tensors}
        self.used: set[str] = set()
        values = files[0].metadata
        order = values.get(f"{values['general.architecture']}.ssm.v_head_reordered")
        self.says_order, self.is_tiled = order is not None, order is not False
        self.complaints: list[str] = []
        self.deferred: list[str] | None = None

    def shape(self, name: str) -> tuple[int, ...] | None:
        return self.owner[name].tensors[name].shape if name in self.owner else None

    def release(self, value: Any) -> None:
        value = value.whole if isinstance(value, Half) else value
        if isinstance(value, GgufMatrix):
            self.owner[value.name].release(value.name)

    def model(self, config: ModelConfig, mtp: bool = True) -> ModelWeights:
        """All tensors, checked by name and shape; small ones are read. mtp: with the MTP module, if there is one that
        can be used. Raises TensorError with what is wrong."""
        self.axes, self.num_layers = config.axes, config.num_layers
        mtp = mtp and any(self.is_mtp(name, config) for name in self.owner) and self.why_no_mtp(config) is None
        if mtp and {gguf_layer_of(name) for name in self.owner} == {None, config.num_layers}:
            raise FileFormatError(
                f"{self.path}: holds only the MTP module of a model; give a file that holds the model too"
            )
        tiled = self.axes.Hv != self.axes.Hk and self.is_tiled
        weights = assemble(config, self, "mapped", tiled_v_heads=tiled, mtp=mtp)
        passed = {name for name in self.owner if (part := self.part_of(name, config)) and not (mtp and part == "mtp")}
        unknown = [name for name in self.owner if name not in self.used and name not in passed]
        self.complaints += [f"tensor {name[:200]!r} is unknown" for name in unknown]
        if self.complaints:
            more = f" (and {len(self.complaints) - 5} more)" if len(self.complaints) > 5 else ""
            raise TensorError(f"{self.path}: " + "; ".join(self.complaints[:5]) + more)
        return weights

    def vector(self, tensor: Tensor, layer: int | None) -> Floats:
        return self.floats(tensor, layer)

    def matrix(self, tensor: Tensor, layer: int | None) -> GgufMatrix | Floats:
        if tensor.kind is None:
            return self.floats(tensor, layer)
        return self.take(self.name(tensor, layer), tensor.gguf_shape(self.axes))

    def gate_up(self, gate: Tensor, up: Tensor, layer: int) -> GateUp:
        joined = gguf_layer_name(GGUF_GATE_UP, self.num_layers if layer == MTP_LAYER else layer)
        if gate.is_routed and joined in self.owner:
            E, F, D = gate.gguf_shape(self.axes)
            return self.take(joined, (E, 2 * F, D))
        return self.matrix(gate, layer), self.matrix(up, layer)

    def floats(self, tensor: Tensor, layer: int | None) -> Floats:
        """In the shape it has in memory, with what the file's writer changed undone."""
        name, shape = self.name(tensor, layer), tensor.memory_shape(self.axes)
        stored = self.take(name, tensor.gguf_shape(self.axes))
        if self.deferred is not None:
            self.deferred.append(stored.name)
        if self.complaints or self.deferred is not None:
            return np.zeros(shape, np.float32)
        values = decode(stored.dtype, stored.rows)
        if tensor.undo:
            with np.errstate(all="ignore"):
                values = np.asarray(tensor.undo(values), np.float32)
        if not np.isfinite(values).all():
            raise TensorError(f"{self.path}: tensor {name!r} holds a number that cannot be")
        return values.reshape(shape)

    def take(self, name: str, shape: tuple[int, ...]) -> GgufMatrix:
        """The tensor of that name; a complaint is kept if it is missing or has another shape."""
        if name not in self.owner and name.removesuffix(UNSAID) in self.owner:
            name = name.removesuffix(UNSAID)
        info = self.owner[name].tensors[name] if name in self.owner else None
        self.used.add(name)
        if info is None or info.shape != shape:
            found = "is missing" if info is None else f"has shape {list(info.shape)}"
            self.complaints.append(f"tensor {name!r} {found}; expected {list(shape)}")
            return GgufMatrix(name, "F32", shape, np.zeros((math.prod(shape[:-1]), 0), np.uint8))
        return GgufMatrix(name, info.dtype, info.shape, self.owner[name].array(name))

    def name(self, tensor: Tensor, layer: int | None) -> str:
        """A tensor's name in the file, which counts the MTP module as one layer more."""
        return tensor.gguf_name(self.num_layers if layer == MTP_LAYER else layer)

    def why_no_mtp(self, c: ModelConfig) -> str | None:
        """What keeps the MTP module from being loaded, as the end of a sentence; None: nothing, or there is none."""
        names = [name for name in self.owner if self.is_mtp(name, c)]
        if any(gguf_layer_of(name) is None for name in names):
            return "its tensors have the names of Ollama; a file of llama.cpp or the original checkpoint can be read"
        if names and not c.mtp_layers:
            return "the key nextn_predict_layers does not name it"
        return mtp_fault(c.mtp_layers, names) if names else None

    def is_mtp(self, name: str, c: ModelConfig) -> bool:
        return self.part_of(name, c) == "mtp"

    def part_of(self, name: str, c: ModelConfig) -> str | None:
        """What a tensor belongs to beside the text model; None if it belongs to that."""
        layer = gguf_layer_of(name)
        if layer is not None and layer >= c.num_layers:
            return "mtp"
        return next((part for prefix, part in PARTS.items() if name.startswith(prefix)), None)

    def skipped(self, c: ModelConfig) -> dict[str, int]:
        counts: dict[str, int] = {}
        for name, file in self.owner.items():
            if name not in self.used and (part := self.part_of(name, c)):
                counts[part] = counts.get(part, 0) + math.prod(file.tensors[name].shape)
        return counts
