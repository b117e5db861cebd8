"""A state can be snapshotted, restored and forked at any token; what is shared is never written."""

from __future__ import annotations

import numpy as np
import pytest

from a3b.errors import UsageError
from a3b.kernels import kv
from a3b.model.config_reader import config_from_dict
from a3b.model.state import SEGMENT_LEN, State, advancing
from tests.support.random_model import SIZES, config_dict

CONFIG = config_from_dict(config_dict(SIZES["two"]), where="test")  # 2 attention layers, 3 delta layers
SHAPE = (CONFIG.num_key_value_heads, CONFIG.head_dim)
NUM_ATTENTION = 2


def store(state: State, layer: int, keys: np.ndarray) -> None:
    """What an attention op does: write after the tokens that are there."""
    done = 0
    while done < len(keys):
        index, at = divmod(state.num_tokens + done, SEGMENT_LEN)
        part = keys[done : done + SEGMENT_LEN - at]
        kv.store("f32", *state.segments(layer)[index], at, part, -part)
        done += len(part)


def feed(state: State, num: int, mark: int) -> None:
    """Advance by `num` tokens whose keys say who wrote them and where."""
    with advancing([(state, num)]):
        for layer in range(NUM_ATTENTION):
            rows = np.arange(state.num_tokens, state.num_tokens + num, dtype=np.float32) + 10_000 * mark
            keys = np.broadcast_to(rows[:, None, None], (num, *SHAPE)) + layer / 4
            store(state, layer, keys)
        state.conv += mark
        state.delta -= mark


def written(state: State, layer: int = 0) -> np.ndarray:
    """First number of every key up to num_tokens, after a check that values and heads agree."""
    pages = [kv.load("f32", *segment, CONFIG.head_dim) for segment in state.segments(layer)]
    keys = np.concatenate([k.swapaxes(1, 2).reshape(-1, *SHAPE) for k, _ in pages])[: state.num_tokens]
    values = np.concatenate([v.swapaxes(1, 2).reshape(-1, *SHAPE) for _, v in pages])
    np.testing.assert_array_equal(values[: state.num_tokens], -keys)
    assert (keys == keys[:, :1, :1]).all()
    return keys[:, 0, 0]


def expected(*parts: tuple[int, int], layer: int = 0) -> np.ndarray:
    """What `feed` wrote: (tokens, mark) one after the other."""
    marks = np.concatenate([np.full(num, mark) for num, mark in parts])
    return (np.arange(len(marks)) + 10_000 * marks + layer / 4).astype(np.float32)


@pytest.mark.parametrize("cuts", [[1], [64], [63, 1, 1], [65, 200], [1000, 24, 1], [SEGMENT_LEN + 1, 900, 300]])
def test_keys_land_at_their_position_however_they_arrive(cuts: list[int]):
    state = State(CONFIG, "f32")
    for num in cuts:
        feed(state, num, mark=1)
    for layer in range(NUM_ATTENTION):
        np.testing.assert_array_equal(written(state, layer), expected((sum(cuts), 1), layer=layer))


@pytest.mark.parametrize("at", [0, 1, 63, 64, 65, SEGMENT_LEN - 1, SEGMENT_LEN, SEGMENT_LEN + 5])
def test_a_snapshot_survives_whatever_the_original_does_next(at: int):
    state = State(CONFIG, "f32")
    if at:
        feed(state, at, mark=1)
    snapshot = state.snapshot()
    feed(state, 70, mark=2)
    other = State(CONFIG, "f32")
    other.restore(snapshot)
    feed(other, 70, mark=3)
    feed(state, 1, mark=2)
    np.testing.assert_array_equal(written(other), expected((at, 1), (70, 3)))
    np.testing.assert_array_equal(written(state), expected((at, 1), (71, 2)))
    assert (snapshot.num_tokens, snapshot.conv[0, 0, 0], snapshot.delta[0, 0, 0, 0]) == (at, at > 0, -(at > 0))


def test_two_states_restored_from_one_snapshot_do_not_meet():
    state = State(CONFIG, "f32")
    feed(state, 100, mark=1)
    snapshot = state.snapshot()
    twins = State(CONFIG, "f32"), State(CONFIG, "f32")
    for mark, twin in enumerate(twins, start=2):
        twin.restore(snapshot)
        feed(twin, 30, mark)
    for mark, twin in enumerate(twins, start=2):
        np.testing.assert_array_equal(written(twin), expected((100, 1), (30, mark)))
        assert twin.conv[0, 0, 0] == 1 + mark


def test_a_state_can_go_back_to_its_own_snapshot_again_and_again():
    state = State(CONFIG, "f32")
    feed(state, 50, mark=1)
    first = state.snapshot()
    feed(state, 10, mark=2)
    second = state.snapshot()
    for snapshot, parts in ((first, [(50, 1)]), (second, [(50, 1), (10, 2)]), (first, [(50, 1)])):
        state.restore(snapshot)
        feed(state, 40, mark=3)
        np.testing.assert_array_equal(written(state), expected(*parts, (40, 3)))


def test_a_fork_and_its_parent_are_independent():
    parent = State(CONFIG, "f32")
    feed(parent, 90, mark=1)
    child = parent.fork()
    grandchild = child.fork()
    for mark, state in enumerate((parent, child, grandchild), start=2):
        feed(state, 20, mark)
    for mark, state in enumerate((parent, child, grandchild), start=2):
        np.testing.assert_array_equal(written(state), expected((90, 1), (20, mark)))
        assert state.delta[0, 0, 0, 0] == -1 - mark


def test_snapshots_and_forks_share_full_segments():
    state = State(CONFIG, "f32")
    feed(state, SEGMENT_LEN + 10, mark=1)
    snapshot, child = state.snapshot(), state.fork()
    feed(child, 5, mark=2)
    first, last = state.segments(0)
    assert all(np.shares_memory(first[0], other) for other in (snapshot.segments[0].keys, child.segments(0)[0][0]))
    assert not np.shares_memory(last[0], child.segments(0)[1][0])
    assert snapshot.num_bytes == state.conv.nbytes + state.delta.nbytes
    assert snapshot.num_kv_bytes == 2 * NUM_ATTENTION * CONFIG.num_key_value_heads * kv.padded_dim(
        CONFIG.head_dim
    ) * 4 * (SEGMENT_LEN + 10)


def test_a_snapshot_cannot_be_written():
    snapshot = State(CONFIG, "f32").snapshot()
    with pytest.raises(ValueError, match="read-only"):
        snapshot.delta[0] = 1
    with pytest.raises(AttributeError):
        snapshot.num_tokens = 3


def test_growing_moves_no_page_that_is_already_written():
    state = State(CONFIG, "f32")
    feed(state, SEGMENT_LEN, mark=1)
    before = state.segments(1)[0][0].__array_interface__["data"]
    feed(state, 3 * SEGMENT_LEN, mark=1)
    assert state.segments(1)[0][0].__array_interface__["data"] == before
    assert len(state.segments(1)) == 4


def test_q8_divides_by_127_and_rounds_to_nearest_halves_to_even():
    """The largest magnitude is 127 steps exactly: here a step is 1 in keys and 2 in values."""
    k = np.zeros((1, 1, 16), np.float32)
    k[0, 0, :9] = [127, 1.4, 1.6, -1.6, 0.5, 1.5, -63.5, -126.5, -127]
    keys, values = (np.zeros((1, 1, size), np.uint8) for size in kv.page_bytes("q8", 16))
    kv.store("q8", keys, values, 5, k, 2 * k)
    loaded_k, loaded_v = kv.load("q8", keys, values, 16)
    expected = np.zeros(16)
    expected[:9] = [127, 1, 2, -2, 0, 2, -64, -126, -127]
    assert loaded_k[0, 0, 5].tolist() == expected.tolist()
    assert loaded_v[0, 0, 5].tolist() == (2 * expected).tolist()


def test_unwritten_positions_are_finite():
    state = State(CONFIG, "f32")
    feed(state, 100, mark=1)
    assert all(np.isfinite(keys).all() and np.isfinite(values).all() for keys, values in state.segments(0))


def test_an_interrupted_step_makes_the_state_refuse_until_it_is_restored():
    state = State(CONFIG, "f32")
    feed(state, 80, mark=1)
    snapshot = state.snapshot()
    with pytest.raises(KeyboardInterrupt), advancing([(state, 5)]):
        state.conv += 7
        raise KeyboardInterrupt
    for use in (state.snapshot, state.fork, lambda: feed(state, 1, mark=1)):
        with pytest.raises(UsageError, match="step at token 80 was interrupted; restore a snapshot"):
            use()
    state.restore(snapshot)
    feed(state, 5, mark=2)
    np.testing.assert_array_equal(written(state), expected((80, 1), (5, 2)))
    assert state.conv[0, 0, 0] == 3


def test_a_step_with_one_interrupted_state_changes_none_of_the_others():
    good, bad = State(CONFIG, "f32"), State(CONFIG, "f32")
    with pytest.raises(KeyboardInterrupt), advancing([(bad, 1)]):
        raise KeyboardInterrupt
    with pytest.raises(UsageError, match="interrupted"), advancing([(good, 2), (bad, 2)]):
        pass
    feed(good, 3, mark=1)
    assert good.num_tokens == 3


def test_a_snapshot_of_another_model_is_refused():
    other = config_from_dict(config_dict(SIZES["one"]), where="test")
    with pytest.raises(UsageError, match="other sizes"):
        State(CONFIG, "f32").restore(State(other, "f32").snapshot())
