"""Conversations with drafted answers go on as those without: in memory, from disk, and after a client has left."""

from __future__ import annotations

import asyncio

import pytest

from a3b.cache.disk_store import Store
from a3b.engine.request_renderer import ServiceSettings
from a3b.interface.events import TextDelta, ThinkingDelta
from a3b.interface.request import Request
from a3b.thinking.turn_memory import TurnMemory
from tests.support import traced_server
from tests.support.drafted_answers import (
    CASES,
    DRAWN,
    ISAS,
    KINDS,
    SECRET,
    Beside,
    drafter_of,
    drafting,
    engine,
    every_isa,
    known_of,
    plain,
)
from tests.support.drafters import told
from tests.support.kept_answers import assert_kept_as_read
from tests.support.traced_server import GREEDY, Server, bare, user

# computes for seconds
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("drafting_at_each_step")]

LONG = [user("What is 17 plus 25? " + "Take your time, please. " * 12)]  # enough to be worth a place on disk
every_isa_alone = pytest.mark.parametrize("isa", ISAS)


@every_isa(*KINDS)
def test_a_conversation_goes_on_from_the_same_places_as_without_drafts(isa: str, kind: str):
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
    one = engine(isa, kind)
    with Server(one, drafter=drafter_of(one, known_of(expected), kind, []), verify_every=1) as server:
        assert talk(server) == expected
        assert server.scheduler.num_verified == 3 and server.scheduler.num_wrong == 0
        assert_kept_as_read(server, expected[-1])


@every_isa("right", "random", "context", "mtp", "beside mtp", others=("right", "random", "beside mtp"))
def test_a_conversation_read_from_disk_goes_on_as_one_without_drafts(isa: str, kind: str, tmp_path):
    one = engine(isa, kind)

    def talk(directory, drafter) -> tuple[list, list]:
        """Two turns, each in a server of its own."""
        messages, lines = list(LONG), []
        for text in ("And 3 more?", ""):
            with Store(directory) as store, Server(one, drafter=drafter) as server:
                server.cache.store = store
                message, _ = server.ask(messages, sampling=DRAWN)
                lines += server.lines()
                assert store.flush()
            messages += [bare(message), user(text)]
        with Store(directory) as store, Server(one) as server:
            server.cache.store = store
            for line in lines:
                assert_kept_as_read(server, line)
        return lines, messages

    lines, expected = talk(tmp_path / "plain", None)
    found, messages = talk(tmp_path / "drafted", drafter_of(one, known_of(lines), kind, []))
    assert messages == expected and lines[1]["cached_tokens"] > 40
    for a, b in zip(found, lines, strict=True):
        assert (a["sampled"], a["cached_tokens"], a["cache"]) == (b["sampled"], b["cached_tokens"], b["cache"])


@every_isa_alone
def test_a_conversation_read_from_disk_is_guessed_as_one_in_memory(isa: str, tmp_path, monkeypatch):
    """Keys and values of the MTP module, and the last hidden row, come back too."""
    one = engine(isa, "mtp")

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

        messages, server = list(LONG), serving()
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


async def leave(server: Server, request: Request, after: int) -> None:
    """Ask, and be gone after so many pieces of the answer."""
    stream, seen = server.service.stream(request), 0
    async for event in stream:
        seen += isinstance(event, ThinkingDelta | TextDelta)
        if seen == after:
            break
    await stream.aclose()


@every_isa("right", "random", "beside mtp")
@pytest.mark.parametrize("after", [1, 4, 17])
def test_who_leaves_an_answer_with_drafts_leaves_a_state_that_goes_on(isa: str, kind: str, after: int):
    request = CASES["thought with a nudge"]
    events, line, _ = plain(isa, "thought with a nudge")

    async def left(server: Server) -> None:
        await leave(server, request, after)
        while server.scheduler.load() != (0, 0):
            await asyncio.sleep(0.01)

    with drafting(isa, ["thought with a nudge"], kind, []) as server:
        asyncio.run(left(server))
        assert_kept_as_read(server, line)
        assert told(asyncio.run(server.events(request)))[1:-1] == events[1:-1]


@every_isa("right", "random", "special", "mtp", "beside mtp")
def test_who_leaves_a_batch_with_drafts_changes_nothing_for_those_who_stay(isa: str, kind: str):
    gone, stay = ["thought with a nudge", "hot"], ["drawn", "logprobs"]

    async def both(server: Server) -> list:
        leaving = [leave(server, CASES[case], after) for case, after in zip(gone, (2, 7), strict=True)]
        return (await asyncio.gather(*(server.events(CASES[case]) for case in stay), *leaving))[: len(stay)]

    with drafting(isa, gone + stay, kind, []) as server:
        for case, events in zip(stay, asyncio.run(both(server)), strict=True):
            assert told(events)[1:-1] == plain(isa, case)[0][1:-1], case
            assert_kept_as_read(server, plain(isa, case)[1], case)
