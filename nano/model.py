"""The training form of a3b-nano in PyTorch: forward pass and gradients, float32 masters, products in `COMPUTE`.

Parameter names are those of the checkpoint, so export is a copy. Inference is in src/a3b/model; nano/compare.py
compares an exported checkpoint with `transformers`. Enter at `Nano.loss`. Axes: B sequences, T tokens, D hidden, H
heads, C chunk, N chunks, E experts, K chosen, F width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as nn_f
from torch import Tensor, nn

# bfloat16 where the processor multiplies it; elsewhere it would be emulated, ten times slower than float32
COMPUTE = torch.bfloat16 if torch.ops.mkldnn._is_mkldnn_bf16_supported() else torch.float32
CHUNK = 32  # tokens per block of the delta rule in training
ROWS = 64  # rows per expert are padded to a multiple: few distinct shapes keep the compiled products in their cache


@dataclass(frozen=True)
class NanoShape:
    """Sizes of the model; the names are the axes of `a3b.model.config.ModelConfig`."""

    V: int = 4122
    D: int = 128
    num_layers: int = 8
    attention_every: int = 4
    Hq: int = 4
    Hkv: int = 1
    Dh: int = 64
    rotary_dim: int = 16
    rope_theta: float = 10_000.0
    Hk: int = 2
    Hv: int = 4
    Dk: int = 32
    Dv: int = 32
    conv_len: int = 4
    E: int = 112
    K: int = 3
    F: int = 64
    Fs: int = 64
    norm_eps: float = 1e-6

    def is_attention(self, layer: int) -> bool:
        return (layer + 1) % self.attention_every == 0


def product(x: Tensor, weight: Tensor) -> Tensor:
    """x [..., in] · weight[out, in]ᵀ in COMPUTE, result float32."""
    return nn_f.linear(x.to(COMPUTE), weight.to(COMPUTE)).float()


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Zero-centred RMS norm over the last axis."""
    return nn_f.rms_norm(x, (x.shape[-1],), 1.0 + weight, eps)


def l2_norm(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + 1e-6)


def swiglu(hidden: Tensor) -> Tensor:
    """silu(gate) * up of hidden [..., 2F], gate half first."""
    gate, up = hidden.chunk(2, -1)
    return nn_f.silu(gate) * up


def swiglu_backward(hidden: Tensor, grad: Tensor) -> Tensor:
    gate, up = hidden.chunk(2, -1)
    sig = torch.sigmoid(gate)
    return torch.cat((grad * up * sig * (1 + gate * (1 - sig)), grad * gate * sig), -1)


class ExpertMlp(torch.autograd.Function):
    """SwiGLU of many experts over rows sorted by expert: x [R, D] -> [R, D] (COMPUTE), counts: rows per expert."""

    @staticmethod
    def forward(ctx, x: Tensor, gate_up: Tensor, down: Tensor, counts: list[int]) -> Tensor:
        w_in, w_out = gate_up.to(COMPUTE), down.to(COMPUTE)
        hidden = x.new_empty(x.shape[0], w_in.shape[1])
        for rows, e in _segments(counts):
            torch.mm(x[rows], w_in[e].t(), out=hidden[rows])
        act = swiglu(hidden)
        out = x.new_empty(x.shape[0], w_out.shape[1])
        for rows, e in _segments(counts):
            torch.mm(act[rows], w_out[e].t(), out=out[rows])
        ctx.save_for_backward(x, w_in, w_out, hidden, act)
        ctx.counts = counts
        return out

    @staticmethod
    def backward(ctx, grad: Tensor):
        x, w_in, w_out, hidden, act = ctx.saved_tensors
        grad = grad.contiguous()
        d_act, d_out = torch.empty_like(act), torch.zeros_like(w_out)
        for rows, e in _segments(ctx.counts):
            torch.mm(grad[rows], w_out[e], out=d_act[rows])
            torch.mm(grad[rows].t(), act[rows], out=d_out[e])
        d_hidden = swiglu_backward(hidden, d_act)
        d_x, d_in = torch.empty_like(x), torch.zeros_like(w_in)
        for rows, e in _segments(ctx.counts):
            torch.mm(d_hidden[rows], w_in[e], out=d_x[rows])
            torch.mm(d_hidden[rows].t(), x[rows], out=d_in[e])
        return d_x, d_in.float(), d_out.float(), None


def _segments(counts: list[int]):
    start = 0
    for e, count in enumerate(counts):
        if count:
            yield slice(start, start + count), e
        start += count


def padded_places(counts: Tensor) -> tuple[Tensor, list[int]]:
    """Places of the sorted rows when every expert's rows are padded to a multiple of ROWS; padded counts."""
    padded = (counts + ROWS - 1) // ROWS * ROWS
    start = padded.cumsum(0) - padded
    first = counts.cumsum(0) - counts
    place = torch.arange(int(counts.sum())) + (start - first).repeat_interleave(counts)
    return place, padded.tolist()


class MoE(nn.Module):
    def __init__(self, s: NanoShape):
        super().__init__()
        self.s = s
        self.router = nn.Parameter(torch.randn(s.E, s.D) * s.D**-0.5)
        self.gate_up = nn.Parameter(torch.randn(s.E, 2 * s.F, s.D) * s.D**-0.5)
        self.down = nn.Parameter(torch.randn(s.E, s.D, s.F) * (s.F**-0.5 * 0.5))
        self.shared_gate_up = nn.Parameter(torch.randn(2 * s.Fs, s.D) * s.D**-0.5)
        self.shared_down = nn.Parameter(torch.randn(s.D, s.Fs) * (s.Fs**-0.5 * 0.5))
        self.shared_expert_gate = nn.Parameter(torch.zeros(1, s.D))

    def forward(self, x: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """x [R, D] -> (output [R, D], balance loss); `real` [R] bool marks rows that are not padding."""
        s = self.s
        probs = torch.softmax(nn_f.linear(x, self.router), -1)
        top, expert = probs.topk(s.K, -1)
        top = top / top.sum(-1, keepdim=True)
        order = expert.flatten().argsort(stable=True)
        counts = torch.bincount(expert.flatten(), minlength=s.E)
        rows = order // s.K
        place, counts = padded_places(counts)
        gathered = x.new_zeros(sum(counts), s.D, dtype=COMPUTE).index_copy(
            0, place, x.to(COMPUTE).index_select(0, rows)
        )
        out = ExpertMlp.apply(gathered, self.gate_up, self.down, counts).index_select(0, place)
        weighted = out.float() * top.flatten().index_select(0, order).unsqueeze(-1)
        y = torch.zeros_like(x).index_add(0, rows, weighted)
        shared = product(swiglu(product(x, self.shared_gate_up)), self.shared_down)
        y = y + shared * torch.sigmoid(nn_f.linear(x, self.shared_expert_gate))
        fraction = torch.bincount(expert[real].flatten(), minlength=s.E) / real.sum()
        return y, s.E * (fraction * (real.float() @ probs) / real.sum()).sum()


class DeltaNet(nn.Module):
    def __init__(self, s: NanoShape):
        super().__init__()
        self.s = s
        channels = 2 * s.Hk * s.Dk + s.Hv * s.Dv
        self.in_proj_qkv = nn.Parameter(torch.randn(channels, s.D) * s.D**-0.5)
        self.in_proj_z = nn.Parameter(torch.randn(s.Hv * s.Dv, s.D) * s.D**-0.5)
        self.in_proj_b = nn.Parameter(torch.randn(s.Hv, s.D) * s.D**-0.5)
        self.in_proj_a = nn.Parameter(torch.randn(s.Hv, s.D) * s.D**-0.5)
        conv = torch.randn(channels, s.conv_len) * 0.2
        conv[:, -1] += 1.0
        self.conv1d = nn.Parameter(conv)
        self.dt_bias = nn.Parameter(torch.linspace(-6.0, -1.0, s.Hv))
        self.A_log = nn.Parameter(torch.zeros(s.Hv) + 0.5)
        self.norm = nn.Parameter(torch.ones(s.Dv))
        self.out_proj = nn.Parameter(torch.randn(s.D, s.Hv * s.Dv) * ((s.Hv * s.Dv) ** -0.5 * 0.5))

    def forward(self, x: Tensor) -> Tensor:
        s, (B, T, _) = self.s, x.shape
        q, k, v = delta_inputs(product(x, self.in_proj_qkv), self.conv1d, s)
        beta = torch.sigmoid(nn_f.linear(x, self.in_proj_b))
        decay = -self.A_log.exp() * nn_f.softplus(nn_f.linear(x, self.in_proj_a) + self.dt_bias)
        o = delta_rule(q, k, v, beta, decay)
        z = product(x, self.in_proj_z).view(B, T, s.Hv, s.Dv)
        return product(gated_norm(o, z, self.norm, s.norm_eps).reshape(B, T, -1), self.out_proj)


def delta_inputs(qkv: Tensor, conv: Tensor, s: NanoShape) -> tuple[Tensor, Tensor, Tensor]:
    """Convolve qkv [B, T, C], split it and normalise: q, k [B, T, Hv, Dk] (repeated to value heads), v [B, T, Hv,
    Dv]."""
    B, T, _ = qkv.shape
    padded = nn_f.pad(qkv, (0, 0, s.conv_len - 1, 0))
    qkv = nn_f.silu(sum(padded[:, j : j + T] * conv[:, j] for j in range(s.conv_len)))
    q, k, v = qkv.split((s.Hk * s.Dk, s.Hk * s.Dk, s.Hv * s.Dv), -1)
    q = l2_norm(q.view(B, T, s.Hk, s.Dk)) * s.Dk**-0.5
    k = l2_norm(k.view(B, T, s.Hk, s.Dk))
    q, k = (u.repeat_interleave(s.Hv // s.Hk, 2) for u in (q, k))
    return q, k, v.view(B, T, s.Hv, s.Dv)


def gated_norm(o: Tensor, z: Tensor, weight: Tensor, eps: float) -> Tensor:
    return o * torch.rsqrt(o.square().mean(-1, keepdim=True) + eps) * weight * nn_f.silu(z)


def delta_rule(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, decay: Tensor) -> Tensor:
    """The gated delta rule in blocks of CHUNK tokens; q, k [B, T, H, Dk], v [B, T, H, Dv], beta, decay [B, T, H]."""
    B, T, H, Dk = q.shape
    N = T // CHUNK

    def blocks(u: Tensor) -> Tensor:  # [B, T, H, X] -> [B*H, N, C, X]
        return u.reshape(B, N, CHUNK, H, -1).permute(0, 3, 1, 2, 4).reshape(B * H, N, CHUNK, -1)

    q, k, v, beta = blocks(q), blocks(k), blocks(v), blocks(beta)
    gamma = blocks(decay).squeeze(-1).cumsum(-1)  # [BH, N, C]
    causal = torch.ones(CHUNK, CHUNK, dtype=torch.bool).tril()
    ratio = (gamma.unsqueeze(-1) - gamma.unsqueeze(-2)).masked_fill(~causal, -torch.inf).exp()
    a = (k * beta) @ k.transpose(-1, -2) * ratio * causal.tril(-1)
    rhs = torch.cat((v * beta, k * (beta * gamma.exp().unsqueeze(-1))), -1)
    solved = torch.linalg.solve_triangular(a, rhs, upper=False, unitriangular=True)
    u, w = solved.split((v.shape[-1], Dk), -1)
    scores = q @ k.transpose(-1, -2) * ratio
    q_in = q * gamma.exp().unsqueeze(-1)
    last = gamma[..., -1:]
    k_out = (k * (last - gamma).exp().unsqueeze(-1)).transpose(-1, -2)
    carry = last.exp().unsqueeze(-1)
    state = q.new_zeros(B * H, Dk, v.shape[-1])
    outs = []
    # unbind, not an index per block: the gradient of an index is as large as the whole tensor
    for u_n, w_n, s_n, q_n, k_n, c_n in zip(*(x.unbind(1) for x in (u, w, scores, q_in, k_out, carry)), strict=True):
        fresh = torch.baddbmm(u_n, w_n, state, alpha=-1)
        outs.append(torch.baddbmm(torch.bmm(s_n, fresh), q_n, state))
        state = torch.baddbmm(state * c_n, k_n, fresh)
    o = torch.stack(outs, 1)  # [BH, N, C, Dv]
    return o.view(B, H, T, -1).transpose(1, 2)


class Attention(nn.Module):
    def __init__(self, s: NanoShape):
        super().__init__()
        self.s = s
        self.q_proj = nn.Parameter(torch.randn(s.Hq * 2 * s.Dh, s.D) * s.D**-0.5)
        self.k_proj = nn.Parameter(torch.randn(s.Hkv * s.Dh, s.D) * s.D**-0.5)
        self.v_proj = nn.Parameter(torch.randn(s.Hkv * s.Dh, s.D) * s.D**-0.5)
        self.o_proj = nn.Parameter(torch.randn(s.D, s.Hq * s.Dh) * ((s.Hq * s.Dh) ** -0.5 * 0.5))
        self.q_norm = nn.Parameter(torch.zeros(s.Dh))
        self.k_norm = nn.Parameter(torch.zeros(s.Dh))

    def queries(self, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """x [B, T, D] at positions [T] or [B, T] -> (queries [B, Hq, T, Dh] in COMPUTE, gates [B, T, Hq, Dh])."""
        s, (B, T, _) = self.s, x.shape
        q, gate = product(x, self.q_proj).view(B, T, s.Hq, 2 * s.Dh).chunk(2, -1)
        q = rotate(rms_norm(q, self.q_norm, s.norm_eps), positions, s)
        return q.transpose(1, 2).to(COMPUTE), gate

    def keys(self, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """As `queries` -> keys and values, each [B, Hq, T, Dh] in COMPUTE."""
        s, (B, T, _) = self.s, x.shape
        k = product(x, self.k_proj).view(B, T, s.Hkv, s.Dh)
        v = product(x, self.v_proj).view(B, T, s.Hkv, s.Dh)
        k = rotate(rms_norm(k, self.k_norm, s.norm_eps), positions, s)
        k, v = (u.transpose(1, 2).to(COMPUTE) for u in (k, v))
        if s.Hkv == 1:
            return k.expand(B, s.Hq, T, s.Dh), v.expand(B, s.Hq, T, s.Dh)
        return k.repeat_interleave(s.Hq // s.Hkv, 1), v.repeat_interleave(s.Hq // s.Hkv, 1)

    def gated(self, o: Tensor, gate: Tensor) -> Tensor:
        """What was attended to, [B, Hq, T, Dh], behind its gates -> [B, T, D]."""
        return product((o.transpose(1, 2).float() * torch.sigmoid(gate)).flatten(2), self.o_proj)

    def forward(self, x: Tensor) -> Tensor:
        positions = torch.arange(x.shape[1])
        q, gate = self.queries(x, positions)
        return self.gated(nn_f.scaled_dot_product_attention(q, *self.keys(x, positions), is_causal=True), gate)


def rotate(x: Tensor, positions: Tensor, s: NanoShape) -> Tensor:
    """RoPE on the first `rotary_dim` dims of x [B, T, H, Dh] at positions [T] or [B, T]; i turns with
    i + rotary_dim/2."""
    half = s.rotary_dim // 2
    inv = s.rope_theta ** (-torch.arange(half, dtype=torch.float32) / half)
    angle = positions.float()[..., None, None] * inv
    cos, sin = angle.cos(), angle.sin()
    a, b, rest = x[..., :half], x[..., half : s.rotary_dim], x[..., s.rotary_dim :]
    return torch.cat((a * cos - b * sin, b * cos + a * sin, rest), -1)


class Layer(nn.Module):
    def __init__(self, s: NanoShape, index: int):
        super().__init__()
        self.s = s
        self.input_norm = nn.Parameter(torch.zeros(s.D))
        self.mixer = Attention(s) if s.is_attention(index) else DeltaNet(s)
        self.post_norm = nn.Parameter(torch.zeros(s.D))
        self.moe = MoE(s)

    def forward(self, h: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        h = h + self.mixer(rms_norm(h, self.input_norm, self.s.norm_eps))
        y, balance = self.moe(rms_norm(h, self.post_norm, self.s.norm_eps).flatten(0, 1), real)
        return h + y.view_as(h), balance


class Nano(nn.Module):
    def __init__(self, s: NanoShape):
        super().__init__()
        self.s = s
        self.embed = nn.Parameter(torch.randn(s.V, s.D))
        self.layers = nn.ModuleList(Layer(s, i) for i in range(s.num_layers))
        self.norm = nn.Parameter(torch.zeros(s.D))
        self.lm_head = nn.Parameter(torch.randn(s.V, s.D) * (s.D**-0.5 * 0.1))

    def hidden(self, ids: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """ids [B, T] (T a multiple of CHUNK) -> (final hidden [B, T, D], mean balance loss)."""
        h, balance = self.embed[ids], 0.0
        for layer in self.layers:
            h, b = layer(h, real.flatten())
            balance = balance + b / len(self.layers)
        return rms_norm(h, self.norm, self.s.norm_eps), balance

    def loss(self, ids: Tensor, weight: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        """ids [B, T+1]; weight [B, T+1] float, of predicting each token; length [B] -> (weighted mean loss,
        balance)."""
        T = ids.shape[1] - 1
        real = torch.arange(T)[None] < length[:, None]
        h, balance = self.hidden(ids[:, :-1], real)
        target_weight = weight[:, 1:]
        chosen = (target_weight > 0).flatten().nonzero().squeeze(1)
        logits = product(h.flatten(0, 1).index_select(0, chosen), self.lm_head)
        loss = nn_f.cross_entropy(logits, ids[:, 1:].flatten()[chosen], reduction="none")
        w = target_weight.flatten()[chosen]
        return (loss * w).sum() / w.sum(), balance
