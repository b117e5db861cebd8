"""A service with a trace of what it computed, and the short forms in which tests ask it."""

from __future__ import annotations

import asyncio
import io
import json

import numpy as np

from a3b.cache.prefix_cache import PrefixCache
from a3b.engine.engine import Engine
from a3b.engine.request_renderer import ServiceSettings
from a3b.engine.scheduler import Scheduler
from a3b.engine.service import Service
from a3b.interface.events import Finished, Started, assistant_message
from a3b.interface.request import Request
from a3b.thinking.turn_memory import TurnMemory

GREEDY = {"temperature": 0.0, "max_tokens": 60}
TOOL = {
    "type": "function",
    "function": {
        "name": "get",
        "description": "Get the value of one key.",
        "parameters": {"type": "object", "properties": {"key": {"type": "string"}}, "required": ["key"]},
    },
}


class Server:
    """A service with its own cache, and the trace of what it computed."""

    def __init__(self, engine: Engine, settings: ServiceSettings | None = None, ram: int = 1 << 30, **scheduler):
        self.engine, self.trace = engine, io.StringIO()
        self.cache = PrefixCache(b"test", engine.model.new_state, ram)
        self.scheduler = Scheduler(engine.model, self.cache, **scheduler)
        self.service = Service(engine, self.scheduler, TurnMemory(), settings or ServiceSettings(), self.trace)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_) -> None:
        self.service.close()

    async def events(self, request: Request) -> list:
        return [event async for event in self.service.stream(request)]

    def ask(self, messages: list, **fields) -> tuple[dict, Finished]:
        return asyncio.run(self.answer(messages, **fields))

    async def answer(self, messages: list, **fields) -> tuple[dict, Finished]:
        fields.setdefault("sampling", GREEDY)
        events = await self.events(Request(messages=messages, **fields))
        assert isinstance(events[0], Started) and isinstance(events[-1], Finished)
        return assistant_message(events), events[-1]

    def lines(self) -> list[dict]:
        return [json.loads(line) for line in self.trace.getvalue().splitlines()]


def user(text: str) -> dict:
    return {"role": "user", "content": text}


def bare(message: dict) -> dict:
    """The turn as clients send it that drop thinking."""
    return {key: value for key, value in message.items() if key != "reasoning_content"}


def cold(engine: Engine, line: dict) -> list[int]:
    """The greedy answer of a model that has no cache."""
    state, out = engine.model.new_state(), []
    logits = engine.model.forward(np.array(line["prompt"]), state)
    while len(out) < len(line["sampled"]):
        out.append(int(logits[: engine.tokenizer.num_tokens].argmax()))
        logits = engine.model.forward(np.array(out[-1:]), state)
    return out
