"""Drafted tokens that a step reads beside its own: kept or not, the state and all logits are those of reading the
tokens of the sequence one by one, to the bit."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from a3b.errors import Interrupted, UsageError
from a3b.kernels import KV_TYPES, MAX_DRAFTED, _native
from a3b.model.state import SEGMENT_LEN, State
from tests.support.random_model import random_ids, random_model
from tests.support.random_tiles import SIZES, tiled_model

pytestmark = pytest.mark.slow  # computes for seconds

ISAS = _native.isas()
KINDS = ["one", "two", "dense", "tiled"]  # float weights of three shapes; tiles of every format
NUM = 150


@cache
def model(kind: str, isa: str = "", kv: str = "q8", threads: int = 2):
    isa = isa or ISAS[0]
    return tiled_model(isa, threads, kv) if kind == "tiled" else random_model(kind, isa, threads, kv)


def ids_of(kind: str, num: int = NUM, seed: int = 7) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, SIZES["V"], num) if kind == "tiled" else random_ids(kind, num, seed)


@cache
def singly(kind: str, isa: str, kv: str, seed: int = 7) -> tuple[np.ndarray, State]:
    """Logits of each token, read one by one, and the state at the end."""
    m, ids = model(kind, isa, kv), ids_of(kind, seed=seed)
    state = m.new_state()
    return np.stack([m.forward(ids[i : i + 1], state) for i in range(NUM)]), state


def assert_equal(found: State, expected: State) -> None:
    assert found.num_tokens == expected.num_tokens
    np.testing.assert_array_equal(found.conv, expected.conv)
    np.testing.assert_array_equal(found.delta, expected.delta)


class Reader:
    """Reads a sequence in steps with drafts that are right up to a random place."""

    def __init__(self, kind: str, rng: np.random.Generator, seed: int = 7):
        self.ids, self.rng = ids_of(kind, seed=seed), rng
        self.others = ids_of(kind, NUM, seed + 100)
        self.done, self.num_right = 0, 0
        self.found: list[np.ndarray] = []

    def piece(self, state: State) -> tuple[np.ndarray, State, int]:
        left = NUM - self.done
        num_sure = min(left, int(self.rng.choice([1, 1, 1, 2, 5, 40])))
        num_drafted = int(self.rng.choice([0, 1, 2, 3, 8, MAX_DRAFTED]))
        sure = self.ids[self.done : self.done + num_sure]
        drafts = self.ids[self.done + num_sure :][:num_drafted].copy()
        self.num_right = int(self.rng.integers(0, len(drafts) + 1))
        drafts[self.num_right :] = self.others[: len(drafts) - self.num_right]
        self.done += num_sure
        self.num_sure = num_sure
        return np.concatenate((sure, drafts)), state, len(drafts)

    def take(self, state: State, logits: np.ndarray) -> None:
        """Keep what was right, in two goes, and remember its logits."""
        first = int(self.rng.integers(0, self.num_right + 1))
        state.keep(first)
        state.keep(self.num_right - first)
        self.found.append(np.full((self.num_sure - 1, logits.shape[1]), np.nan, np.float32))
        self.found.append(logits[: self.num_right + 1])
        self.done += self.num_right

    def check(self, expected: np.ndarray) -> None:
        found = np.concatenate(self.found)
        shown = ~np.isnan(found).any(1)
        np.testing.assert_array_equal(found[shown], expected[shown])
        assert shown.sum() > 10


def assert_reads_as_singly(m, kind: str, kv: str, rng: np.random.Generator, between=lambda state: state) -> None:
    """Drafts change no bit. between: what happens between two steps, and the state that goes on."""
    reader, state = Reader(kind, rng), m.new_state()
    while reader.done < NUM:
        reader.take(state, m.forward_drafted([reader.piece(state)])[0])
        state = between(state)
    m.settle(state)
    expected, end = singly(kind, m.isa, kv)
    reader.check(expected)
    assert_equal(state, end)


every_isa = pytest.mark.parametrize("isa", ISAS)
every_model = pytest.mark.parametrize(("kind", "isa", "kv"), [(k, i, v) for k in KINDS for i in ISAS for v in KV_TYPES])


@every_model
@pytest.mark.parametrize("seed", range(3))
def test_drafts_change_no_bit(kind: str, isa: str, kv: str, seed: int):
    assert_reads_as_singly(model(kind, isa, kv), kind, kv, np.random.default_rng(seed))


@every_model
def test_drafts_change_no_bit_of_neighbours_nor_they_of_them(kind: str, isa: str, kv: str):
    m, rng = model(kind, isa, kv), np.random.default_rng(11)
    readers = [Reader(kind, rng, seed=7 + i % 2) for i in range(4)]
    states = [m.new_state() for _ in readers]
    while any(reader.done < NUM for reader in readers):
        going = [i for i, reader in enumerate(readers) if reader.done < NUM]
        logits = m.forward_drafted([readers[i].piece(states[i]) for i in going])
        for i, rows in zip(going, logits, strict=True):
            readers[i].take(states[i], rows)
    for i, (reader, state) in enumerate(zip(readers, states, strict=True)):
        expected, end = singly(kind, isa, kv, 7 + i % 2)
        reader.check(expected)
        m.settle(state)
        assert_equal(state, end)


@every_isa
@pytest.mark.parametrize("kind", KINDS)
def test_one_thread_reads_drafts_to_the_bits_of_two(kind: str, isa: str):
    assert_reads_as_singly(model(kind, isa, threads=1), kind, "q8", np.random.default_rng(5))


@every_isa
@pytest.mark.parametrize("kind", KINDS)
def test_snapshots_and_forks_between_steps_with_drafts_go_on_with_the_same_bits(kind: str, isa: str):
    m, (expected, _) = model(kind, isa), singly(kind, isa, "q8")
    ids, state = ids_of(kind), m.new_state()
    wrong = ids_of(kind, 4, seed=9)
    m.forward(ids[:60], state, logits="none")
    for kept in (0, 1, 3):
        m.forward_drafted([(np.concatenate((ids[60:64], wrong)), state, 7)])
        state.keep(kept)
        m.settle(state)
        snapshot, child, other = state.snapshot(), state.fork(), m.new_state()
        other.restore(snapshot)
        m.forward_drafted([(np.concatenate((wrong, wrong)), state, 5)])  # the original goes elsewhere
        state.restore(snapshot)
        for s in (child, other, state.fork()):
            assert s.num_tokens == 61 + kept
            np.testing.assert_array_equal(m.forward(ids[61 + kept :], s, logits="all"), expected[61 + kept :])
        state = m.new_state()
        m.forward(ids[:60], state, logits="none")


@every_isa
@pytest.mark.parametrize("kind", KINDS)
def test_a_state_restored_after_each_step_goes_on_with_the_same_bits(kind: str, isa: str):
    m, rng, elsewhere = model(kind, isa), np.random.default_rng(13), ids_of(kind, 9, seed=9)

    def restored(state: State) -> State:
        m.settle(state)
        snapshot = state.snapshot()
        m.forward_drafted([(elsewhere, state, 6)])
        state.keep(4)
        state = state if rng.integers(0, 2) else m.new_state()
        state.restore(snapshot)
        return state

    assert_reads_as_singly(m, kind, "q8", rng, restored)


@every_isa
def test_drafts_reach_over_the_end_of_a_shared_segment(isa: str):
    m, num = model("one", isa), SEGMENT_LEN - 3
    ids = random_ids("one", num + 40)
    base = m.new_state()
    m.forward(ids[:num], base, logits="none")
    expected = m.forward(ids[num:], base.fork(), logits="all")
    first, second = base.fork(), base.fork()
    wrong = (ids[num : num + 20] + 1) % 100
    m.forward_drafted([(np.concatenate((ids[num : num + 2], wrong)), first, 20)])
    np.testing.assert_array_equal(m.forward_drafted([(ids[num : num + 20], second, 19)])[0], expected[:20])
    second.keep(12)
    np.testing.assert_array_equal(m.forward(ids[num + 2 :], first, logits="all"), expected[2:])
    np.testing.assert_array_equal(m.forward(ids[num + 13 :], second, logits="all"), expected[13:])


@every_isa
def test_a_number_that_is_not_finite_stays_within_its_draft(isa: str):
    m, ids = random_model("one", isa, 1, "q8"), random_ids("one", 60)
    expected = m.forward(ids, m.new_state(), logits="all")
    embed = m._embed
    m._embed = lambda ids: np.where(ids[:, None] == 210, np.float32(np.nan), embed(np.minimum(ids, 209)))
    for at in (8, 9, 15, 16):
        state, assured = m.new_state(), ids[ids < 210]
        assert len(assured) == len(ids)
        m.forward(ids[:at], state, logits="none")
        rows = m.forward_drafted([(np.array([ids[at], ids[at + 1], 210, 210, 3]), state, 4)])[0]
        assert np.isnan(rows[2:]).all()
        np.testing.assert_array_equal(rows[:2], expected[at : at + 2])
        state.keep(1)
        np.testing.assert_array_equal(m.forward(ids[at + 2 :], state, logits="all"), expected[at + 2 :])


@pytest.mark.parametrize("name", ["one", "two", "dense"])
def test_the_twins_keep_what_was_right_within_their_rounding(name: str):
    m, reader = random_model(name), Reader(name, np.random.default_rng(3))
    state, plain = m.new_state(), m.new_state()
    while reader.done < NUM:
        reader.take(state, m.forward_drafted([reader.piece(state)])[0])
    m.settle(state)
    expected = m.forward(reader.ids, plain, logits="all")
    found = np.concatenate(reader.found)
    shown = ~np.isnan(found).any(1)
    assert np.abs(found - expected)[shown].max() < 1e-3 * expected.std()
    assert state.num_tokens == NUM and np.abs(state.delta - plain.delta).max() < 1e-3


def test_what_was_kept_must_be_taken_in_before_a_snapshot():
    m, ids = model("one"), random_ids("one", 8)
    state = m.new_state()
    m.forward_drafted([(ids, state, 5)])
    assert state.num_tokens == 3
    with pytest.raises(UsageError, match="keep: 6 drafted tokens; expected 0 to 5"):
        state.keep(6)
    state.snapshot()
    state.keep(2)
    for use in (state.snapshot, state.fork):
        with pytest.raises(UsageError, match="2 drafted tokens are kept, but not taken in; settle"):
            use()
    m.settle(state)
    m.settle(state)
    assert state.snapshot().num_tokens == 5
    with pytest.raises(UsageError, match="keep: 1 drafted tokens; expected 0 to 0"):
        state.keep(1)


def test_drafts_that_are_not_kept_are_gone_after_the_next_step():
    m, ids = model("one"), random_ids("one", 8)
    state = m.new_state()
    m.forward_drafted([(ids, state, 5)])
    m.forward(ids[3:4], state)
    with pytest.raises(UsageError, match="expected 0 to 0"):
        state.keep(1)


def test_a_restored_state_has_no_drafts():
    m, ids = model("one"), random_ids("one", 8)
    state = m.new_state()
    snapshot = state.snapshot()
    m.forward_drafted([(ids, state, 5)])
    state.keep(2)
    state.restore(snapshot)
    assert state.num_tokens == 0 and state.taken(0) is None
    with pytest.raises(UsageError, match="expected 0 to 0"):
        state.keep(1)
    state.snapshot()


def test_an_interrupted_step_with_drafts_makes_the_state_refuse():
    m, ids = model("one"), random_ids("one", 8)
    state = m.new_state()
    with pytest.raises(Interrupted):
        m.hidden([(ids, state)], cancel=lambda: True, drafted=[3])
    with pytest.raises(UsageError, match="interrupted"):
        state.keep(1)


@pytest.mark.parametrize(("num", "drafted"), [(5, 5), (5, 6), (5, -1), (MAX_DRAFTED + 2, MAX_DRAFTED + 1)])
def test_a_step_needs_a_token_of_its_own_and_not_too_many_drafts(num: int, drafted: int):
    m = model("one")
    with pytest.raises(UsageError, match=rf"pieces: {drafted} drafts in {num} tokens; expected fewer, at most"):
        m.forward_drafted([(random_ids("one", num), m.new_state(), drafted)])


def test_a_drafted_token_costs_a_state_what_its_layers_are_fed():
    m, ids = model("one"), random_ids("one", 12)
    state = m.new_state()
    m.forward(ids, state)
    before = state.num_bytes
    m.forward_drafted([(ids, state, 8)])
    assert state.num_bytes - before == 8 * len(state.conv) * 4 * (state.conv.shape[2] + 2 * state.delta.shape[1])
