"""What is remembered of an answer, so that its turn comes back token for token. Enter at `TurnRecorder.record`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from a3b.engine.backend import Job
from a3b.engine.generation import Generation
from a3b.engine.request_renderer import PreparedRequest, RequestRenderer
from a3b.interface.events import Event, Finished, TruncationPoint, assistant_message
from a3b.prompt.normalise_messages import normalise_messages
from a3b.prompt.segments import END_OF_TURN, ends_in_thinking
from a3b.thinking.turn import Message, Turn


class TurnRecorder:
    def __init__(self, renderer: RequestRenderer):
        self._renderer = renderer
        self._end = renderer.model.tokenizer.control_id(END_OF_TURN)

    def record(self, prepared: PreparedRequest, job: Job, events: list[Event]) -> tuple[int, ...]:
        """Remember the turn, so that the client may send it back without its thinking. Gives the ids that replay the
        whole turn, () if they are not the same as its text or the answer was cancelled."""
        finished = events[-1]
        assert isinstance(finished, Finished)
        if job.cancelled.is_set():
            self.record_stopped(prepared, job, events)
        if prepared.request.prompt is not None or prepared.request.only_reads or finished.reason == "cancelled":
            return ()
        message = assistant_message(events)
        ids = self._turn_ids(job.generation, message)
        self._keep(prepared, job, message, ids)
        return tuple(ids)

    def record_stopped(self, prepared: PreparedRequest, job: Job, events: list[Event]) -> None:
        """The turn for a client that has left and may send back the beginning that it got."""
        generation = job.generation
        if prepared.request.prompt is not None or not generation.sampled:
            return
        message = assistant_message(events)
        calls = [call for call in message.get("tool_calls", ()) if call.get("complete", True)]
        # what follows was never shown
        most = len(message["content"]) if generation.stop_string is not None else math.inf
        cuts = [cut for cut in generation.cuts if cut.in_thinking or cut.num_chars <= most]
        self._keep(prepared, job, {**message, "tool_calls": calls}, generation.sampled, cuts)

    def add(
        self, namespace: str, before: Sequence[Message], message: Message, ids: Sequence[int], closed: bool
    ) -> None:
        """Remember a turn of an earlier process: the messages before it, its message and the ids that replay it.

        closed: thinking was off."""
        fitted, _ = normalise_messages(list(before))
        thinking: Any = message.get("reasoning_content") or ""
        num_thinking = len(self._renderer.model.tokenizer.encode_text(thinking))
        self._renderer.turns.remember(namespace, fitted, Turn.of(message, ids, closed, num_thinking))

    def _keep(
        self,
        prepared: PreparedRequest,
        job: Job,
        message: Message,
        ids: Sequence[int],
        cuts: Sequence[TruncationPoint] = (),
    ) -> None:
        is_closed, num = not ends_in_thinking(prepared.prompt), job.generation.thinking_tokens
        turn = Turn.of(message, ids, is_closed, num, cuts, prepared.dates, prepared.params.stop)
        persist = self._renderer.settings.persist_thinking
        self._renderer.turns.remember(prepared.request.namespace, prepared.messages, turn, persist, job.end_node)

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
        closing = self._renderer.thinking_tokens.closing if generation.thinking_stop == "length" else ()
        return [*(ids[:-1] if is_ended else ids), *closing, self._end]
