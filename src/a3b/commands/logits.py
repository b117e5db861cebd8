"""`a3b logits`: writes the logits of every position of a list of token ids, float32 [T, V]."""

from __future__ import annotations

import os
from argparse import Namespace
from typing import Any

import numpy as np
import numpy.typing as npt

from a3b.commands.progress import Progress
from a3b.engine.engine import load_config, resolve
from a3b.engine.sampler import finite_logits
from a3b.errors import ContextError, UsageError
from a3b.files import check_regular
from a3b.formats.checkpoint import Checkpoint
from a3b.kernels import open_kernels
from a3b.machine import Machine
from a3b.model.forward import Model
from a3b.model.loader import load_weights
from a3b.printable import say

PIECE = 256  # tokens whose logits are in memory at once


def run(args: Namespace) -> None:
    if not args.out.name or args.out.is_dir():
        raise UsageError(f"--out {args.out}: is a directory; give a file name that ends in .npy")
    try:
        check_regular(args.out)
    except OSError as error:
        raise UsageError(f"--out {args.out}: {error.strerror}; give a file name that ends in .npy") from None
    path = resolve(args.model)
    config, note = load_config(path, args.context)
    if note:
        say(note)
    ids = checked_ids(args.ids, config.vocab_size)
    if len(ids) > (limit := args.context or config.max_context):
        raise ContextError(f"--ids: {len(ids)} tokens exceed the context of {limit}; raise --context")
    runtime = args.runtime
    kernels = open_kernels(runtime.isa, runtime.threads or Machine.read().num_threads)
    model = Model(config, load_weights(Checkpoint.open(path), config), kernels, runtime.kv)
    state = model.new_state()
    part = args.out.with_name(args.out.name + ".part")
    try:
        check_regular(part)
        out = np.lib.format.open_memmap(part, mode="w+", dtype=np.float32, shape=(len(ids), config.vocab_size))
        with Progress("logits", len(ids)) as progress:
            for start in range(0, len(ids), PIECE):
                piece = ids[start : start + PIECE]
                out[start : start + len(piece)] = finite_logits(model.forward(piece, state, logits="all"), start)
                progress(start + len(piece))
        out.flush()
        os.replace(part, args.out)
    except OSError as error:
        raise UsageError(f"--out {args.out}: {error.strerror}; give a file in a writable directory") from None
    finally:
        part.unlink(missing_ok=True)


def checked_ids(value: Any, V: int) -> npt.NDArray[np.int64]:
    """A JSON value as int64 [T]; UsageError unless it is a non-empty list of ids below V."""
    if not isinstance(value, list) or not value:
        raise UsageError("--ids: expected a non-empty JSON list of token ids")
    for index, token in enumerate(value):
        if type(token) is not int or not 0 <= token < V:
            raise UsageError(f"--ids: item {index} is {token!r}; expected an integer from 0 to {V - 1}")
    return np.array(value, np.int64)
