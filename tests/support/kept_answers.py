"""Every number that the cache has of an answer."""

from __future__ import annotations

import numpy as np

from a3b.kernels import kv
from a3b.model.state import State
from tests.support.traced_server import Server


def kept(server: Server, line: dict, namespace: str = "") -> tuple:
    """What the cache has of an answer: how many tokens, and every number of the state but those of an MTP module."""
    found = server.cache.sync(namespace, line["prompt"] + line["sampled"])
    return found.reused, *_of_model(server, found.state)


def assert_kept_as_read(server: Server, line: dict, name: str = "answer") -> None:
    """What the cache has of an answer is what reading the same tokens at once gives, with what an MTP module knows."""
    ids, model = line["prompt"] + line["sampled"], server.engine.model
    found = server.cache.sync("", ids)
    assert found.reused == found.state.num_tokens >= len(line["prompt"]), (name, "the answer is there, too")
    read = model.new_state()
    model.forward(np.array(ids[: found.reused]), read, "none")
    read.snapshot()  # all tokens are taken in
    assert _of_model(server, found.state) == _of_model(server, read), (name, "of the model")
    assert _of_module(server, found.state) == _of_module(server, read), (name, "of the MTP module")


def _of_model(server: Server, state: State) -> list[bytes]:
    layers = range(server.engine.config.layer_types.count("full_attention"))
    pages = [page for layer in layers for page in _pages(server, state, layer)]
    return [state.conv.tobytes(), state.delta.tobytes(), *pages]


def _of_module(server: Server, state: State) -> list[bytes]:
    mtp = server.engine.model.mtp
    return [] if mtp is None else [state.hidden.tobytes(), *_pages(server, state, mtp.attention.index)]


def _pages(server: Server, state: State, layer: int) -> list[bytes]:
    """Keys and values of a layer."""
    Dh = server.engine.config.head_dim
    parts = [part for segment in state.segments(layer) for part in kv.load("q8", *segment, Dh)]
    return [part.swapaxes(1, 2).reshape(-1, part.shape[1], Dh)[: state.num_tokens].tobytes() for part in parts]
