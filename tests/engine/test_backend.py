"""A service over a backend without a model: events, turns, cancelling and errors depend on ids alone."""

from __future__ import annotations

import asyncio
from contextlib import closing

import pytest

from a3b.engine import service as service_module
from a3b.engine.backend import DraftLog
from a3b.engine.service import Service
from a3b.errors import ContextError, LogitsError, OverloadedError
from a3b.interface.events import Finished, Started, assistant_message, merge_events
from a3b.interface.request import Request
from a3b.thinking.turn_memory import TurnMemory
from tests.support.scripted_backend import FilesOfModel, Reused, ScriptedBackend

MODEL = FilesOfModel.of_nano()
QUESTION = {"role": "user", "content": "hello"}


def ids_of(thinking: str, text: str) -> list[int]:
    encode, control = MODEL.tokenizer.encode_text, MODEL.tokenizer.control_id
    return [*encode(f"{thinking}\n"), control("</think>"), *encode(f"\n\n{text}"), control("<|im_end|>")]


SCRIPT = ids_of("I am asked.", "Hello to you.")


def service_of(backend: ScriptedBackend) -> Service:
    return Service(MODEL, backend, TurnMemory())


@pytest.mark.parametrize("per_step", [1, 3, 8])
def test_an_answer_is_the_same_in_steps_of_one_token_and_of_many(per_step):
    with closing(service_of(ScriptedBackend(SCRIPT, per_step))) as service:
        stream = service.answer(Request(messages=[QUESTION]))
        events = list(stream)
    message = assistant_message(events)
    assert (message["reasoning_content"], message["content"]) == ("I am asked.", "Hello to you.")
    assert events[-1].reason == "stop" and events[-1].usage.completion_tokens == len(SCRIPT)
    assert stream.turn_ids == tuple(SCRIPT) == tuple(stream.sampled_ids)


def test_tokens_after_the_end_are_not_part_of_the_answer():
    backend = ScriptedBackend([*SCRIPT, *MODEL.tokenizer.encode_text("and more")], per_step=len(SCRIPT) + 2)
    with closing(service_of(backend)) as service:
        assert list(service.answer(Request(messages=[QUESTION])))[-1].usage.completion_tokens == len(SCRIPT)
    assert backend.num_kept == [len(SCRIPT)]


def test_the_turn_goes_back_into_the_next_prompt_as_it_was_sampled():
    with closing(service_of(ScriptedBackend(SCRIPT))) as service:
        first = service.answer(Request(messages=[QUESTION]))
        message = assistant_message(first)
        bare = {"role": "assistant", "content": message["content"]}
        second = service.answer(Request(messages=[QUESTION, bare, QUESTION]))
        assert second.prompt_ids[: len(first.prompt_ids) + len(SCRIPT)] == first.prompt_ids + SCRIPT
        assert list(second)[0].usage.thinking.restored > 0


def test_what_a_backend_reused_is_reported():
    reused = Reused(
        5, "diverged", 6, tuple(MODEL.tokenizer.encode_text("old")), tuple(MODEL.tokenizer.encode_text("new"))
    )
    with closing(service_of(ScriptedBackend(SCRIPT, reuse=reused))) as service:
        started, *_, finished = service.answer(Request(messages=[QUESTION]))
    report = finished.usage.cache
    assert isinstance(started, Started) and started.usage.cached_tokens == 5 == finished.usage.cached_tokens
    assert (report.miss, report.position, report.expected, report.found) == ("diverged", 6, "old", "new")


def test_a_cancelled_answer_ends_with_what_came_before():
    backend = ScriptedBackend(SCRIPT)
    backend.may_write.clear()
    with closing(service_of(backend)) as service:
        stream = service.answer(Request(messages=[QUESTION]))
        next(stream)
        stream.cancel()
        *_, finished = stream
    assert isinstance(finished, Finished) and finished.reason == "cancelled"


def test_leaving_a_stream_cancels_its_job():
    backend = ScriptedBackend(SCRIPT)
    backend.may_write.clear()
    with closing(service_of(backend)) as service:
        stream = service.answer(Request(messages=[QUESTION]))
        next(stream)
        stream.close()
    assert backend.jobs[0].cancelled.is_set()


def test_an_error_of_the_backend_reaches_either_caller():
    with closing(service_of(ScriptedBackend(LogitsError("NaN")))) as service:
        with pytest.raises(LogitsError, match="NaN"):
            list(service.answer(Request(messages=[QUESTION])))

        async def ask() -> None:
            async for _ in service.stream(Request(messages=[QUESTION])):
                pass

        with pytest.raises(LogitsError, match="NaN"):
            asyncio.run(ask())


def test_a_backend_that_has_stopped_leaves_no_caller_waiting(monkeypatch):
    monkeypatch.setattr(service_module, "ALIVE_S", 0.01)
    backend = ScriptedBackend(SCRIPT)
    backend.may_write.clear()
    with closing(service_of(backend)) as service:
        stream = service.answer(Request(messages=[QUESTION]))
        backend.is_closed = True
        with pytest.raises(OverloadedError, match="has stopped"):
            list(stream)


def test_both_callers_get_the_same_events():
    async def ask(service: Service) -> list:
        return [event async for event in service.stream(Request(messages=[QUESTION], namespace="b"))]

    with closing(service_of(ScriptedBackend(SCRIPT))) as service:
        here = list(service.answer(Request(messages=[QUESTION], namespace="a")))
        assert merge_events(asyncio.run(ask(service))) == merge_events(here)


def test_a_prompt_that_does_not_fit_reaches_no_backend():
    backend = ScriptedBackend(SCRIPT)
    with closing(service_of(backend)) as service, pytest.raises(ContextError, match="do not fit the context of 4096"):
        service.answer(Request(messages=[{"role": "user", "content": "word " * 5000}]))
    assert backend.jobs == []


def test_the_numbers_of_a_backend_are_among_those_of_the_service():
    with closing(service_of(ScriptedBackend(SCRIPT))) as service:
        list(service.answer(Request(messages=[QUESTION])))
        found = service.metrics()
    assert found["scripted"] == 1 and found["completion_tokens_total"] == len(SCRIPT) and found["requests_total"] == 1


def test_an_accepted_draft_saves_a_step_of_its_answer_and_not_the_prompt_that_was_read_beside_it():
    log = DraftLog()
    log.step(["mtp", "mtp", "mtp"], step_s=1.3, next_s=0.1)
    for _ in range(4):
        log.choose(["mtp"])
    assert log.report().plain_s == pytest.approx(1.3 + 3 * 0.1)
