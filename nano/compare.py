"""The exported checkpoint in `transformers` and in a3b: largest difference of the logits, and a greedy continuation.

    python -m nano.compare [--model src/a3b/nano_model]     needs torch, transformers and accelerate

Exits with 1 if the difference exceeds 1e-4 standard deviations of the logits or the continuations differ.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np
import torch
from transformers import AutoModelForCausalLM, FineGrainedFP8Config

from a3b.engine.engine import Engine, nano_directory
from a3b.evals.families.common import rng_for
from nano.tasks import mixed

BOUND = 1e-4  # of the standard deviation of the logits
NUM_GREEDY = 100


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="checkpoint directory; default the embedded one")
    args = parser.parse_args()
    engine = Engine.load(args.model, kv="f32")  # as transformers keeps them; 8 bits move single logits by a spread
    directory = args.model or str(nano_directory())
    dequantised = FineGrainedFP8Config(dequantize=True)
    reference, report = AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, quantization_config=dequantised, output_loading_info=True
    )
    example = mixed(rng_for("test", "compare", 0))
    prompt = engine.template.render(example.messages, tools=example.tools, preserve_thinking=True)
    ids = np.array(engine.tokenizer.encode(prompt))
    with torch.no_grad():
        expected = reference(torch.from_numpy(ids)[None]).logits[0].numpy()
        continued = reference.generate(
            torch.from_numpy(ids)[None], max_new_tokens=NUM_GREEDY, do_sample=False, eos_token_id=-1
        )
    found = engine.model.forward(ids, engine.model.new_state(), logits="all")
    difference = float(np.abs(found - expected).max() / expected.std())
    equal = greedy(engine, ids) == continued[0, len(ids) :].tolist()
    unused = {key: len(value) for key, value in report.items() if value}
    print(
        f"{len(ids)} tokens: largest difference {difference:.1e} std; greedy {NUM_GREEDY} tokens "
        f"{'equal' if equal else 'differ'}; keys missing or unused: {unused or 'none'}"
    )
    return 0 if difference <= BOUND and equal and not unused else 1


def greedy(engine: Engine, ids: np.ndarray) -> list[int]:
    state = engine.model.new_state()
    logits, out = engine.model.forward(ids, state), []
    for _ in range(NUM_GREEDY):
        out.append(int(logits.argmax()))
        logits = engine.model.forward(np.array(out[-1:]), state)
    return out


if __name__ == "__main__":
    sys.exit(main())
