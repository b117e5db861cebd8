"""From a request in neutral form to a stream of events: turns recognised, prompt made, job computed, turn remembered.

Everything an API needs and nothing about HTTP. Enter at `Service.stream`, or at `AnswerStream` without an event loop. A
request is prepared (template, tokenizer, grammar) in a thread of its own, which ends when its client leaves; turns are
remembered in one thread, in order; the model runs in the backend's."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, TextIO, TypeVar

from a3b.constrain.constraints import Grammars
from a3b.engine.backend import Backend, Job, ModelInfo
from a3b.engine.generation import Generation
from a3b.engine.request_renderer import PreparedRequest, RenderedRequest, RequestRenderer, ServiceSettings
from a3b.engine.totals import Totals
from a3b.engine.turn_recorder import TurnRecorder
from a3b.errors import ContextError, OverloadedError
from a3b.interface.events import CacheReport, Event, Finished, Started, Usage
from a3b.interface.request import Request
from a3b.interface.sampling_params import SamplingParams
from a3b.isolation.deadlines import in_thread
from a3b.prompt.segments import ends_in_thinking
from a3b.prompt.tokenizer import too_long
from a3b.thinking.budget import ThinkingControl
from a3b.thinking.turn import text_of
from a3b.thinking.turn_memory import TurnMemory

log = logging.getLogger("a3b")
T = TypeVar("T")
SHOWN_TOKENS = 12  # of a prompt, where it diverged
PREPARE_S = 60  # for one request, until the model can read it
LEAVING_S = 1.0  # within which it is noticed that a client has left
ALIVE_S = 1.0  # between two looks at whether the backend still runs, while nothing comes from it
LABEL_LEN = 60  # characters of the first question, by which a session is known in lists


def random_call_id(index: int) -> str:
    """An id for the call with this index in its answer, as chat APIs have them."""
    return f"call_{secrets.token_hex(12)}"


class Service:
    def __init__(
        self,
        model: ModelInfo,
        backend: Backend,
        turns: TurnMemory,
        settings: ServiceSettings | None = None,
        trace: TextIO | None = None,
        call_id: Callable[[int], str] = random_call_id,
        about: Mapping[str, str] | None = None,
    ):
        """trace: gets a line of JSON for each answer, with all its token ids. call_id: makes the id of a call from its
        index in the answer. about: what `health` says of the model and of what computes it. The service closes the
        backend."""
        self.info, self.backend, self._trace, self._call_id = model, backend, trace, call_id
        self._about = dict(about or {})
        self.settings = settings = settings or ServiceSettings()
        self.model, self.context, self.positions = model.name, model.context, model.positions
        self.places, self.template = backend.max_active, model.template.source
        self.renderer = RequestRenderer(model, turns, settings)
        self.recorder = TurnRecorder(self.renderer)
        self._helper = ThreadPoolExecutor(1, "service")  # remembers turns
        self._preparing = ThreadPoolExecutor(backend.max_active + backend.max_waiting, "prepare")
        self._num_preparing = 0
        # answers on their way to a client; set when it has all or has left
        self._unread: dict[asyncio.Event, Request] = {}
        # answers whose client has left, until their turns are saved: their namespaces
        self._abandoned: dict[Future[Any], str] = {}
        self._grammars = Grammars(model.tokenizer)
        if not model.is_nano and settings.guards_output:
            self._helper.submit(self._grammars.prepare)
        self._begin = model.tokenizer.control_id("<|im_start|>")
        self._system = model.tokenizer.encode_text("system")[:1]  # tells a system turn from others
        self.totals = Totals()

    async def stream(self, request: Request) -> AsyncGenerator[Event, None]:
        """Started, Reading*, deltas, Finished. A refusal is an A3BError before the first event; closing the iterator
        cancels."""
        places = self.backend.max_active + self.backend.max_waiting
        if self._num_preparing + sum(self.backend.load()) >= places:
            raise OverloadedError(f"all {places} places are taken; try again later")
        self._num_preparing += 1
        try:
            rendered, ids = await self._rendered(request, self._most(request))
            prepared = self.renderer.prepare(request, rendered, ids)
            generation = await self._work(self._generation, prepared)
        finally:
            self._num_preparing -= 1
        queue: asyncio.Queue[list[Event] | Exception] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        answer = self._start(prepared, generation, lambda item: loop.call_soon_threadsafe(queue.put_nowait, item))
        has_left, client_gone = True, asyncio.Event()
        self._unread[client_gone] = request
        try:
            while True:
                item = await queue.get()
                if isinstance(item, Exception):
                    raise item
                for event in item:
                    if isinstance(event, Finished):
                        await asyncio.shield(asyncio.wrap_future(answer.turn_saved))
                        self.totals.count(event)
                        has_left = False
                        self._note_gone(client_gone)
                        yield event
                        return
                    yield event
        finally:
            self.backend.cancel(answer.job)
            self._note_gone(client_gone)
            if has_left:
                self._abandon(answer)

    def _note_gone(self, client_gone: asyncio.Event) -> None:
        self._unread.pop(client_gone, None)
        client_gone.set()

    def _abandon(self, answer: _Answer) -> None:
        """Keep in mind that the turn of a client that has left is still to be saved."""
        namespace = answer.prepared.request.namespace
        self._abandoned[answer.turn_saved] = namespace
        answer.turn_saved.add_done_callback(lambda saved: self._abandoned.pop(saved, None))
        if answer.events and isinstance(answer.events[-1], Finished):  # it was over already
            with suppress(RuntimeError):  # the server is closing
                stopped = self._helper.submit(self._record_stopped, answer)
                self._abandoned[stopped] = namespace
                stopped.add_done_callback(lambda saved: self._abandoned.pop(saved, None))

    async def count_tokens(self, request: Request) -> int:
        """Tokens of the prompt, even if it is longer than the context."""
        return len(await self.render(request))

    async def render(self, request: Request) -> list[int]:
        """Ids of the prompt that `stream` would read if it fitted."""
        return (await self._rendered(request))[1]

    async def _rendered(self, request: Request, most: int | None = None) -> tuple[RenderedRequest, list[int]]:
        """most: tokens that fit; ends as soon as it is certain that there are more."""
        stopped = [
            asyncio.ensure_future(client_gone.wait())
            for client_gone, answered in self._unread.items()
            if _continues(request, answered)
        ]
        if stopped:  # so says this request; that the client has left them may be noticed later
            _, others = await asyncio.wait(stopped, timeout=LEAVING_S)
            for other in others:
                other.cancel()
        for saved in [saved for saved, namespace in list(self._abandoned.items()) if namespace == request.namespace]:
            await asyncio.shield(asyncio.wrap_future(saved))  # a step at most; this request may continue that turn
        if most is not None and len(request.messages) > most:
            raise too_long(len(request.messages), most, ", for so many messages")
        rendered = await self._work(self.renderer.render, request)
        return rendered, await self._work(self.renderer.ids, request, rendered, most)

    def answer(self, request: Request) -> AnswerStream:
        """The answer to a request, for a caller without an event loop. Refusals are raised here. May be called from
        several threads: their answers are computed together."""
        rendered = self.renderer.render(request)
        ids = self.renderer.ids(request, rendered)
        if len(ids) > self._most(request):
            raise ContextError(
                f"prompt: {len(ids)} tokens do not fit the context of {self.context} with room to answer; "
                "shorten the conversation, or load the model with a larger context (--context)"
            )
        prepared = self.renderer.prepare(request, rendered, ids)
        return AnswerStream(self, prepared, self._generation(prepared))

    def _most(self, request: Request) -> int:
        """Tokens that a prompt may have, so that there is room to answer."""
        return self.context - (0 if request.only_reads else 1)

    def sampling(self, request: Request) -> SamplingParams:
        """What tokens are chosen by: what the request says, then the recommendations for what it asks."""
        return self.renderer.sampling(request)

    def encode(self, text: str) -> list[int]:
        return self.info.tokenizer.encode_text(text)

    def decode(self, ids: Sequence[int]) -> str:
        return self.info.tokenizer.decode(ids)

    def health(self) -> dict[str, Any]:
        active, waiting = self.backend.load()
        status = "ok" if self.backend.is_alive() else "stopped"
        served = {"model": self.model, "context": self.context, "positions": self.positions}
        return {"status": status, **served, **self._about, "active": active, "waiting": waiting}

    def metrics(self) -> dict[str, float]:
        """Counters and gauges, flat."""
        active, waiting = self.backend.load()
        return {
            **self.totals.metrics(),
            "active_requests": active,
            "waiting_requests": waiting,
            **self.backend.metrics(),
        }

    def close(self) -> None:
        self.backend.close()
        self._grammars.close()
        self.renderer.close()
        self._preparing.shutdown(cancel_futures=True)
        self._helper.shutdown()

    async def _work(self, fn: Callable[..., T], *args: Any) -> T:
        result: T = await in_thread(self._preparing, "request", PREPARE_S, fn, *args)
        return result

    # -- one answer

    def _start(
        self, prepared: PreparedRequest, generation: Generation, deliver: Callable[[list[Event] | Exception], object]
    ) -> _Answer:
        """Raises OverloadedError."""
        answer = _Answer(self, prepared, generation, deliver)
        self.backend.submit(answer.job)
        self.totals["requests"] += 1
        return answer

    def _generation(self, prepared: PreparedRequest) -> Generation:
        request, settings = prepared.request, self.settings
        room = max(self.context - len(prepared.ids), 1)
        in_thinking = ends_in_thinking(prepared.prompt)
        budget = _least(request.thinking_budget, settings.thinking_budget)
        task_budget = _least(request.task_budget, settings.task_budget)
        control = None
        if request.prompt is None and (settings.guards_output or (budget, task_budget) != (None, None)):
            control = ThinkingControl(
                self.renderer.thinking_tokens,
                self.info.tokenizer.token_bytes,
                in_thinking=in_thinking,
                spent=prepared.spent,
                budget=budget,
                task_budget=task_budget,
            )
        is_constrained = settings.guards_output or request.schema is not None or request.tool_choice != "auto"
        return Generation(
            self.info.tokenizer,
            self.info.eos_token_ids,
            prepared.ids,
            prepared.params,
            min(prepared.params.max_tokens or room, room),
            tools=request.tools if request.tool_choice != "none" else (),
            in_thinking=in_thinking,
            constraint=self._grammars.of(request) if is_constrained else None,
            control=control,
            top_logprobs=request.top_logprobs,
            call_id=self._call_id,
            is_raw=request.prompt is not None,
        )

    def job(
        self, prepared: PreparedRequest, generation: Generation, emit: Callable[[list[Event] | Exception], None]
    ) -> Job:
        """The job of a prepared request."""
        ids = prepared.ids
        thinking = self.renderer.thinking_tokens.open
        first_thinking = next((i for i, token in enumerate(ids) if token == thinking), len(ids))
        persists_all = self.settings.persist_thinking
        turn_starts = [i for i, token in enumerate(ids) if token == self._begin]
        has_system = bool(turn_starts) and ids[turn_starts[0] + 1 : turn_starts[0] + 2] == self._system
        return Job(
            prepared.request.namespace,
            ids,
            generation,
            started=lambda job: Started(
                Usage(
                    len(ids),
                    job.reuse.reused if job.reuse else 0,
                    cache=self._report(prepared, job),
                    thinking=prepared.thinking,
                ),
                generation.notes,
            ),
            finished=lambda job: Finished(
                generation.reason or "cancelled",
                self._usage(prepared, job),
                generation.stop_string,
                generation.thinking_stop,
            ),
            emit=emit,
            turn_starts=turn_starts,
            has_system=has_system,
            label=self._label(prepared),
            persist=lambda num: persists_all or num <= first_thinking,
            only_reads=prepared.request.only_reads,
            begins_many=prepared.request.begins_many,
            score=partial(generation.scores, ids) if prepared.request.scores_prompt else None,
        )

    def _label(self, prepared: PreparedRequest) -> str:
        prompt = prepared.request.prompt
        for message in prepared.messages:
            if message["role"] == "user":
                return text_of(message)[:LABEL_LEN]
        return (self.decode(prompt[:LABEL_LEN]) if isinstance(prompt, list) else prompt or "")[:LABEL_LEN]

    def _usage(self, prepared: PreparedRequest, job: Job) -> Usage:
        return Usage(
            len(prepared.ids),
            job.reuse.reused if job.reuse else 0,
            len(job.generation.sampled),
            job.generation.thinking_tokens,
            job.prefill_s,
            job.decode_s,
            self._report(prepared, job),
            prepared.thinking,
            job.drafting.report(),
        )

    def _report(self, prepared: PreparedRequest, job: Job) -> CacheReport:
        found = job.reuse
        if found is None:
            return CacheReport(kept_dates=prepared.kept_dates)
        expected, asked = (self.decode(list(part)[:SHOWN_TOKENS]) for part in (found.expected_ids, found.found_ids))
        return CacheReport(found.reused, found.miss, found.position, expected, asked, prepared.kept_dates)

    def record(self, answer: _Answer) -> None:
        """Write the trace and remember the turn, in the thread for that; then the answer counts as saved."""
        self._helper.submit(self._record, answer)

    def _record(self, answer: _Answer) -> None:
        try:
            if self._trace is not None:
                print(json.dumps(self._trace_line(answer)), file=self._trace, flush=True)
            answer.turn_ids = self.recorder.record(answer.prepared, answer.job, answer.events)
        except Exception:  # such as a full disk: the answer is complete anyway
            log.exception("a turn could not be remembered")
        finally:
            answer.turn_saved.set_result(None)

    def _record_stopped(self, answer: _Answer) -> None:
        try:
            self.recorder.record_stopped(answer.prepared, answer.job, answer.events)
        except Exception:
            log.exception("a turn could not be remembered")

    def _trace_line(self, answer: _Answer) -> dict[str, Any]:
        finished = answer.events[-1]
        assert isinstance(finished, Finished)
        return {
            "request": answer.prepared.request.request_id,
            "prompt": answer.prepared.ids,
            "sampled": answer.job.generation.sampled,
            "reason": finished.reason,
            **asdict(finished.usage),
        }


class _Answer:
    """One answer on its way from the backend to its caller."""

    def __init__(
        self,
        service: Service,
        prepared: PreparedRequest,
        generation: Generation,
        deliver: Callable[[list[Event] | Exception], object],
    ):
        self.prepared, self.events = prepared, list[Event]()  # also those that a client which leaves never gets
        self.turn_saved: Future[None] = Future()
        self.turn_ids: tuple[int, ...] = ()  # that replay the whole turn, once it is saved
        self._service, self._deliver = service, deliver
        self.job = service.job(prepared, generation, self._emit)

    def _emit(self, item: list[Event] | Exception) -> None:
        """In a thread of the backend's."""
        if isinstance(item, Exception):
            self.job.generation.close()
            self.turn_saved.set_result(None)
        else:
            self.events.extend(item)
            if item and isinstance(item[-1], Finished):
                self.job.generation.close()
                self._service.record(self)
        try:
            self._deliver(item)
        except RuntimeError:  # the loop is gone, and the client with it
            self._service.backend.cancel(self.job)


class AnswerStream:
    """The events of an answer, for a caller without an event loop: Started, Reading*, deltas, Finished.

    Raises what ends the answer instead, as an A3BError. Leaving the iteration early cancels."""

    def __init__(self, service: Service, prepared: PreparedRequest, generation: Generation):
        self._service, self._queue = service, SimpleQueue[list[Event] | Exception]()
        self._answer = service._start(prepared, generation, self._queue.put)
        self._events = self._read()

    @property
    def prompt_ids(self) -> list[int]:
        return self._answer.prepared.ids

    @property
    def sampled_ids(self) -> list[int]:
        """All ids of the answer so far, with the end token if it came."""
        return self._answer.job.generation.sampled

    @property
    def turn_ids(self) -> tuple[int, ...]:
        """After the end, the ids that replay the turn in a later prompt; () if only its text can stand for it."""
        return self._answer.turn_ids

    def cancel(self) -> None:
        """End the answer within a token; the iteration goes on to its `Finished`. May be called from any thread and
        from a signal handler."""
        self._service.backend.cancel(self._answer.job)

    def close(self) -> None:
        self._events.close()
        self.cancel()

    def __iter__(self) -> Iterator[Event]:
        return self

    def __next__(self) -> Event:
        return next(self._events)

    def _next(self) -> list[Event] | Exception:
        while True:
            try:
                return self._queue.get(timeout=ALIVE_S)
            except Empty:
                if not self._service.backend.is_alive() and self._queue.empty():
                    return OverloadedError("the backend has stopped; load the model again")

    def _read(self) -> Generator[Event, None, None]:
        try:
            while True:
                item = self._next()
                if isinstance(item, Exception):
                    raise item
                for event in item:
                    if isinstance(event, Finished):
                        self._answer.turn_saved.result()
                        self._service.totals.count(event)
                    yield event
                    if isinstance(event, Finished):
                        return
        finally:
            self.cancel()


def _continues(request: Request, answered: Request) -> bool:
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
