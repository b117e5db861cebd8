"""The clients that users have against a real server in its own process; the trace of token ids is the evidence.

More clients, each in its own environment: `python -m bench.clients`.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from bench.clients import anthropic_sdk, games, openai_sdk, roster
from bench.clients.__main__ import table
from bench.clients.games import Played, Row, judge, lookup_game, secret_game
from bench.clients.play import At, Game, Player, play
from bench.clients.proof import SLACK, Proof, Reader
from bench.clients.server import KEY, MODEL, Server, Traced

pytestmark = pytest.mark.slow  # starts servers or commands, or computes for seconds

PLAYERS = {**openai_sdk.PLAYERS, **anthropic_sdk.PLAYERS}
KEEPERS = [name for name in PLAYERS if name != "chat-policy-none"]
DROPPERS = {"chat", "chat-stream", "messages-dropped"}  # never send thinking back
TRIES = 3  # games; of a hundred the model loses three


@pytest.fixture(scope="module")
def reader() -> Reader:
    return Reader()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with Server(tmp_path_factory.mktemp("server")) as running:
        yield running


def player_of(name: str, server: Server, game: Game) -> Player:
    return PLAYERS[name](At(server.url, KEY, MODEL), game)


def greedy(played: Played) -> Played:
    """Without a seed the same answers come every time: not all APIs have one."""
    return dataclasses.replace(played, game=played.game | {"seed": None})


def through(name: str, server: Server, played: Played, reader: Reader) -> Row:
    since, game = len(server.answers()), Game(**played.game)
    player = player_of(name, server, game)
    with closing(player.client):
        told = {"answers": play(player, game)}
    row = Row(name, works=True)
    assert judge(row, played, told, server, since, reader) is None
    return row


def check_kept(proof: Proof, name: str) -> None:
    """Every turn came back token for token, from whom it should, and nothing but new tokens was computed."""
    assert proof.later == proof.answers - 1 > 0
    assert proof.kept == proof.turns > 0
    assert proof.reused == proof.later
    assert (proof.restored > 0, proof.sent > 0) == (name in DROPPERS, name not in DROPPERS)


@pytest.mark.parametrize("name", KEEPERS)
def test_a_number_that_only_the_thinking_knows_is_recalled(name, server, reader):
    for index in range(TRIES):
        played = secret_game(index) if name.startswith("chat") else greedy(secret_game(index))
        row = through(name, server, played, reader)
        check_kept(row.proof, name)
        if row.right:
            return
    pytest.fail(f"{TRIES} games lost")


def test_without_its_thinking_the_number_is_lost(server, reader):
    row = through("chat-policy-none", server, secret_game(0), reader)
    assert (row.played, row.right, row.proof.turns, row.proof.kept) == (1, 0, 1, 0)


@pytest.mark.parametrize("name", KEEPERS)
def test_a_chain_of_two_calls_is_followed_to_its_end(name, server, reader):
    row = through(name, server, greedy(lookup_game(0)), reader)
    check_kept(row.proof, name)
    assert row.proof.answers == 3


def test_thinking_and_prefix_outlive_the_server(server, reader):
    since, game = len(server.answers()), Game(**greedy(secret_game(1)).game)
    ask, reveal = game.says
    names = ["chat", "responses", "responses-stateless", "messages", "messages-dropped"]
    players = [player_of(name, server, game) for name in names]
    with ExitStack() as stack:
        for player in players:
            stack.enter_context(closing(player.client))
            player.say(ask)
        server.stop()
        server.start()
        for player in players:
            player.say(reveal)
    answers = server.answers(since)
    for name, first, second in zip(names, answers[: len(names)], answers[len(names) :], strict=True):
        check_kept(reader.prove([first, second], is_chain=True), name)
        assert second.cached >= len(first.prompt + first.sampled) - SLACK


def test_thinking_that_a_client_stops_goes_on_from_there(server, reader):
    import openai

    since, thinking = len(server.answers()), ""
    ask = [{"role": "user", "content": "Think of two numbers from 0 to 999. Tell me only the first."}]
    # thinks on and on
    hot = {"temperature": 2.0, "seed": 7, "max_tokens": 3000, "extra_body": {"top_k": 0, "top_p": 1.0}}
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0) as client:
        with client.chat.completions.create(model=MODEL, messages=ask, stream=True, **hot) as stream:
            for chunk in stream:
                thinking += getattr(chunk.choices[0].delta, "reasoning_content", None) or ""
                if len(thinking) > 200:
                    break
        history = [
            *ask,
            {"role": "assistant", "content": "", "reasoning_content": thinking},
            {"role": "user", "content": "Go on."},
        ]
        client.chat.completions.create(model=MODEL, messages=history, max_tokens=20)
    first, second = server.answers(since)
    assert (first.reason, second.sent > 0, second.restored) == ("cancelled", True, 0)
    assert f"{thinking.strip()}\n</think>\n\n<|im_end|>" in reader.tokenizer.decode(second.prompt)
    so_far = (*first.prompt, *first.sampled[:20])
    assert second.prompt[: len(so_far)] == so_far


FRAMEWORKS = [client for client in roster.ROSTER if client.module == "frameworks"]


@pytest.mark.parametrize("client", FRAMEWORKS, ids=[client.name for client in FRAMEWORKS])
def test_thinking_and_prefix_are_kept_through_a_framework(client, server, reader, tmp_path, monkeypatch):
    """In its own process, as `python -m bench.clients` runs it."""
    monkeypatch.setattr(games, "TOOL_GAMES", 1)
    program = client.home.program(tmp_path)
    if program is None:
        pytest.skip(f"not installed: {client.home.how}")
    row = games.run_games(client, program, server, 1, reader, tmp_path / "log")
    assert not row.failed, row
    assert row.played == 1


def test_a_wrong_key_is_reported(server):
    import anthropic
    import openai

    with (
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="wrong", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError),
    ):
        client.models.list()
    with (
        anthropic.Anthropic(base_url=server.url, api_key="wrong", max_retries=0) as client,
        pytest.raises(anthropic.AuthenticationError),
    ):
        client.messages.create(model=MODEL, max_tokens=8, messages=[{"role": "user", "content": "Hi."}])


# -- the judge


def traced(prompt: tuple[int, ...], sampled: tuple[int, ...], cached: int = 0) -> Traced:
    return Traced(prompt, sampled, cached, sent=0, restored=0, reason="stop", miss="")


@pytest.fixture
def conversation(reader):
    """Two answers; the second prompt is the first, what was sampled, and a new question."""
    encode, control = reader.tokenizer.encode_text, reader.tokenizer.control_id
    begin, end, close = (control(name) for name in ("<|im_start|>", "<|im_end|>", "</think>"))
    prompt = (
        begin,
        *encode("user\nAsk."),
        end,
        *encode("\n"),
        begin,
        *encode("assistant\n"),
        control("<think>"),
        *encode("\n"),
    )
    sampled = (
        *encode("first: 1\nsecond: 2\n"),
        close,
        *encode("\n\nIt is 1, and no more than that is told to anybody who asks."),
        end,
    )
    later = (*prompt, *sampled, *encode("\n"), begin, *encode("user\nMore."), end)
    first = traced(prompt, sampled)
    return first, traced(later, (end,), cached=len(prompt + sampled) - 1)


def test_the_judge_sees_what_was_kept_and_reused(reader, conversation):
    for is_chain in (True, False):
        assert reader.prove(conversation, is_chain) == Proof(answers=2, turns=1, kept=1, later=1, reused=1)


def test_the_judge_sees_a_token_of_thinking_that_changed(reader, conversation):
    first, second = conversation
    position = len(first.prompt)
    changed = dataclasses.replace(
        second, prompt=(*second.prompt[:position], second.prompt[position] + 1, *second.prompt[position + 1 :])
    )
    for is_chain in (True, False):
        assert reader.prove([first, changed], is_chain) == Proof(answers=2, turns=1, kept=0, later=1, reused=0)


def test_the_judge_sees_tokens_that_were_computed_again(reader, conversation):
    first, second = conversation
    enough = len(first.prompt + reader.body(first)) - SLACK
    for cached, reused in ((enough, 1), (enough - 1, 0)):
        proof = reader.prove([first, dataclasses.replace(second, cached=cached)], is_chain=True)
        assert (proof.kept, proof.reused) == (1, reused)


def test_turns_that_an_agent_invents_are_not_counted_against_it(reader, conversation):
    first, second = conversation
    silent = dataclasses.replace(first, sampled=first.sampled[:-2] + first.sampled[-1:])
    assert reader.prove([silent, second]) == Proof(answers=2)


@pytest.mark.parametrize(
    ("row", "failed"),
    [
        (Row("absent"), False),
        (Row("good", works=True, proof=Proof(2, 1, 1, 1, 1)), False),
        (Row("refused", works=False, proof=Proof(2, 1, 1, 1, 1)), True),
        (Row("lost", works=True, proof=Proof(2, 1, 0, 1, 1)), True),
        (Row("computed again", works=True, proof=Proof(2, 1, 1, 1, 0)), True),
        (Row("one turn only", works=True, proof=Proof(2)), True),
        (Row("control", works=True, proof=Proof(2, 1, 0, 1, 0), must_keep=False), False),
        (Row("control that keeps", works=True, proof=Proof(2, 1, 1, 1, 1), must_keep=False), True),
    ],
)
def test_a_row_fails_unless_everything_was_kept(row, failed):
    assert row.failed is failed
    json.dumps(row.as_json())


def test_the_table_names_what_is_not_installed(tmp_path):
    client = next(client for client in roster.ROSTER if client.home.name == "aider")
    assert client.home.program(tmp_path) is None
    assert roster.HOMES["sdk"].program(tmp_path) == Path(sys.executable)
    assert "| aider | | | | | | not installed: pip install aider-chat |" in table(
        [Row("aider", note=f"not installed: {client.home.how}")]
    )


def test_clients_are_chosen_by_the_beginning_of_their_names():
    assert [client.name for client in roster.chosen("litellm,codex")] == [
        "litellm openai/",
        "litellm anthropic/",
        "codex",
    ]
    with pytest.raises(ValueError, match="no client 'nobody'"):
        roster.chosen("llm,nobody")


def test_a_client_that_ends_by_itself_is_a_failure(server, reader, tmp_path, monkeypatch):
    monkeypatch.setattr(games, "TOOL_GAMES", 0)
    client = dataclasses.replace(roster.ROSTER[0], player="no such player")
    row = games.run_games(client, Path(sys.executable), server, 1, reader, tmp_path / "log")
    assert (row.works, row.failed) == (False, True)
    assert "no such player" in row.note
