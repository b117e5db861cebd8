"""The layout of keys and values in pages of 64 positions, and the twin that stores and loads them.

A page of one KV head is a run of bytes. Dh is padded to a multiple of 16 with zeros.
    f32, bf16: keys [Dh, 64]; values [64, Dh]
    q8:        keys uint8 (round(k / scale) + 128) [4 blocks of 16 positions, Dh / 4, 16, 4], then scales float32
               [4 blocks, groups, 16], a group being 64 dimensions; values int8 [32 pairs of positions, Dh, 2], then
               scales float32 [64]
A scale is the largest magnitude over 127. One broadcast of four query numbers is multiplied by 16 keys, and one
broadcast of two weights by 16 dimensions of the values.
"""

from __future__ import annotations

import numpy as np

from a3b.formats.quant import bf16_to_f32, f32_to_bf16

PAGE_LEN = 64
KV_TYPES = {"f32": 0, "q8": 1, "bf16": 2}
FLOATS = {"f32": np.float32, "bf16": np.uint16}  # as numbers are stored
LANES, KEY_GROUP = 16, 64


def padded_dim(Dh: int) -> int:
    return -(-Dh // LANES) * LANES


def page_bytes(kv: str, Dh: int) -> tuple[int, int]:
    """Bytes of keys and of values of one head in one page."""
    width = padded_dim(Dh)
    if kv in FLOATS:
        size = PAGE_LEN * width * np.dtype(FLOATS[kv]).itemsize
        return size, size
    return PAGE_LEN * (width + 4 * -(-width // KEY_GROUP)), PAGE_LEN * (width + 4)


def store(kv: str, keys: np.ndarray, values: np.ndarray, at: int, k: np.ndarray, v: np.ndarray) -> None:
    """Write positions at, at + 1, ... of a run of pages.

    keys, values uint8 [pages, Hkv, bytes]; k, v float32 [T, Hkv, Dh].
    """
    T, Hkv, Dh = k.shape
    width = padded_dim(Dh)
    k, v = (np.pad(x, ((0, 0), (0, 0), (0, width - Dh))) for x in (k, v))
    page, place = np.divmod(np.arange(at, at + T), PAGE_LEN)
    if kv in FLOATS:
        k, v = (f32_to_bf16(x) if kv == "bf16" else x for x in (k, v))
        key_numbers, value_numbers = _float_views(kv, keys, values, width)
        key_numbers[page, :, :, place] = k
        value_numbers[page, :, place] = v
        return
    key_q, key_scale = _key_views(keys, width)
    value_q, value_scale = _value_views(values, width)
    block, lane = place // LANES, place % LANES
    for g in range(key_scale.shape[3]):
        dims = slice(g * KEY_GROUP, min((g + 1) * KEY_GROUP, width))
        q, scale = _quantise(k[:, :, dims])
        key_q[page, :, block, dims.start // 4 : dims.stop // 4, lane] = (
            (q + 128).astype(np.uint8).reshape(T, Hkv, -1, 4)
        )
        key_scale[page, :, block, g, lane] = scale
    q, scale = _quantise(v)
    value_q[page, :, place // 2, :, place % 2] = q.astype(np.int8)
    value_scale[page, :, place] = scale


def load(kv: str, keys: np.ndarray, values: np.ndarray, Dh: int) -> tuple[np.ndarray, np.ndarray]:
    """(keys, values) float32 [pages, Hkv, 64, Dh] of a run of pages uint8 [pages, Hkv, bytes]."""
    pages, Hkv, _ = keys.shape
    width = padded_dim(Dh)
    if kv in FLOATS:
        k, v = _float_views(kv, keys, values, width)
        k, v = (bf16_to_f32(x) if kv == "bf16" else x for x in (k, v))
        return k.swapaxes(-1, -2)[..., :Dh], v[..., :Dh]
    key_q, key_scale = _key_views(keys, width)
    value_q, value_scale = _value_views(values, width)
    k = (key_q.astype(np.float32) - 128).swapaxes(3, 4).reshape(pages, Hkv, PAGE_LEN, width)
    k *= np.repeat(key_scale.swapaxes(3, 4).reshape(pages, Hkv, PAGE_LEN, -1), KEY_GROUP, axis=-1)[..., :width]
    v = value_q.astype(np.float32).swapaxes(3, 4).reshape(pages, Hkv, PAGE_LEN, width)
    v *= value_scale[..., None]
    return k[..., :Dh], v[..., :Dh]


def clear(kv: str, keys: np.ndarray, values: np.ndarray, used: int) -> None:
    """Zeros from position `used` on in one page, uint8 [Hkv, bytes] each."""
    keys, values = keys[None], values[None]
    if kv in FLOATS:
        width = values.shape[2] // (PAGE_LEN * np.dtype(FLOATS[kv]).itemsize)
        k, v = _float_views(kv, keys, values, width)
        k[..., used:] = 0
        v[..., used:, :] = 0
        return
    width = values.shape[2] // PAGE_LEN - 4
    block, lane = np.divmod(np.arange(used, PAGE_LEN), LANES)
    key_q, key_scale = _key_views(keys, width)
    value_q, value_scale = _value_views(values, width)
    key_q[:, :, block, :, lane] = 0
    key_scale[:, :, block, :, lane] = 0
    value_q[:, :, block * LANES // 2 + lane // 2, :, lane % 2] = 0
    value_scale[:, :, used:] = 0


def _float_views(kv: str, keys: np.ndarray, values: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """[pages, Hkv, width, 64] and [pages, Hkv, 64, width]."""
    pages, Hkv, _ = keys.shape
    return (
        keys.view(FLOATS[kv]).reshape(pages, Hkv, width, PAGE_LEN),
        values.view(FLOATS[kv]).reshape(pages, Hkv, PAGE_LEN, width),
    )


def _quantise(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Over the last axis: integers in [-127, 127] as float32, and their scale."""
    size = np.abs(x).max(-1)
    inverse = np.divide(np.float32(127), size, out=np.zeros_like(size), where=size > 0)
    with np.errstate(invalid="ignore"):
        q = np.rint(x * inverse[..., None])
    # the scale of what is not finite is not either
    return np.where(np.isfinite(q), q, np.float32(0)), size / np.float32(127)


def _key_views(keys: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [pages, Hkv, 4, width / 4, 16, 4] and float32 [pages, Hkv, 4, groups, 16]."""
    shape = (*keys.shape[:2], PAGE_LEN // LANES)
    num = PAGE_LEN * width
    return keys[:, :, :num].reshape(*shape, width // 4, LANES, 4), keys[:, :, num:].view(np.float32).reshape(
        *shape, -1, LANES
    )


def _value_views(values: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """int8 [pages, Hkv, 32, width, 2] and float32 [pages, Hkv, 64]."""
    num = PAGE_LEN * width
    pairs = values[:, :, :num].view(np.int8).reshape(*values.shape[:2], PAGE_LEN // 2, width, 2)
    return pairs, values[:, :, num:].view(np.float32)
