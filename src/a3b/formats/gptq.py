"""Reads GPTQ's 4-bit integers: matrices [out, in] stored as columns, with a scale and a zero per group of inputs.

value = scale·(q - zero). Layout: qweight I32 [in/8, out], eight nibbles of a column per word, lowest first; scales
[in/group, out]; qzeros I32 [in/group, out/8], the same along the outputs, one less than the zero in the first version
of the format; g_idx I32 [in], the group of each column, which must be in plain order. Knows no models. Enter at
`GptqMatrix` and `complaints`. Source: qlinear_cuda_old.py of AutoGPTQ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NoReturn

import numpy as np

from a3b.errors import TensorError
from a3b.formats.checkpoint import Checkpoint
from a3b.formats.quant import FLOATS, all_finite, to_f32
from a3b.formats.safetensors import TensorInfo
from a3b.formats.tiles import FORMATS, Format, Parts

SUFFIXES = ("qweight", "qzeros", "scales", "g_idx")
NIBBLES = np.arange(0, 32, 4, dtype=np.uint32)


@dataclass(frozen=True)
class GptqMatrix:
    """A matrix [out, in] left in its file; rows are decoded at each use."""

    name: str
    qweight: np.ndarray  # int32 [in/8, out]
    qzeros: np.ndarray  # int32 [in/group, out/8]
    scales: np.ndarray  # [in/group, out], as stored
    scale_dtype: str  # one of FLOATS
    zero_offset: int  # 1 in the first version, which stores zero - 1
    order: np.ndarray | None = None  # the group of each column, if it must still be checked

    @property
    def shape(self) -> tuple[int, int]:
        return self.qweight.shape[1], 8 * self.qweight.shape[0]

    @property
    def group(self) -> int:
        return self.shape[1] // len(self.scales)

    @property
    def format(self) -> Format:
        """The format of tiles that keeps integers and scales; the minimum, -zero·scale, is rounded to half precision.

        That moves a value by at most zero·scale·2^-11: a 128th of a step at zero 16, nothing at the symmetric zero 8.
        """
        return FORMATS["w4m64" if self.group % 64 == 0 else "w4m32"]

    def f32(self) -> np.ndarray:
        return self.f32_rows(0, self.shape[0])

    def f32_rows(self, start: int, stop: int) -> np.ndarray:
        """float32 [stop - start, in]: the values as GPTQ defines them."""
        q, scale, zero = self._stored(start, stop)
        values = q.reshape(*scale.shape, self.group).astype(np.float32)
        values -= zero[..., None]
        with np.errstate(over="ignore"):
            values *= scale[..., None]
        if not all_finite(values):
            raise TensorError(f"{self.name}: a scale is too large for float32")
        return values.reshape(q.shape)

    def f32_expert(self, e: int) -> NoReturn:
        raise TypeError(f"{self.name}: is one matrix, not experts")

    def parts(self, start: int, stop: int) -> Parts:
        q, scale, zero = self._stored(start, stop)
        repeat = self.group // self.format.group
        with np.errstate(over="ignore"):
            scale16, minimum16 = scale.astype(np.float16), (-zero * scale).astype(np.float16)
        if not (np.isfinite(scale16).all() and np.isfinite(minimum16).all()):
            raise TensorError(f"{self.name}: a scale is too large for half precision")
        return Parts(q, np.repeat(scale16, repeat, axis=1), np.repeat(minimum16, repeat, axis=1))

    def _stored(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """q uint8 [rows, in]; scale, zero float32 [rows, in/group]."""
        if self.order is not None:
            check_order(self.name, self.order, self.group)
        words = np.ascontiguousarray(self.qweight[:, start:stop].T).view(np.uint32)  # [rows, in/8]
        q = (words[..., None] >> NIBBLES & 15).astype(np.uint8).reshape(stop - start, -1)
        first = start // 8
        zeros = self.qzeros[:, first : -(-stop // 8)].view(np.uint32)[..., None] >> NIBBLES & 15
        zeros = zeros.reshape(len(self.qzeros), -1)[:, start - 8 * first : stop - 8 * first] + self.zero_offset
        scale = to_f32(np.ascontiguousarray(self.scales[:, start:stop].T), self.scale_dtype)
        if not all_finite(scale):
            raise TensorError(f"{self.name}: a scale is NaN or infinite; expected finite numbers")
        return q, scale, np.ascontiguousarray(zeros.T).astype(np.float32)


def names_of_module(weight_name: str) -> tuple[str, ...]:
    """The tensors that stand for `x.weight`."""
    stem = weight_name.removesuffix("weight")
    return tuple(stem + suffix for suffix in SUFFIXES)


def is_gptq(weight_name: str, tensors: Mapping[str, TensorInfo]) -> bool:
    return (
        weight_name.endswith(".weight")
        and weight_name not in tensors
        and weight_name.removesuffix("weight") + "qweight" in tensors
    )


def complaints(
    weight_name: str, shape: tuple[int, ...], tensors: Mapping[str, TensorInfo], group: int | None
) -> Iterator[str]:
    """What is wrong with the tensors of a module of `shape` [out, in]. group: None if config.json has no GPTQ."""
    if group is None:
        yield (
            f"tensor {weight_name.removesuffix('weight')}qweight is GPTQ, but "
            "config.json has no such quantization_config"
        )
        return
    if len(shape) != 2:
        yield f"tensor {weight_name!r} of shape {list(shape)} is GPTQ; expected a matrix"
        return
    out, inner = shape
    group = inner if group == -1 else group
    if inner % group or group % 32 or out % 8:
        yield (
            f"tensor {weight_name!r} is {list(shape)} in groups of {group}; expected "
            f"groups of a multiple of 32 that divide {inner}"
        )
        return
    wanted = {
        "qweight": ("I32", (inner // 8, out)),
        "qzeros": ("I32", (inner // group, out // 8)),
        "scales": (None, (inner // group, out)),
    }
    for suffix, (dtype, size) in wanted.items():
        name = weight_name.removesuffix("weight") + suffix
        info = tensors.get(name)
        if info is None:
            yield f"tensor {name!r} is missing"
        elif info.shape != size or info.dtype not in ((dtype,) if dtype else FLOATS):
            yield (
                f"tensor {name!r} is {info.dtype} {list(info.shape)}, expected "
                f"{dtype or ' or '.join(FLOATS)} {list(size)}"
            )


def check_order(name: str, order: np.ndarray, group: int) -> None:
    """Raises TensorError if columns are reordered."""
    if not np.array_equal(order.ravel(), np.arange(order.size) // group):
        raise TensorError(f"tensor {name!r}: columns are reordered (desc_act); only plain groups can be read")


def load(checkpoint: Checkpoint, weight_name: str, group: int, zero_offset: int, late: bool = False) -> GptqMatrix:
    """Load a module whose tensors were checked. Raises TensorError if its columns are reordered.

    late: check the order when rows are decoded, not now."""
    qweight, qzeros, scales, g_idx = names_of_module(weight_name)
    words = checkpoint.array(qweight)
    inner = 8 * len(words)
    order = checkpoint.array(g_idx) if g_idx in checkpoint.tensors else None
    if order is not None:
        if order.size != inner:
            raise TensorError(f"tensor {g_idx!r} has {order.size} numbers; expected {inner}")
        if not late:
            check_order(g_idx, order, inner if group == -1 else group)
            order = None
    return GptqMatrix(
        weight_name,
        words,
        checkpoint.array(qzeros),
        checkpoint.array(scales),
        checkpoint.tensors[scales].dtype,
        zero_offset,
        order,
    )
