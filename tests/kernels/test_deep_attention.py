"""Attention behind a million tokens: what the kernels find there, against the twin, and bits for any cut and thread.

The cache is built, not read: random keys and values, and for single queries a key that answers them far away."""

from __future__ import annotations

import numpy as np
import pytest

from a3b.kernels import kv, open_kernels
from a3b.kernels.ref import ops
from a3b.model.config import with_context
from a3b.model.config_reader import read_config
from a3b.model.rope import Rope
from a3b.model.state import SEGMENT_LEN, SEGMENT_PAGES
from tests.support.paths import DATA

pytestmark = pytest.mark.slow  # computes for seconds

HQ, HKV, DH, EPS = 4, 2, 64, 1e-6
START = (1 << 20) - 3  # the tokens that are read lie on both sides of position 1,048,576
TOKENS, STRENGTH = 6, 40.0  # score of a planted key; a million others, of spread 1, weigh e^14.4 together
NEEDLES = {0: 5, 1: 70_000, 2: 524_288, 3: 1_009_999, 4: START - 1}  # token: position of its key
CUTS = ((6,), (1, 5), (1, 1, 1, 1, 1, 1), (3, 3))
BOUND = {"q8": 0.05, "bf16": 2**-7}  # of an output; numbers of the cache are of spread 1


def segments_of(kv_type: str):
    """Random keys and values of START + TOKENS positions, in the segments of a state."""
    rng = np.random.default_rng(1)
    sizes = kv.page_bytes(kv_type, DH)
    k, v = rng.standard_normal((2, SEGMENT_LEN, HKV, DH), np.float32)
    first = [np.zeros((SEGMENT_PAGES, HKV, size), np.uint8) for size in sizes]
    kv.store(kv_type, *first, 0, k, v)
    return [tuple(array.copy() for array in first) for _ in range((START + TOKENS) // SEGMENT_LEN + 1)]


def case():
    """(projected, norms, cos, sin, normalised and rotated queries, gates) under YaRN with factor 4 and more."""
    rng = np.random.default_rng(2)
    projected = rng.standard_normal((TOKENS, 2 * (HQ + HKV) * DH), np.float32)
    norms = [rng.normal(1, 0.1, DH).astype(np.float32) for _ in range(2)]
    config = with_context(read_config(DATA / "config-35b-a3b.json"), 1 << 20)[0]
    cos, sin = (half[:, :16] for half in Rope(config.rope)(np.arange(START, START + TOKENS)))
    cos, sin = np.ascontiguousarray(cos), np.ascontiguousarray(sin)
    q = projected[:, : 2 * HQ * DH].reshape(TOKENS, HQ, 2, DH)
    turned = ops.bind_rms_norm(np.tile(norms[0], (HQ, 1)), EPS, "q_norm")(np.ascontiguousarray(q[:, :, 0]))
    ops.rope_apply(turned, cos, sin)
    return projected, norms, cos, sin, turned, ops.sigmoid(q[:, :, 1])


def plant(kv_type: str, segments, queries: np.ndarray) -> dict[int, np.ndarray]:
    """A key for the first head of each token in NEEDLES; the values that these keys stand for."""
    rng, values = np.random.default_rng(3), {}
    for token, position in NEEDLES.items():
        q = queries[token, 0]
        keys, stored = segments[position // SEGMENT_LEN]
        one = [np.ascontiguousarray(array[:, :1]) for array in (keys, stored)]
        values[token] = rng.standard_normal(DH, np.float32)
        key = q * np.float32(STRENGTH * np.sqrt(DH) / (q @ q))
        kv.store(kv_type, *one, position % SEGMENT_LEN, key[None, None], values[token][None, None])
        keys[:, :1], stored[:, :1] = one
    return values


@pytest.mark.parametrize("kv_type", ["q8", "bf16"])
def test_keys_a_million_tokens_back_are_found_with_the_same_bits_however_the_work_is_cut(kv_type):
    projected, norms, cos, sin, queries, gates = case()
    segments = segments_of(kv_type)
    values = plant(kv_type, segments, queries)
    outs = []
    for threads, cuts in ((2, CUTS[0]), (2, CUTS[1]), (1, CUTS[2]), (1, CUTS[3])):
        op, at, found = open_kernels(None, threads).bind_attention(*norms, EPS, HQ, HKV, DH, 16, kv_type), 0, []
        for num in cuts:
            rows = slice(at, at + num)
            found.append(op(projected[rows], cos[rows], sin[rows], segments, START + at))
            at += num
        outs.append(np.concatenate(found).reshape(TOKENS, HQ, DH))
    for other in outs[1:]:
        np.testing.assert_array_equal(outs[0], other)
    for token, value in values.items():
        away = np.abs(outs[0][token, 0] - value * gates[token, 0]).max()
        assert away <= BOUND[kv_type], (token, NEEDLES[token], away)
    twin = ops.bind_paged_attention(HQ, HKV, DH)
    expected = twin(queries, [kv.load(kv_type, *segment, DH) for segment in segments], START)
    expected = expected.reshape(TOKENS, HQ, DH) * gates
    assert np.abs(outs[0] - expected).max() <= BOUND[kv_type]
