"""Answers that tests of drafts ask for, the same without drafts, and servers that draft them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cache

import pytest

from a3b.engine.backend import Job
from a3b.engine.draft_sources import ContextDrafter
from a3b.engine.drafts import Drafter
from a3b.engine.engine import Engine, nano_directory
from a3b.engine.mtp_guesses import MtpGuesses
from a3b.formats.checkpoint import Checkpoint
from a3b.interface.request import Request
from a3b.kernels import _native, open_kernels
from a3b.model.config_reader import config_from_dict
from a3b.model.forward import Model
from a3b.model.loader import load_weights
from tests.support.drafters import Known, scripted, told
from tests.support.kept_answers import kept
from tests.support.random_model import NANO, config_dict, model_weights, random_tensors
from tests.support.traced_server import GREEDY, TOOL, Server, user

ISAS = _native.isas()
KINDS = ["right", "wrong", "first", "random", "special", "context", "mtp", "beside mtp"]
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
FEW = ["drawn", "logprobs", "stop in thought", "penalties", "short thought", "required", "strict tool", "schema"]


def every_isa(*kinds: str, others: Sequence[str] = ("random", "beside mtp")) -> pytest.MarkDecorator:
    """A test's isa and kind: these kinds on the widest instruction set, `others` on each that is slower."""
    pairs = [(ISAS[0], kind) for kind in kinds] + [(isa, kind) for isa in ISAS[1:] for kind in others]
    return pytest.mark.parametrize(("isa", "kind"), pairs)


def engine(isa: str, kind: str = "", threads: int = 1) -> Engine:
    """a3b-nano; for kinds with an MTP module, with one of random numbers."""
    return loaded(isa, "mtp" in kind, threads)


@cache
def loaded(isa: str, has_mtp: bool, threads: int) -> Engine:
    one = Engine.load(isa=isa, threads=threads, mtp=False)
    if not has_mtp:
        return one
    weights = load_weights(Checkpoint.open(nano_directory()), one.config)
    module = model_weights(config_from_dict(config_dict(NANO)), random_tensors(NANO, 1, mtp=True)).mtp
    kernels = open_kernels(isa, threads)
    return replace(one, model=Model(one.config, replace(weights, mtp=module), kernels, one.model.kv))


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


def drafting(isa: str, cases: Iterable[str], kind: str, made: list, threads: int = 1, **options) -> Server:
    """A server that drafts these answers. made: takes its drafters; options: of the scheduler."""
    one = engine(isa, kind, threads)
    return Server(one, drafter=drafter_of(one, known_of(plain(isa, case)[1] for case in cases), kind, made), **options)


def known_of(lines: Iterable[dict]) -> Known:
    """The answers of a trace."""
    known: Known = {}
    for line in lines:
        known.setdefault(tuple(line["prompt"]), []).append(line["sampled"])
    return known


def drafter_of(one: Engine, known: Known, kind: str, made: list) -> Callable[[Job], Drafter]:
    """What makes drafters of a kind."""
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

    def __init__(self, drafter: Drafter | None, one: Engine, job: Job):
        self.drafter, self.asked = drafter, ContextDrafter(job.ids, None, MtpGuesses(one.model.mtp, job.ids))

    def propose(self, answer, most, prices):
        self.asked.propose(answer, most, prices)
        return self.drafter.propose(answer, most, prices)
