"""What a model computes does not depend on how the work was cut: pieces, batches, snapshots.

Bound. In NumPy, BLAS orders the sums inside a product by the shape of the call, so two cuts may differ by
rounding. Each op stays within its contract, the largest of which is about n·u of the magnitudes for n = D inputs
(u = 2^-24); rounding of one layer is thus a relative change of about D·u in each number of the residual stream. What
such changes do to the logits is a property of the model at these ids (its condition), so it is measured: random
changes of exactly that size after the embedding and after each layer, the worst of several draws. Two cuts are two
such roundings: twice that.
"""

from __future__ import annotations

import copy
from functools import cache

import numpy as np
import pytest

from a3b.errors import UsageError
from a3b.model.forward import CHUNK
from a3b.model.state import SEGMENT_LEN
from tests.support.random_model import SIZES, random_ids, random_model

U = 2.0**-24
NUM = 200


@cache
def model(name: str):
    return random_model(name)


def rounding_bound(name: str, ids: np.ndarray, num_draws: int = 3) -> np.ndarray:
    """Per token, how far the logits of two cuts may be apart: float64 [T, 1]."""
    exact, worst = model(name).forward(ids, model(name).new_state(), logits="all"), 0.0
    for seed in range(num_draws):
        rng = np.random.default_rng(seed)

        def shaken(op, rng=rng):
            def call(first, *rest):
                h = op(first, *rest)
                h = first if h is None else h  # layers add to their argument in place
                h *= (1 + SIZES[name]["D"] * U * rng.choice([-1, 1], h.shape)).astype(np.float32)
                return h

            return call

        other = copy.copy(model(name))
        other._embed, other._layers = shaken(other._embed), [shaken(layer) for layer in other._layers]
        worst = np.maximum(worst, np.abs(other.forward(ids, other.new_state(), logits="all") - exact).max(-1))
    return 2 * worst[:, None]


@cache
def case(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """ids [NUM], their logits from one piece, and the bound."""
    ids = random_ids(name, NUM)
    return ids, model(name).forward(ids, model(name).new_state(), logits="all"), rounding_bound(name, ids)


def in_pieces(name: str, ids: np.ndarray, cuts: list[int], state=None) -> np.ndarray:
    state = state or model(name).new_state()
    pieces = np.split(ids, np.cumsum(cuts))
    return np.concatenate([model(name).forward(piece, state, logits="all") for piece in pieces if len(piece)])


def random_cuts(seed: int) -> list[int]:
    rng, cuts = np.random.default_rng(seed), []
    while sum(cuts) < NUM:
        cuts.append(int(rng.choice([1, 2, 7, 63, 64, 65])))
    return cuts


@pytest.mark.parametrize("lost", ["conv", "delta", "page"])
@pytest.mark.parametrize("name", SIZES)
def test_the_bound_notices_a_piece_of_state_that_got_lost(name: str, lost: str):
    ids, logits, bound = case(name)
    assert np.median(bound) < 5e-4 * logits.std()
    state = model(name).new_state()
    model(name).forward(ids[:100], state, logits="none")
    if lost == "page":
        state.segments(0)[0][1][1, 0].view(np.float32).reshape(64, -1)[20] = 0  # the values of one head at position 84
    else:
        getattr(state, lost)[0] = 0
    rest = model(name).forward(ids[100:110], state, logits="all")
    assert (np.abs(rest - logits[100:110]) > 3 * bound[100:110]).any()


@pytest.mark.parametrize(
    "cuts",
    [[1] * NUM, [63, 1, 64, 65], [64, 64, 64], [1, 65, 63], *map(random_cuts, range(3))],
    ids=["singly", "63-1-64-65", "64s", "1-65-63", "random0", "random1", "random2"],
)
@pytest.mark.parametrize("name", SIZES)
def test_one_piece_and_many_agree(name: str, cuts: list[int]):
    ids, logits, bound = case(name)
    assert (np.abs(in_pieces(name, ids, cuts) - logits) <= bound).all()


@pytest.mark.parametrize("name", SIZES)
def test_alone_and_in_a_batch_agree(name: str):
    ids, logits, bound = case(name)
    m = model(name)
    stops, starts = [NUM, 70, 65, 1], [130, 69, 0, 0]  # a long piece, a single token, two fresh prompts
    states = []
    for start in starts:
        states.append(m.new_state())
        if start:
            m.forward(ids[:start], states[-1], logits="none")
    out = m.forward_batch([(ids[a:b], s) for a, b, s in zip(starts, stops, states, strict=True)])
    for got, stop, state in zip(out, stops, states, strict=True):
        assert (np.abs(got - logits[stop - 1]) <= bound[stop - 1]).all()
        assert state.num_tokens == stop
    again = m.forward_batch([(ids[70:71], states[1]), (ids[65:66], states[2])])  # and what they left behind is right
    for got, at in zip(again, (70, 65), strict=True):
        assert (np.abs(got - logits[at]) <= bound[at]).all()


def test_a_batch_of_one_is_forward():
    ids = random_ids("one", 90)
    alone = model("one").forward(ids, model("one").new_state())
    np.testing.assert_array_equal(model("one").forward_batch([(ids, model("one").new_state())])[0], alone)
    assert model("one").forward_batch([]) == []


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("at", [1, 63, 64, 65, 150])
def test_restored_and_forked_continue_with_the_same_bits(name: str, at: int):
    ids, m = random_ids(name, NUM), model(name)
    original = m.new_state()
    m.forward(ids[:at], original, logits="none")
    snapshot, child = original.snapshot(), original.fork()
    first = m.forward(ids[at:], original, logits="all")
    restored = m.new_state()
    restored.restore(snapshot)
    for state in (restored, child):
        np.testing.assert_array_equal(m.forward(ids[at:], state, logits="all"), first)
    original.restore(snapshot)
    np.testing.assert_array_equal(m.forward(ids[at:], original, logits="all"), first)


@pytest.mark.parametrize("name", SIZES)
def test_fresh_and_restored_agree(name: str):
    ids, logits, bound = case(name)
    state = model(name).new_state()
    model(name).forward(ids[:77], state, logits="none")
    snapshot = state.snapshot()
    model(name).forward(ids[:5], state, logits="none")  # the original goes elsewhere
    state.restore(snapshot)
    assert (np.abs(in_pieces(name, ids[77:], [30], state) - logits[77:]) <= bound[77:]).all()


@pytest.mark.parametrize("num", [CHUNK - 1, CHUNK, CHUNK + 1])
def test_prompts_around_the_chunk_size_agree_with_a_batch(num: int):
    m, ids = model("one"), random_ids("one", num)
    alone = m.forward(ids, m.new_state(), logits="all")
    batch = m.forward_batch([(ids, m.new_state()), (ids[:9], m.new_state())])
    bound = rounding_bound("one", ids, num_draws=1)
    assert (np.abs(batch[0] - alone[-1]) <= bound[-1]).all() and (np.abs(batch[1] - alone[8]) <= bound[8]).all()


@pytest.mark.slow
def test_prompts_longer_than_a_chunk_and_a_segment_agree():
    m, num = model("two"), SEGMENT_LEN + 90
    assert num > 2 * CHUNK
    ids = random_ids("two", num)
    bound = rounding_bound("two", ids, num_draws=1)
    state = m.new_state()
    whole = m.forward(ids, state, logits="all")
    assert state.num_tokens == num
    assert (np.abs(in_pieces("two", ids, [CHUNK + 1, 100]) - whole) <= bound).all()
    assert (np.abs(m.forward(ids, m.new_state()) - whole[-1]) <= bound[-1]).all()
    np.testing.assert_array_equal(np.concatenate(list(m.forward_chunks(ids, m.new_state()))), whole)
    short = ids[:3]
    batch = m.forward_batch([(ids, m.new_state()), (short, m.new_state())])
    assert (np.abs(batch[0] - whole[-1]) <= bound[-1]).all() and (np.abs(batch[1] - whole[2]) <= bound[2]).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", SIZES)
def test_greedy_text_is_the_same_whichever_way_the_prompt_was_read(name: str):
    m, ids = model(name), random_ids(name, 150)

    def continuation(state, logits, neighbour=None) -> list[int]:
        out = []
        for _ in range(110):
            out.append(int(logits.argmax()))
            pieces = [(np.array(out[-1:]), state)]
            if neighbour is not None:
                pieces.insert(0, (ids[:2], neighbour))
            logits = m.forward_batch(pieces)[-1]
        return out

    whole, cut = m.new_state(), m.new_state()
    first = m.forward(ids, whole)
    snapshot = whole.snapshot()
    expected = continuation(whole, first)
    assert continuation(cut, in_pieces(name, ids, [1, 64, 63], cut)[-1]) == expected
    restored = m.new_state()
    restored.restore(snapshot)
    assert continuation(restored, first, neighbour=m.new_state()) == expected


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (np.array([], np.int64), "non-empty"),
        (np.array([[1, 2]]), "1-D"),
        (np.array([1.0]), "float64"),
        (np.array([3, -1]), r"found -1; expected ids in \[0, 211\)"),
        (np.array([3, 211]), "found 211"),
    ],
)
def test_unusable_ids_are_refused_and_leave_the_state_alone(ids: np.ndarray, message: str):
    state = model("one").new_state()
    for read in (
        lambda: model("one").forward(ids, state),
        lambda: model("one").forward(ids, state, logits="all"),
        lambda: model("one").forward_batch([(random_ids("one", 600), state), (ids, model("one").new_state())]),
    ):
        with pytest.raises(UsageError, match=message):
            read()
    assert state.num_tokens == 0 and not state.delta.any()


def test_one_state_cannot_be_advanced_twice_in_a_batch():
    state = model("one").new_state()
    with pytest.raises(UsageError, match="occurs twice"):
        model("one").forward_batch([(np.array([1]), state), (np.array([2]), state)])


def test_an_unknown_kind_of_logits_is_refused():
    with pytest.raises(UsageError, match="'first'"):
        model("one").forward(np.array([1]), model("one").new_state(), logits="first")
