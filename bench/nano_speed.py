"""Decode and prefill speed of the embedded model's shape with random weights, or of a checkpoint directory.

    python -m bench.nano_speed [--model DIR] [--threads 1] [--isa NAME] [--json]

Prefill: one prompt of 512 tokens into a fresh state, last logits only. Decode: greedy, one token at a time, after a
prompt of 1, 512 and 4,096 tokens. Medians of several runs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import numpy as np

from a3b.kernels import Kernels, open_kernels
from a3b.model.config_reader import config_from_dict, read_config
from a3b.model.forward import Model
from tests.support.random_model import NANO, config_dict, model_weights, random_tensors

PROMPT = 512
NUM_DECODE = 100


def load(directory: str | None, kernels: Kernels) -> Model:
    if directory is None:
        config = config_from_dict(config_dict(NANO), where="nano shape")
        return Model(config, model_weights(config, random_tensors(NANO, seed=1)), kernels)
    from a3b.formats.checkpoint import Checkpoint
    from a3b.model.loader import load_weights

    config = read_config(directory)
    return Model(config, load_weights(Checkpoint.open(directory), config), kernels)


def median_rate(num_tokens: int, run: Callable[[], None], num_runs: int) -> float:
    """Tokens per second."""
    times = []
    for _ in range(num_runs):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return num_tokens / statistics.median(times)


def prefill_rate(model: Model, ids: np.ndarray, num_runs: int) -> float:
    return median_rate(len(ids), lambda: model.forward(ids, model.new_state()), num_runs)


def decode_rate(model: Model, depth: int, num_runs: int) -> float:
    rng = np.random.default_rng(depth)
    state = model.new_state()
    logits = model.forward(rng.integers(0, model.config.vocab_size, depth), state)
    snapshot = state.snapshot()

    def run() -> None:
        state.restore(snapshot)
        token = int(logits.argmax())
        for _ in range(NUM_DECODE):
            token = int(model.forward(np.array([token]), state).argmax())

    return median_rate(NUM_DECODE, run, num_runs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="checkpoint directory instead of random weights")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--isa", help="instruction set, or reference for the NumPy twins; none: the best")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    args = parser.parse_args()
    model = load(args.model, open_kernels(args.isa, args.threads))
    ids = np.random.default_rng(0).integers(0, model.config.vocab_size, PROMPT)
    model.forward(ids, model.new_state())  # touch every page once
    result = {f"prefill_{PROMPT}_tok_s": round(prefill_rate(model, ids, args.runs))}
    for depth in (1, 512, 4096):
        result[f"decode_at_{depth}_tok_s"] = round(decode_rate(model, depth, args.runs))
    if args.json:
        print(json.dumps(result))
    else:
        for name, rate in result.items():
            print(f"{name:24} {rate:>8,}")


if __name__ == "__main__":
    main()
