"""What the task families share: messages, tool sets, system prompts, seeds and the outcome of a played case."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Message = dict[str, Any]
Tool = dict[str, Any]  # as OpenAI's API has it
Generate = Callable[..., Message]  # generate(messages, tools, sample=False) -> assistant message


@dataclass
class Conversation:
    """A training conversation in the chat template's own vocabulary; every assistant turn is to be learnt but those
    marked "untaught". context_weight: how much is to be learnt of the code that tools show."""

    messages: list[Message]
    tools: list[Tool] | None = None
    kwargs: dict[str, Any] = field(default_factory=dict)
    context_weight: float = 0.0


@dataclass
class CaseOutcome:
    """How a model did in one case: `ok` is the checker's verdict, `valid` whether every turn had a legal form."""

    ok: bool
    valid: bool
    detail: str
    messages: list[Message]


def rng_for(split: str, family: str, index: int) -> random.Random:
    """The generator of one example; split is "train" or "test", so the two never share a seed."""
    return random.Random(f"{split}/{family}/{index}")


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def tool_result(text: str) -> Message:
    return {"role": "tool", "content": text}


def assistant(text: str, thinking: str = "", call: tuple[str, dict[str, Any]] | None = None) -> Message:
    message: Message = {"role": "assistant", "content": text, "reasoning_content": thinking}
    if call:
        message["tool_calls"] = [{"type": "function", "function": {"name": call[0], "arguments": call[1]}}]
    return message


def tool(name: str, description: str, *params: str) -> Tool:
    properties = {p: {"type": "string"} for p in params}
    schema = {"type": "object", "properties": properties, "required": list(params)}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": schema}}


def call_form(schema: Tool) -> tuple[str, str]:
    """(name, only parameter) of a tool with one parameter."""
    function = schema["function"]
    return function["name"], next(iter(function["parameters"]["properties"]))


def without_thinking(messages: list[Message]) -> list[Message]:
    return [{**m, "reasoning_content": ""} if m["role"] == "assistant" else m for m in messages]


LOOKUP_TOOLS = [
    ("lookup", "key"),
    ("get", "key"),
    ("fetch", "id"),
    ("read_key", "key"),
    ("find", "name"),
    ("query", "id"),
]
CALC_TOOLS = [("calculate", "expression"), ("calc", "expression"), ("compute", "formula"), ("math", "expression")]
OTHER_TOOLS = [
    tool("bash", "Run a shell command.", "command"),
    tool("read_file", "Read a file.", "path"),
    tool("write_file", "Write a file.", "path", "content"),
    tool("search", "Search the web.", "query"),
    tool("weather", "Get the weather of a city.", "city"),
    tool("now", "Get the time."),
]
SYSTEMS = [
    "You are a helpful assistant.",
    "You are a3b-nano.",
    "Be brief.",
    "Answer in short sentences.",
    "You are a coding agent.",
    "You are a careful assistant. Use the tools when you need them.",
    "Be friendly.",
    "Be polite and short.",
    "You help with numbers and keys.",
    "Keep your answers short and clear.",
    "You are an assistant in a terminal.",
    "Use tools for lookups and for arithmetic.",
    "Think first, then answer.",
    "You work for the user.",
    "Always answer in English.",
    "You are a small model that runs on a CPU.",
    "Never guess.",
    "Stay calm and be exact.",
]


def system_prompt(rng: random.Random) -> list[Message]:
    """No system message half of the time, else one or two sentences."""
    if rng.random() < 0.5:
        return []
    return [{"role": "system", "content": " ".join(rng.sample(SYSTEMS, rng.choice((1, 1, 2))))}]


def tool_set(rng: random.Random, needed: list[Tool], most_others: int = 2) -> list[Tool]:
    """The needed tools among up to `most_others` that are of no use here, in any order."""
    names = {t["function"]["name"] for t in needed}
    others = [t for t in OTHER_TOOLS if t["function"]["name"] not in names]
    tools = needed + rng.sample(others, rng.choice((0, 0, 1, most_others)))
    rng.shuffle(tools)
    return tools


def said(message: Message) -> str:
    return message.get("content") or ""


def calls_of(message: Message) -> list[tuple[str, dict[str, Any]]]:
    return [(c["function"]["name"], c["function"]["arguments"]) for c in message.get("tool_calls") or []]


def legal(message: Message, tools: list[Tool] | None) -> bool:
    """One assistant turn: thinking closed, and either an answer or calls of known tools with the arguments that
    they require and no unknown ones."""
    if message.get("unfinished"):
        return False
    schemas = {t["function"]["name"]: t["function"]["parameters"] for t in tools or []}
    calls = calls_of(message)
    for name, arguments in calls:
        if name not in schemas or not set(schemas[name]["required"]) <= set(arguments) <= set(
            schemas[name]["properties"]
        ):
            return False
    return bool(calls) or bool(said(message).strip())


def play_tools(
    messages: list[Message],
    tools: list[Tool],
    answer: Callable[[str, dict[str, Any]], str],
    generate: Generate,
    most_turns: int,
) -> tuple[Message, bool]:
    """Let the model call tools until it answers; (last message, whether every turn was legal). Appends to
    `messages`."""
    valid = True
    for _ in range(most_turns):
        message = generate(messages, tools)
        messages.append(message)
        valid = valid and legal(message, tools)
        calls = calls_of(message)
        if not calls or not valid:
            break
        messages.extend(tool_result(answer(name, arguments)) for name, arguments in calls)
    return messages[-1], valid
