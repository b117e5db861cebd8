"""The MTP module guesses what transformers' own decoder layer guesses, joined as vLLM joins it, on small models whose
sizes all differ; step by step for guesses that feed on guesses."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from a3b.kernels import _native
from tests.support.paths import DATA
from tests.support.random_model import SIZES, random_ids, random_model

ISAS = ["reference", *_native.isas()]
BOUND = 1e-4  # of the spread of the logits: the project's criterion for float32 against float32
STEPS = 3  # as in make_goldens


@cache
def golden(name: str) -> dict[str, np.ndarray]:
    with np.load(DATA / "parity" / f"{name}-mtp.npz") as file:
        return dict(file)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("T", [1, 65])
@pytest.mark.parametrize("name", SIZES)
def test_drafts_of_every_position_agree_with_transformers(name: str, T: int, isa: str):
    model, ids = random_model(name, isa, num_threads=2, mtp=True), random_ids(name, T + STEPS, seed=T)
    state, first = model.new_state(), []
    for t in range(T):
        model.forward(ids[t : t + 1], state, "none")
        chain = model.mtp.chain(state)
        chain.add(int(ids[t + 1]))
        first.append(chain.logits())
    later = []
    for token in ids[T + 1 :][: STEPS - 1]:
        chain.add(int(token))
        later.append(chain.logits())
    for found, expected in ((first, golden(name)[f"first_{T}"]), (later, golden(name)[f"later_{T}"])):
        difference = np.abs(np.stack(found) - expected).max() / expected.std()
        print(f"{name}, {isa}, T = {T}: largest difference {difference:.1e} std")
        assert difference <= BOUND


@pytest.mark.parametrize("name", SIZES)
def test_goldens_are_able_to_tell_a_wrong_module(name: str):
    """Guesses that did not vary, or that were the same with the model's own hidden state in place of the module's."""
    first, later = golden(name)["first_65"], golden(name)["later_65"]
    assert first.std(axis=0).mean() > 0.5 and first.std(axis=1).mean() > 0.5
    assert min(np.abs(a - b).max() for a, b in ((later[0], later[1]), (first[-1], later[0]))) > 1000 * BOUND
