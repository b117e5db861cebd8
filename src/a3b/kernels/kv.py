"""How keys and values lie in pages of 64 positions, and the twin that stores and loads them.

A page of one KV head is a run of bytes. Dh is padded to a multiple of 16 with zeros.
    f32: keys float32 [Dh, 64]; values float32 [64, Dh]
    q8:  keys uint8 (round(k / scale) + 128) [4 blocks of 16 positions, Dh / 4, 16, 4], then scales float32 [4 blocks, groups, 16], a
         group being 64 dimensions; values int8 [32 pairs of positions, Dh, 2], then scales float32 [64]
A scale is the largest magnitude over 127. In this layout one broadcast of four query numbers meets 16 keys, and one broadcast
of two weights meets 16 dimensions of the values.
"""

from __future__ import annotations

import numpy as np

PAGE_LEN = 64
KV_TYPES = {"f32": 0, "q8": 1}
LANES, KEY_GROUP = 16, 64


def padded_dim(Dh: int) -> int:
    return -(-Dh // LANES) * LANES


def page_bytes(kv: str, Dh: int) -> tuple[int, int]:
    """Bytes of keys and of values of one head in one page."""
    width = padded_dim(Dh)
    if kv == "f32":
        return 4 * PAGE_LEN * width, 4 * PAGE_LEN * width
    return PAGE_LEN * (width + 4 * -(-width // KEY_GROUP)), PAGE_LEN * (width + 4)


def store(kv: str, keys: np.ndarray, values: np.ndarray, at: int, k: np.ndarray, v: np.ndarray) -> None:
    """Write positions at, at + 1, ... of a run of pages. keys, values uint8 [pages, Hkv, bytes]; k, v float32 [T, Hkv, Dh]."""
    T, Hkv, Dh = k.shape
    width = padded_dim(Dh)
    k, v = (np.pad(x, ((0, 0), (0, 0), (0, width - Dh))) for x in (k, v))
    page, place = np.divmod(np.arange(at, at + T), PAGE_LEN)
    if kv == "f32":
        keys.view(np.float32).reshape(len(keys), Hkv, width, PAGE_LEN)[page, :, :, place] = k
        values.view(np.float32).reshape(len(keys), Hkv, PAGE_LEN, width)[page, :, place] = v
        return
    key_q, key_scale = _key_views(keys, width)
    value_q, value_scale = _value_views(values, width)
    block, lane = place // LANES, place % LANES
    for g in range(key_scale.shape[3]):
        dims = slice(g * KEY_GROUP, min((g + 1) * KEY_GROUP, width))
        q, scale = _quantise(k[:, :, dims])
        key_q[page, :, block, dims.start // 4 : dims.stop // 4, lane] = (q + 128).astype(np.uint8).reshape(T, Hkv, -1, 4)
        key_scale[page, :, block, g, lane] = scale
    q, scale = _quantise(v)
    value_q[page, :, place // 2, :, place % 2] = q.astype(np.int8)
    value_scale[page, :, place] = scale


def load(kv: str, keys: np.ndarray, values: np.ndarray, Dh: int) -> tuple[np.ndarray, np.ndarray]:
    """(keys, values) float32 [pages, Hkv, 64, Dh] of a run of pages uint8 [pages, Hkv, bytes]; views for f32."""
    pages, Hkv, _ = keys.shape
    width = padded_dim(Dh)
    if kv == "f32":
        k = keys.view(np.float32).reshape(pages, Hkv, width, PAGE_LEN).swapaxes(-1, -2)
        return k[..., :Dh], values.view(np.float32).reshape(pages, Hkv, PAGE_LEN, width)[..., :Dh]
    key_q, key_scale = _key_views(keys, width)
    value_q, value_scale = _value_views(values, width)
    k = (key_q.astype(np.float32) - 128).swapaxes(3, 4).reshape(pages, Hkv, PAGE_LEN, width)
    k *= np.repeat(key_scale.swapaxes(3, 4).reshape(pages, Hkv, PAGE_LEN, -1), KEY_GROUP, axis=-1)[..., :width]
    v = value_q.astype(np.float32).swapaxes(3, 4).reshape(pages, Hkv, PAGE_LEN, width)
    v *= value_scale[..., None]
    return k[..., :Dh], v[..., :Dh]


def _quantise(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Over the last axis: integers in [-127, 127] as float32, and their scale."""
    size = np.abs(x).max(-1)
    inverse = np.divide(np.float32(127), size, out=np.zeros_like(size), where=size > 0)
    return np.rint(x * inverse[..., None]), size / np.float32(127)


def _key_views(keys: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [pages, Hkv, 4, width / 4, 16, 4] and float32 [pages, Hkv, 4, groups, 16]."""
    shape = (*keys.shape[:2], PAGE_LEN // LANES)
    num = PAGE_LEN * width
    return keys[:, :, :num].reshape(*shape, width // 4, LANES, 4), keys[:, :, num:].view(np.float32).reshape(*shape, -1, LANES)


def _value_views(values: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """int8 [pages, Hkv, 32, width, 2] and float32 [pages, Hkv, 64]."""
    num = PAGE_LEN * width
    pairs = values[:, :, :num].view(np.int8).reshape(*values.shape[:2], PAGE_LEN // 2, width, 2)
    return pairs, values[:, :, num:].view(np.float32)
