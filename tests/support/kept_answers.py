"""Every number that the cache has of an answer."""

from __future__ import annotations

import numpy as np

from a3b.kernels import kv
from a3b.model.state import State
from tests.support.traced_server import Server


def kept(server: Server, line: dict, namespace: str = "") -> tuple:
    """What the cache has of an answer: how many tokens, and every number of the state."""
    found = server.cache.sync(namespace, line["prompt"] + line["sampled"])
    state = found.state
    pages = [page for layer in range(2) for page in pages_of(server, state, layer)]
    return found.reused, state.conv.tobytes(), state.delta.tobytes(), *pages


def pages_of(server: Server, state: State, layer: int) -> list[bytes]:
    """Keys and values of a layer."""
    Dh = server.engine.config.head_dim
    parts = [part for segment in state.segments(layer) for part in kv.load("q8", *segment, Dh)]
    return [part.swapaxes(1, 2).reshape(-1, part.shape[1], Dh)[: state.num_tokens].tobytes() for part in parts]


def kept_of_module(server: Server, line: dict) -> tuple[list, list]:
    """What the MTP module has of an answer in the cache, and what it has after reading the same tokens at once."""
    ids, model = line["prompt"] + line["sampled"], server.engine.model
    found = server.cache.sync("", ids)
    cold = model.new_state()
    model.forward(np.array(ids[: found.reused]), cold, "none")
    for state in (found.state, cold):
        state.snapshot()  # all tokens are taken in
    stored, read = ([s.hidden.tobytes(), *pages_of(server, s, model.mtp.attention.index)] for s in (found.state, cold))
    return stored, read
