"""Muon for matrices (also stacks of expert matrices), AdamW for everything else, in one object with one state dict.

Muon: the momentum of a matrix is replaced by the nearest semi-orthogonal matrix, found with five Newton-Schulz steps
in COMPUTE. Source: K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nano.model import COMPUTE

ADAM_NAMES = ("embed", "lm_head", "conv1d", "router", "shared_expert_gate", "in_proj_a", "in_proj_b")


def orthogonalise(m: Tensor) -> Tensor:
    """[..., rows, cols] -> the same shape with singular values near one."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = m.to(COMPUTE).reshape(-1, *m.shape[-2:])
    wide = x.shape[-2] <= x.shape[-1]
    x = x if wide else x.transpose(-1, -2)
    x = x / (x.float().norm(dim=(-2, -1), keepdim=True).to(COMPUTE) + 1e-7)
    for _ in range(5):
        gram = torch.bmm(x, x.transpose(-1, -2))
        poly = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, poly, x, beta=a)
    return (x if wide else x.transpose(-1, -2)).reshape(m.shape).float()


class Optimiser:
    """Two groups chosen by name and rank; `scale` multiplies both learning rates."""

    def __init__(self, model: nn.Module, muon_lr: float, adam_lr: float, momentum: float = 0.95, decay: float = 0.01):
        self.muon_lr, self.adam_lr, self.momentum, self.decay = muon_lr, adam_lr, momentum, decay
        self.muon = {n: p for n, p in model.named_parameters() if p.ndim >= 2 and n.split(".")[-1] not in ADAM_NAMES}
        rest = [p for n, p in model.named_parameters() if n not in self.muon]
        self.adam = torch.optim.AdamW(rest, lr=adam_lr, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
        self.buffers = {n: torch.zeros_like(p) for n, p in self.muon.items()}

    @torch.no_grad()
    def step(self, scale: float) -> None:
        for group in self.adam.param_groups:
            group["lr"] = self.adam_lr * scale
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)
        lr = self.muon_lr * scale
        for name, p in self.muon.items():
            buffer = self.buffers[name].lerp_(p.grad, 1 - self.momentum)
            update = orthogonalise(p.grad.lerp(buffer, self.momentum))
            p.mul_(1 - lr * self.decay).add_(update, alpha=-lr * max(1.0, p.shape[-2] / p.shape[-1]) ** 0.5)
            p.grad = None

    def state_dict(self) -> dict:
        return {"adam": self.adam.state_dict(), "buffers": self.buffers}

    def load_state_dict(self, state: dict) -> None:
        self.adam.load_state_dict(state["adam"])
        for name, value in state["buffers"].items():
            self.buffers[name].copy_(value)
