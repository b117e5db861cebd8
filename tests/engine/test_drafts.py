"""Answers with drafted tokens, right ones and wrong ones, are those without: every event, number and stored state."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from a3b.engine import scheduler as scheduler_module
from a3b.engine.drafts import Drafter
from a3b.model.forward import Model
from a3b.server.app import create_app
from tests.support.drafted_answers import (
    CASES,
    FEW,
    ISAS,
    KINDS,
    SECRET,
    drafter_of,
    drafting,
    engine,
    every_isa,
    known_of,
    plain,
)
from tests.support.drafters import told
from tests.support.kept_answers import assert_kept_as_read, kept
from tests.support.serving import ask
from tests.support.traced_server import Server

# computes for seconds
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("drafting_at_each_step")]


def assert_kept(server: Server, isa: str, case: str) -> None:
    """What is stored of an answer is what is stored without drafts; the MTP module is compared with a cold one."""
    _, line, state = plain(isa, case)
    assert kept(server, line) == state, case
    if server.engine.model.mtp is not None:
        assert_kept_as_read(server, line, case)


@every_isa(*KINDS, others=("random", "special", "beside mtp"))
def test_drafts_change_nothing_that_a_client_is_told_nor_what_is_stored(isa: str, kind: str):
    for case, request in CASES.items():
        events, line, _ = plain(isa, case)
        made: list = []
        with drafting(isa, [case], kind, made) as server:
            assert told(asyncio.run(server.events(request))) == events, case
            assert server.lines()[0]["sampled"] == line["sampled"], case
            if case != "scored":  # what is scored is not stored
                assert_kept(server, isa, case)
        if kind == "right" and len(line["sampled"]) > 8:
            assert made[0].num_asked < len(line["sampled"]) / 2, (case, "drafts were kept")


@every_isa(*KINDS)
@pytest.mark.parametrize("waited", [0, 1], ids=["late", "waited for"])
def test_answers_in_a_batch_with_drafts_are_those_alone(isa: str, kind: str, waited: int, monkeypatch):
    """Masks that come late keep logits of drafts over several steps."""
    monkeypatch.setattr(scheduler_module, "DRAFT_HELD_S", waited)
    made: list = []
    cases = [case for case in CASES if case not in ("raw", "scored", "beginning")] if isa == ISAS[0] else FEW

    async def all_of(server: Server):
        return await asyncio.gather(*(server.events(CASES[case]) for case in cases))

    with drafting(isa, cases, kind, made, max_active=6) as server:
        for case, events in zip(cases, asyncio.run(all_of(server)), strict=True):
            # where it starts in the cache depends on who came first
            assert told(events)[1:-1] == plain(isa, case)[0][1:-1], case
            assert events[-1].reason == plain(isa, case)[0][-1].reason
            assert_kept(server, isa, case)
    assert len(made) == len(cases) - ("one token" in cases)  # which needs none


@every_isa("right", "random", "context", "beside mtp")
def test_several_answers_to_a_prompt_are_those_without_drafts(isa: str, kind: str):
    body = {"messages": SECRET, "temperature": 1.2, "seed": 7, "max_tokens": 40, "n": 3, "logprobs": True}
    one, made = engine(isa, kind), []

    def asked(server: Server) -> tuple[list, list[dict]]:
        reply = asyncio.run(ask(create_app(server.service), "/v1/chat/completions", body))
        return reply.json()["choices"], server.lines()

    with Server(one) as server:
        expected, lines = asked(server)
    with Server(one, drafter=drafter_of(one, known_of(lines), kind, made)) as server:
        assert asked(server)[0] == expected
    assert len(expected) == 3 and len(made) == 3


@every_isa("random", "special", "beside mtp")
def test_two_threads_with_drafts_give_the_bits_of_one_without(isa: str, kind: str):
    cases = FEW[:5]  # grammars compute nothing in these threads
    with drafting(isa, cases, kind, [], threads=2) as server:
        for case in cases:
            assert told(asyncio.run(server.events(CASES[case])))[1:-1] == plain(isa, case)[0][1:-1], case
            assert_kept(server, isa, case)


class Restoring:
    """Lets the state of an answer go elsewhere and come back between two steps, then drafts as another."""

    def __init__(self, drafter: Drafter, model: Model):
        self.drafter, self.model = drafter, model
        self.num_restored = 0

    def propose(self, answer, most, prices):
        state = answer.state
        self.model.settle(state)
        snapshot = state.snapshot()
        num = (9, 40)[self.num_restored % 2]  # 40 are more than the MTP module leaves on its trail
        self.model.forward_drafted([(np.arange(num), state, 5)])
        state.keep(3)
        state.restore(snapshot)
        self.num_restored += 1
        return self.drafter.propose(answer, most, prices)


@every_isa("random", "mtp", "beside mtp")
def test_an_answer_whose_state_is_restored_between_its_steps_goes_on_the_same_way(isa: str, kind: str):
    one, cases, restoring = engine(isa, kind), FEW[:4], []
    make = drafter_of(one, known_of(plain(isa, case)[1] for case in cases), kind, [])

    def restored(job) -> Restoring:
        restoring.append(Restoring(make(job), one.model))
        return restoring[-1]

    with Server(one, drafter=restored) as server:
        for case in cases:
            assert told(asyncio.run(server.events(CASES[case])))[1:-1] == plain(isa, case)[0][1:-1], case
            assert_kept(server, isa, case)
    assert min(drafter.num_restored for drafter in restoring) > 2
