"""The MTP module changes no answer, and its guesses depend on the tokens alone: not on how they were read, kept or
restored."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest

from a3b.cache.disk_store import Store
from a3b.cache.prefix_cache import PrefixCache
from a3b.errors import UsageError
from a3b.kernels import KV_TYPES, MAX_DRAFTED, PAGE_LEN, _native
from a3b.model.state import SEGMENT_LEN, State
from tests.support.random_model import random_ids, random_model
from tests.support.random_tiles import SIZES, tiled_model

ISAS = _native.isas()
KINDS = ["one", "two", "dense", "tiled"]
NUM = 150


@cache
def model(kind: str, isa: str = "", kv: str = "q8", mtp: bool = True):
    isa = isa or ISAS[0]
    return tiled_model(isa, 2, kv, mtp) if kind == "tiled" else random_model(kind, isa, 2, kv, mtp)


def ids_of(kind: str, num: int = NUM) -> np.ndarray:
    return np.random.default_rng(7).integers(0, SIZES["V"], num) if kind == "tiled" else random_ids(kind, num, 7)


def guesses(m, state: State, ids) -> np.ndarray:
    """Logits behind each of the tokens that follow a sequence."""
    chain, found = m.mtp.chain(state), []
    for token in ids:
        chain.add(int(token))
        found.append(chain.logits())
    return np.stack(found)


@cache
def read_whole(kind: str, isa: str, kv: str) -> tuple[np.ndarray, np.ndarray]:
    """Logits of the model, and what the module guesses behind the sequence."""
    m, ids = model(kind, isa, kv), ids_of(kind)
    state = m.new_state()
    return m.forward(ids, state, "all"), guesses(m, state, ids_of(kind)[:4])


every_isa = pytest.mark.parametrize("isa", ISAS)
every_model = pytest.mark.parametrize(("kind", "isa", "kv"), [(k, i, v) for k in KINDS for i in ISAS for v in KV_TYPES])


@every_model
def test_the_module_changes_no_bit_of_the_model(kind: str, isa: str, kv: str):
    without = model(kind, isa, kv, mtp=False)
    logits = without.forward(ids_of(kind), without.new_state(), "all")
    np.testing.assert_array_equal(read_whole(kind, isa, kv)[0], logits)


def read_with_drafts(m, ids: np.ndarray, between: Callable[[State], State]) -> State:
    """The state after a sequence that was read in steps with drafts that are right up to a random place. between: what
    happens after some of the steps, and the state that goes on."""
    state, others, rng, done = m.new_state(), random_ids("dense", NUM, 3), np.random.default_rng(1), 0
    while done < NUM:
        sure, drafted = int(rng.integers(1, 9)), int(rng.integers(0, 5))
        piece = ids[done : done + sure]
        drafts = ids[done + len(piece) :][:drafted].copy()
        num_right = int(rng.integers(0, len(drafts) + 1))
        drafts[num_right:] = others[: len(drafts) - num_right]
        m.forward_drafted([(np.concatenate((piece, drafts)), state, len(drafts))])
        state.keep(num_right)
        done += len(piece) + num_right
        if rng.integers(0, 3) == 0:
            state = between(state)
    return state


@every_model
def test_guesses_do_not_depend_on_how_the_sequence_was_read(kind: str, isa: str, kv: str):
    def guessed(state: State) -> State:
        guesses(m, state, random_ids("dense", 3, 3))  # these are written over
        return state

    m, ids = model(kind, isa, kv), ids_of(kind)
    state = read_with_drafts(m, ids, guessed)
    np.testing.assert_array_equal(guesses(m, state, ids[:4]), read_whole(kind, isa, kv)[1])


@pytest.mark.slow  # a second where it is scalar
@every_isa
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num", [9, 40])  # that stay on the trail, and that are too many for it
def test_guesses_do_not_depend_on_restores_between_steps_with_drafts(kind: str, isa: str, num: int):
    def restored(state: State) -> State:
        m.settle(state)
        snapshot = state.snapshot()
        m.forward_drafted([(ids[:num], state, 3)])
        state.keep(2)
        state = state if rng.integers(0, 2) else m.new_state()
        state.restore(snapshot)
        return state

    m, ids, rng = model(kind, isa), ids_of(kind), np.random.default_rng(2)
    state = read_with_drafts(m, ids, restored)
    np.testing.assert_array_equal(guesses(m, state, ids[:4]), read_whole(kind, isa, "q8")[1])


@every_isa
@pytest.mark.parametrize("num", [1, PAGE_LEN, SEGMENT_LEN - 1, SEGMENT_LEN, SEGMENT_LEN + 1])
def test_a_restored_state_and_a_fork_guess_as_the_one_that_was_kept(num: int, isa: str):
    m = model("one", isa)
    state = m.new_state()
    m.forward(ids_of("one", num), state)
    snapshot, fork, other = state.snapshot(), state.fork(), m.new_state()
    expected = guesses(m, state, [5, 6, 7])
    m.forward(ids_of("one", 5), state)  # goes on in the segment that all share
    other.restore(snapshot)
    for again in (fork, other):
        np.testing.assert_array_equal(guesses(m, again, [5, 6, 7]), expected)
    m.forward(ids_of("one", 5), fork)
    np.testing.assert_array_equal(guesses(m, fork, [8]), guesses(m, state, [8]))


@every_isa
@pytest.mark.parametrize("sure", [1, 31, 32, 33, 100])
def test_steps_with_as_many_drafts_as_may_be_are_noted_whole(sure: int, isa: str):
    m, ids = model("one", isa), random_ids("one", 600, 7)
    state, expected, done = m.new_state(), m.new_state(), 0
    for num_right in (0, MAX_DRAFTED, 5):
        step = ids[done : done + sure + MAX_DRAFTED].copy()
        step[sure + num_right :] = 0
        m.forward_drafted([(step, state, MAX_DRAFTED)])
        state.keep(num_right)
        done += sure + num_right
    m.forward(ids[:done], expected)
    np.testing.assert_array_equal(guesses(m, state, [1, 2]), guesses(m, expected, [1, 2]))


@every_isa
@pytest.mark.parametrize("num", [3, PAGE_LEN, 100, SEGMENT_LEN + 1])
def test_a_state_that_was_read_from_disk_guesses_as_the_one_that_was_stored(tmp_path, num: int, isa: str):
    m, ids = model("one", isa), ids_of("one", SEGMENT_LEN + 1)[:num]
    state = m.new_state()
    m.forward(ids[: num // 2], state)
    for i in range(num // 2, num):  # one by one: the latest are not taken in yet
        m.forward(ids[i : i + 1], state)
    with Store(tmp_path) as store:
        PrefixCache(b"a", m.new_state, 1 << 30, store).add("", ids.tolist(), state.snapshot(), "end")
        assert store.flush()
    with Store(tmp_path) as store:
        found = PrefixCache(b"a", m.new_state, 1 << 30, store).sync("", [*ids.tolist(), 1])
    assert found.reused == num
    np.testing.assert_array_equal(guesses(m, found.state, [5, 6, 7]), guesses(m, state, [5, 6, 7]))


@every_isa
def test_guessing_changes_nothing_that_follows(isa: str):
    m, ids = model("tiled", isa), ids_of("tiled")
    state, undisturbed = m.new_state(), m.new_state()
    for start in range(0, 40, 8):
        guesses(m, state, ids[60:64])
        found, expected = (m.forward(ids[start : start + 8], s) for s in (state, undisturbed))
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(state.hidden, undisturbed.hidden)


@every_isa
@pytest.mark.parametrize("kind", KINDS[:3])
def test_kernels_guess_what_the_twins_guess(kind: str, isa: str):
    found, expected = read_whole(kind, isa, "f32")[1], read_whole(kind, "reference", "f32")[1]
    assert np.abs(found - expected).max() < 1e-4 * expected.std()


def test_heads_guess_some_tokens_with_the_numbers_of_all():
    m = model("tiled")
    state = m.new_state()
    m.forward(ids_of("tiled", 9), state)
    chain, some, others = m.mtp.chain(state), np.array([3, 4, 17, 55, 90]), np.array([5, 18, 60])
    chain.add(1)
    whole, head = chain.logits(), m.mtp.head(some)
    assert m.mtp.default_head.ids.tolist() == list(range(SIZES["V"])) and len(whole) == SIZES["V"]
    np.testing.assert_array_equal(chain.logits(head), whole[some])
    m.mtp.default_head = head
    np.testing.assert_array_equal(chain.logits(), whole[some])
    both = m.mtp.head_with(others)
    assert both.ids.tolist() == sorted([*some, *others])
    np.testing.assert_array_equal(chain.logits(both), whole[both.ids])


def test_a_state_of_a_model_without_the_module_is_refused():
    with_module, without = model("one"), model("one", mtp=False)
    state = without.new_state()
    without.forward(ids_of("one", 3), state)
    with pytest.raises(UsageError, match="other sizes"):
        with_module.new_state().restore(state.snapshot())
