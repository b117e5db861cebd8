"""Drafters that fail, that say too much or what is no draft, and logits that are not finite."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import numpy as np
import pytest

from a3b.engine.drafts import Draft
from a3b.engine.engine import Engine
from a3b.errors import LogitsError
from a3b.interface.events import Finished
from a3b.interface.request import Request
from tests.support.drafted_answers import (
    CASES,
    DRAWN,
    ISAS,
    SECRET,
    drafter_of,
    drafting,
    engine,
    every_isa,
    known_of,
    plain,
)
from tests.support.drafters import told
from tests.support.kept_answers import kept
from tests.support.traced_server import Server

# computes for seconds
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("drafting_at_each_step")]


@pytest.mark.parametrize("isa", ISAS)
def test_logits_that_are_not_finite_end_an_answer_at_the_token_that_they_belong_to(isa: str, monkeypatch):
    """Those of a draft that is not reached end nothing."""
    made: list = []
    one, (events, line, _) = engine(isa), plain(isa, "drawn")
    bad = line["sampled"][9]
    head, real, read = one.model._lm_head, one.model.hidden, []

    def hidden(pieces, cancel=None, drafted=()):
        read[:] = np.concatenate([ids for ids, _ in pieces]).tolist()
        return real(pieces, cancel, drafted)

    def torn(rows):
        """What follows one token is not a number."""
        logits = head(rows)
        if len(read) == len(rows):
            logits[np.array(read) == bad] = np.nan
        return logits

    def asked(server: Server) -> list:
        got: list = []

        async def listen():
            async for event in server.service.stream(CASES["drawn"]):
                got.append(event)

        with pytest.raises(LogitsError) as error:
            asyncio.run(listen())
        return [*told(got), str(error.value)]

    monkeypatch.setattr(one.model, "_lm_head", torn)
    monkeypatch.setattr(one.model, "hidden", hidden)
    with Server(one) as server:
        expected = asked(server)
    assert len(expected) > 3 and expected[1:-1] == events[1 : len(expected) - 1]
    for kind in ("right", "random", "special"):
        with drafting(isa, ["drawn"], kind, made) as server:
            assert asked(server) == expected, kind


@pytest.mark.parametrize("fails", ["made", "asked"])
def test_a_drafter_that_fails_costs_an_answer_nothing_but_its_drafts(fails: str, caplog):
    class Failing:
        def __init__(self, job):
            if fails == "made":
                raise MemoryError("planted")

        def propose(self, answer, most, prices):
            generation = answer.generation
            if len(generation.sampled) < 5:
                return [Draft(token, "repeated") for token in generation.sampled]
            raise MemoryError("planted")

    events, line, state = plain(ISAS[0], "drawn")
    with Server(engine(ISAS[0]), drafter=Failing) as server:
        assert told(asyncio.run(server.events(CASES["drawn"]))) == events
        assert kept(server, line) == state
    assert caplog.text.count("tokens could not be drafted") == 1


def endless(answer: list[int]) -> Iterator[Draft]:
    yield from (Draft(token, "repeated") for token in answer)
    while True:
        yield Draft(3, "repeated")


class BrokenOff:
    """An iterator that fails after some right drafts."""

    def __init__(self, drafts: list[Draft]):
        self.drafts = iter(drafts[:2])

    def __iter__(self):
        return self

    def __next__(self) -> Draft:
        for draft in self.drafts:
            return draft
        raise RuntimeError("planted")


WRONG_IN_FORM = {
    "below all ids": lambda right: [*right[:2], Draft(-1, "repeated")],
    "beyond all ids": lambda right: [*right[:1], Draft(1 << 40, "repeated")],
    "an id that only the weights have": lambda right: [Draft(4122 - 1, "repeated")],
    "no number": lambda right: [Draft(None, "repeated")],
    "a fraction": lambda right: [Draft(right[0].token + 0.5, "repeated")],
    "text": lambda right: [Draft("5", "repeated")],
    "no drafts": lambda right: [draft.token for draft in right],
    "nothing": lambda right: None,
    "broken off": BrokenOff,
}


@pytest.mark.parametrize("wrong", WRONG_IN_FORM)
@pytest.mark.parametrize("after", [0, 5])
def test_what_is_no_draft_costs_one_answer_its_drafts_and_others_nothing(wrong: str, after: int, caplog):
    _, line, state = plain(ISAS[0], "drawn")

    class Odd:
        def __init__(self, job):
            self.is_odd = job.ids == line["prompt"]

        def propose(self, answer, most, prices):
            generation = answer.generation
            done = len(generation.sampled)
            right = [Draft(token, "repeated") for token in line["sampled"][done : done + most]]
            return WRONG_IN_FORM[wrong](right) if self.is_odd and done >= after and len(right) > 2 else []

    async def both(server: Server) -> list:
        return await asyncio.gather(server.events(CASES["drawn"]), server.events(CASES["bias"]))

    with Server(engine(ISAS[0]), drafter=Odd, max_active=2) as server:
        for case, events in zip(("drawn", "bias"), asyncio.run(both(server)), strict=True):
            assert told(events)[1:-1] == plain(ISAS[0], case)[0][1:-1], case
        assert kept(server, line) == state
    assert caplog.text.count("tokens could not be drafted") <= 1


@pytest.mark.parametrize("case", ["drawn", "seven tokens", "one token", "stop", "schema", "short thought"])
def test_more_drafts_than_were_asked_for_are_not_taken(case: str):
    events, line, state = plain(ISAS[0], case)
    asked: list[int] = []

    class Endless:
        def __init__(self, job):
            pass

        def propose(self, answer, most, prices):
            generation = answer.generation
            asked.append(most)
            assert len(generation.sampled) + most < generation.max_tokens
            return endless(line["sampled"][len(generation.sampled) :])

    with Server(engine(ISAS[0]), drafter=Endless) as server:
        assert told(asyncio.run(server.events(CASES[case]))) == events
        assert kept(server, line) == state
    assert case == "one token" or asked


@every_isa("right", "wrong", "random", others=("random", "right"))
def test_drafts_end_where_the_context_ends(isa: str, kind: str):
    one = Engine.load(isa=isa, threads=1, context=64)
    request, made = Request(messages=SECRET, sampling={**DRAWN, "max_tokens": None}), []

    def asked(server: Server) -> tuple[list, list[dict]]:
        return told(asyncio.run(server.events(request))), server.lines()

    with Server(one) as server:
        expected, (line,) = asked(server)
        state = kept(server, line)
    assert expected[-1].reason == "length" and len(line["prompt"]) + len(line["sampled"]) == 64
    with Server(one, drafter=drafter_of(one, known_of([line]), kind, made)) as server:
        events, (again,) = asked(server)
        assert events == expected and again["sampled"] == line["sampled"] and made[0].num_asked
        assert kept(server, line) == state


def test_an_answer_ends_with_its_usage_in_both_ways():
    events, line, _ = plain(ISAS[0], "stop")
    assert isinstance(events[-1], Finished) and events[-1].usage.completion_tokens == len(line["sampled"])
