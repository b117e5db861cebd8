"""The Python API on the embedded model: replies, streams, tools, schemas, and what it refuses."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

import a3b
from a3b.engine.engine import nano_directory
from a3b.errors import A3BError, CheckpointError, ContextError, ConversationError, TokenizerError, UsageError

pytestmark = pytest.mark.slow  # loads the embedded model many times

GREEDY = {"temperature": 0.0, "max_tokens": 60}
TOOL = {
    "type": "function",
    "function": {
        "name": "get",
        "description": "Get the value of one key.",
        "parameters": {"type": "object", "properties": {"key": {"type": "string"}}, "required": ["key"]},
    },
}


@pytest.fixture(scope="module")
def model():
    with a3b.load() as model:
        yield model


def user(text):
    return {"role": "user", "content": text}


def test_a_reply_has_thinking_and_text_and_counts(model):
    reply = model.chat("hello", **GREEDY)
    assert isinstance(reply, a3b.Reply) and reply.text and reply.thinking and reply.tool_calls == ()
    assert reply.finish_reason == "stop" and reply.usage.thinking_tokens > 0
    assert reply.message == {"role": "assistant", "content": reply.text, "reasoning_content": reply.thinking}


def test_text_and_a_message_of_a_user_are_the_same(model):
    assert model.chat("hello", **GREEDY).text == model.chat([user("hello")], **GREEDY).text


def test_a_stream_gives_the_reply_in_pieces(model):
    whole = model.chat("hello", **GREEDY)
    with model.chat("hello", stream=True, **GREEDY) as stream:
        events = list(stream)
    assert "".join(event.text for event in events if isinstance(event, a3b.TextDelta)) == whole.text
    assert isinstance(events[-1], a3b.Finished) and stream.reply.message == whole.message


def test_a_stream_has_no_reply_before_its_end(model):
    with model.chat("hello", stream=True, **GREEDY) as stream:
        next(stream)
        with pytest.raises(UsageError, match="still being written"):
            stream.reply  # noqa: B018


def test_the_thinking_of_a_turn_is_replayed_as_it_was_sampled(model):
    messages = [user("Think of two numbers from 0 to 999. Tell me only the first.")]
    first = model.chat(messages, seed=1)
    secret = first.thinking.partition("second: ")[2].split()[0]
    second = model.chat([*messages, first.message, user("And the other number?")], temperature=0.0)
    assert secret in second.text
    assert second.usage.cached_tokens == first.usage.prompt_tokens + first.usage.completion_tokens - 1


def test_calls_of_tools_are_objects_and_their_results_go_back(model):
    messages = [user("Start at a1b2 and follow the chain for 1 steps. Where do you end?")]
    reply = model.chat(messages, tools=[TOOL], **GREEDY)
    (call,) = reply.tool_calls
    assert (call.name, call.arguments, call.complete) == ("get", {"key": "a1b2"}, True)
    assert reply.finish_reason == "tool_calls"
    messages += [reply.message, {"role": "tool", "tool_call_id": call.id, "content": "c3d4"}]
    assert "c3d4" in model.chat(messages, tools=[TOOL], **GREEDY).text


@pytest.mark.parametrize("choice", ["required", "get", {"type": "function", "function": {"name": "get"}}])
def test_a_call_can_be_required(model, choice):
    reply = model.chat("hello", tools=[TOOL], tool_choice=choice, thinking_budget=0, seed=1, max_tokens=100)
    assert reply.tool_calls[0].name == "get"


def test_a_schema_is_satisfied(model):
    schema = {
        "type": "object",
        "properties": {"a": {"type": "integer"}},
        "required": ["a"],
        "additionalProperties": False,
    }
    reply = model.chat("hello", schema=schema, thinking_budget=8, seed=1, max_tokens=200)
    assert isinstance(json.loads(reply.text)["a"], int)


def test_without_thinking_there_is_none(model):
    reply = model.chat("hello", think=False, **GREEDY)
    assert reply.thinking == "" and reply.text


def test_a_text_is_continued_as_it_is(model):
    reply = model.generate("Hello", seed=1, max_tokens=8)
    assert reply.text and reply.thinking == "" and reply.usage.completion_tokens <= 8
    with model.generate("Hello", seed=1, max_tokens=8, stream=True) as stream:
        assert stream.read().text == reply.text


def test_many_conversations_get_the_replies_that_each_gets_alone(model):
    questions = ["hello", "what are you?", "thanks", "What is a cache?", "hello", "Define memory."]
    together = model.chat_many(questions, **GREEDY)
    assert [reply.text for reply in together] == [model.chat(question, **GREEDY).text for question in questions]


def test_threads_share_a_model(model):
    questions = ["hello", "what are you?", "thanks"] * 2
    with ThreadPoolExecutor(6) as threads:
        found = list(threads.map(lambda question: model.chat(question, **GREEDY).text, questions))
    assert found[:3] == found[3:] == [model.chat(question, **GREEDY).text for question in questions[:3]]


def test_text_becomes_tokens_and_text_again(model):
    ids = model.tokenize("Grüße <|im_end|>")
    assert all(isinstance(token, int) for token in ids) and model.detokenize(ids) == "Grüße <|im_end|>"
    assert model.count_tokens("hello") == model.chat("hello", **GREEDY).usage.prompt_tokens
    assert model.count_tokens("hello", tools=[TOOL]) > model.count_tokens("hello")
    assert model.count_tokens("word " * 5000) > 5000


def test_other_libraries_names_are_understood(model):
    params = a3b.SamplingParams(temperature=0.0, max_tokens=60)
    expected = model.chat("hello", **GREEDY).text
    assert model.chat("hello", sampling_params=params).text == expected
    assert model.chat("hello", temperature=0, max_new_tokens=60, repeat_penalty=1.0).text == expected
    assert model.chat("hello", stop=expected[3:6], **GREEDY).text == expected[: expected.index(expected[3:6])]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"temprature": 1}, "did you mean 'temperature'"),
        ({"tool": []}, "did you mean"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": "hot"}, "temperature"),
        ({"sampling_params": {"temperature": 1}}, "sampling_params"),
        ({"tools": "get"}, "tools"),
        ({"tools": [5]}, "tools"),
        ({"tool_choice": 5}, "tool_choice"),
        ({"tool_choice": "put", "tools": [TOOL]}, "tool_choice"),
        ({"schema": "object"}, "schema"),
        ({"think": "yes"}, "think"),
        ({"thinking_budget": -1}, "thinking_budget"),
        ({"thinking_policy": "some"}, "policy"),
        ({"thinking_policy": 5}, "policy"),
        ({"parallel_tool_calls": "no"}, "parallel_tool_calls"),
        ({"stream": "yes"}, "stream"),
        ({"logit_bias": {5: "x"}}, "logit_bias"),
        ({"logit_bias": {5: float("nan")}}, "logit_bias"),
        ({"logit_bias": {5.5: 1.0}}, "logit_bias"),
        ({"logit_bias": "ab"}, "logit_bias"),
        ({"logit_bias": [(5,)]}, "logit_bias"),
    ],
)
def test_an_argument_that_cannot_be_used_is_named(model, options, told):
    with pytest.raises(UsageError, match=told):
        model.chat("hello", **options)


@pytest.mark.parametrize(
    ("messages", "error", "told"),
    [
        (None, UsageError, "messages: NoneType"),
        (5, UsageError, "messages: int"),
        (b"hello", UsageError, "messages: bytes"),
        ({"role": "user"}, UsageError, "messages: dict"),
        ([], UsageError, "messages: nothing"),
        (["hello"], ConversationError, "messages[0]"),
        ([user("a"), {"role": "foo", "content": "x"}], ConversationError, "messages[1].role: 'foo'"),
        ([{"role": "user"}], ConversationError, "messages[0].content: missing"),
        ([user([{"type": "image_url", "image_url": {"url": "x"}}])], UsageError, "image"),
        ([user("word " * 9000)], ContextError, "8192"),
    ],
)
def test_messages_that_cannot_be_used_are_named_by_their_place(model, messages, error, told):
    with pytest.raises(error) as caught:
        model.chat(messages)
    assert told in str(caught.value)


def test_ids_that_are_no_tokens_are_refused(model):
    with pytest.raises(TokenizerError):
        model.detokenize([10**9])
    for ids in ("x", 5, [1.5], None):
        with pytest.raises(UsageError, match="ids"):
            model.detokenize(ids)


@pytest.mark.parametrize(
    "options",
    [
        {"max_active": 0},
        {"threads": 0},
        {"kv": "q9"},
        {"isa": "none"},
        {"context": 0},
        {"cache_dir": 5},
        {"drafts": "off"},
    ],
)
def test_loading_refuses_what_it_cannot_do(options):
    with pytest.raises(A3BError):
        a3b.load(**options)


def test_sessions_outlive_the_process_where_a_directory_is_given(tmp_path):
    messages = [user("hello")]
    with a3b.load(cache_dir=tmp_path / "sessions") as first:
        reply = first.chat(messages, **GREEDY)
    with a3b.load(cache_dir=tmp_path / "sessions") as second:
        after = second.chat([*messages, reply.message, user("thanks")], **GREEDY)
    assert after.usage.cached_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens - 1


def test_a_closed_model_says_so():
    model = a3b.load()
    model.close()
    model.close()
    with pytest.raises(UsageError, match="closed"):
        model.chat("hello")


def test_leaving_a_stream_early_leaves_the_model_usable(model):
    with model.chat("hello", stream=True, temperature=3.0, max_tokens=3000) as stream:
        next(stream)
    assert model.chat("hello", **GREEDY).finish_reason == "stop"


def test_a_model_that_was_not_closed_leaves_quietly():
    code = (
        "import a3b; model = a3b.load(); model.chat('hello', max_tokens=2); stream = model.chat('hello', stream=True)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")  # the fork of a process with threads
def test_a_forked_process_is_told_to_load_its_own_model(model):
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        signal.alarm(20)
        try:
            model.chat("hello", max_tokens=2)
        except UsageError as error:
            os.write(writer, str(error).encode())
        finally:
            model.close()  # its threads are the parent's
            os._exit(0)
    os.close(writer)
    with open(reader, encoding="utf-8") as told:
        assert "load it in this process" in told.read()
    os.waitpid(child, 0)
    assert model.chat("hello", **GREEDY).finish_reason == "stop"


def test_a_model_is_loaded_by_the_name_that_it_is_kept_under(tmp_path, monkeypatch):
    folder = tmp_path / "models" / "tiny-fast"
    shutil.copytree(nano_directory(), folder)
    (folder / "a3b.json").write_text("{}")
    (tmp_path / "models" / "tiny-fast.json").write_text('{"name": "tiny:fast", "source": "o/n", "model": "tiny"}')
    monkeypatch.setenv("A3B_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for name in ("tiny", "Tiny:Fast"):
        with pytest.raises(CheckpointError, match="tiny-fast/a3b.json"):  # it is found, and its manifest is none
            a3b.load(name)
    with pytest.raises(UsageError, match="'tiny:slow' is not a directory"):
        a3b.load("tiny:slow")


def test_a_stream_that_was_cancelled_says_so(model):
    with model.chat("hello", stream=True, max_tokens=3000) as stream:
        next(stream)
    with pytest.raises(UsageError, match="cancelled"):
        stream.reply  # noqa: B018


@pytest.mark.parametrize(
    "conversations, options, told",
    [
        ("hello", {}, "chat_many"),
        (None, {}, "chat_many"),
        (["hello"], {"stream": True}, "chat_many"),
    ],
)
def test_many_conversations_that_cannot_be_used_are_refused(model, conversations, options, told):
    with pytest.raises(UsageError, match=told):
        model.chat_many(conversations, **options, **GREEDY)
