"""From a request in neutral form to a stream of events: turns recognised, prompt made, job scheduled, turn remembered.

Everything an API needs and nothing about HTTP. Enter at `Service.stream`. What takes time (template, tokenizer, grammar, store) runs in
one helper thread, in order; the model runs in the scheduler's.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import secrets
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, TextIO

from a3b.answer import Answer
from a3b.budget import ThinkingControl, ThinkingTokens
from a3b.cache.prefix import Match
from a3b.constrain import Grammars
from a3b.engine import Engine, ends_in_thinking, refuse_images
from a3b.errors import ContextError, OverloadedError, UsageError
from a3b.events import CacheReport, Event, Finished, Started, ThinkingInContext, Usage, assistant_message
from a3b.requests import Request, check_policy
from a3b.sampler import SamplingParams, preset
from a3b.scheduler import Job, Scheduler
from a3b.tokens.fit import fit_messages
from a3b.tokens.segments import END_OF_TURN, Prompt, Text
from a3b.turns import Message, Turn, Turns, apply_policy, last_question, text_of

VOLATILE = re.compile(r"^x-anthropic-billing-header:.*(?:\n|$)", re.MULTILINE)  # changes with every request of Claude Code
log = logging.getLogger("a3b")
SHOWN_TOKENS = 12  # of a prompt, where it diverged
LABEL_LEN = 60  # characters of the first question, by which a session is known in lists


@dataclass(frozen=True)
class Settings:
    """What a server does unless a request says otherwise."""

    policy: str = "all"  # which thinking of earlier turns stays
    think: bool = True
    thinking_budget: int | None = None  # tokens in one answer
    task_budget: int | None = None  # tokens since the last turn of the user
    persist_thinking: bool = True  # False: nothing behind the first thinking goes to the disk

    def __post_init__(self):
        check_policy(self.policy)


@dataclass(frozen=True)
class Prepared:
    """A request made into tokens."""

    request: Request
    messages: list[Message]  # as recalled, policy applied
    prompt: Prompt
    ids: list[int]
    thinking: ThinkingInContext
    spent: int  # tokens of thinking since the last turn of the user
    think: bool
    params: SamplingParams


class Service:
    def __init__(self, engine: Engine, scheduler: Scheduler, turns: Turns, settings: Settings = Settings(),
                 trace: TextIO | None = None):
        """trace: gets a line of JSON for each answer, with all its token ids."""
        self.engine, self.scheduler, self.turns, self.settings, self._trace = engine, scheduler, turns, settings, trace
        self.model, self.context = engine.name, engine.context
        self._helper = ThreadPoolExecutor(1, "service")
        self._num_preparing = 0
        self._grammars = Grammars(engine.tokenizer)
        tokenizer = engine.tokenizer
        self._end, self._begin = tokenizer.control_id(END_OF_TURN), tokenizer.control_id("<|im_start|>")
        self._system = tokenizer.encode_text("system")[:1]  # tells a system turn from others
        self._thinking_tokens = ThinkingTokens.of(tokenizer)
        self.totals = dict.fromkeys(("requests", "prompt_tokens", "cached_tokens", "completion_tokens", "thinking_tokens",
                                     "thinking_restored_tokens", "thinking_dropped_tokens"), 0)  # fmt: skip

    async def stream(self, request: Request) -> AsyncIterator[Event]:
        """Started, Reading*, deltas, Finished. A refusal is an A3BError before the first event; closing the iterator cancels."""
        places = self.scheduler.max_active + self.scheduler.max_waiting
        if self._num_preparing + sum(self.scheduler.load()) >= places:
            raise OverloadedError(f"all {places} places are taken; try again later")
        self._num_preparing += 1
        try:
            prepared = await self._prepared(request)
            answer = await self._in_helper(self._answer, prepared)
        finally:
            self._num_preparing -= 1
        queue: asyncio.Queue = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def emit(item: list[Event] | Exception) -> None:
            try:
                loop.call_soon_threadsafe(queue.put_nowait, item)
            except RuntimeError:  # the loop is gone, and the client with it
                job.cancelled.set()

        job = self._job(prepared, answer, emit)
        self.scheduler.submit(job)
        self.totals["requests"] += 1
        events: list[Event] = []
        try:
            while True:
                item = await queue.get()
                if isinstance(item, Exception):
                    raise item
                for event in item:
                    events.append(event)
                    if isinstance(event, Finished):
                        try:
                            await self._in_helper(self._remember, prepared, job, events)
                        except Exception:  # a full disk, say: the answer is whole all the same
                            log.exception("a turn could not be remembered")
                        self._count(event)
                        yield event
                        return
                    yield event
        finally:
            job.cancelled.set()

    async def count_tokens(self, request: Request) -> int:
        return len((await self._prepared(request)).ids)

    async def render(self, request: Request) -> list[int]:
        """Ids of the prompt that `stream` would read."""
        return (await self._prepared(request)).ids

    async def _prepared(self, request: Request) -> Prepared:
        """Tokens are cut in a thread of its own for each request: a text of megabytes takes long, and others must not wait for it."""
        told = await self._in_helper(self._told, request)
        ids = await asyncio.to_thread(self.engine.tokenizer.encode, told[3])
        return self._prepare(request, *told, ids)

    def encode(self, text: str) -> list[int]:
        return self.engine.tokenizer.encode_text(text)

    def decode(self, ids: list[int]) -> str:
        return self.engine.tokenizer.decode(ids)

    def health(self) -> dict[str, Any]:
        active, waiting = self.scheduler.load()
        status = "ok" if self.scheduler.is_alive() else "stopped"
        return {"status": status, "model": self.model, "context": self.context, "active": active, "waiting": waiting}

    def metrics(self) -> dict[str, float]:
        """Counters and gauges, flat."""
        active, waiting = self.scheduler.load()
        found = {f"{name}_total": float(value) for name, value in self.totals.items()}
        store = self.scheduler.cache.store
        found["store_trouble"] = float(bool(store and store.trouble))
        found |= {"active_requests": active, "waiting_requests": waiting, "cache_verified_total": self.scheduler.num_verified,
                  "cache_wrong_total": self.scheduler.num_wrong}  # fmt: skip
        return found | {f"cache_{name}": float(value) for name, value in asdict(self.scheduler.cache.stats()).items()}

    def close(self) -> None:
        self.scheduler.close()
        self._helper.shutdown()

    async def _in_helper(self, fn: Callable, *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._helper, fn, *args)

    # -- in the helper thread

    def _told(self, request: Request) -> tuple[list[Message], ThinkingInContext, int, Prompt, bool]:
        think = self.settings.think if request.think is None else request.think
        if request.prompt is not None:
            prompt: Prompt = [Text(request.prompt)]
            messages, spent, fates, think = [], 0, ThinkingInContext(), False
        else:
            messages, fates, spent, prompt = self._conversation(request, think)
        refuse_images(prompt)
        return messages, fates, spent, prompt, think

    def _prepare(self, request: Request, messages: list[Message], fates: ThinkingInContext, spent: int, prompt: Prompt, think: bool,
                 ids: list[int]) -> Prepared:  # fmt: skip
        if not ids:
            raise UsageError("prompt: empty; expected text")
        room = self.context - len(ids)
        if room < 1:
            raise ContextError(f"prompt: {len(ids)} tokens > {self.context - 1}, the context with room to answer; shorten the conversation "
                               "or start the server with a larger --context")  # fmt: skip
        name = "nano" if self.engine.is_nano else "thinking" if think else "instruct"
        params = preset(name, has_tools=bool(request.tools), is_nano=self.engine.is_nano, **request.sampling)
        return Prepared(request, messages, prompt, ids, fates, spent, think, params)

    def _conversation(self, request: Request, think: bool) -> tuple[list[Message], ThinkingInContext, int, Prompt]:
        fitted, _ = fit_messages([_without_volatile(message) for message in request.messages])
        recalled, blocks = self.turns.recall(request.namespace, fitted, lambda text: len(self.encode(text)))
        messages, fates, keep = apply_policy(recalled, blocks, request.policy or self.settings.policy)
        kwargs = dict(request.template_kwargs)
        kwargs |= {"preserve_thinking": True} if keep else {}
        kwargs |= {} if think else {"enable_thinking": False}
        prompt = self.engine.template.render(messages, tools=request.tools or None, **kwargs)
        question = last_question(recalled)
        spent = sum(block.tokens for block in blocks if block.index > question)
        return messages, fates, spent, prompt

    def _answer(self, prepared: Prepared) -> Answer:
        request, tokenizer = prepared.request, self.engine.tokenizer
        room = self.context - len(prepared.ids)
        in_thinking = ends_in_thinking(prepared.prompt)
        control = None
        if request.prompt is None:
            control = ThinkingControl(
                self._thinking_tokens, tokenizer.token_bytes, in_thinking=in_thinking, spent=prepared.spent,
                budget=_least(request.thinking_budget, self.settings.thinking_budget),
                task_budget=_least(request.task_budget, self.settings.task_budget),
            )  # fmt: skip
        return Answer(
            tokenizer, self.engine.config.eos_token_ids, prepared.ids, prepared.params, min(prepared.params.max_tokens or room, room),
            tools=request.tools, in_thinking=in_thinking, constraint=self._grammars.of(request), control=control,
            top_logprobs=request.top_logprobs, call_id=lambda _: f"call_{secrets.token_hex(12)}",
            is_raw=request.prompt is not None,
        )  # fmt: skip

    def _remember(self, prepared: Prepared, job: Job, events: list[Event]) -> None:
        """The turn, so that the client may send it back without its thinking."""
        finished = events[-1]
        if self._trace is not None:
            line = {"request": prepared.request.request_id, "prompt": prepared.ids, "sampled": job.answer.sampled,
                    "reason": finished.reason, **asdict(finished.usage)}  # fmt: skip
            print(json.dumps(line), file=self._trace, flush=True)
        if prepared.request.prompt is not None or finished.reason == "cancelled":
            return
        message = assistant_message(events)
        turn = Turn.of(message, self._turn_ids(job.answer), not ends_in_thinking(prepared.prompt), job.answer.thinking_tokens)
        self.turns.remember(prepared.request.namespace, prepared.messages, turn, self.settings.persist_thinking, job.end_node)

    def _turn_ids(self, answer: Answer) -> list[int]:
        """The whole turn as sampled, closed as the template closes it if the tokens ran out or another token ended it (a text ends
        with <|endoftext|>); [] if text and ids are not the same."""
        if answer.stop_string is not None:
            return []
        ids = answer.sampled
        if ids[-1:] == [self._end]:
            return ids
        is_ended = bool(ids) and ids[-1] in answer.eos
        if not (is_ended or answer.reason == "length") or not answer.all_complete:
            return []
        closing = self._thinking_tokens.closing if answer.thinking_stop == "length" else ()
        return [*(ids[:-1] if is_ended else ids), *closing, self._end]

    # -- in the scheduler's thread

    def _job(self, prepared: Prepared, answer: Answer, emit: Callable) -> Job:
        ids = prepared.ids
        first_thinking = next((i for i, token in enumerate(ids) if token == self._thinking_tokens.open), len(ids))
        persists_all = self.settings.persist_thinking
        label = next((text_of(m) for m in prepared.messages if m["role"] == "user"), prepared.request.prompt or "")[:LABEL_LEN]
        turn_starts = [i for i, token in enumerate(ids) if token == self._begin]
        has_system = bool(turn_starts) and ids[turn_starts[0] + 1 : turn_starts[0] + 2] == self._system

        def usage(job: Job) -> Usage:
            return Usage(len(ids), job.match.reused if job.match else 0, len(answer.sampled), answer.thinking_tokens, job.prefill_s,
                         job.decode_s, self._report(job.match), prepared.thinking)  # fmt: skip

        return Job(
            prepared.request.namespace, ids, answer,
            started=lambda match: Started(Usage(len(ids), match.reused, cache=self._report(match), thinking=prepared.thinking)),
            finished=lambda job: Finished(answer.reason, usage(job), answer.stop_string, answer.thinking_stop),
            emit=emit, turn_starts=turn_starts, has_system=has_system, label=label,
            persist=lambda num: persists_all or num <= first_thinking,
        )  # fmt: skip

    def _report(self, match: Match | None) -> CacheReport:
        if match is None:
            return CacheReport()
        expected, found = (self.decode(list(part)[:SHOWN_TOKENS]) for part in (match.expected_ids, match.found_ids))
        return CacheReport(match.reused, match.miss, match.position, expected, found)

    def _count(self, finished: Finished) -> None:
        usage, totals = finished.usage, self.totals
        for name in ("prompt_tokens", "cached_tokens", "completion_tokens", "thinking_tokens"):
            totals[name] += getattr(usage, name)
        totals["thinking_restored_tokens"] += usage.thinking.restored
        totals["thinking_dropped_tokens"] += usage.thinking.dropped


def _without_volatile(message: Any) -> Any:
    """A message less the lines that change with every request and mean nothing to the model."""
    if not isinstance(message, dict) or message.get("role") not in ("system", "developer"):
        return message
    content = message.get("content")
    if isinstance(content, str):
        return {**message, "content": VOLATILE.sub("", content)}
    if isinstance(content, list):
        parts = [
            {**part, "text": VOLATILE.sub("", part["text"])} if isinstance(part, dict) and isinstance(part.get("text"), str) else part
            for part in content
        ]
        return {**message, "content": parts}
    return message


def _least(*budgets: int | None) -> int | None:
    return min((budget for budget in budgets if budget is not None), default=None)
