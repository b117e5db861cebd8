"""What steps of several tokens cost llama.cpp, through llama-cpp-python: what a draft's verification costs there.

    python bench/peers/steps.py FILE.gguf [--depth 512] [--rounds 15] [--threads 2]

Needs `pip install llama-cpp-python`, built for this machine; nothing of a3b is imported. After a prompt of random ids
steps of 1 to 8 random tokens take turns, logits of each, all of them kept. Prints a JSON object a line, as `steps` of
`python -m bench.draft_speed` does for the same file, packed."""

from __future__ import annotations

import argparse
import ctypes
import json
import random
import statistics
import time

import llama_cpp as llama

MOST = 8


def decode(context: object, batch: object, ids: list[int], start: int, all_logits: bool) -> float:
    """Seconds of one call."""
    batch.n_tokens = len(ids)  # type: ignore[attr-defined]
    for i, token in enumerate(ids):
        batch.token[i], batch.pos[i] = token, start + i  # type: ignore[attr-defined]
        batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0  # type: ignore[attr-defined]
        batch.logits[i] = all_logits or i == len(ids) - 1  # type: ignore[attr-defined]
    began = time.perf_counter()
    if llama.llama_decode(context, batch):
        raise SystemExit(f"llama_decode refused {len(ids)} tokens at {start}")
    llama.llama_synchronize(context)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gguf")
    parser.add_argument("--depth", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    llama.llama_backend_init()
    quiet = llama.llama_log_callback(lambda level, text, data: None)
    llama.llama_log_set(quiet, ctypes.c_void_p(0))
    model = llama.llama_model_load_from_file(args.gguf.encode(), llama.llama_model_default_params())
    if not model:
        raise SystemExit(f"{args.gguf}: llama.cpp cannot load it")
    params = llama.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch = args.depth + (args.rounds + 4) * 64, 512, 512
    params.n_threads = params.n_threads_batch = args.threads
    context, batch = llama.llama_init_from_model(model, params), llama.llama_batch_init(512, 0, 1)
    rng, done, found = random.Random(5), 0, {num: [] for num in range(1, MOST + 1)}
    most = min(50_000, llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model)))
    while done < args.depth:
        num = min(512, args.depth - done)
        decode(context, batch, [rng.randrange(most) for _ in range(num)], done, False)
        done += num
    for turn in range(-2, args.rounds):
        for num in found if turn % 2 else reversed(found):
            seconds = decode(context, batch, [rng.randrange(most) for _ in range(num)], done, True)
            done += num
            if turn >= 0:
                found[num].append(seconds)
    base = statistics.median(found[1])
    for num, seconds in found.items():
        ms = 1e3 * statistics.median(seconds)
        row = {"engine": f"llama-cpp-python {llama.__version__}", "tokens": num, "ms": ms, "ratio": ms / base / 1e3}
        print(json.dumps({"part": "steps", **row}))


if __name__ == "__main__":
    main()
