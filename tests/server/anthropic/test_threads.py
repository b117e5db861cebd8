"""Threads: the server holds the conversation, and Anthropic's client sends only what is new."""

from __future__ import annotations

import anthropic
import pytest

from a3b.interface.events import Finished, TextDelta, ThinkingDelta, ToolCallDelta, ToolCallEnd, ToolCallStart
from a3b.server.anthropic import messages
from a3b.server.anthropic.threads import Threads
from a3b.server.response_store import Recorder, ResponseStore
from tests.support.scripted_service import STARTED, USAGE, ScriptedService
from tests.support.served import app_of, content_of, exchange, served

PATH = "/v1/messages"
DONE = [STARTED, ThinkingDelta("hm"), TextDelta("ok"), Finished("stop", USAGE)]
CALL = [
    STARTED,
    ToolCallStart(0, "call_1", "add"),
    ToolCallDelta(0, '{"a": 1}'),
    ToolCallEnd(0, "call_1", "add", {"a": 1}),
    Finished("tool_calls", USAGE),
]
TOOL = {"name": "add", "input_schema": {"type": "object", "properties": {"a": {"type": "integer"}}}}
CREATE = {"type": "create"}


class Server:
    def __init__(self, store: ResponseStore | None = None):
        self.service = ScriptedService(DONE)
        self.app = app_of(messages, self.service, stored=store or ResponseStore())

    def send(self, text: str | list, key: str = "alice", status: int = 200, path: str = PATH, **body):
        asked = [{"role": "user", "content": text}] if isinstance(text, str) else text
        reply = exchange(self.app, "POST", path, {"model": "m", "max_tokens": 9, "messages": asked, **body}, key)
        assert reply.status_code == status, reply.text
        return content_of(reply)

    def create(self, text: str = "one", **body) -> str:
        return self.send(text, thread=CREATE, **body)["id"]


def after(message_id: str) -> dict:
    return {"type": "continue", "previous_message_id": message_id}


def told(server: Server) -> list[tuple[str, str]]:
    return [(message["role"], message["content"]) for message in server.service.requests[-1].messages]


@pytest.fixture(scope="module")
def client():
    service = ScriptedService(DONE)
    with (
        served(app_of(messages, service)) as url,
        anthropic.Anthropic(base_url=url, api_key="k", max_retries=0) as client,
    ):
        yield client, service


@pytest.mark.parametrize("stream", [False, True])
def test_the_clients_thread_sends_what_is_new_and_the_model_reads_all(client, stream):
    client, service = client
    thread = client.beta.messages.thread(model="m", max_tokens=9, system="be kind", tools=[TOOL])
    for text in ("one", "two", "three"):
        if stream:
            with thread.stream({"role": "user", "content": text}) as events:
                events.until_done()
        else:
            thread.send({"role": "user", "content": text})
    request = service.requests[-1]
    said = [message["content"] for message in request.messages]
    assert said == ["be kind", "one", "ok", "two", "ok", "three"] and len(request.tools) == 1
    assert [message.get("reasoning_content") for message in request.messages if message["role"] == "assistant"] == [
        "hm",
        "hm",
    ]


@pytest.mark.parametrize("stream", [False, True])
def test_the_clients_tool_runner_gets_results_to_the_call_they_answer(client, stream):
    @anthropic.beta_tool
    def add(a: int) -> str:
        """Add."""
        return f"{a} and one"

    client, service = client
    service.events = CALL
    asked = [{"role": "user", "content": "q"}]
    runner = client.beta.messages.tool_runner(model="m", max_tokens=9, tools=[add], stream=stream, messages=asked)
    for answer in runner:
        if stream:
            answer.until_done()
        service.events = DONE
    question, call, result = service.requests[-1].messages
    assert (question["content"], result["content"]) == ("q", "1 and one")
    assert call["tool_calls"][0]["id"] == result["tool_call_id"] == "call_1"


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_is_held_as_soon_as_its_end_is_sent(stream):
    server = Server()
    reply = server.send("one", thread=CREATE, stream=stream)
    server.send("two", thread=after(reply[0][1]["message"]["id"] if stream else reply["id"]))
    assert told(server) == [("user", "one"), ("assistant", "ok"), ("user", "two")]


def test_any_answer_of_a_thread_may_be_continued_again():
    server = Server()
    first = server.create("one")
    server.send("two", thread=after(first))
    server.send("another two", thread=after(first))
    assert told(server) == [("user", "one"), ("assistant", "ok"), ("user", "another two")]


def test_the_answer_that_a_request_without_a_thread_got_is_not_held():
    server = Server()
    assert (
        server.send("two", thread=after(server.send("one")["id"]), status=404)["error"]["details"]["error_code"]
        == "thread_not_found"
    )


@pytest.mark.parametrize(
    ("key", "message_id"), [("bob", None), ("alice", "msg_0"), ("alice", "\ud800"), ("alice", "x" * 10000)]
)
def test_what_is_not_held_is_refused_in_the_form_on_which_clients_send_all_again(key, message_id):
    server = Server()
    message_id = message_id or server.create()
    error = server.send("two", key=key, thread=after(message_id), status=404)["error"]
    assert error["type"] == "not_found_error" and error["details"] == {"error_code": "thread_not_found"}
    assert len(error["message"]) < 400 and "send the whole conversation" in error["message"]


def test_the_client_sends_all_again_when_its_thread_is_lost(client):
    client, service = client
    service.events = DONE
    thread = client.beta.messages.thread(model="m", max_tokens=9, messages=[])
    thread.send({"role": "user", "content": "one"})
    thread._state._thread.previous_message_id = "msg_lost"
    thread.send({"role": "user", "content": "two"})
    assert [message["content"] for message in service.requests[-1].messages] == ["one", "ok", "two"]


@pytest.mark.parametrize("changed", [{"system": "be rude"}, {"tools": [{**TOOL, "name": "other"}]}])
def test_a_thread_keeps_its_system_prompt_and_its_tools(changed):
    server = Server()
    same = {"system": "be kind", "tools": [TOOL]}
    first = server.create(**same)
    server.send("two", thread=after(first), **same)
    error = server.send("two", thread=after(first), **{**same, **changed}, status=400)["error"]
    assert error["details"]["error_code"] == "thread_fingerprint_mismatch" and error["message"].startswith(
        next(iter(changed))
    )


@pytest.mark.parametrize(
    "thread", [{}, {"type": "fork"}, {"type": "continue"}, {"type": "create", "for": "me"}, "create", [1]]
)
def test_what_is_no_thread_is_refused_by_name(thread):
    assert Server().send("one", thread=thread, status=400)["error"]["message"].startswith("thread")


def test_a_thread_that_is_null_is_none():
    server = Server()
    server.send("two", thread=after(server.send("one", thread=None)["id"]), status=404)


def test_tokens_of_a_thread_are_counted_and_nothing_is_kept():
    server = Server()
    first = server.create()
    assert server.send("two", thread=after(first), path=PATH + "/count_tokens") == {"input_tokens": 42}
    assert told(server) == [("user", "one"), ("assistant", "ok"), ("user", "two")]


class Records:
    def __init__(self):
        self.values: dict = {}

    def put_record(self, namespace, key, value):
        self.values.setdefault((namespace, key), []).append(value)

    def get_records(self, namespace, key):
        return self.values.get((namespace, key), [])


def test_a_thread_outlives_the_process_for_its_own_key():
    records = Records()
    store = ResponseStore(records=records)
    first = Server(store).create()
    store.close()
    again = Server(ResponseStore(records=records))
    again.send("two", thread=after(first))
    assert told(again) == [("user", "one"), ("assistant", "ok"), ("user", "two")]
    again.send("two", key="bob", thread=after(first), status=404)


def test_the_threads_used_last_are_held_within_the_limits():
    threads = Threads(Recorder(), max_count=3, max_bytes=2000)
    for i in range(4):
        threads.put("a", f"m{i}", {"messages": []}, [])
        threads.get("a", "m0")
    assert [i for i in range(4) if threads.get("a", f"m{i}")] == [0, 2, 3]
    threads.put("a", "large", {"messages": [{"role": "user", "content": "x" * 1800}]}, [])
    assert threads.get("a", "large") and not threads.get("a", "m2")
    threads.put("a", "too large", {"messages": [{"role": "user", "content": "x" * 2001}]}, [])
    assert threads.get("a", "too large") is None and threads.get("a", "large") and threads.get("b", "large") is None
