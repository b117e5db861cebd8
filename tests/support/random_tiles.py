"""Random tiles, and random models whose large matrices are tiles: sizes that divide no vector, formats mixed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from a3b.formats.tiles import FORMATS, SUPER, Format, Parts, Tiles, pack
from a3b.model import weights as w
from a3b.model.config import ModelConfig
from a3b.model.config_reader import config_from_dict
from tests.support.random_model import config_dict, model_weights, random_tensors

SIZES = {
    "V": 211,
    "D": 320,
    "layers": 4,
    "every": 4,
    "Hq": 6,
    "Hkv": 2,
    "Dh": 32,
    "rotary": 8,
    "Hk": 2,
    "Hv": 4,
    "Dk": 24,
    "Dv": 48,
    "E": 11,
    "K": 3,
    "F": 96,
    "Fs": 160,
}
FLAT = ("w4s32", "w4m32", "w4m64", "w6s32", "w8s32")


def random_parts(format: Format, rows: int, n: int, seed: int = 0, spread: float = 0.1) -> Parts:
    """Every number of the format, scales around `spread`."""
    rng = np.random.default_rng(seed)
    q = rng.integers(0, 1 << format.bits, (rows, n), dtype=np.uint8)
    groups = n // format.group

    def half(columns: int, times: float = 1) -> np.ndarray:
        return (rng.normal(0, spread, (rows, columns)) * times).astype(np.float16)

    if not format.is_super:
        return Parts(q, half(groups), half(groups, -8) if format.has_minimum else None)
    low, dtype = (-128, np.int8) if format.signed_codes else (0, np.uint8)
    codes = rng.integers(low, 64, (rows, groups), dtype=dtype)
    if not format.has_minimum:
        return Parts(q, codes, None, half(n // SUPER, 1 / 64), None)
    return Parts(
        q,
        codes,
        rng.integers(0, 64, (rows, groups), dtype=np.uint8),
        half(n // SUPER, 1 / 64),
        half(n // SUPER, -8 / 64),
    )


def random_tiles(format: Format, *shape: int, seed: int = 0, spread: float = 0.1) -> Tiles:
    """[rows, n], or [E, rows, n]."""
    *experts, rows, n = shape
    data = [
        pack(format, random_parts(format, rows, n, 1000 * seed + e, spread)).ravel()
        for e in range(experts[0] if experts else 1)
    ]
    return Tiles(f"random {format.name}", format, shape, np.concatenate(data))


def rounded(name: str, matrix: np.ndarray, format: Format) -> Tiles:
    """A float matrix [(E,) rows, n] as tiles, plainly rounded; n a multiple of the group."""
    experts = matrix if matrix.ndim == 3 else matrix[None]
    data = []
    for rows in experts:
        groups = rows.reshape(len(rows), -1, format.group)
        if format.has_minimum:
            low, high = groups.min(-1), groups.max(-1)
            scale = np.maximum((high - low) / ((1 << format.bits) - 1), 1e-6).astype(np.float16)
            minimum = low.astype(np.float16)
        else:
            scale, minimum = np.maximum(np.abs(groups).max(-1) / (format.zero - 1), 1e-6).astype(np.float16), None
        low = np.float32(0) if minimum is None else minimum.astype(np.float32)[..., None]
        q = np.rint((groups - low) / scale.astype(np.float32)[..., None]) + format.zero
        q = np.clip(q, 0, (1 << format.bits) - 1).astype(np.uint8).reshape(rows.shape)
        data.append(pack(format, Parts(q, scale, minimum)).ravel())
    return Tiles(name, format, matrix.shape, np.concatenate(data))


def tiled_weights(
    config: ModelConfig, tensors: dict[str, np.ndarray], formats: tuple[str, ...] = FLAT
) -> w.ModelWeights:
    """Weights whose large matrices are tiles, the formats taken in turn."""
    turn = 0

    def tile(name: str, matrix: np.ndarray, keep: bool = False) -> Tiles:
        nonlocal turn
        turn += not keep
        usable = [f for f in formats if matrix.shape[-1] % FORMATS[f].group == 0]
        return rounded(name, np.ascontiguousarray(matrix), FORMATS[usable[turn % len(usable)]])

    def pair(name: str, matrix: np.ndarray) -> tuple[Tiles, Tiles]:
        half = matrix.shape[-2] // 2
        return tile(f"{name}.gate", matrix[..., :half, :]), tile(f"{name}.up", matrix[..., half:, :], keep=True)

    def mixer(m):
        if isinstance(m, w.AttentionWeights):
            names = ("q_proj", "k_proj", "v_proj", "o_proj")
        else:
            names = ("in_proj_qkv", "in_proj_z", "out_proj")
        return type(m)(**{**vars(m), **{name: tile(name, getattr(m, name)) for name in names}})

    def tiled(layer: w.LayerWeights) -> w.LayerWeights:
        moe = layer.mlp
        return w.LayerWeights(
            layer.input_norm,
            mixer(layer.mixer),
            layer.post_norm,
            w.MoEWeights(
                moe.router,
                pair("experts", moe.gate_up),
                tile("down", moe.down),
                pair("shared", moe.shared_gate_up),
                tile("shared_down", moe.shared_down),
                moe.shared_expert_gate,
            ),
        )

    floats = model_weights(config, tensors)
    layers = tuple(tiled(layer) for layer in floats.layers)
    embed, lm_head, mtp = tile("embed", floats.embed), tile("lm_head", floats.lm_head), floats.mtp
    if mtp is not None:
        mtp = replace(mtp, fc=tile("fc", mtp.fc), layer=tiled(mtp.layer))
    return w.ModelWeights(embed, layers, floats.norm, lm_head, "packed", mtp=mtp)


def tiled_model(isa: str | None, num_threads: int = 1, kv: str = "q8", mtp: bool = False):
    from a3b.kernels import open_kernels
    from a3b.model.forward import Model

    config = config_from_dict(config_dict(SIZES), where="tiled")
    weights = tiled_weights(config, random_tensors(SIZES, seed=5, mtp=mtp))
    return Model(config, weights, open_kernels(isa, num_threads), kv)
