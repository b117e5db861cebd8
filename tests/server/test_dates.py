"""A date that changes between two turns costs nothing: each API, asked over HTTP, with the embedded model."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import Any

import pytest

from a3b import cli
from a3b.cache.disk_store import Store
from a3b.cache.prefix_cache import PrefixCache
from a3b.commands import serve
from a3b.engine.engine import Engine
from a3b.engine.request_renderer import ServiceSettings
from a3b.engine.scheduler import Scheduler
from a3b.engine.service import Service
from a3b.server.app import create_app
from a3b.server.middleware import ServerSettings
from a3b.thinking.turn_memory import TurnMemory
from tests.support.serving import ask
from tests.support.session_stores import forget

pytestmark = pytest.mark.slow  # starts servers or commands, or computes for seconds

PADDING = " ".join(f"Rule {i}: be kind." for i in range(30))
SYSTEM = f"You help. Today's date: {{day}}, current time: {{time}}. {PADDING}"
REMINDER = "<system-reminder>\nToday's date is {day}.\n</system-reminder>\n"
NOW = [
    {"day": "2026-11-25", "time": "23:58:01"},
    {"day": "2026-11-25", "time": "23:59:40"},
    {"day": "2026-11-26", "time": "00:01:12"},
]
QUESTIONS = ["hello, what was on 2026-11-20?", "What are you?", "Thanks!"]


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine.load()


class Server:
    """An app around a service, and what it computed."""

    def __init__(self, engine: Engine, store: Store | None, settings: ServiceSettings, keys: tuple[str, ...]):
        self.cache = PrefixCache(b"test", engine.model.new_state, 1 << 30, store)
        self.service = Service(engine, Scheduler(engine.model, self.cache), TurnMemory(store), settings)
        self.app = create_app(self.service, ServerSettings(api_keys=keys))

    def send(self, path: str, body: dict, key: str = "one") -> dict:
        reply = asyncio.run(ask(self.app, path, body, {"authorization": f"Bearer {key}"}))
        assert reply.status == 200, reply.body
        return reply.json()


@contextmanager
def running(
    engine: Engine,
    store: Store | None = None,
    settings: ServiceSettings | None = None,
    keys: tuple[str, ...] = ("one", "two"),
):
    server = Server(engine, store, settings or ServiceSettings(), keys)
    try:
        yield server
    finally:
        server.service.close()
        if store:
            store.flush()


def chat(now: dict, turns: list[tuple[str, str]], question: str) -> tuple[str, dict]:
    messages = [{"role": "system", "content": SYSTEM.format(**now)}]
    for asked, told in turns:
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": told}]
    return "/v1/chat/completions", {
        "messages": [*messages, {"role": "user", "content": question}],
        "temperature": 0,
        "max_tokens": 60,
    }


def messages(now: dict, turns: list[tuple[str, str]], question: str) -> tuple[str, dict]:
    """As Claude Code sends them: the date in a reminder, and a line that differs in each request."""
    items: list[dict] = []
    for asked, told in [*turns, (question, None)]:
        texts = [asked] if items else [REMINDER.format(**now), asked]
        items.append({"role": "user", "content": [{"type": "text", "text": text} for text in texts]})
        items += [{"role": "assistant", "content": told}] if told else []
    system = [
        {"type": "text", "text": text}
        for text in (f"x-anthropic-billing-header: cch={now['time']};", f"You help. {PADDING}")
    ]
    return "/v1/messages", {"model": "m", "system": system, "messages": items, "temperature": 0, "max_tokens": 60}


def responses(now: dict, turns: list[tuple[str, str]], question: str) -> tuple[str, dict]:
    items = [{"role": "developer", "content": f"It is {now['day']}."}]
    for asked, told in turns:
        items += [{"role": "user", "content": asked}, {"role": "assistant", "content": told}]
    body = {"input": [*items, {"role": "user", "content": question}], "instructions": SYSTEM.format(**now)}
    return "/v1/responses", {**body, "temperature": 0, "max_output_tokens": 60}


def read(reply: dict) -> tuple[str, int, int]:
    """(text, tokens of the prompt, how many of them were cached), of any API."""
    usage = reply["usage"]
    if "choices" in reply:
        return (
            reply["choices"][0]["message"]["content"],
            usage["prompt_tokens"],
            usage["prompt_tokens_details"]["cached_tokens"],
        )
    if reply.get("type") == "message":
        text = "".join(block["text"] for block in reply["content"] if block["type"] == "text")
        return text, usage["input_tokens"] + usage["cache_read_input_tokens"], usage["cache_read_input_tokens"]
    text = "".join(part["text"] for item in reply["output"] if item["type"] == "message" for part in item["content"])
    return text, usage["input_tokens"], usage["input_tokens_details"]["cached_tokens"]


def talk(server: Server, api: Any, clock: list[dict], key: str = "one", turns: list | None = None) -> list[tuple]:
    """A conversation, one reading of the clock for each request: (text, tokens, cached, dates kept) of each answer."""
    turns, told = [] if turns is None else turns, []
    for now in clock:
        question = QUESTIONS[len(turns)]
        reply = server.send(*api(now, turns, question), key)
        text, num, cached = read(reply)
        turns.append((question, text))
        told.append((text, num, cached, reply["a3b"]["cache"]["kept_dates"]))
    return told


APIS = pytest.mark.parametrize(
    ("api", "kept"),
    [(chat, [0, 1, 2]), (messages, [0, 0, 1]), (responses, [0, 1, 3])],
    ids=["chat", "messages", "responses"],
)


@APIS
def test_a_changed_date_reuses_as_much_as_an_unchanged_one_and_the_response_says_so(engine, api, kept):
    with running(engine) as server:
        still = talk(server, api, [NOW[0]] * 3)
    with running(engine) as server:
        changed = talk(server, api, NOW)
    assert [told[:3] for told in changed] == [told[:3] for told in still], "the same prompts, answers and reuse"
    assert [told[3] for told in changed] == kept and [told[3] for told in still] == [0, 0, 0]
    for (_, before, _, _), (_, num, cached, _) in zip(changed, changed[1:], strict=False):
        assert num > cached >= before - 16 > 150


@APIS
def test_exact_dates_are_those_of_each_request(engine, api, kept):
    with running(engine, settings=ServiceSettings(exact_dates=True)) as server:
        told = talk(server, api, NOW)
    assert [dates for *_, dates in told] == [0, 0, 0]
    assert told[-1][2] < told[0][1] - 16, "nothing behind the date is reused"


@APIS
def test_a_new_conversation_takes_the_new_date(engine, api, kept):
    with running(engine) as server:
        talk(server, api, NOW[:2])
        request = api(NOW[2], [], QUESTIONS[0])
        assert server.send(*request)["a3b"]["cache"]["kept_dates"] == 0
        told = talk(server, api, [NOW[2]] * 3)
    with running(engine) as server:
        assert [text for text, *_ in told] == [text for text, *_ in talk(server, api, [NOW[2]] * 3)]


def test_an_edit_of_the_user_wins(engine):
    with running(engine) as server:
        turns: list = []
        talk(server, messages, NOW[:1], turns=turns)
        path, body = messages(NOW[2], turns, "And 2026-11-21?")
        body["messages"][0]["content"][1]["text"] = "hello, what was on 2026-11-19?"
        rendered = server.service.decode(
            server.send(
                "/tokenize",
                {
                    "messages": [
                        {"role": "user", "content": "".join(part["text"] for part in body["messages"][0]["content"])},
                        body["messages"][1],
                        {"role": "user", "content": "And 2026-11-21?"},
                    ]
                },
            )["tokens"]
        )
        assert (
            all(date in rendered for date in ("2026-11-26", "2026-11-19", "2026-11-21"))
            and "2026-11-25" not in rendered
        )
        assert server.send(path, body)["a3b"]["cache"]["kept_dates"] == 0


def test_dates_are_held_after_a_restart_until_the_session_is_forgotten(engine, tmp_path):
    turns: list = []
    with Store(tmp_path) as store, running(engine, store) as server:
        first = talk(server, chat, NOW[:1], turns=turns)
    with Store(tmp_path) as store, running(engine, store) as server:
        _, num, cached, dates = talk(server, chat, NOW[2:], turns=turns)[-1]
        assert dates == 2 and num > cached >= first[0][1] - 16
    with Store(tmp_path) as store:
        for row in store._index.rows()[0]:
            forget(tmp_path, row.id)
    with Store(tmp_path) as store, running(engine, store) as server:
        reply = server.send(*chat(NOW[2], turns[:1], QUESTIONS[1]))
        assert reply["a3b"]["cache"]["kept_dates"] == 0


def test_another_key_holds_nothing(engine):
    with running(engine) as server:
        turns: list = []
        talk(server, chat, NOW[:1], turns=turns)
        assert talk(server, chat, NOW[2:], "two", list(turns))[0][3] == 0
        assert talk(server, chat, NOW[2:], "one", list(turns))[0][3] == 2


def test_tokens_are_counted_as_they_are_computed(engine):
    long = [{**NOW[0], "day": "Nov 25, 2026"}, {**NOW[2], "day": "Wednesday, November 26th, 2026"}]
    with running(engine) as server:
        for api, path, fields in (
            (chat, "/tokenize", ("count",)),
            (messages, "/v1/messages/count_tokens", ("input_tokens",)),
            (responses, "/v1/responses/input_tokens", ("input_tokens",)),
        ):
            turns: list = []
            talk(server, api, long[:1], turns=turns)
            body = api(long[1], turns, QUESTIONS[1])[1]
            counted = server.send(
                path, {key: value for key, value in body.items() if path != "/tokenize" or key == "messages"}
            )
            ((_, num, _, dates),) = talk(server, api, long[1:], turns=turns)
            assert dates > 0 and counted[fields[0]] == num, path


def test_the_switch_of_the_command_reaches_the_service(engine, monkeypatch):
    settings = []

    def made(engine, scheduler, turns, given, trace, about):
        scheduler.close()
        settings.append(given.exact_dates)
        raise StopIteration

    monkeypatch.setattr(serve, "bound", lambda *_: None)
    monkeypatch.setattr(serve, "load", lambda args: engine)
    monkeypatch.setattr(serve, "Service", made)
    for more in ([], ["--exact-dates"]):
        with pytest.raises(StopIteration):
            cli.main(["serve", "--no-persist", *more])
    assert settings == [False, True]
