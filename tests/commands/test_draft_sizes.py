"""What drafts are said to take is what they take: arrays of a model that reads as much ahead as it may."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from a3b.commands import draft_sizes
from a3b.commands.sizes import Use, as_packed, memory_bytes, sizes, state_bytes
from a3b.engine.backend import Job
from a3b.engine.draft_prices import Prices
from a3b.engine.draft_sources import BYTES_PER_TOKEN, MAX_DRAFTS, ContextDrafter, Repeats
from a3b.engine.drafts import Answer, Draft
from a3b.engine.engine import Engine
from a3b.engine.mtp_guesses import MAX_IDS, MtpGuesses
from a3b.formats.packed import PackedTensor
from a3b.formats.tiles import FORMATS
from a3b.kernels import open_kernels
from a3b.model import mtp as mtp_module
from a3b.model.config_reader import config_from_dict
from a3b.model.forward import Model
from a3b.model.known_shapes import shape
from a3b.packing.presets import PRESETS
from tests.support.random_model import config_dict, random_tensors
from tests.support.random_tiles import SIZES, random_tiles, tiled_weights
from tests.support.traced_server import Server, user

NUM_IDS, FREQUENT = 20_000, np.arange(0, 20_000, 2)
PROMPT = np.random.default_rng(2).integers(0, NUM_IDS, 60_000)
OFFICIAL = shape("35b-a3b")


def model_of(frequent: np.ndarray | None, monkeypatch: pytest.MonkeyPatch) -> tuple[Model, draft_sizes.DraftSizes]:
    """A model whose module guesses these tokens, and what its drafts are said to take."""
    for module in (mtp_module, draft_sizes):
        monkeypatch.setattr(module, "frequent_ids", lambda num: frequent)
    large = SIZES | {"V": NUM_IDS}
    config = replace(config_from_dict(config_dict(large)), mtp_layers=1)
    weights = tiled_weights(config, random_tensors(large, seed=5, mtp=True))
    found = draft_sizes.draft_sizes(config, weights.lm_head.data.nbytes // NUM_IDS)
    return Model(config, weights, open_kernels(None, 1)), found


@contextmanager
def new_array_bytes() -> Iterator[SimpleNamespace]:
    """What arrays made in the block, and still there at its end, take."""
    arrays = [tracemalloc.DomainFilter(True, np.lib.tracemalloc_domain)]
    found = SimpleNamespace(num=0)
    tracemalloc.start()
    try:
        yield found
        found.num = sum(trace.size for trace in tracemalloc.take_snapshot().filter_traces(arrays).traces)
    finally:
        tracemalloc.stop()


def peak_of(work) -> int:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_state_holds_what_is_counted_after_a_step_with_as_many_drafts_as_there_are(monkeypatch):
    model, found = model_of(FREQUENT, monkeypatch)
    state = model.new_state()
    model.forward_drafted([(PROMPT[: 1 + MAX_DRAFTS], state, MAX_DRAFTS)])
    kept = sum(segment.keys.nbytes + segment.values.nbytes for segment in state._segments)
    assert state.num_bytes - kept - state_bytes(model.config) == found.fed + found.trail


def test_logits_of_a_step_are_what_is_counted_for_its_answers(monkeypatch):
    model, found = model_of(FREQUENT, monkeypatch)
    pieces = [(PROMPT[: 1 + MAX_DRAFTS], model.new_state(), MAX_DRAFTS) for _ in range(3)]
    assert model.forward_drafted(pieces)[0].base.nbytes == 3 * found.logits


def test_no_step_reads_more_drafts_of_an_answer_than_are_counted():
    text = SimpleNamespace(sampled=[], forced=lambda most: [], may_follow=lambda token: True)
    drafter = ContextDrafter([1, 2, 3] * 200)
    drafts = drafter.propose(Answer(text, None, [3]), 10 * MAX_DRAFTS, Prices(0.0))
    assert len(drafts) == MAX_DRAFTS


def test_a_head_of_rare_tokens_takes_no_more_than_is_counted(monkeypatch):
    model, found = model_of(FREQUENT, monkeypatch)
    guesses = MtpGuesses(model.mtp, PROMPT.tolist())
    with new_array_bytes() as arrays:
        guesses._rare.take_in()
    assert len(guesses._rare.head.ids) == MAX_IDS + len(FREQUENT)
    assert 0.9 * found.rare < arrays.num <= found.rare


def test_a_head_of_rare_tokens_is_let_go_before_another_is_made(monkeypatch):
    model, found = model_of(FREQUENT, monkeypatch)
    guesses = MtpGuesses(model.mtp, PROMPT.tolist())
    guesses._rare.take_in()
    guesses.learn(np.setdiff1d(np.arange(NUM_IDS), guesses._rare.head.ids).tolist(), [])
    default, make = model.mtp.default_head, model.mtp.head_with
    monkeypatch.setattr(
        model.mtp, "head_with", lambda ids: make(ids) if guesses._rare.head is default else pytest.fail()
    )
    before = guesses._rare.head
    guesses._rare.take_in()
    assert guesses._rare.head not in (default, before)


def test_the_frequent_rows_of_a_model_take_no_more_than_is_counted(monkeypatch):
    model, found = model_of(FREQUENT, monkeypatch)
    with new_array_bytes() as arrays:
        again = model.mtp.head(FREQUENT)
    assert again.ids is FREQUENT
    assert 0.9 * found.frequent < arrays.num + FREQUENT.nbytes + model.mtp.frequent.nbytes <= found.frequent


@pytest.mark.parametrize("name", FORMATS)
def test_rows_on_their_way_into_another_matrix_take_no_more_than_is_counted(name: str):
    matrix = random_tiles(FORMATS[name], 2000, 2048)
    made: list = []
    peak = peak_of(lambda: made.append(matrix.rows(PROMPT[:4096] % 2000)))
    assert peak - made[0].data.nbytes <= draft_sizes.draft_sizes(OFFICIAL, matrix.data.nbytes // 2000).moved


def test_looking_for_repetitions_takes_no_more_for_a_token_than_is_counted():
    num = 100_000
    for ids in ([7] * num, PROMPT.tolist()):
        repeats: list[Repeats] = []

        def look(ids: list[int] = ids, repeats: list[Repeats] = repeats) -> None:
            repeats.append(Repeats(ids))
            repeats[0].extend([7])
            repeats[0].find([], MAX_DRAFTS)

        assert peak_of(look) <= BYTES_PER_TOKEN * len(ids)


def test_what_no_model_needs_is_not_counted():
    found = draft_sizes.draft_sizes(OFFICIAL, 1696)
    without = draft_sizes.draft_sizes(replace(OFFICIAL, mtp_layers=0), 1696)
    assert without == replace(found, trail=0, rare=0, frequent=0, moved=0)
    other = draft_sizes.draft_sizes(replace(OFFICIAL, vocab_size=1000), 1696)
    assert (other.rare, other.frequent, other.moved) == (0, 0, 0) and other.trail == found.trail


def test_every_answer_and_no_server_without_drafts_pays_for_them():
    found = sizes(OFFICIAL, PRESETS["balanced"])
    ahead = draft_sizes.draft_sizes(OFFICIAL, found.head_row_bytes)
    one, two = (memory_bytes(OFFICIAL, found, 0, Use(num)) for num in (1, 2))
    answer, model = ahead.fed + ahead.logits + ahead.trail + ahead.rare, ahead.frequent + ahead.moved
    assert two - one == answer + state_bytes(OFFICIAL)
    without = memory_bytes(OFFICIAL, found, 0, Use(drafts=False))
    assert one - without == answer + model + found.stored_bytes - found.total_bytes
    token = memory_bytes(OFFICIAL, found, 1) - one
    assert token == 11 * 2 * (2 * 256 + 5 * 4) + ahead.token  # keys and values of the module's layer, too


def test_rows_of_the_head_are_counted_in_the_format_that_was_packed():
    config = replace(OFFICIAL, mtp_layers=1)
    head = PackedTensor("model.lm_head.weight", "w6k16", (config.vocab_size, config.hidden_size))
    module = PackedTensor("mtp.norm.weight", "f32", (config.hidden_size,))
    found = as_packed(config, [head])
    assert found[1].head_row_bytes == 1696 and found[0].mtp_layers == 0
    assert as_packed(config, [head, module])[0].mtp_layers == 1
    embed = replace(head, name="model.embed_tokens.weight", format="w8s32")
    assert as_packed(replace(config, tie_word_embeddings=True), [embed])[1].head_row_bytes == 2176


class Unlikely:
    """Drafts as many as any drafter does, and hardly ever the right ones."""

    def __init__(self, job: Job):
        self._rng = np.random.default_rng(len(job.ids))

    def propose(self, answer: Answer, most: int, prices: Prices) -> list[Draft]:
        return [Draft(int(token), "repeated") for token in self._rng.integers(0, 4000, min(most, MAX_DRAFTS))]


def bytes_while_two_answers_are_written(engine: Engine, drafter, monkeypatch: pytest.MonkeyPatch) -> int:
    """Of all arrays, after the first step that read tokens of both and as many drafts as there may be."""
    step, found = engine.model.forward_drafted, []

    def watched(pieces):
        logits = step(pieces)
        num = MAX_DRAFTS if drafter else 0
        if len(pieces) == 2 and all(len(ids) == 1 + num == 1 + drafted for ids, _, drafted in pieces) and not found:
            arrays = [tracemalloc.DomainFilter(True, np.lib.tracemalloc_domain)]
            traces = tracemalloc.take_snapshot().filter_traces(arrays).traces
            found.append(sum(trace.size for trace in traces))
        return logits

    async def both(server: Server) -> None:
        texts = ("Think of two numbers from 0 to 999. Tell me only the first.", "What are you?")
        fields = {"sampling": {"temperature": 1.0, "seed": 5, "max_tokens": 120}}
        await asyncio.gather(*(server.answer([user(text)], **fields) for text in texts))

    monkeypatch.setattr(engine.model, "forward_drafted", watched)
    tracemalloc.start()
    try:
        with Server(engine, drafter=drafter) as server:
            asyncio.run(both(server))
    finally:
        tracemalloc.stop()
    return found[0]


@pytest.mark.slow  # traces every allocation of a server
def test_a_server_that_drafts_has_no_arrays_beyond_those_that_are_counted():
    engine = Engine.load()
    counted = draft_sizes.draft_sizes(replace(engine.config, mtp_layers=0), 0)
    with pytest.MonkeyPatch.context() as patch:
        plain = bytes_while_two_answers_are_written(engine, None, patch)
    with pytest.MonkeyPatch.context() as patch:
        drafting = bytes_while_two_answers_are_written(engine, Unlikely, patch)
    assert 0.9 * counted.of(2) < drafting - plain <= counted.of(2)
