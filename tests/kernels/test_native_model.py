"""A whole model on the kernels: the same bits however the work was cut, batched, shared out among threads, or
restored."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from a3b.kernels import KV_TYPES, _native
from tests.support.random_model import random_ids, random_model
from tests.support.random_tiles import SIZES, tiled_model

pytestmark = pytest.mark.slow  # starts servers or commands, or computes for seconds

ISAS = _native.isas()
KINDS = ["one", "two", "dense", "tiled"]  # float weights of three shapes; tiles of every format
NUM = 150


@cache
def model(kind: str, isa: str, kv: str, num_threads: int = 2):
    return tiled_model(isa, num_threads, kv) if kind == "tiled" else random_model(kind, isa, num_threads, kv)


def ids_of(kind: str, num: int = NUM) -> np.ndarray:
    return np.random.default_rng(7).integers(0, SIZES["V"], num) if kind == "tiled" else random_ids(kind, num)


@cache
def whole(kind: str, isa: str, kv: str) -> np.ndarray:
    m = model(kind, isa, kv)
    return m.forward(ids_of(kind), m.new_state(), logits="all")


every_model = pytest.mark.parametrize(("kind", "isa", "kv"), [(k, i, v) for k in KINDS for i in ISAS for v in KV_TYPES])


@every_model
@pytest.mark.parametrize("cuts", [[1] * NUM, [63, 1, 64], [64, 64], [1, 65, 63], [7, 2, 100]], ids=str)
def test_cuts_change_no_bit(kind: str, isa: str, kv: str, cuts: list[int]):
    m = model(kind, isa, kv, num_threads=1)
    state = m.new_state()
    pieces = [p for p in np.split(ids_of(kind), np.cumsum(cuts)) if len(p)]
    np.testing.assert_array_equal(
        np.concatenate([m.forward(p, state, logits="all") for p in pieces]), whole(kind, isa, kv)
    )


@every_model
def test_neighbours_in_a_batch_change_no_bit(kind: str, isa: str, kv: str):
    m, ids = model(kind, isa, kv), ids_of(kind)
    starts, stops = [100, 69, 0, 0], [NUM, 70, 65, 1]
    states = [m.new_state() for _ in starts]
    for start, state in zip(starts, states, strict=True):
        if start:
            m.forward(ids[:start], state, logits="none")
    out = m.forward_batch([(ids[a:b], s) for a, b, s in zip(starts, stops, states, strict=True)])
    for got, stop in zip(out, stops, strict=True):
        np.testing.assert_array_equal(got, whole(kind, isa, kv)[stop - 1])
    again = m.forward_batch([(ids[70:71], states[1]), (ids[65:66], states[2])])
    np.testing.assert_array_equal(again[0], whole(kind, isa, kv)[70])
    np.testing.assert_array_equal(again[1], whole(kind, isa, kv)[65])


@every_model
@pytest.mark.parametrize("at", [1, 64, 77])
def test_a_restored_state_changes_no_bit(kind: str, isa: str, kv: str, at: int):
    m, ids = model(kind, isa, kv), ids_of(kind)
    state = m.new_state()
    m.forward(ids[:at], state, logits="none")
    snapshot, child = state.snapshot(), state.fork()
    m.forward(ids[:5], state, logits="none")  # the original goes elsewhere
    state.restore(snapshot)
    for s in (state, child):
        np.testing.assert_array_equal(m.forward(ids[at:], s, logits="all"), whole(kind, isa, kv)[at:])


@pytest.mark.parametrize("isa", ISAS)
def test_tiles_agree_with_their_twin(isa: str):
    """Rounding of activations to int8 follows float arithmetic: where that falls the other way, a step of 1/254
    follows, no more."""
    twin = tiled_model("reference", kv="f32")
    expected = twin.forward(ids_of("tiled", 40), twin.new_state(), logits="all")
    m = model("tiled", isa, "f32")
    found = m.forward(ids_of("tiled", 40), m.new_state(), logits="all")
    difference = np.abs(found - expected).max(axis=1) / expected.std()
    print(f"tiles, {isa}: {np.median(difference):.1e} std in the middle, {difference.max():.1e} at most")
    assert np.median(difference) <= 0.05
