"""Answers with drafted tokens, right ones and wrong ones, are those without: every event, number and stored state."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from a3b.cache.disk_store import Store
from a3b.engine import scheduler as scheduler_module
from a3b.engine.draft_prices import Balance, Effort, Prices, StepCosts
from a3b.engine.draft_sources import ContextDrafter
from a3b.engine.drafts import Draft
from a3b.engine.engine import Engine, nano_directory
from a3b.engine.mtp_guesses import MtpGuesses
from a3b.engine.request_renderer import ServiceSettings
from a3b.errors import LogitsError
from a3b.formats.checkpoint import Checkpoint
from a3b.interface.events import Finished, TextDelta, ThinkingDelta
from a3b.interface.request import Request
from a3b.kernels import _native, open_kernels
from a3b.model.config_reader import config_from_dict
from a3b.model.forward import Model
from a3b.model.loader import load_weights
from a3b.server.app import create_app
from a3b.thinking.turn_memory import TurnMemory
from tests.support import traced_server
from tests.support.drafters import scripted, told
from tests.support.kept_answers import kept, kept_of_module
from tests.support.random_model import NANO, config_dict, model_weights, random_tensors
from tests.support.serving import ask
from tests.support.traced_server import TOOL, Server, bare, user

pytestmark = pytest.mark.slow  # computes for seconds

ISAS = _native.isas()
KINDS = ["right", "wrong", "first", "random", "special", "context", "mtp", "beside mtp"]
GREEDY = {"temperature": 0.0, "max_tokens": 60}
DRAWN = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "seed": 11, "max_tokens": 60}
SECRET = [user("Think of two numbers from 0 to 999. Tell me only the first.")]
CHAIN = [user("Start at a1b2 and follow the chain for 2 steps. Where do you end?")]
SUM = [user("What is 17 plus 25?")]
SCHEMA = {
    "type": "object",
    "properties": {"name": {"enum": ["Anna", "Bertram"]}, "ages": {"type": "array", "items": {"type": "integer"}}},
    "required": ["name", "ages"],
    "additionalProperties": False,
}
STRICT = {**TOOL, "function": {**TOOL["function"], "strict": True}}
CASES = {
    "greedy": Request(messages=SECRET, sampling=GREEDY),
    "drawn": Request(messages=SECRET, sampling=DRAWN),
    "hot": Request(messages=SECRET, sampling=DRAWN | {"temperature": 1.7, "seed": 3}),
    "cut": Request(messages=SECRET, sampling=DRAWN | {"top_k": 20, "top_p": 0.9, "min_p": 0.02}),
    "logprobs": Request(messages=SUM, sampling=DRAWN, top_logprobs=4),
    "one token": Request(messages=SUM, sampling=GREEDY | {"max_tokens": 1}),
    "seven tokens": Request(messages=SUM, sampling=GREEDY | {"max_tokens": 7}),
    "stop": Request(messages=SUM, sampling=GREEDY | {"stop": ["2", "is "]}),
    "stop in thought": Request(messages=SECRET, sampling=DRAWN | {"stop": ["\n", "first: "]}),
    "penalties": Request(
        messages=SECRET,
        sampling=DRAWN | {"repetition_penalty": 1.3, "presence_penalty": 0.7, "frequency_penalty": 0.4},
    ),
    "bias": Request(messages=SUM, sampling=DRAWN | {"logit_bias": [(100, 4.0), (5, -100)]}),
    "no thought": Request(messages=SUM, sampling=DRAWN, thinking_budget=0),
    "short thought": Request(messages=SECRET, sampling=DRAWN, thinking_budget=5),
    "thought with a nudge": Request(messages=SECRET, sampling=DRAWN | {"max_tokens": 120}, thinking_budget=48),
    "task budget": Request(messages=CHAIN, sampling=GREEDY, tools=[TOOL], task_budget=9),
    "tools": Request(messages=CHAIN, sampling=DRAWN, tools=[TOOL]),
    "strict tool": Request(messages=CHAIN, sampling=GREEDY, tools=[STRICT]),
    "one call": Request(messages=CHAIN, sampling=GREEDY, tools=[TOOL], parallel_tool_calls=False),
    "required": Request(messages=SUM, sampling=DRAWN, tools=[TOOL], tool_choice="required", thinking_budget=4),
    "no calls": Request(messages=CHAIN, sampling=DRAWN, tools=[TOOL], tool_choice="none"),
    "schema": Request(messages=SUM, sampling=DRAWN | {"max_tokens": 90}, schema=SCHEMA, thinking_budget=4),
    "raw": Request(prompt="One, two, three, four", sampling=DRAWN, top_logprobs=2),
    "scored": Request(prompt="One, two, three, four", sampling=DRAWN, top_logprobs=1, scores_prompt=True),
    "beginning": Request(messages=SUM, sampling=DRAWN, begins_many=True),
}


@pytest.fixture(autouse=True)
def asked_and_read_at_each_step(monkeypatch):
    """Whatever that costs."""
    monkeypatch.setattr(Effort, "is_spent", False)
    monkeypatch.setattr(StepCosts, "prices", lambda self, num_answers: Prices(0.01, 0.01))
    monkeypatch.setattr(Balance, "affords", lambda self, paid: True)


def engine(isa: str, kind: str = "") -> Engine:
    """a3b-nano; for kinds with an MTP module, with one of random numbers."""
    return loaded(isa, "mtp" in kind)


@cache
def loaded(isa: str, has_mtp: bool) -> Engine:
    one = Engine.load(isa=isa, threads=1, mtp=False)
    if not has_mtp:
        return one
    weights = load_weights(Checkpoint.open(nano_directory()), one.config)
    module = model_weights(config_from_dict(config_dict(NANO)), random_tensors(NANO, 1, mtp=True)).mtp
    return replace(one, model=Model(one.config, replace(weights, mtp=module), open_kernels(isa, 1), one.model.kv))


def special(one: Engine) -> list[int]:
    names = ("<|im_end|>", "<|im_start|>", "<think>", "</think>", "<tool_call>", "</tool_call>")
    return [*map(one.tokenizer.control_id, names), *one.tokenizer.encode_text("\n"), 0]


@cache
def plain(isa: str, case: str) -> tuple[list, dict, tuple]:
    """Events, trace and stored state of the answer without drafts."""
    with Server(engine(isa)) as server:
        events = told(asyncio.run(server.events(CASES[case])))
        line = server.lines()[0]
        return events, line, kept(server, line)


def drafting(isa: str, cases, kind: str, made: list, **options) -> Server:
    known: dict = {}
    for case in cases:
        line = plain(isa, case)[1]
        known.setdefault(tuple(line["prompt"]), []).append(line["sampled"])
    one = engine(isa, kind)
    return Server(one, drafter=drafter_of(one, known, kind, made), **options)


def drafter_of(one: Engine, known: dict, kind: str, made: list):
    if kind == "context":
        return lambda job: made.append(ContextDrafter(job.ids)) or made[-1]
    if kind == "mtp":
        return lambda job: made.append(ContextDrafter(job.ids, None, MtpGuesses(one.model.mtp, job.ids))) or made[-1]
    if kind == "beside mtp":
        others: list = []
        make = scripted(known, "random", one.tokenizer.num_tokens, special(one), others)
        return lambda job: made.append(Beside(make(job), one, job)) or made[-1]
    return scripted(known, kind, one.tokenizer.num_tokens, special(one), made)


class Beside:
    """Drafts that are right now and then, while the MTP module guesses others that are not read."""

    def __init__(self, drafter, one: Engine, job):
        self.drafter, self.asked = drafter, ContextDrafter(job.ids, None, MtpGuesses(one.model.mtp, job.ids))

    def propose(self, answer, most, prices):
        self.asked.propose(answer, most, prices)
        return self.drafter.propose(answer, most, prices)


@pytest.mark.parametrize(
    ("isa", "kind"),
    [(ISAS[0], kind) for kind in KINDS]
    + [(isa, kind) for isa in ISAS[1:] for kind in ("random", "special", "beside mtp")],
)
def test_drafts_change_nothing_that_a_client_is_told_nor_what_is_stored(isa: str, kind: str):
    for case, request in CASES.items():
        events, line, state = plain(isa, case)
        made: list = []
        with drafting(isa, [case], kind, made) as server:
            assert told(asyncio.run(server.events(request))) == events, case
            assert server.lines()[0]["sampled"] == line["sampled"], case
            assert kept(server, line) == state, case
            if "mtp" in kind and case != "scored":  # what is scored is not stored
                stored, read = kept_of_module(server, line)
                assert stored == read and len(stored) > 1, case
        if kind == "right" and len(line["sampled"]) > 8:
            assert made[0].num_asked < len(line["sampled"]) / 2, (case, "drafts were kept")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("waited", [0, 1], ids=["late", "waited for"])
def test_answers_in_a_batch_with_drafts_are_those_alone(kind: str, waited: int, monkeypatch):
    """Masks that come late keep logits of drafts over several steps."""
    monkeypatch.setattr(scheduler_module, "DRAFT_HELD_S", waited)
    isa, made, cases = ISAS[0], [], [case for case in CASES if case not in ("raw", "scored", "beginning")]

    async def all_of(server: Server):
        return await asyncio.gather(*(server.events(CASES[case]) for case in cases))

    with drafting(isa, cases, kind, made, max_active=6) as server:
        for case, events in zip(cases, asyncio.run(all_of(server)), strict=True):
            # where it starts in the cache depends on who came first
            assert told(events)[1:-1] == plain(isa, case)[0][1:-1], case
            assert events[-1].reason == plain(isa, case)[0][-1].reason
    assert len(made) == len(cases) - 1  # an answer of one token needs none


@pytest.mark.parametrize("kind", KINDS)
def test_a_conversation_goes_on_from_the_same_places_as_without_drafts(kind: str):
    isa = ISAS[0]

    def talk(server: Server) -> list[dict]:
        messages = list(SECRET)
        for text in ("And the other number?", "hello", "Thanks!"):
            message, _ = server.ask(messages, sampling=DRAWN)
            messages += [bare(message), user(text)]
        server.ask(messages, sampling=DRAWN)
        return [
            {k: v for k, v in line.items() if not k.endswith("_s") and k != "speculation"} for line in server.lines()
        ]

    with Server(engine(isa)) as server:
        expected = talk(server)
    known = {tuple(line["prompt"]): [line["sampled"]] for line in expected}
    one, made = engine(isa, kind), []
    with Server(one, drafter=drafter_of(one, known, kind, made), verify_every=1) as server:
        assert talk(server) == expected
        assert server.scheduler.num_verified == 3 and server.scheduler.num_wrong == 0


@pytest.mark.parametrize("kind", ["right", "random", "context", "beside mtp"])
def test_several_answers_to_a_prompt_are_those_without_drafts(kind: str):
    body = {"messages": SECRET, "temperature": 1.2, "seed": 7, "max_tokens": 40, "n": 3, "logprobs": True}
    one, made = engine(ISAS[0], kind), []

    def asked(server: Server) -> tuple[list, dict]:
        reply = asyncio.run(ask(create_app(server.service), "/v1/chat/completions", body))
        known: dict = {}
        for line in server.lines():
            known.setdefault(tuple(line["prompt"]), []).append(line["sampled"])
        return reply.json()["choices"], known

    with Server(one) as server:
        expected, known = asked(server)
    with Server(one, drafter=drafter_of(one, known, kind, made)) as server:
        assert asked(server)[0] == expected
    assert len(expected) == 3 and len(made) == 3


@pytest.mark.parametrize("kind", ["right", "random", "context", "mtp", "beside mtp"])
def test_a_conversation_read_from_disk_goes_on_as_one_without_drafts(kind: str, tmp_path):
    one, made = engine(ISAS[0], kind), []
    question = [user("What is 17 plus 25? " + "Take your time, please. " * 12)]

    def talk(directory, drafter) -> tuple[list, list]:
        """Two turns, each in a server of its own."""
        messages, lines = list(question), []
        for text in ("And 3 more?", ""):
            with Store(directory) as store, Server(one, drafter=drafter) as server:
                server.cache.store = server.cache.store or store
                message, _ = server.ask(messages, sampling=DRAWN)
                lines += server.lines()
                assert store.flush()
            messages += [bare(message), user(text)]
        return lines, messages

    lines, expected = talk(tmp_path / "plain", None)
    known = {tuple(line["prompt"]): [line["sampled"]] for line in lines}
    found, messages = talk(tmp_path / "drafted", drafter_of(one, known, kind, made))
    assert messages == expected and lines[1]["cached_tokens"] > 40
    for a, b in zip(found, lines, strict=True):
        assert (a["sampled"], a["cached_tokens"], a["cache"]) == (b["sampled"], b["cached_tokens"], b["cache"])


def test_a_conversation_read_from_disk_is_guessed_as_one_in_memory(tmp_path, monkeypatch):
    """Keys and values of the MTP module, and the last hidden row, come back too."""
    one, asked = engine(ISAS[0], "mtp"), [user("What is 17 plus 25? " + "Take your time, please. " * 12)]

    def told_drafts(is_kept: bool) -> list[list[int]]:
        drafts: list[list[int]] = []
        memory = TurnMemory()  # of turns, also of the second server
        monkeypatch.setattr(traced_server, "TurnMemory", lambda: memory)

        class Noted(Beside):
            def propose(self, answer, most, prices):
                found = self.asked.propose(answer, most, prices)
                drafts.append([draft.token for draft in found if draft.source == "mtp"])
                return found

        def serving() -> Server:
            """Without grammars, whose masks come sooner or later."""
            return Server(one, ServiceSettings(guards_output=False), drafter=lambda job: Noted(None, one, job))

        messages, server = list(asked), serving()
        with Store(tmp_path / str(is_kept)) as store:
            for _ in range(2):
                server.cache.store = store
                drafts.clear()
                message, finished = server.ask(messages, sampling=GREEDY)
                messages += [bare(message), user("And 3 more?")]
                assert store.flush()
                if is_kept and len(messages) == 3:
                    server.service.close()
                    server = serving()
            server.service.close()
        assert finished.usage.cached_tokens > 40
        return drafts

    found = told_drafts(is_kept=True)
    assert found == told_drafts(is_kept=False) and sum(map(len, found)) > 5


@pytest.mark.parametrize("kind", ["right", "random"])
@pytest.mark.parametrize("after", [1, 4, 17])
def test_who_leaves_an_answer_with_drafts_leaves_a_state_that_goes_on(kind: str, after: int):
    isa, made, request = ISAS[0], [], CASES["thought with a nudge"]
    events, line, _ = plain(isa, "thought with a nudge")

    async def leave(server: Server) -> None:
        stream, seen = server.service.stream(request), 0
        async for event in stream:
            seen += isinstance(event, ThinkingDelta | TextDelta)
            if seen == after:
                break
        await stream.aclose()
        while server.scheduler.load() != (0, 0):
            await asyncio.sleep(0.01)

    with drafting(isa, ["thought with a nudge"], kind, made) as server:
        asyncio.run(leave(server))
        found = server.cache.sync("", line["prompt"] + line["sampled"])
        state, ids = found.state, np.array(line["prompt"] + line["sampled"])
        assert found.reused == state.num_tokens > len(line["prompt"]) - 20
        cold = engine(isa).model.new_state()
        model = engine(isa).model
        model.forward(ids[: found.reused], cold, logits="none")
        np.testing.assert_array_equal(cold.delta, state.delta)
        np.testing.assert_array_equal(cold.conv, state.conv)
        assert told(asyncio.run(server.events(request)))[1:-1] == events[1:-1]


def test_logits_that_are_not_finite_end_an_answer_at_the_token_that_they_belong_to(monkeypatch):
    """Those of a draft that is not reached end nothing."""
    isa, made = ISAS[0], []
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


@pytest.mark.parametrize("kind", ["right", "wrong", "random"])
def test_drafts_end_where_the_context_ends(kind: str):
    one = Engine.load(isa=ISAS[0], threads=1, context=64)
    request, made = Request(messages=SECRET, sampling={**DRAWN, "max_tokens": None}), []

    def asked(server: Server) -> tuple[list, list[dict]]:
        return told(asyncio.run(server.events(request))), server.lines()

    with Server(one) as server:
        expected, (line,) = asked(server)
    assert expected[-1].reason == "length" and len(line["prompt"]) + len(line["sampled"]) == 64
    known = {tuple(line["prompt"]): [line["sampled"]]}
    with Server(one, drafter=drafter_of(one, known, kind, made)) as server:
        events, (again,) = asked(server)
        assert events == expected and again["sampled"] == line["sampled"] and made[0].num_asked


def test_an_answer_ends_with_its_usage_in_both_ways():
    events, line, _ = plain(ISAS[0], "stop")
    assert isinstance(events[-1], Finished) and events[-1].usage.completion_tokens == len(line["sampled"])
