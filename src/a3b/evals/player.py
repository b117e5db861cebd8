"""Plays a case of a family over HTTP: its turns go to the server as the agent's do, and come back with their cost.

A case plays synchronously, in a thread of its own; the requests are made in the event loop. Enter at `play`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Protocol

from a3b.agent.answer import ModelAnswer
from a3b.agent.client import ModelClient
from a3b.errors import A3BError
from a3b.evals.families.common import CaseOutcome, Message
from a3b.evals.records import CaseCost


class PlayedCase(Protocol):
    """A case of a family."""

    def play(self, generate: Any) -> CaseOutcome: ...


@dataclass
class PlayedConversation:
    """What a case became: its messages as they went over the wire, and their cost, also if it broke off."""

    messages: list[Message] = field(default_factory=list)
    cost: CaseCost = CaseCost()


class FamilyPlayer:
    """`generate` for the cases. greedy, sampled: fields of requests whose answer is judged, and of those that a case
    wants sampled; fields: of every request."""

    def __init__(
        self,
        client: ModelClient,
        loop: asyncio.AbstractEventLoop,
        greedy: Mapping[str, Any],
        sampled: Mapping[str, Any],
        fields: Mapping[str, Any],
    ):
        self._client, self._loop = client, loop
        self._greedy, self._sampled, self._fields = greedy, sampled, fields
        self.conversation = PlayedConversation()
        self._seen: list[Message] = []  # as the case has them; a conversation only grows

    def __call__(self, messages: list[Message], tools: list[dict[str, Any]] | None, sample: bool = False) -> Message:
        sent = self.conversation.messages
        for message in messages[len(self._seen) :]:
            sent.append(self._on_wire(message))
        self._seen = list(messages)
        body = {"messages": sent, **({"tools": tools} if tools else {}), **self._fields}
        body |= self._sampled if sample else self._greedy
        answer = asyncio.run_coroutine_threadsafe(self._ask(body), self._loop).result()
        sent.append(answer.message)
        usage = answer.usage
        self.conversation.cost += CaseCost.of_request(usage.read, usage.cached, usage.written, usage.thinking)
        message = as_case_has_it(answer)
        self._seen.append(message)
        return message

    def _on_wire(self, message: Message) -> Message:
        """A result gets the id of its call: the results of a turn come in the order of its calls."""
        if message["role"] != "tool":
            return message
        sent = self.conversation.messages
        at = max(i for i, earlier in enumerate(sent) if earlier["role"] == "assistant")
        call = sent[at]["tool_calls"][len(sent) - at - 1]
        return {**message, "tool_call_id": call["id"]}

    async def _ask(self, body: Mapping[str, Any]) -> ModelAnswer:
        facts = await self._client.facts()
        request = {"model": facts.model, "stream": True, "stream_options": {"include_usage": True}, **body}
        used = {call["id"] for message in body["messages"] for call in message.get("tool_calls", ())}
        async with aclosing(self._client.answer(request, used)) as items:
            async for item in items:
                if isinstance(item, ModelAnswer):
                    return item
        raise A3BError(f"{self._client.root}: the answer has no end")


def as_case_has_it(answer: ModelAnswer) -> Message:
    """An answer with the arguments of calls as objects; what is no object is "unfinished", and so not legal."""
    message: Message = {"role": "assistant", "content": answer.text}
    message["reasoning_content"] = answer.message.get("reasoning_content", answer.message.get("reasoning", ""))
    broken = answer.reason == "length" or answer.is_cut
    calls = []
    for call in answer.calls:
        try:
            arguments = json.loads(call.arguments or "{}")
        except (ValueError, RecursionError):
            arguments = None
        broken = broken or not isinstance(arguments, dict)
        function = {"name": call.name, "arguments": arguments if isinstance(arguments, dict) else {}}
        calls.append({"type": "function", "function": function})
    if calls:
        message["tool_calls"] = calls
    if broken:
        message["unfinished"] = True
    return message


async def play(
    client: ModelClient,
    case: PlayedCase,
    greedy: Mapping[str, Any],
    sampled: Mapping[str, Any],
    fields: Mapping[str, Any],
) -> tuple[CaseOutcome, PlayedConversation]:
    """The outcome of a case and what it cost. Raises ModelServerError."""
    player = FamilyPlayer(client, asyncio.get_running_loop(), greedy, sampled, fields)
    outcome = await asyncio.to_thread(case.play, player)
    return outcome, player.conversation
