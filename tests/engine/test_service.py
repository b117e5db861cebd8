"""Answers from a batch: cached equals cold to the bit, thinking is put back, turns cost their new tokens, who leaves
frees a place."""

from __future__ import annotations

import asyncio
import json
import re

import numpy as np
import pytest

from a3b.cache.disk_store import Store
from a3b.engine import service as service_module
from a3b.engine.engine import Engine
from a3b.engine.request_renderer import ServiceSettings
from a3b.engine.snapshot_points import snapshot_points
from a3b.errors import ContextError, UsageError
from a3b.interface.events import Finished
from a3b.interface.request import Request
from a3b.server.errors import error_body, to_api_error
from a3b.thinking.turn_memory import TurnMemory
from tests.support.traced_server import GREEDY, TOOL, Server, bare, cold, user


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine.load()


def test_a_conversation_grows_by_what_was_sampled_and_a_turn_costs_its_new_tokens(engine):
    with Server(engine) as server:
        messages = [user("Think of two numbers from 0 to 999. Tell me only the first.")]
        for text in ("And the other number?", "hello", "Thanks!", "What are you?"):
            message, _ = server.ask(messages)
            messages += [bare(message), user(text)]
        server.ask(messages)
        lines = server.lines()
        for before, after in zip(lines, lines[1:], strict=False):
            so_far = before["prompt"] + before["sampled"]
            assert after["prompt"][: len(so_far)] == so_far
            assert after["cached_tokens"] >= len(so_far) - 16 and after["cache"]["miss"] == "none"
        assert lines[-1]["thinking"]["restored"] > 0 and lines[-1]["thinking"]["sent"] == 0
        assert all(cold(engine, line) == line["sampled"] for line in lines)


def test_the_first_event_says_how_much_of_the_prompt_was_known_and_why_not_more(engine):
    with Server(engine) as server:
        for messages, miss in (([user("hello there")], "new"), ([user("hello there"), user("Well?")], "diverged")):
            first, *_, last = asyncio.run(server.events(Request(messages=messages, sampling=GREEDY)))
            assert first.usage.cache == last.usage.cache and first.usage.cache.miss == miss
            assert first.usage.cache.reused == first.usage.cached_tokens == last.usage.cached_tokens
            assert first.usage.prompt_tokens == last.usage.prompt_tokens and first.usage.completion_tokens == 0
        assert first.usage.cached_tokens > 0
        report = first.usage.cache
        assert report.position >= report.reused and report.expected and report.found != report.expected
        assert report.kept_dates == 0


@pytest.mark.parametrize(("choice", "known"), [("auto", [TOOL]), ("required", [TOOL]), ("none", [])])
def test_an_answer_that_may_call_no_tool_is_not_searched_for_calls(engine, monkeypatch, choice, known):
    made, generation = [], service_module.Generation
    monkeypatch.setattr(
        service_module,
        "Generation",
        lambda *args, **kwargs: made.append(kwargs["tools"]) or generation(*args, **kwargs),
    )
    with Server(engine) as server:
        server.ask([user("hello")], tools=[TOOL], tool_choice=choice, sampling=GREEDY | {"max_tokens": 2})
    assert [list(tools) for tools in made] == [known]


def test_health_says_what_is_served_and_whether_it_still_computes(engine):
    with Server(engine) as server:
        found = server.service.health()
        assert found == {
            "status": "ok",
            "model": server.service.model,
            "positions": "native positions",
            "context": server.service.context,
            "active": 0,
            "waiting": 0,
        }
        server.scheduler.close()
        assert server.service.health()["status"] == "stopped"


def test_counters_add_up_over_requests(engine):
    with Server(engine) as server:
        ask = [user("What is 17 plus 25?")]
        message, one = server.ask(ask)
        _, two = server.ask([*ask, bare(message), user("Thanks!")])
        found, both = server.service.metrics(), (one.usage, two.usage)
        assert found["requests_total"] == 2 and found["active_requests"] == found["store_trouble"] == 0
        for name in ("prompt_tokens", "cached_tokens", "completion_tokens", "thinking_tokens"):
            assert found[f"{name}_total"] == sum(getattr(usage, name) for usage in both), name
        assert found["thinking_restored_tokens_total"] == two.usage.thinking.restored > 0
        assert (
            found["thinking_dropped_tokens_total"] == found["cache_wrong_total"] == found["cache_verified_total"] == 0
        )
        assert found["cache_nodes"] == server.cache.stats().nodes > 0


def test_without_our_memory_the_secret_is_lost_and_with_it_it_is_kept(engine):
    with Server(engine) as server:
        ask = [user("Think of two numbers from 0 to 999. Tell me only the first.")]
        first, _ = server.ask(
            ask, sampling={"temperature": 1.0, "top_k": 0, "top_p": 1.0, "seed": 3, "max_tokens": 120}
        )
        hidden = first["reasoning_content"].split("second: ")[1].split("\n")[0]
        kept, _ = server.ask([*ask, bare(first), user("And the other number?")])
        lost, finished = server.ask([*ask, bare(first), user("And the other number?")], policy="none")
        assert hidden in kept["content"] and hidden not in lost["content"]
        assert finished.usage.thinking.dropped > 0 and finished.usage.thinking.restored == 0


@pytest.mark.parametrize("name", ["tools", "messages", "add_generation_prompt", "eos_token"])
def test_template_arguments_replace_nothing_of_the_prompt(engine, name):
    with Server(engine) as server, pytest.raises(UsageError, match=f"'{name}': the name is reserved"):
        server.ask([user("hello")], template_kwargs={name: []})


@pytest.mark.slow
def test_interleaved_conversations_in_one_batch_give_what_each_gives_alone(engine):
    questions = [
        f"What is {a} plus {b}?" for a, b in ((1, 2), (13, 29), (400, 7), (5, 5), (61, 8), (99, 1), (3, 77), (20, 22))
    ]

    async def both(server: Server):
        async def talk(question: str):
            messages = [user(question)]
            for follow in ("hello", "Thanks!"):
                message, _ = await server.answer(messages, tools=[TOOL])
                messages += [bare(message), user(follow)]
            await server.answer(messages, tools=[TOOL])

        await asyncio.gather(*(talk(question) for question in questions))

    with Server(engine, max_active=8) as server:
        asyncio.run(both(server))
        lines = server.lines()
        assert len(lines) == 3 * len(questions)
        assert sum(line["cached_tokens"] > 0 for line in lines) >= 2 * len(questions)
        assert all(cold(engine, line) == line["sampled"] for line in lines)


def test_a_prompt_that_changes_in_an_old_turn_is_computed_from_that_turn_on_and_says_why(engine):
    with Server(engine) as server:
        messages = []
        for text in ("hello", "What are you?", "Thanks!", "What is 2 plus 3?"):
            messages.append(user(text))
            message, _ = server.ask(messages)
            messages.append(bare(message))
        edited = [*messages[:4], user("Good morning, what can you do for me?"), *messages[5:7]]
        server.ask(edited)
        line, before = server.lines()[-1], server.lines()[2]
        same = next(i for i, (a, b) in enumerate(zip(line["prompt"], before["prompt"], strict=False)) if a != b)
        starts = [
            i for i, token in enumerate(line["prompt"][:same]) if token == engine.tokenizer.control_id("<|im_start|>")
        ]
        assert line["cache"]["miss"] == "diverged" and line["cache"]["position"] == same
        assert line["cached_tokens"] >= starts[-1] - 16 > 40
        assert "Thanks" in line["cache"]["expected"] and "Good" in line["cache"]["found"]
        assert cold(engine, line) == line["sampled"]


def test_tool_results_extend_the_prompt_and_keep_the_thinking(engine):
    with Server(engine) as server:
        messages = [user("Start at a1b2 and follow the chain for 2 steps. Where do you end?")]
        message, finished = server.ask(messages, tools=[TOOL])
        assert finished.reason == "tool_calls", message
        call = message["tool_calls"][0]
        arguments = json.dumps(call["function"]["arguments"], indent=3)
        returned = {
            "role": "assistant",
            "content": None,
            "tool_calls": [{**call, "function": {"name": "get", "arguments": arguments}}],
        }
        messages += [returned, {"role": "tool", "tool_call_id": call["id"], "content": "c3d4"}]
        server.ask(messages, tools=[TOOL])
        first, second = server.lines()
        assert second["prompt"][: len(first["prompt"]) + len(first["sampled"])] == first["prompt"] + first["sampled"]
        assert second["thinking"]["restored"] == first["thinking_tokens"] > 0


def test_one_namespace_never_uses_what_another_computed(engine):
    with Server(engine) as server:
        server.ask([user("hello")], namespace="a")
        _, finished = server.ask([user("hello")], namespace="b")
        _, again = server.ask([user("hello")], namespace="a")
        assert finished.usage.cached_tokens == 0 and finished.usage.cache.miss == "new"
        assert finished.usage.cache.expected == "" and again.usage.cached_tokens > 0


def test_verification_computes_hits_again_and_a_wrong_state_is_found_out(engine):
    with Server(engine, verify_every=1) as server:
        message, _ = server.ask([user("hello")])
        history = [user("hello"), bare(message), user("Think of two numbers from 0 to 999. Tell me only the first.")]
        server.ask(history)
        assert (server.scheduler.num_verified, server.scheduler.num_wrong) == (1, 0)
        other = asyncio.run(server.service.render(Request(messages=[user("Well. " * 40 + "What are you?")])))
        real, states = server.cache.sync, []

        def wrong(*args):
            """The state of another conversation of as many tokens."""
            match, end = real(*args), len(other) - other[::-1].index(engine.tokenizer.control_id("<|im_start|>")) - 1
            states.append(engine.model.new_state())
            for state in (match.state, states[0]):
                state.restore(engine.model.new_state().snapshot())
                engine.model.forward(np.array(other[end - match.reused : end]), state)
            return match

        server.cache.sync = wrong
        server.ask(history)
        assert (server.scheduler.num_verified, server.scheduler.num_wrong) == (2, 1)
        line, state = server.lines()[-1], states[0]
        assert cold(engine, line) == line["sampled"], "the cold result counts"
        logits = engine.model.forward(np.array(line["prompt"][state.num_tokens :]), state)
        assert logits[: engine.tokenizer.num_tokens].argmax() != line["sampled"][0], (
            "the wrong state shows in the first token"
        )
        server.cache.sync = real
        _, finished = server.ask(history)
        assert finished.usage.cached_tokens == 0, "the cache was emptied"


def test_a_failing_step_ends_its_requests_with_an_error_and_no_others(engine, monkeypatch):
    with Server(engine) as server:
        with monkeypatch.context() as patch:
            patch.setattr(type(engine.model), "forward", lambda *_, **__: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                server.ask([user("hello")])
        assert server.ask([user("hello")])[1].reason == "stop"


def test_a_thinking_budget_closes_the_block_and_an_answer_follows(engine):
    with Server(engine) as server:
        free, _ = server.ask([user("Think of two numbers from 0 to 999. Tell me only the first.")])
        message, finished = server.ask(
            [user("Think of two numbers from 0 to 999. Tell me only the first.")], thinking_budget=3
        )
        assert len(message["reasoning_content"]) < len(free["reasoning_content"])
        assert finished.thinking_stop == "budget" and message["content"]
        assert finished.usage.thinking_tokens <= 3 + 8
        none, finished = server.ask([user("hello")], thinking_budget=0)
        assert none["reasoning_content"] == "" and none["content"]


def test_thinking_can_be_off_and_the_turn_is_still_replayed(engine):
    with Server(engine) as server:
        message, _ = server.ask([user("hello")], think=False)
        assert message["reasoning_content"] == ""
        server.ask([user("hello"), bare(message), user("What are you?")], think=False)
        first, second = server.lines()
        assert second["prompt"][: len(first["prompt"]) + len(first["sampled"])] == first["prompt"] + first["sampled"]


def test_text_is_continued_without_template(engine):
    with Server(engine) as server:
        events = asyncio.run(server.events(Request(prompt="hello", sampling=GREEDY)))
        assert server.lines()[0]["prompt"] == engine.tokenizer.encode_text("hello") and isinstance(events[-1], Finished)


def test_the_same_prompt_several_times_is_read_once(engine):
    text = "Remember: " + " ".join(f"item {i}" for i in range(150)) + ". What are you?"

    async def thrice(server: Server):
        await asyncio.gather(*(server.answer([user(text)], sampling={"seed": i, "max_tokens": 5}) for i in range(3)))

    with Server(engine) as server:
        asyncio.run(thrice(server))
        cached = sorted(line["cached_tokens"] for line in server.lines())
        assert cached[0] == 0 and cached[1] > 300


@pytest.mark.parametrize(
    "request_, error",
    [
        (Request(messages=[user("x " * 20000)]), ContextError),
        (Request(prompt=""), UsageError),
        (Request(messages=[user("x")], sampling={"temperature": -1}), UsageError),
        (
            Request(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]),
            UsageError,
        ),
        (Request(messages=[user("x")], policy="whatever"), UsageError),
    ],
)
def test_what_cannot_be_answered_is_refused_before_anything_runs(engine, request_, error):
    with Server(engine) as server:
        with pytest.raises(error):
            asyncio.run(server.events(request_))
        assert server.scheduler.load() == (0, 0)


def test_a_prompt_that_does_not_fit_is_refused_with_both_numbers_as_clients_read_them(engine):
    with Server(engine) as server:
        with pytest.raises(ContextError) as refused:
            asyncio.run(server.events(Request(messages=[user("x " * 20000)])))
        told = error_body(to_api_error(refused.value, "req_1"), "/v1/messages", "req_1")["error"]["message"]
        # Claude Code's own; the difference is what it cuts
        found = re.match(r"prompt is too long[^0-9]*(\d+)\s*tokens?\s*>\s*(\d+)", told)
        assert found and int(found[1]) > 20000 and int(found[2]) == server.service.context - 1


def test_a_prompt_of_the_whole_context_is_refused_and_one_token_less_gets_one_token(engine):
    with Server(engine) as server:
        asked = Request(messages=[user("hello")], sampling={"temperature": 0.0})
        num = len(asyncio.run(server.service.render(asked)))
        server.service.context = num
        with pytest.raises(ContextError, match=f"{num} tokens > {num - 1}"):
            asyncio.run(server.events(asked))
        server.service.context = num + 1
        finished = asyncio.run(server.events(asked))[-1]
        assert (finished.reason, finished.usage.completion_tokens) == ("length", 1)


def test_an_answer_ends_with_the_context_however_many_tokens_it_asks_for(engine):
    with Server(engine) as server:
        server.service.context = 24
        asked = Request(prompt=[5] * 20, sampling={"temperature": 0.0, "max_tokens": 100})
        finished = asyncio.run(server.events(asked))[-1]
        assert (finished.reason, finished.usage.completion_tokens) == ("length", 4)


@pytest.mark.parametrize("name", ["prompt_tokens", "cached_tokens", "completion_tokens", "thinking_tokens"])
def test_tokens_of_every_answer_are_counted(engine, name):
    with Server(engine) as server:
        told = [getattr(server.ask([user("hello")])[1].usage, name) for _ in range(2)]
        assert server.service.metrics()[f"{name}_total"] == sum(told) > 0


def test_thinking_that_was_restored_and_dropped_is_counted(engine):
    with Server(engine) as server:
        message, first = server.ask([user("hello")])
        history, num = [user("hello"), bare(message), user("Thanks!")], first.usage.thinking_tokens
        found = []
        for policy in ("all", "none", "all"):
            server.ask(history, policy=policy)
            found.append(
                tuple(server.service.metrics()[f"thinking_{fate}_tokens_total"] for fate in ("restored", "dropped"))
            )
        assert found == [(num, 0), (num, num), (2 * num, num)] and num > 0


@pytest.mark.parametrize("persists", [True, False])
def test_thinking_reaches_the_disk_only_where_it_may(engine, tmp_path, persists):
    asked = [{"role": "system", "content": "You help people. " * 8}, user("What are you?")]
    with Store(tmp_path) as store, Server(engine, ServiceSettings(persist_thinking=persists)) as server:
        server.cache.store, server.service.renderer.turns = store, TurnMemory(store)
        message, _ = server.ask(asked)
        server.ask([*asked, bare(message), user("Thanks!")])
        assert store.flush()
        tokens = [int(token) for row in store._index.rows()[0] for token in row.ids]
        assert len(tokens) > 40 and (engine.tokenizer.control_id("<think>") in tokens) is persists
        assert bool(store.records("")) is persists


def test_a_prompt_without_thinking_reaches_the_disk_whole(engine, tmp_path):
    with Store(tmp_path) as store, Server(engine, ServiceSettings(persist_thinking=False)) as server:
        server.cache.store = store
        asyncio.run(server.events(Request(prompt=[5] * 40, only_reads=True)))
        assert store.flush() and max(row.num_tokens for row in store._index.rows()[0]) == 40


def test_volatile_lines_of_clients_do_not_break_the_prefix(engine):
    with Server(engine) as server:
        for cch in ("a1", "b2"):
            system = {"role": "system", "content": f"x-anthropic-billing-header: cc_version=2; cch={cch};\nYou help."}
            server.ask([system, user("hello")])
        first, second = server.lines()
        assert first["prompt"] == second["prompt"] and second["cached_tokens"] > 0


def test_a_late_system_message_costs_its_own_tokens_and_no_thinking(engine):
    with Server(engine) as server:
        asked = [{"role": "system", "content": "You help."}, user("hello")]
        asked.append(bare(server.ask(asked)[0]))
        for late in ([{"role": "system", "content": "It is Monday now."}], []):  # there, and then left out again
            server.ask([*asked, *late, user("What are you?")])
        first, *later = server.lines()
        whole = first["prompt"] + first["sampled"]
        for line in later:
            assert line["prompt"][: len(whole)] == whole and line["cached_tokens"] >= len(whole) - 1
            assert line["thinking"]["restored"] > 0


def test_snapshots_are_due_at_the_system_turn_the_last_turns_and_some_between():
    starts = [0, 100, 150, 900, 950, 2000, 2050]
    assert snapshot_points(starts, 0, 2060) == [(100, "system"), (900, "turn"), (2000, "turn"), (2050, "turn")]
    assert snapshot_points(starts, 1990, 2060) == [(2050, "turn")]
    assert snapshot_points([], 0, 50) == [(49, "turn")]
    assert snapshot_points([0], 0, 50) == []
    many = snapshot_points(range(0, 100_000, 500), 0, 100_010)
    assert len(many) == 16 and many[0] == (500, "system") and many[-1] == (99_500, "turn")
