"""The forward pass gives what transformers gives, on small models whose sizes all differ."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from a3b.kernels import _native
from tests.support.paths import DATA
from tests.support.random_model import SIZES, random_ids, random_model

ISAS = ["reference", *_native.isas()]

BOUND = 1e-4  # of the spread of the logits: the project's criterion for float32 against float32
PROMPT_LEN = 7  # as in make_goldens


@cache
def golden(name: str) -> dict[str, np.ndarray]:
    with np.load(DATA / "parity" / f"{name}.npz") as file:
        return dict(file)


@cache
def model(name: str, isa: str = "reference"):
    return random_model(name, isa, num_threads=2)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("T", [1, 63, 64, 65, 200])
@pytest.mark.parametrize("name", SIZES)
def test_logits_of_every_position_agree_with_transformers(name: str, T: int, isa: str):
    expected = golden(name)[f"logits_{T}"]
    m = model(name, isa)
    logits = m.forward(random_ids(name, T, seed=T), m.new_state(), logits="all")
    assert logits.shape == expected.shape and logits.dtype == np.float32
    difference = np.abs(logits - expected).max() / expected.std()
    print(f"{name}, {isa}, T = {T}: largest difference {difference:.1e} std")
    assert difference <= BOUND


@pytest.mark.slow
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", SIZES)
def test_greedy_continuation_is_that_of_transformers_or_differs_first_at_a_tie(name: str, isa: str):
    expected = golden(name)
    m = model(name, isa)
    state = m.new_state()
    logits = m.forward(random_ids(name, PROMPT_LEN), state)
    for step, token in enumerate(expected["greedy"].tolist()):
        if (found := int(logits.argmax())) != token:
            assert expected["gap"][step] < 2 * BOUND * expected["std"][step], f"step {step}: {found}, not {token}"
            return
        logits = m.forward(np.array([token]), state)


@pytest.mark.parametrize("name", SIZES)
def test_goldens_are_able_to_tell_a_wrong_model(name: str):
    """A model whose logits did not vary over positions and ids, or that repeats itself, would prove nothing."""
    logits = golden(name)["logits_200"]
    assert logits.std(axis=0).mean() > 0.5 and logits.std(axis=1).mean() > 0.5
    assert len(set(golden(name)["greedy"].tolist())) > 20
    changed = model(name).forward(random_ids(name, 200, seed=7), model(name).new_state(), logits="all")
    assert np.abs(changed - logits).max() > 1000 * BOUND * logits.std()
