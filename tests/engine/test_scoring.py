"""How likely a prompt's own tokens are, tokens that a bias moves, and prompts that are only read."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from a3b.engine import scheduler
from a3b.engine.engine import Engine
from a3b.errors import ContextError, TokenizerError, UsageError
from a3b.interface.events import Finished, PromptLogprobs, TextDelta, TokenLogprobs
from a3b.interface.request import Request
from tests.support.traced_server import GREEDY, Server, user

TEXT = "Start at a1b2 and follow the chain for 2 steps."
SCORED = {"scores_prompt": True, "top_logprobs": 3, "only_reads": True}


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine.load()


@pytest.fixture
def server(engine):
    with Server(engine) as server:
        yield server


def events_of(server: Server, **fields) -> list:
    return asyncio.run(server.events(Request(**fields)))


def scores(events: list) -> list[PromptLogprobs]:
    return [event for event in events if isinstance(event, PromptLogprobs)]


def expected_of(engine: Engine, ids: list[int]) -> list[float]:
    logits = engine.model.forward(np.array(ids), engine.model.new_state(), logits="all")[
        :-1, : engine.tokenizer.num_tokens
    ]
    logits = logits.astype(np.float64)
    peak = logits.max(1, keepdims=True)
    total = np.log(np.exp(logits - peak).sum(1)) + peak[:, 0]
    return list(logits[np.arange(len(logits)), ids[1:]] - total)


def test_each_token_of_a_prompt_has_the_logprob_that_the_model_gives_it(server, engine):
    ids = engine.tokenizer.encode_text(TEXT)
    events = events_of(server, prompt=TEXT, **SCORED)
    found = scores(events)
    assert [score.token_id for score in found] == ids
    assert found[0].logprob is None and found[0].top == ()
    np.testing.assert_allclose([score.logprob for score in found[1:]], expected_of(engine, ids), atol=1e-9)
    for score in found[1:]:
        assert [value for _, _, value in score.top] == sorted(
            (value for _, _, value in score.top), reverse=True
        ) and len(score.top) == 3
        assert score.logprob <= score.top[0][2]
    assert events[-1].reason == "length" and events[-1].usage.completion_tokens == 0


def test_a_prompt_of_ids_is_one_of_their_text(server, engine):
    ids = engine.tokenizer.encode_text(TEXT)
    assert scores(events_of(server, prompt=ids, **SCORED)) == scores(events_of(server, prompt=TEXT, **SCORED))


def test_a_scored_prompt_is_read_whole_though_the_cache_knows_it(server):
    events_of(server, prompt=TEXT, sampling=GREEDY)
    again = events_of(server, prompt=TEXT, **SCORED)
    assert again[-1].usage.cached_tokens == 0 and all(score.logprob is not None for score in scores(again)[1:])


def test_what_follows_a_scored_prompt_is_what_follows_the_same_prompt_unscored(server):
    plain = events_of(server, prompt=TEXT, sampling=GREEDY, top_logprobs=0)
    scored = events_of(server, prompt=TEXT, sampling=GREEDY, top_logprobs=0, scores_prompt=True)
    assert [e for e in scored if isinstance(e, TextDelta | TokenLogprobs)] == [
        e for e in plain if isinstance(e, TextDelta | TokenLogprobs)
    ]


def test_few_logits_are_in_memory_at_once(server, engine, monkeypatch):
    rows, head = [], engine.model._lm_head
    monkeypatch.setattr(engine.model, "_lm_head", lambda hidden: rows.append(len(hidden)) or head(hidden))
    ids = engine.tokenizer.encode_text(TEXT * 30)
    assert len(scores(events_of(server, prompt=ids, **SCORED))) == len(ids) > 256
    assert max(rows) == scheduler.SCORED_ROWS and sum(rows) == len(ids)


def test_scores_are_the_same_beside_an_answer_that_is_being_written_and_so_is_that_answer(server):
    messages = [user("Think of two numbers from 0 to 999. Tell me only the first.")]

    async def both():
        writing = asyncio.ensure_future(server.events(Request(messages=messages, sampling=GREEDY)))
        scoring = await server.events(Request(prompt=TEXT * 5, **SCORED))
        return await writing, scoring

    written, scored = asyncio.run(both())
    assert scores(scored) == scores(events_of(server, prompt=TEXT * 5, **SCORED))
    alone = events_of(server, messages=messages, sampling=GREEDY, namespace="b")
    assert [e for e in written if isinstance(e, TextDelta)] == [e for e in alone if isinstance(e, TextDelta)]


@pytest.mark.parametrize(("token", "error"), [(-1, UsageError), (1 << 30, UsageError), ("<|image_pad|>", UsageError)])
def test_ids_that_are_no_text_are_refused_with_their_place(server, engine, token, error):
    token = engine.tokenizer.control_id(token) if isinstance(token, str) else token
    with pytest.raises(error, match=r"prompt\[1\]"):
        events_of(server, prompt=[5, token])


def test_an_id_between_others_that_is_none_is_refused(server, engine, monkeypatch):
    monkeypatch.setattr(engine.tokenizer, "_bytes", [*engine.tokenizer._bytes, None])
    with pytest.raises(TokenizerError, match="not in the vocabulary"):
        events_of(server, prompt=[*[5] * 99, engine.tokenizer.num_tokens - 1])
    assert server.scheduler.load() == (0, 0) and not server.lines()


def test_a_prompt_that_is_only_read_is_there_for_the_next_request_and_is_no_turn(server, monkeypatch):
    turns = []
    monkeypatch.setattr(server.service.renderer.turns, "remember", lambda *args: turns.append(args))
    messages = [user("hello " * 60)]
    read = events_of(server, messages=messages, only_reads=True)
    assert read[-1].reason == "length" and not [e for e in read if isinstance(e, TextDelta)] and not turns
    assert events_of(server, messages=messages, sampling=GREEDY)[-1].usage.cached_tokens > 50
    assert len(turns) == 1


def test_a_prompt_that_is_only_read_may_fill_the_context(server):
    server.service.context = 20
    fitting = [5] * 20
    assert events_of(server, prompt=fitting, only_reads=True)[-1].usage.prompt_tokens == 20
    assert events_of(server, prompt=fitting[1:])[-1].usage.completion_tokens == 1
    with pytest.raises(ContextError):
        events_of(server, prompt=fitting)
    with pytest.raises(ContextError):
        events_of(server, prompt=[*fitting, 5], only_reads=True)


def test_tokens_are_counted_beyond_the_context(server):
    long = Request(messages=[user("x " * 20000)])
    assert asyncio.run(server.service.count_tokens(long)) > 20000 > server.service.context


@pytest.mark.parametrize("bias", [{}, {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "seed": 7}])
def test_a_bias_forces_or_bars_a_token(server, engine, bias):
    first = engine.tokenizer.encode_text("hello")[0]
    sampling = {**GREEDY, **bias, "max_tokens": 4}
    forced = events_of(server, prompt=TEXT, sampling={**sampling, "logit_bias": ((first, 100.0),)}, top_logprobs=0)
    assert [e.token_id for e in forced if isinstance(e, TokenLogprobs)] == [first] * 4
    assert all(e.logprob < -0.1 for e in forced if isinstance(e, TokenLogprobs))  # the model's own, without the bias
    free = [
        e.token_id
        for e in events_of(server, prompt=TEXT, sampling=sampling, top_logprobs=0)
        if isinstance(e, TokenLogprobs)
    ]
    barred = events_of(server, prompt=TEXT, sampling={**sampling, "logit_bias": ((free[0], -100.0),)}, top_logprobs=0)
    assert free[0] not in [e.token_id for e in barred if isinstance(e, TokenLogprobs)]


def test_a_bias_on_no_token_is_refused_before_anything_runs(server, engine):
    with pytest.raises(UsageError, match="logit_bias: token id"):
        events_of(server, prompt=TEXT, sampling={"logit_bias": ((engine.tokenizer.num_tokens, 1.0),)})
    assert server.scheduler.load() == (0, 0) and isinstance(
        events_of(server, prompt=TEXT, sampling=GREEDY)[-1], Finished
    )
