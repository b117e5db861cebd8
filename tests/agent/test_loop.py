"""What the agent does with answers: calls, results, limits, steering, stopping, loops."""

from __future__ import annotations

import asyncio
import json

import pytest

from a3b.agent.events import (
    CallProgress,
    Notice,
    Steered,
    ThinkingChunk,
    ToolFinished,
    ToolOutput,
    ToolStarted,
    TurnFinished,
    TurnStarted,
)
from a3b.agent.transcript import AgentTranscript
from a3b.errors import StoreError
from tests.support.agent_sessions import NotesTool, end_of, events_of, of, session_of, task_of
from tests.support.scripted_model import Says, ScriptedModel

pytestmark = pytest.mark.slow  # whole sessions of the agent

DONE = Says("All done.")


def note(text, **more):
    return Says(thinking="I note it.", calls=[("note", {"text": text, **more})])


def results(model):
    """Results of tools that the last request has."""
    return [m["content"] for m in model.bodies[-1]["messages"] if m["role"] == "tool"]


def test_a_task_goes_on_until_an_answer_calls_nothing(tmp_path):
    model = ScriptedModel([note("a"), note("b"), DONE])
    events = task_of(tmp_path, model)
    assert end_of(events).status == "done" and end_of(events).text == "All done." and end_of(events).turns == 3
    assert results(model) == ["noted a", "noted b"]
    kinds = [type(event) for event in events if not isinstance(event, ThinkingChunk | CallProgress)]
    assert kinds[:5] == [TurnStarted, TurnFinished, ToolStarted, ToolOutput, ToolFinished]


def test_each_request_extends_the_last_and_nothing_is_read_again(tmp_path):
    model = ScriptedModel([*(note(f"{i}") for i in range(39)), DONE])
    events = of(task_of(tmp_path, model), TurnFinished)
    assert [event.recomputed for event in events] == [0] * 40
    sent = [body["messages"] for body in model.bodies]
    assert all(later[: len(before)] == before for before, later in zip(sent, sent[1:], strict=False))
    assert len({json.dumps(body["tools"]) for body in model.bodies}) == 1


def test_the_system_prompt_is_the_same_in_every_directory(tmp_path):
    found = []
    for name in ("one", "two"):
        model = ScriptedModel([DONE])
        task_of(tmp_path / name if (tmp_path / name).mkdir() is None else tmp_path, model)
        found.append((model.bodies[0]["messages"][0], model.bodies[0]["tools"]))
        assert str(tmp_path) in model.bodies[0]["messages"][1]["content"]
    assert found[0] == found[1]


def test_thinking_goes_back_under_the_name_it_came_with(tmp_path):
    model = ScriptedModel([note("a"), DONE])
    task_of(tmp_path, model)
    assert model.bodies[1]["messages"][2]["reasoning_content"] == "I note it."
    assert model.bodies[1]["chat_template_kwargs"]["preserve_thinking"] is True


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (("nota", {}), "no tool is called 'nota'; did you mean 'note'? the tools are note"),
        (("note", {}), "text is missing; note takes text: string, times: integer (may be left out)"),
        (("note", '{"text": '), "the arguments are not JSON"),
        (("note", "[1]"), "the arguments are a list"),
        (("note", {"text": 5}), "text is a number; expected string"),
        (("note", {"text": "a", "times": "often"}), "times is a text; expected integer"),
        (("note", {"text": "a", "path": "b"}), "'path' is no argument of note"),
        (("note", {"text": "fails"}), "it fails"),
    ],
)
def test_a_call_that_is_wrong_gets_a_result_that_says_what_was_expected(tmp_path, call, expected):
    model = ScriptedModel([Says(calls=[call]), DONE])
    events = task_of(tmp_path, model)
    assert results(model)[0].startswith("Error: ") and expected in results(model)[0]
    assert end_of(events).status == "done" and of(events, ToolFinished)[0].is_error


def test_what_is_unmistakable_in_arguments_is_put_right(tmp_path):
    model = ScriptedModel([Says(calls=[("note", {"text": "a", "times": "3"})]), DONE])
    events = task_of(tmp_path, model)
    assert of(events, ToolStarted)[0].arguments == {"text": "a", "times": 3}


def test_an_answer_cut_off_inside_a_call_is_told_to_go_on_in_parts(tmp_path):
    cut = Says(calls=[("note", {"text": "whole"}), ("note", '{"text": "ha')], reason="length")
    model = ScriptedModel([cut, DONE])
    task_of(tmp_path, model)
    assert results(model)[0] == "noted whole"
    assert "nothing was done. Go on in parts" in results(model)[1]


def test_a_long_call_that_was_cut_off_leaves_the_conversation(tmp_path):
    model = ScriptedModel([Says("Now.", calls=[("note", '{"text": "' + "x " * 5000)], reason="length"), DONE])
    assert end_of(task_of(tmp_path, model)).status == "done"
    assert "xxx" not in json.dumps(model.bodies[1]) and "tool_calls" not in model.bodies[1]["messages"][2]
    assert "Go on in parts" in model.bodies[1]["messages"][3]["content"]


def test_an_endless_call_is_stopped_while_it_is_written(tmp_path):
    model = ScriptedModel([Says("Now.", calls=[("note", '{"text": "' + "ab" * 40_000)], pause=1e-3), DONE])
    assert end_of(task_of(tmp_path, model)).status == "done"
    assert model.left == 1 and "Go on in parts" in model.bodies[1]["messages"][3]["content"]


def test_an_answer_that_repeats_itself_is_stopped(tmp_path):
    model = ScriptedModel([Says("I see. " + "I will look at the file again. " * 400, pause=1e-3), DONE])
    assert end_of(task_of(tmp_path, model)).status == "done"
    assert model.left == 1 and len(model.bodies[1]["messages"][2]["content"]) < 100
    assert "repeated itself" in model.bodies[1]["messages"][3]["content"]


def test_thinking_that_repeats_itself_is_stopped_and_goes_back_without_the_repetition(tmp_path):
    model = ScriptedModel([Says(thinking="First this. " + "Wait, maybe not. " * 600), DONE], owner="llama.cpp")
    assert end_of(task_of(tmp_path, model)).status == "done"
    assert len(model.bodies[1]["messages"][2]["reasoning_content"]) < 100
    assert "thinking repeated itself" in model.bodies[1]["messages"][3]["content"]


def test_each_call_has_both_its_events_also_one_that_does_not_run(tmp_path):
    given = [("note", {"text": "a"}), ("nope", {"x": 1}), ("note", '{"text": "b')]
    events = task_of(tmp_path, ScriptedModel([Says(calls=given, reason="length"), DONE]))
    assert [(event.tool, event.arguments) for event in of(events, ToolStarted)] == [
        ("note", {"text": "a"}),
        ("nope", {"x": 1}),
        ("note", {"arguments": '{"text": "b'}),
    ]
    assert [event.call for event in of(events, ToolStarted)] == [event.call for event in of(events, ToolFinished)]


def test_calls_that_are_cut_off_end_a_task_as_stuck_after_a_few(tmp_path):
    cut = Says(thinking="Very long.", calls=[("note", '{"text": "abc')], reason="length")
    events = task_of(tmp_path, ScriptedModel([cut]))
    assert end_of(events).status == "stuck" and end_of(events).turns == 4


def test_what_the_user_asks_for_again_is_no_circle(tmp_path):
    model = ScriptedModel([*[note("a")] * 8, DONE])

    async def use(session, tool):
        events = []
        async for event in session.run("Do it."):
            events.append(event)
            if isinstance(event, ToolFinished):
                session.steer("Again.")
        return events

    assert end_of(session_of(tmp_path, model, use)).status == "done"


@pytest.mark.parametrize("after", [4, 5, 6])
def test_a_full_disk_ends_a_task_as_failed_with_its_last_event(tmp_path, monkeypatch, after):
    written = []

    def write(transcript, record):
        written.append(record)
        if len(written) > after:
            raise StoreError("no space left")

    monkeypatch.setattr(AgentTranscript, "_write", write)
    end = end_of(task_of(tmp_path, ScriptedModel([note("a"), DONE])))
    assert (end.status, end.text) == ("failed", "no space left")


def test_a_tool_that_the_system_does_not_let_run_is_told_to_the_model(tmp_path, monkeypatch):
    def run(tool, arguments, context):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(NotesTool, "run", run)
    model = ScriptedModel([note("a"), DONE])
    assert end_of(task_of(tmp_path, model)).status == "done"
    assert results(model) == ["Error: [Errno 28] No space left on device"]


def test_empty_answers_end_a_task_as_stuck_after_a_few(tmp_path):
    model = ScriptedModel([Says(thinking="Hm.")])
    events = task_of(tmp_path, model)
    assert end_of(events).status == "stuck" and len(model.bodies) == 4
    assert "Your answer was empty" in model.bodies[1]["messages"][-1]["content"]


def test_the_same_call_with_the_same_result_is_told_once_and_then_stopped(tmp_path):
    model = ScriptedModel([note("a")])
    events = task_of(tmp_path, model)
    assert end_of(events).status == "stuck" and len(model.bodies) == 5
    told = [m for m in model.bodies[-1]["messages"] if m["role"] == "user" and "<loop>" in m["content"]]
    assert len(told) == 1 and "3 times" in told[0]["content"] and "note" in told[0]["content"]
    (notice,) = of(events, Notice)
    assert (notice.level, notice.text.count("\n"), "<loop>" in notice.text) == ("warning", 0, False)
    assert end_of(events).text.endswith('The same call has given the same result 5 times: note {"text": "a"}')


@pytest.mark.parametrize(
    ("options", "status", "requests"), [({"max_turns": 2}, "limit", 2), ({"max_tokens": 600}, "limit", 1)]
)
def test_a_limit_ends_a_task_between_turns(tmp_path, options, status, requests):
    model = ScriptedModel([note(f"{i}") for i in range(9)])
    events = task_of(tmp_path, model, **options)
    assert (end_of(events).status, len(model.bodies)) == (status, requests)
    assert next(iter(options)).replace("_", "-") in end_of(events).text


def test_the_limit_of_time_ends_an_answer_and_a_call(tmp_path):
    slow = task_of(tmp_path, ScriptedModel([Says("slow " * 99, pause=0.05)]), max_seconds=0.2)
    hanging = task_of(tmp_path, ScriptedModel([note("hangs")]), max_seconds=0.2)
    assert end_of(slow).status == end_of(hanging).status == "limit"
    assert of(hanging, ToolFinished)[0].text.startswith("Error: aborted while it ran")
    assert "time of the task is over" in of(hanging, ToolFinished)[0].text


# -- the user


def test_what_the_user_types_joins_after_the_results_and_breaks_no_prefix(tmp_path):
    model = ScriptedModel([Says(calls=[("note", {"text": "a"}), ("note", {"text": "b"})]), DONE])

    async def use(session, tool):
        events = []
        async for event in session.run("Do it."):
            events.append(event)
            if isinstance(event, ToolFinished) and len(of(events, ToolFinished)) == 1:
                session.steer("Not b!")
        return events

    events = session_of(tmp_path, model, use)
    assert [m["role"] for m in model.bodies[1]["messages"][2:]] == ["assistant", "tool", "tool", "user"]
    assert of(events, Steered) == [Steered("Not b!")]
    assert [event.recomputed for event in of(events, TurnFinished)] == [0, 0]


def test_what_is_typed_during_the_last_answer_is_answered(tmp_path):
    model = ScriptedModel([Says("Done, I think.", pause=0.01), DONE])

    async def use(session, tool):
        events = []
        async for event in session.run("Do it."):
            if isinstance(event, TurnStarted) and event.turn == 1:
                session.steer("And the tests?")
            events.append(event)
        return events

    assert end_of(session_of(tmp_path, model, use)).text == "All done." and len(model.bodies) == 2


def test_a_stop_during_a_call_keeps_what_is_finished_and_aborts_the_rest(tmp_path):
    calls = [("note", {"text": text}) for text in ("a", "hangs", "never")]
    model = ScriptedModel([Says(calls=calls), DONE])

    async def use(session, tool):
        running = asyncio.ensure_future(events_of(session))
        await tool.running.wait()
        session.stop()
        return await running, await events_of(session, "Go on."), tool

    first, second, tool = session_of(tmp_path, model, use)
    assert end_of(first).status == "stopped" and end_of(second).status == "done"
    assert tool.noted == ["a", "hangs"] and tool.cancelled == 1
    kept = results(model)
    assert kept[0] == "noted a" and "while it ran" in kept[1] and kept[2].startswith("Error: not run")


def test_a_stop_during_an_answer_keeps_its_beginning(tmp_path):
    model = ScriptedModel([Says("one two three four five six", thinking="I count.", pause=0.02), DONE])

    async def use(session, tool):
        async for event in session.run("Count."):
            if type(event).__name__ == "TextChunk":
                session.stop()
            last = event
        return last, await events_of(session, "Go on.")

    last, _ = session_of(tmp_path, model, use)
    kept = model.bodies[1]["messages"]
    assert last.status == "stopped" and model.left == 1
    assert kept[2]["reasoning_content"] == "I count." and "one two".startswith(kept[2]["content"])
    assert kept[3]["content"] == "Go on."


def test_a_front_end_that_leaves_stops_the_task(tmp_path):
    model = ScriptedModel([note("hangs"), DONE])

    async def use(session, tool):
        events = session.run("Do it.")
        async for event in events:
            if isinstance(event, ToolStarted):
                await tool.running.wait()
                break
        await events.aclose()
        return tool.cancelled, session.is_running

    assert session_of(tmp_path, model, use) == (1, False)
