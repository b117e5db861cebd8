"""Block-scaled FP8 as in the official checkpoints, in PyTorch: one bfloat16 scale per 128 x 128 block, E4M3 values."""

from __future__ import annotations

from contextlib import contextmanager

import torch
from torch import Tensor, nn

BLOCK = 128
FP8_NAMES = (
    "in_proj_qkv",
    "in_proj_z",
    "out_proj",
    "q_proj",
    "k_proj",
    "v_proj",
    "o_proj",
    "gate_up",
    "down",
    "shared_gate_up",
    "shared_down",
)
FP8_MAX = 448.0


def quantise(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """float32 [..., out, in] -> (float8_e4m3fn of that shape, bfloat16 scales [..., out/128 up, in/128 up])."""
    out, inner = matrix.shape[-2:]
    pads = (0, -inner % BLOCK, 0, -out % BLOCK)
    padded = nn.functional.pad(matrix, pads)
    lead = padded.shape[:-2]
    blocks = padded.reshape(*lead, padded.shape[-2] // BLOCK, BLOCK, padded.shape[-1] // BLOCK, BLOCK)
    largest = blocks.abs().amax((-3, -1)).clamp_min(1e-12)
    scale = (largest / FP8_MAX).to(torch.bfloat16)
    scale = torch.where(scale.float() * FP8_MAX < largest, (scale.float() * 1.00390625).to(torch.bfloat16), scale)
    values = (blocks / scale.float()[..., :, None, :, None]).clamp(-FP8_MAX, FP8_MAX).to(torch.float8_e4m3fn)
    return values.reshape(padded.shape)[..., :out, :inner], scale


def dequantise(values: Tensor, scale: Tensor) -> Tensor:
    spread = scale.float().repeat_interleave(BLOCK, -2).repeat_interleave(BLOCK, -1)
    return values.float() * spread[..., : values.shape[-2], : values.shape[-1]]


def rounded(name: str, parameter: Tensor) -> Tensor:
    """A parameter as the exported checkpoint will hold it, in float32."""
    kind = name.split(".")[-1]
    if kind not in FP8_NAMES:
        return parameter.to(torch.bfloat16).float()
    if "gate_up" in kind:  # gate and up are separate tensors in the file
        return torch.cat([dequantise(*quantise(half)) for half in parameter.chunk(2, -2)], -2)
    return dequantise(*quantise(parameter))


@contextmanager
def quantised_view(model: nn.Module, active: bool):
    """Within, the parameters hold their exported values; gradients taken there are applied to the full ones after."""
    if not active:
        yield
        return
    full = {name: p.data for name, p in model.named_parameters()}
    try:
        with torch.no_grad():
            for name, p in model.named_parameters():
                p.data = rounded(name, p.data)
        yield
    finally:
        for name, p in model.named_parameters():
            p.data = full[name]
