"""The MTP module of a3b-nano in `transformers`, in nano/mtp.py and in a3b: largest differences of the logits.

    python -m nano.compare_mtp [--model src/a3b/nano_model]     needs torch, transformers and accelerate

Compared are the first drafts of every position of a conversation, and the second and third behind some of them. Exits
with 1 if a difference exceeds 1e-4 standard deviations of the logits.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, FineGrainedFP8Config

import nano.model
from a3b.engine.engine import Engine, nano_directory
from a3b.evals.families.common import rng_for
from nano.export import SCALE, file_of, read_back
from nano.model import Nano, NanoShape
from nano.mtp import Mtp, logits
from nano.mtp_reference import MtpReference
from nano.quantise import dequantise
from nano.tasks import mixed

BOUND = 1e-4  # of the standard deviation of the logits
STEPS = 3
PLACES = (1, 40, 200)  # tokens of the conversation before the later drafts


def reference(directory: Path) -> MtpReference:
    dequantised = FineGrainedFP8Config(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, quantization_config=dequantised)
    return MtpReference(model.eval(), fused(load_file(directory / file_of(Mtp(NanoShape())))))


def fused(stored: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """float32 of the tensors of a file, its experts as `transformers` holds them."""
    found = {
        name: dequantise(value, stored[name + SCALE]) if name + SCALE in stored else value.float()
        for name, value in stored.items()
        if not name.endswith(SCALE)
    }
    experts = "mtp.layers.0.mlp.experts."
    num = len({name.split(".")[5] for name in found if name.startswith(experts)})
    gate, up, down = (
        torch.stack([found.pop(f"{experts}{e}.{part}_proj.weight") for e in range(num)])
        for part in ("gate", "up", "down")
    )
    return found | {experts + "gate_up_proj": torch.cat((gate, up), 1), experts + "down_proj": down}


class InTorch:
    """The module of nano/mtp.py, in float32."""

    def __init__(self, directory: Path):
        nano.model.COMPUTE = torch.float32
        self.trunk, self.mtp = Nano(NanoShape()), Mtp(NanoShape())
        read_back(self.trunk, directory)
        read_back(self.mtp, directory)

    @torch.no_grad()
    def logits(self, ids: torch.Tensor, steps: int, first: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """As those of `MtpReference`."""
        T = len(ids) - steps
        whole = torch.nn.functional.pad(ids[:T], (0, -T % nano.model.CHUNK))[None]
        hidden, _ = self.trunk.hidden(whole, torch.arange(whole.shape[1])[None] < T)
        rows, _ = self.mtp.drafts(self.trunk, hidden[:, :T], ids[None], torch.arange(T)[None], steps, first)
        return logits(self.trunk, rows[0][0]), logits(self.trunk, torch.stack([row[0, -1] for row in rows[1:]]))


class InA3b:
    """The module as users run it, in float32."""

    def __init__(self, engine: Engine):
        self.model = engine.model

    def logits(self, ids: torch.Tensor, steps: int, first: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """As those of `MtpReference`; there is a pair of the first token alone."""
        assert self.model.mtp is not None and first
        tokens, state, found = ids.numpy(), self.model.new_state(), []
        for t in range(len(tokens) - steps):
            self.model.forward(tokens[t : t + 1], state, "none")
            chain = self.model.mtp.chain(state)
            chain.add(int(tokens[t + 1]))
            found.append(chain.logits())
        for token in tokens[len(tokens) - steps + 1 :][: steps - 1]:
            chain.add(int(token))
            found.append(chain.logits())
        both = torch.from_numpy(np.stack(found))
        return both[: 1 - steps], both[1 - steps :]


def conversation(engine: Engine) -> np.ndarray:
    example = mixed(rng_for("test", "compare", 0))
    prompt = engine.template.render(example.messages, tools=example.tools, preserve_thinking=True)
    return np.array(engine.tokenizer.encode(prompt))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=nano_directory(), help="checkpoint directory")
    args = parser.parse_args()
    engine = Engine.load(args.model, kv="f32")  # as transformers keeps them
    ids, expected, in_torch = torch.from_numpy(conversation(engine)), reference(args.model), InTorch(args.model)
    worst = 0.0
    for first in (False, True):
        for name, other in {"nano/mtp.py": in_torch, **({"a3b": InA3b(engine)} if first else {})}.items():
            for length in (*PLACES, len(ids) - STEPS):
                text = ids[: length + STEPS]
                pairs = zip(expected.logits(text, STEPS, first), other.logits(text, STEPS, first), strict=True)
                found = [float((a - b).abs().max() / a.std()) for a, b in pairs]
                worst = max(worst, *found)
                told = f"first drafts {found[0]:.1e} std, later ones {found[1]:.1e}"
                print(f"{name}, {length} tokens, {'with' if first else 'without'} a pair of the first alone: {told}")
    return 0 if worst <= BOUND else 1


if __name__ == "__main__":
    sys.exit(main())
