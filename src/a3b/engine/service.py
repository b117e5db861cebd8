"""From a request in neutral form to a stream of events: turns recognised, prompt made, job scheduled, turn remembered.

Everything an API needs and nothing about HTTP. Enter at `Service.stream`. A request is prepared (template, tokenizer,
grammar) in a thread of its own, which ends when its client leaves; turns are remembered in one thread, in order; the
model runs in the scheduler's."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import secrets
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, TextIO

from a3b.cache.prefix_cache import Match
from a3b.constrain.constraints import Grammars
from a3b.engine.engine import Engine
from a3b.engine.generation import Generation
from a3b.engine.scheduler import Job, Scheduler
from a3b.errors import OverloadedError, UsageError
from a3b.interface.events import (
    CacheReport,
    Event,
    Finished,
    Started,
    ThinkingInContext,
    TruncationPoint,
    Usage,
    assistant_message,
)
from a3b.interface.request import Request, check_policy
from a3b.interface.sampling_params import SamplingParams, preset
from a3b.isolation.deadlines import in_thread
from a3b.prompt.chat_template import check_template_kwargs
from a3b.prompt.normalise_messages import normalise_messages
from a3b.prompt.renderer import Renderer
from a3b.prompt.segments import END_OF_TURN, VISION_PADS, Prompt, Text, ends_in_thinking, refuse_images
from a3b.prompt.tokenizer import too_long
from a3b.thinking.budget import ThinkingControl, ThinkingTokens
from a3b.thinking.policy import apply_policy, last_question
from a3b.thinking.stable_dates import DatePreamble, Dates, without_billing_lines
from a3b.thinking.turn import Message, Turn, text_of
from a3b.thinking.turn_memory import TurnMemory

log = logging.getLogger("a3b")
SHOWN_TOKENS = 12  # of a prompt, where it diverged
PREPARE_S = 60  # for one request, until the model can read it
LEAVING_S = 1.0  # within which it is noticed that a client has left
LABEL_LEN = 60  # characters of the first question, by which a session is known in lists


@dataclass(frozen=True)
class Settings:
    """What a server does unless a request says otherwise."""

    policy: str = "all"  # which thinking of earlier turns stays
    think: bool = True
    thinking_budget: int | None = None  # tokens in one answer
    task_budget: int | None = None  # tokens since the last turn of the user
    persist_thinking: bool = True  # False: nothing behind the first thinking goes to the disk
    exact_dates: bool = False  # True: dates in prompts are always those of the request

    def __post_init__(self):
        check_policy(self.policy)


@dataclass(frozen=True)
class RenderedRequest:
    """A request as the prompt that the model reads."""

    messages: list[Message]  # as recalled, policy applied
    prompt: Prompt
    thinking: ThinkingInContext
    spent: int  # tokens of thinking since the last turn of the user
    dates: Dates  # at its beginning
    kept_dates: int  # of them, not those of the request


@dataclass(frozen=True)
class Prepared(RenderedRequest):
    """A request made into tokens."""

    request: Request
    ids: list[int]
    params: SamplingParams


class Service:
    def __init__(
        self,
        engine: Engine,
        scheduler: Scheduler,
        turns: TurnMemory,
        settings: Settings = Settings(),
        trace: TextIO | None = None,
    ):
        """trace: gets a line of JSON for each answer, with all its token ids."""
        self.engine, self.scheduler, self.turns, self.settings, self._trace = engine, scheduler, turns, settings, trace
        self.model, self.context = engine.name, engine.context
        self.places, self.template = scheduler.max_active, engine.template.source
        self._helper = ThreadPoolExecutor(1, "service")  # remembers turns
        self._preparing = ThreadPoolExecutor(scheduler.max_active + scheduler.max_waiting, "prepare")
        self._num_preparing = 0
        # answers on their way to a client; set when it has all or has left
        self._wanted: dict[asyncio.Event, Request] = {}
        # answers whose client has left, until they are over: their namespaces
        self._leaving: dict[Future[None], str] = {}
        self._grammars, self._renderer = Grammars(engine.tokenizer), Renderer(engine.template)
        if not engine.is_nano:
            self._helper.submit(self._grammars.prepare)
        tokenizer = engine.tokenizer
        self._end, self._begin = tokenizer.control_id(END_OF_TURN), tokenizer.control_id("<|im_start|>")
        self._system = tokenizer.encode_text("system")[:1]  # tells a system turn from others
        self._thinking_tokens = ThinkingTokens.of(tokenizer)
        self.totals = dict.fromkeys(
            (
                "requests",
                "prompt_tokens",
                "cached_tokens",
                "completion_tokens",
                "thinking_tokens",
                "thinking_restored_tokens",
                "thinking_dropped_tokens",
            ),
            0,
        )

    async def stream(self, request: Request) -> AsyncGenerator[Event, None]:
        """Started, Reading*, deltas, Finished. A refusal is an A3BError before the first event; closing the iterator
        cancels."""
        places = self.scheduler.max_active + self.scheduler.max_waiting
        if self._num_preparing + sum(self.scheduler.load()) >= places:
            raise OverloadedError(f"all {places} places are taken; try again later")
        self._num_preparing += 1
        try:
            prepared = await self._prepared(request)
            generation = await self._work(self._generation, prepared)
        finally:
            self._num_preparing -= 1
        queue: asyncio.Queue = asyncio.Queue()
        loop = asyncio.get_running_loop()
        events: list[Event] = []  # all there are, also those that a client which leaves never gets
        over: Future[None] = Future()  # and remembered

        def emit(item: list[Event] | Exception) -> None:
            if isinstance(item, Exception):
                generation.close()
                over.set_result(None)
            else:
                events.extend(item)
                if item and isinstance(item[-1], Finished):
                    generation.close()
                    self._helper.submit(self._try, self._remember, prepared, job, events).add_done_callback(
                        lambda _: over.set_result(None)
                    )
            try:
                loop.call_soon_threadsafe(queue.put_nowait, item)
            except RuntimeError:  # the loop is gone, and the client with it
                self.scheduler.cancel(job)

        job = self._job(prepared, generation, emit)
        self.scheduler.submit(job)
        self.totals["requests"] += 1
        was_left, parted = True, asyncio.Event()
        self._wanted[parted] = request
        try:
            while True:
                item = await queue.get()
                if isinstance(item, Exception):
                    raise item
                for event in item:
                    if isinstance(event, Finished):
                        await asyncio.shield(asyncio.wrap_future(over))
                        self._count(event)
                        was_left = False
                        self._part(parted)
                        yield event
                        return
                    yield event
        finally:
            self.scheduler.cancel(job)
            self._part(parted)
            if was_left:
                self._leaving[over] = request.namespace
                over.add_done_callback(self._leaving.pop)
                if events and isinstance(events[-1], Finished):  # it was over already
                    with suppress(RuntimeError):  # the server is closing
                        stopped = self._helper.submit(self._try, self._remember_stopped, prepared, job, events)
                        self._leaving[stopped] = request.namespace
                        stopped.add_done_callback(self._leaving.pop)

    def _part(self, parted: asyncio.Event) -> None:
        self._wanted.pop(parted, None)
        parted.set()

    async def count_tokens(self, request: Request) -> int:
        """Tokens of the prompt, be it longer than the context."""
        return len(await self.render(request))

    async def render(self, request: Request) -> list[int]:
        """Ids of the prompt that `stream` would read if it fitted."""
        return (await self._tokens(request))[1]

    async def _prepared(self, request: Request) -> Prepared:
        most = self.context - (0 if request.only_reads else 1)
        return self._prepare(request, *await self._tokens(request, most))

    async def _tokens(self, request: Request, most: int | None = None) -> tuple[RenderedRequest, list[int]]:
        """most: tokens that fit; ends as soon as it is certain that there are more."""
        stopped = [
            asyncio.ensure_future(parted.wait())
            for parted, answered in self._wanted.items()
            if _goes_on(request, answered)
        ]
        if stopped:  # so says this request; that the client has left them may be noticed later
            _, others = await asyncio.wait(stopped, timeout=LEAVING_S)
            for other in others:
                other.cancel()
        for over in [over for over, namespace in list(self._leaving.items()) if namespace == request.namespace]:
            await asyncio.shield(asyncio.wrap_future(over))  # a step at most; this may be what the client goes on with
        if most is not None and len(request.messages) > most:
            raise too_long(len(request.messages), most, ", for so many messages")
        rendered = await self._work(self._rendered, request, self._thinks(request))
        if isinstance(request.prompt, list):
            if most is not None and len(request.prompt) > most:
                raise too_long(len(request.prompt), most)
            return rendered, await self._work(self._checked, request.prompt)
        return rendered, await self._work(self.engine.tokenizer.encode, rendered.prompt, most)

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
        found |= {
            "active_requests": active,
            "waiting_requests": waiting,
            "cache_verified_total": self.scheduler.num_verified,
            "cache_wrong_total": self.scheduler.num_wrong,
        }
        return found | {f"cache_{name}": float(value) for name, value in asdict(self.scheduler.cache.stats()).items()}

    def close(self) -> None:
        self.scheduler.close()
        self._grammars.close()
        self._renderer.close()
        self._preparing.shutdown(cancel_futures=True)
        self._helper.shutdown()

    async def _work(self, fn: Callable, *args: Any) -> Any:
        return await in_thread(self._preparing, "request", PREPARE_S, fn, *args)

    # -- in threads that prepare, or the one that remembers

    def _try(self, remember: Callable, *args: Any) -> None:
        try:
            remember(*args)
        except Exception:  # a full disk, say: the answer is whole all the same
            log.exception("a turn could not be remembered")

    def _rendered(self, request: Request, think: bool) -> RenderedRequest:
        if request.prompt is not None:
            prompt = [Text(request.prompt)] if isinstance(request.prompt, str) else []
            return RenderedRequest([], prompt, ThinkingInContext(), 0, {}, 0)
        rendered = self._conversation(request, think)
        refuse_images(rendered.prompt)
        return rendered

    def _prepare(self, request: Request, rendered: RenderedRequest, ids: list[int]) -> Prepared:
        if not ids:
            raise UsageError("prompt: empty; expected text")
        return Prepared(**vars(rendered), request=request, ids=ids, params=self.sampling(request))

    def sampling(self, request: Request) -> SamplingParams:
        """What tokens are chosen by: what the request says, then the recommendations for what it asks."""
        name = "nano" if self.engine.is_nano else "thinking" if self._thinks(request) else "instruct"
        return preset(name, has_tools=bool(request.tools), is_nano=self.engine.is_nano, **request.sampling)

    def _thinks(self, request: Request) -> bool:
        return request.prompt is None and (self.settings.think if request.think is None else request.think)

    def _checked(self, ids: list[int]) -> list[int]:
        """Token ids that a client gave, control tokens among them. Raises UsageError, TokenizerError."""
        tokenizer = self.engine.tokenizer
        for place, token in enumerate(ids):
            if not 0 <= token < tokenizer.num_tokens or tokenizer.control_name(token) in VISION_PADS:
                raise UsageError(
                    f"prompt[{place}]: token {token}; expected the id of a token "
                    f"of text, 0 to {tokenizer.num_tokens - 1}"
                )
            tokenizer.token_bytes(token)  # raises for an id between others that is none
        return ids

    def _conversation(self, request: Request, think: bool) -> RenderedRequest:
        fitted, _ = normalise_messages([without_billing_lines(message) for message in request.messages])
        fitted = self.turns.rejoined(request.namespace, fitted)
        preamble = DatePreamble(fitted)
        dates: Dates = preamble.dates
        if dates and not self.settings.exact_dates:
            dates = self.turns.dates(request.namespace, fitted, preamble.dates)
            fitted = preamble.with_dates(dates)
        kept_dates = sum(
            own != kept for text in dates for own, kept in zip(preamble.dates[text], dates[text], strict=True)
        )
        recalled, blocks = self.turns.recall(
            request.namespace, fitted, lambda text: len(self.encode(text)), self._encode_turn_tail
        )
        messages, fates, keep = apply_policy(recalled, blocks, request.policy or self.settings.policy)
        check_template_kwargs(request.template_kwargs)
        kwargs = dict(request.template_kwargs)
        kwargs |= {"preserve_thinking": True} if keep else {}
        kwargs |= {} if think else {"enable_thinking": False}
        prompt = self._renderer.render(messages, request.namespace, tools=request.tools or None, **kwargs)
        question = last_question(recalled)
        spent = sum(block.tokens for block in blocks if block.index > question)
        return RenderedRequest(messages, prompt, fates, spent, dates, kept_dates)

    def _generation(self, prepared: Prepared) -> Generation:
        request, tokenizer = prepared.request, self.engine.tokenizer
        room = max(self.context - len(prepared.ids), 1)
        in_thinking = ends_in_thinking(prepared.prompt)
        control = None
        if request.prompt is None:
            control = ThinkingControl(
                self._thinking_tokens,
                tokenizer.token_bytes,
                in_thinking=in_thinking,
                spent=prepared.spent,
                budget=_least(request.thinking_budget, self.settings.thinking_budget),
                task_budget=_least(request.task_budget, self.settings.task_budget),
            )
        return Generation(
            tokenizer,
            self.engine.config.eos_token_ids,
            prepared.ids,
            prepared.params,
            min(prepared.params.max_tokens or room, room),
            tools=request.tools if request.tool_choice != "none" else (),
            in_thinking=in_thinking,
            constraint=self._grammars.of(request),
            control=control,
            top_logprobs=request.top_logprobs,
            call_id=lambda _: f"call_{secrets.token_hex(12)}",
            is_raw=request.prompt is not None,
        )

    def _remember(self, prepared: Prepared, job: Job, events: list[Event]) -> None:
        """The turn, so that the client may send it back without its thinking."""
        finished = events[-1]
        if self._trace is not None:
            line = {
                "request": prepared.request.request_id,
                "prompt": prepared.ids,
                "sampled": job.generation.sampled,
                "reason": finished.reason,
                **asdict(finished.usage),
            }
            print(json.dumps(line), file=self._trace, flush=True)
        if job.cancelled.is_set():
            self._remember_stopped(prepared, job, events)
        if prepared.request.prompt is not None or prepared.request.only_reads or finished.reason == "cancelled":
            return
        message = assistant_message(events)
        self._keep(prepared, job, message, self._turn_ids(job.generation, message))

    def _remember_stopped(self, prepared: Prepared, job: Job, events: list[Event]) -> None:
        """The turn for a client that has left and may send back the beginning that it got."""
        if prepared.request.prompt is not None or not job.generation.sampled:
            return
        message = assistant_message(events)
        calls = [call for call in message.get("tool_calls", ()) if call.get("complete", True)]
        # what follows was never shown
        most = len(message["content"]) if job.generation.stop_string is not None else math.inf
        cuts = [cut for cut in job.generation.cuts if cut.in_thinking or cut.num_chars <= most]
        self._keep(prepared, job, {**message, "tool_calls": calls}, job.generation.sampled, cuts)

    def _keep(
        self, prepared: Prepared, job: Job, message: Message, ids: list[int], cuts: Sequence[TruncationPoint] = ()
    ) -> None:
        is_closed, num = not ends_in_thinking(prepared.prompt), job.generation.thinking_tokens
        turn = Turn.of(message, ids, is_closed, num, cuts, prepared.dates, prepared.params.stop)
        self.turns.remember(
            prepared.request.namespace, prepared.messages, turn, self.settings.persist_thinking, job.end_node
        )

    def _turn_ids(self, generation: Generation, message: Message) -> list[int]:
        """The whole turn as sampled, without a stop string, closed as the template closes it if the tokens ran out or
        another token ended it (a text ends with <|endoftext|>); [] if text and ids are not the same."""
        ids = generation.sampled
        if generation.stop_string is not None:
            place = (False, len(message["content"]), len(message.get("tool_calls", ())))
            num_ids = next((cut.num_ids for cut in reversed(generation.cuts) if cut[1:] == place), None)
            return [] if num_ids is None else [*ids[:num_ids], self._end]
        if ids[-1:] == [self._end]:
            return ids
        is_ended = bool(ids) and ids[-1] in generation.eos
        if not (is_ended or generation.reason == "length") or not generation.all_complete:
            return []
        closing = self._thinking_tokens.closing if generation.thinking_stop == "length" else ()
        return [*(ids[:-1] if is_ended else ids), *closing, self._end]

    def _encode_turn_tail(self, ids: Sequence[int], thinking: str | None, text: str) -> list[int]:
        """ids, then the end of the thinking if it is open (else None), the text and the end of the turn."""
        closing = () if thinking is None else (*self.encode(thinking), *self._thinking_tokens.closing)
        return [*ids, *closing, *self.encode(text), self._end]

    # -- in the scheduler's thread

    def _job(self, prepared: Prepared, generation: Generation, emit: Callable) -> Job:
        ids = prepared.ids
        first_thinking = next((i for i, token in enumerate(ids) if token == self._thinking_tokens.open), len(ids))
        persists_all = self.settings.persist_thinking
        label = next(
            (text_of(m) for m in prepared.messages if m["role"] == "user"), self._text(prepared.request.prompt)
        )[:LABEL_LEN]
        turn_starts = [i for i, token in enumerate(ids) if token == self._begin]
        has_system = bool(turn_starts) and ids[turn_starts[0] + 1 : turn_starts[0] + 2] == self._system

        def usage(job: Job) -> Usage:
            return Usage(
                len(ids),
                job.match.reused if job.match else 0,
                len(generation.sampled),
                generation.thinking_tokens,
                job.prefill_s,
                job.decode_s,
                self._report(prepared, job.match),
                prepared.thinking,
            )

        return Job(
            prepared.request.namespace,
            ids,
            generation,
            started=lambda match: Started(
                Usage(len(ids), match.reused, cache=self._report(prepared, match), thinking=prepared.thinking),
                generation.notes,
            ),
            finished=lambda job: Finished(
                generation.reason, usage(job), generation.stop_string, generation.thinking_stop
            ),
            emit=emit,
            turn_starts=turn_starts,
            has_system=has_system,
            label=label,
            persist=lambda num: persists_all or num <= first_thinking,
            only_reads=prepared.request.only_reads,
            score=partial(generation.scores, ids) if prepared.request.scores_prompt else None,
        )

    def _text(self, prompt: str | list[int] | None) -> str:
        return self.decode(prompt[:LABEL_LEN]) if isinstance(prompt, list) else prompt or ""

    def _report(self, prepared: Prepared, match: Match | None) -> CacheReport:
        if match is None:
            return CacheReport(kept_dates=prepared.kept_dates)
        expected, found = (self.decode(list(part)[:SHOWN_TOKENS]) for part in (match.expected_ids, match.found_ids))
        return CacheReport(match.reused, match.miss, match.position, expected, found, prepared.kept_dates)

    def _count(self, finished: Finished) -> None:
        usage, totals = finished.usage, self.totals
        for name in ("prompt_tokens", "cached_tokens", "completion_tokens", "thinking_tokens"):
            totals[name] += getattr(usage, name)
        totals["thinking_restored_tokens"] += usage.thinking.restored
        totals["thinking_dropped_tokens"] += usage.thinking.dropped


def _goes_on(request: Request, answered: Request) -> bool:
    """Whether a request has what another one asked, and a turn that answers it."""
    num = len(answered.messages)
    return (
        request.namespace == answered.namespace
        and len(request.messages) > num > 0
        and request.messages[:num] == answered.messages
        and request.messages[num].get("role") == "assistant"
    )


def _least(*budgets: int | None) -> int | None:
    return min((budget for budget in budgets if budget is not None), default=None)
