"""The MTP module of a3b-nano in PyTorch: one layer of attention that drafts tokens beside a frozen trunk.

From the trunk's hidden state h of position t, after its final norm, and the next token,

    u = fc(concat(norm(embed[x of t+1]), norm(h)));  h' = norm(layer(u));  logits of t+2 = lm_head · h'

at position t; for the token after that, h' takes the place of h, at position t+1, and so on. The keys of earlier
positions are those of real pairs, not of drafts. Some engines (llama.cpp) have one pair more, the first token with no
hidden state, at position -1; `first` says whether it is there. Source: Qwen3_5MultiTokenPredictor of vLLM.
Enter at `Mtp.drafts`.
Axes as in nano/model.py; M drafts of a sequence, S steps of a draft.
"""

from __future__ import annotations

import torch
import torch.nn.functional as nn_f
from torch import Tensor, nn

from nano.model import Layer, Nano, NanoShape, product, rms_norm


class Mtp(nn.Module):
    def __init__(self, s: NanoShape):
        super().__init__()
        self.s = s
        self.embedding_norm = nn.Parameter(torch.zeros(s.D))
        self.hidden_norm = nn.Parameter(torch.zeros(s.D))
        self.fc = nn.Parameter(torch.randn(s.D, 2 * s.D) * (2 * s.D) ** -0.5)
        self.layer = Layer(s, s.attention_every - 1)
        self.norm = nn.Parameter(torch.zeros(s.D))

    @torch.no_grad()
    def start_from(self, trunk: Nano) -> None:
        """Begin as the trunk's last layer of attention and its final norm, on h plus half the embedding."""
        self.layer.load_state_dict(trunk.layers[-1].state_dict())
        self.norm.copy_(trunk.norm)
        self.fc.copy_(torch.cat((0.5 * torch.eye(self.s.D), torch.eye(self.s.D)), 1))

    def drafts(self, trunk: Nano, hidden: Tensor, ids: Tensor, at: Tensor, steps: int, first: bool):
        """Drafts that begin behind the tokens at + 1, fed with the tokens that `ids` has there.

        hidden: [B, T, D] of the trunk; ids [B, T + S]; at [B, M] rising, -1 where a sequence has fewer. Returns for
        each of the `steps` the rows [B, M, D] to multiply with lm_head, row t of step s for the token t + s + 1, s from
        1; and the mean balance loss."""
        s, T, mixer = self.s, hidden.shape[1], self.layer.mixer
        real, at = at >= 0, at.clamp_min(0)
        pairs = self._pair(trunk.embed[ids[:, : T + 1]], nn_f.pad(hidden, (0, 0, 1, 0)))
        places = torch.arange(-1, T)
        keys, values = mixer.keys(self._normed(pairs), places)
        unseen = (places > at[:, None, :, None]) | (places < (-1 if first else 0))  # [B, 1, M, T + 1]
        u, outs, own, balance = rows(pairs, at + 1), [], [], torch.zeros(())
        for step in range(steps):
            x = self._normed(u)
            if step:
                own.append(mixer.keys(x, at + step))
            q, gate = mixer.queries(x, at + step)
            u = u + mixer.gated(attend(q, keys, values, unseen, own), gate)
            y, b = self.layer.moe(rms_norm(u, self.layer.post_norm, s.norm_eps)[real], real[real])
            balance = balance + b / steps
            outs.append(rms_norm(u + torch.zeros_like(u).masked_scatter(real[..., None], y), self.norm, s.norm_eps))
            if step + 1 < steps:
                u = self._pair(trunk.embed[ids.gather(1, at + step + 2)], outs[-1])
        return outs, balance

    def _pair(self, embeds: Tensor, hidden: Tensor) -> Tensor:
        eps = self.s.norm_eps
        both = rms_norm(embeds, self.embedding_norm, eps), rms_norm(hidden, self.hidden_norm, eps)
        return product(torch.cat(both, -1), self.fc)

    def _normed(self, u: Tensor) -> Tensor:
        return rms_norm(u, self.layer.input_norm, self.s.norm_eps)


def rows(x: Tensor, at: Tensor) -> Tensor:
    """Rows [B, M, D] of x [B, T, D] at places [B, M]."""
    return x.gather(1, at[..., None].expand(*at.shape, x.shape[-1]))


def attend(q: Tensor, keys: Tensor, values: Tensor, unseen: Tensor, own: list[tuple[Tensor, Tensor]]) -> Tensor:
    """q [B, H, M, Dh] over the keys of real pairs [B, H, T, Dh] and over each draft's own, [B, H, M, Dh] a step."""
    scores = (q @ keys.transpose(-1, -2)).float().masked_fill(unseen, -torch.inf)
    scores = torch.cat((scores, *((q * k).float().sum(-1, keepdim=True) for k, _ in own)), -1)
    shares = torch.softmax(scores * q.shape[-1] ** -0.5, -1).to(values.dtype)
    T = keys.shape[2]
    out = shares[..., :T] @ values
    for step, (_, v) in enumerate(own):
        out = out + shares[..., T + step, None] * v
    return out


def logits(trunk: Nano, hidden: Tensor) -> Tensor:
    return product(hidden, trunk.lm_head)


def difference(target: Tensor, guess: Tensor) -> Tensor:
    """Kullback-Leibler divergence of each row's softmax of `guess` from that of `target`, logits [N, V]."""
    wanted = nn_f.log_softmax(target, -1)
    return (wanted.exp() * (wanted - nn_f.log_softmax(guess, -1))).sum(-1)
