"""The MTP module as `transformers` computes it: its own decoder layer and norms, joined as vLLM's qwen3_5_mtp.py does.

`transformers` has no such module; what it lacks are the three lines of `MtpReference.step`."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel


class MtpReference:
    """The module of a causal language model, float32."""

    def __init__(self, model: PreTrainedModel, tensors: dict[str, Tensor]):
        """tensors: those of the module by their names in checkpoints, experts fused."""
        self.model, config = model, model.config
        self.index = config.layer_types.index("full_attention")  # of a layer like it: its place in a cache of its own
        self.layer = type(model.model.layers[self.index])(config, self.index).float().eval()
        self.embedding_norm, self.hidden_norm, self.norm = (
            type(model.model.norm)(config.hidden_size, eps=config.rms_norm_eps) for _ in range(3)
        )
        self.fc = nn.Linear(2 * config.hidden_size, config.hidden_size, bias=False)
        for name, part in (
            ("layers.0", self.layer),
            ("pre_fc_norm_embedding", self.embedding_norm),
            ("pre_fc_norm_hidden", self.hidden_norm),
            ("norm", self.norm),
            ("fc", self.fc),
        ):
            start = f"mtp.{name}."
            part.load_state_dict({key.removeprefix(start): v for key, v in tensors.items() if key.startswith(start)})

    def step(self, ids: Tensor, hidden: Tensor, cache: DynamicCache) -> Tensor:
        """Next tokens [T] and the hidden states before them [T, D], behind what the cache holds -> [T, D]: the rows for
        lm_head, and what stands for `hidden` in the next step."""
        both = self.embedding_norm(self.model.model.embed_tokens(ids)), self.hidden_norm(hidden)
        u = self.fc(torch.cat(both, -1))[None]
        past, T = cache.get_seq_length(self.index), len(ids)
        places = torch.arange(past, past + T)
        mask = torch.zeros(T, past + T).masked_fill(torch.arange(past + T) > places[:, None], -torch.inf)
        turned = self.model.model.rotary_emb(u, places.expand(3, 1, T))
        return self.norm(self.layer(u, position_embeddings=turned, attention_mask=mask[None, None], cache=cache))[0]

    @torch.no_grad()
    def logits(self, ids: Tensor, steps: int, first: bool) -> tuple[Tensor, Tensor]:
        """ids [n] of a text -> logits of every position's first draft [n - steps, V], and of the later drafts behind
        the last of these positions, fed with the text's own tokens [steps - 1, V].

        first: with the pair of the first token and no hidden state before all others."""
        T = len(ids) - steps
        hidden = self.model.model(ids[None, :T]).last_hidden_state[0]
        cache = DynamicCache(config=self.model.config)
        if first:
            hidden = torch.cat((torch.zeros_like(hidden[:1]), hidden))
        rows = self.step(ids[T + 1 - len(hidden) : T + 1], hidden, cache)
        later = [rows[-1:]]
        for n in range(1, steps):
            later.append(self.step(ids[T + n : T + n + 1], later[-1], cache))
        head = self.model.lm_head
        return head(rows[-T:]), head(torch.cat(later[1:]))
