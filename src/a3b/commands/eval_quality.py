"""`a3b eval quality MODEL`: what packing costs, as KL divergence per token against the model it was packed from.

The text is what the reference model answers to a few prompts, sampled with fixed seeds, or a file. In conversations
only the tokens of the assistant are judged, as the model writes those; `all` counts every position.
"""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from a3b.commands.calibration_text import Piece, read_text
from a3b.commands.info import size
from a3b.commands.progress import Progress
from a3b.engine.engine import Engine, resolve
from a3b.engine.local import TERMINAL, local_service
from a3b.engine.sampler import finite_logits
from a3b.errors import UsageError
from a3b.formats.checkpoint import Checkpoint
from a3b.interface.request import Request
from a3b.kernels import Kernels, open_kernels
from a3b.machine import Machine
from a3b.model.forward import Model
from a3b.model.loader import load_weights
from a3b.packing.dequantised import dequantised
from a3b.packing.plan import bytes_per_token
from a3b.printable import report

ROWS = 32  # positions compared at a time
MAX_ANSWER = 160
PROMPTS = (
    "Hello!",
    "What are you?",
    "What can you do?",
    "What is python?",
    "Explain recursion.",
    "Define memory.",
    "What is a cache?",
    "Tell me a joke.",
    "How are you?",
    "What is 12 + 30?",
    "What is the weather?",
    "How big are you?",
    "Explain attention.",
    "What is a queue?",
    "Think of two numbers and tell me one of them.",
    "Thanks!",
    "What does json mean?",
    "Who are you?",
)


def run(args: Namespace) -> None:
    runtime = args.runtime
    options = {"isa": runtime.isa, "threads": runtime.threads}
    reference = Engine.load(args.against, kv="f32", **options)
    model = Engine.load(args.model, kv="f32" if args.weights_only else runtime.kv, **options)
    if args.weights_only:
        model = in_floats(
            model, resolve(args.model), open_kernels(runtime.isa, runtime.threads or Machine.read().num_threads)
        )
    if model.config.vocab_size != reference.config.vocab_size:
        raise UsageError(
            f"vocabularies of {model.config.vocab_size} and {reference.config.vocab_size} tokens: "
            "these are not the same model"
        )
    text = (
        conversations(reference, args.tokens)
        if args.text is None
        else read_text(args.text, reference.tokenizer, reference.template)
    )
    facts = {**compare(reference, model, text, args.tokens), **sizes(args.model, model)}
    report(json.dumps(facts, indent=2) if args.json else "\n".join(lines(facts)))


def in_floats(engine: Engine, path: Path, kernels: Kernels) -> Engine:
    """The same weights decoded to float32, so that activations are floats as well."""
    weights = dequantised(engine.config, load_weights(Checkpoint.open(path), engine.config))
    return replace(engine, model=Model(engine.config, weights, kernels, "f32"))


def compare(reference: Engine, model: Engine, text: Iterator[Piece], most: int) -> dict[str, Any]:
    """KL divergence in nats of the model's next token from the reference's."""
    kls, agree, surprise, judged = [], [], [], []
    total = 0
    with Progress("comparing", most) as progress:
        for piece in text:
            ids = np.array(piece.ids[: min(reference.context, model.context, most - total)], np.int64)
            both = [e.model.forward_chunks(ids, e.model.new_state()) for e in (reference, model)]
            position = 0
            for expected, found in zip(*both, strict=True):
                for at in range(0, len(expected), ROWS):
                    p, q = (log_softmax(finite_logits(part[at : at + ROWS], position)) for part in (expected, found))
                    following = ids[position + 1 : position + 1 + len(p)]  # one fewer at the end
                    p, q, rows = p[: len(following)], q[: len(following)], np.arange(len(following))
                    kls.append((np.exp(p) * (p - q)).sum(-1))
                    agree.append(p.argmax(-1) == q.argmax(-1))
                    surprise.append(np.stack((-p[rows, following], -q[rows, following])))
                    position += len(following)
            judged += piece.judged[1 : len(ids)]
            total += len(ids)
            progress(total)
            if total >= most:
                break
    chosen = np.array(judged, bool)
    if not chosen.any():
        raise UsageError("the text has no tokens to judge; give a longer one")
    every, losses = np.concatenate(kls), np.concatenate(surprise, axis=1)[:, chosen].mean(1)
    kl = every[chosen]
    return {
        "tokens": len(kl),
        "mean_kl": float(kl.mean()),
        "kl_error": float(kl.std() / len(kl) ** 0.5),
        "kl_99": float(np.quantile(kl, 0.99)),
        "mean_kl_all": float(every.mean()),
        "tokens_all": len(every),
        "top1_agreement": float(np.concatenate(agree)[chosen].mean()),
        "loss_of_reference": float(losses[0]),
        "loss": float(losses[1]),
    }


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """float32 [T, V] -> float64 [T, V]."""
    wide = logits.astype(np.float64)
    wide -= wide.max(-1, keepdims=True)
    wide -= np.log(np.exp(wide).sum(-1, keepdims=True))
    return wide


def sizes(name: str | None, model: Engine) -> dict[str, Any]:
    """Of the files; bytes per token only of a packed model, whose matrices are read as stored."""
    checkpoint = Checkpoint.open(resolve(name))
    facts: dict[str, Any] = {"bytes": checkpoint.num_bytes, "preset": None, "bytes_per_token": None}
    if checkpoint.manifest:
        read = bytes_per_token(model.config, checkpoint.manifest.tensors.values())
        facts |= {"preset": checkpoint.manifest.preset or "own types", "bytes_per_token": read}
    return facts


def conversations(engine: Engine, most: int) -> Iterator[Piece]:
    """Answers of the model itself, sampled from its whole vocabulary."""
    total = seed = 0
    with closing(local_service(engine, TERMINAL)) as service:
        while total < most:
            for prompt in PROMPTS:
                sampling = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "seed": seed, "max_tokens": MAX_ANSWER}
                messages = [{"role": "user", "content": prompt}]
                stream = service.answer(Request(messages=messages, sampling=sampling, namespace=str(seed)))
                for _ in stream:
                    pass
                asked, answer = stream.prompt_ids, stream.sampled_ids
                total, seed = total + len(asked) + len(answer), seed + 1
                yield Piece(asked + answer, [False] * len(asked) + [True] * len(answer))


def lines(facts: dict[str, Any]) -> list[str]:
    rows = [
        (
            "mean KL",
            f"{facts['mean_kl']:.5f} ± {facts['kl_error']:.5f} nats per token over {facts['tokens']:,} tokens; "
            f"99 % are below {facts['kl_99']:.4f}",
        ),
        ("", f"{facts['mean_kl_all']:.5f} over all {facts['tokens_all']:,} positions, those of the prompts included"),
        ("same top-1", f"{facts['top1_agreement']:.2%}"),
        ("loss", f"{facts['loss']:.4f} nats per token; the reference has {facts['loss_of_reference']:.4f}"),
        ("size", size(facts["bytes"])),
    ]
    if facts["bytes_per_token"]:
        rows.append(("per token", f"{size(facts['bytes_per_token'])} of weights read ({facts['preset']})"))
    return [f"{name:<13} {value}" for name, value in rows]
