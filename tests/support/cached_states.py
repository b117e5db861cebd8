"""Real states of a small model, filled in place of a forward pass with numbers that depend on all tokens so far."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from a3b.kernels import kv
from a3b.model.config_reader import config_from_dict
from a3b.model.state import SEGMENT_LEN, Snapshot, State, advancing
from tests.support.random_model import SIZES, config_dict

CONFIG = config_from_dict(config_dict(SIZES["one"]), where="test")  # 1 attention layer, 3 delta layers
IDENTITY = b"identity of a test"


def new_state(kind: str = "q8") -> State:
    return State(CONFIG, kind)


def feed(state: State, ids: Sequence[int], kind: str = "q8") -> State:
    """Read tokens: a stand-in for `Model.forward` in which every number follows from the state and the token."""
    if not len(ids):
        return state
    with advancing([(state, len(ids))]):
        start, done = state.num_tokens, 0
        values = (
            np.asarray(ids, np.float32)[:, None, None]
            + np.arange(start, start + len(ids), dtype=np.float32)[:, None, None] / 8192
        )
        rows = np.broadcast_to(values, (len(ids), CONFIG.num_key_value_heads, CONFIG.head_dim)) * np.linspace(
            0.5, 1, CONFIG.head_dim, dtype=np.float32
        )
        while done < len(ids):
            index, at = divmod(start + done, SEGMENT_LEN)
            part = rows[done : done + SEGMENT_LEN - at]
            kv.store(kind, *state.segments(0)[index], at, part, -part)
            done += len(part)
        for token in ids:
            state.conv[:] = state.conv[:, ::-1] * np.float32(0.5) + np.float32(token)
            state.delta[:] = state.delta * np.float32(0.75) + np.float32(token) * state.conv.flat[0]
    return state


def reached(ids: Sequence[int]) -> State:
    """A state that has read `ids` from nothing."""
    return feed(new_state(), ids)


def snapshot(ids: Sequence[int]) -> Snapshot:
    return reached(ids).snapshot()


def content(state: State) -> str:
    """A digest of all that the next token can see."""
    total = hashlib.sha256(str(state.num_tokens).encode())
    total.update(state.conv), total.update(state.delta)
    pages = [kv.load("q8", *segment, CONFIG.head_dim) for segment in state.segments(0)]
    for parts in zip(*pages, strict=True):
        rows = np.concatenate(
            [x.swapaxes(1, 2).reshape(-1, CONFIG.num_key_value_heads, CONFIG.head_dim) for x in parts]
        )
        total.update(rows[: state.num_tokens])
    return total.hexdigest()


def numbers(num: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(1, 200, num).tolist()
