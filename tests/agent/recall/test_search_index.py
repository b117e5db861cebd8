"""What is found in earlier sessions, with its source, and what must never be found."""

from __future__ import annotations

import json
import os
import random
import sqlite3
import threading
from contextlib import closing

import pytest

from a3b.agent.recall.search_index import SearchIndex
from a3b.agent.sessions import ProjectSessions, key_digest
from a3b.errors import StoreError
from a3b.server.middleware import namespace_of
from tests.support.past_sessions import past_session, sessions_in

TURNS = (
    {
        "task": "Make the parser faster.",
        "thinking": "The tokenizer dominates: 80 percent. A trampoline would help.",
        "call": ("bash", json.dumps({"command": "pytest tests/test_parser.py"})),
        "result": "3 failed: zirconium expected",
    },
    {"thinking": "Caching it is.", "answer": "I cached parse_config, see src/lexer.py."},
)


def found(sessions, words, **named):
    return [(match.kind, match.turn) for match in SearchIndex(sessions).search(words, **named).matches]


@pytest.mark.parametrize(
    ("words", "places"),
    [
        ("parser faster", [("user", 1)]),
        ("trampoline", [("thinking", 1)]),
        ("zirconium", [("tool", 1)]),
        ("test_parser.py pytest", [("tool", 1)]),
        ("parse_config", [("answer", 2)]),
        ("caching", [("thinking", 2), ("answer", 2)]),  # by its stem
        ("tramp", []),
        ("directory", []),  # of the environment, which the user did not write
    ],
)
def test_a_match_says_its_turn_and_kind(tmp_path, words, places):
    sessions = sessions_in(tmp_path)
    id = past_session(sessions, *TURNS)
    assert sorted(found(sessions, words)) == sorted(places)
    assert all(match.session == id for match in SearchIndex(sessions).search(words).matches)


def test_a_match_cites_session_turn_date_and_kind(tmp_path):
    sessions = sessions_in(tmp_path)
    id = past_session(sessions, *TURNS)
    (match,) = SearchIndex(sessions).search("trampoline").matches
    date = f"{id[:4]}-{id[4:6]}-{id[6:8]}"
    assert match.source.startswith(f"session {id}, turn 1, {date} ")
    assert match.source.endswith(", thinking")
    assert match.text == TURNS[0]["thinking"]


def test_all_words_are_wanted_before_any_of_them(tmp_path):
    sessions = sessions_in(tmp_path)
    past_session(sessions, {"task": "red"}, {"task": "blue"}, {"task": "red and blue"})
    assert found(sessions, "red blue") == [("user", 3)]
    assert len(found(sessions, "red green blue")) == 3


def test_words_of_a_language_without_blanks_are_found(tmp_path):
    sessions = sessions_in(tmp_path)
    past_session(sessions, {"task": "请修复解析器的错误", "answer": "パーサーを修正しました"})
    assert found(sessions, "解析器") == [("user", 1)]
    assert found(sessions, "修正") == [("answer", 1)]
    assert SearchIndex(sessions).search("解析器").matches[0].text == "请修复解析器的错误"


@pytest.mark.parametrize(
    "words",
    [
        *('"', '"" OR *', "a AND", "NEAR(", "words:red", "session : x", "-red", "^red*", "(red", "red NOT"),
        *("\0", "\ud800", "x" * 9999, "{words} : red", "red' OR 1=1 --"),
    ],
)
def test_the_query_language_has_no_power(tmp_path, words):
    sessions = sessions_in(tmp_path)
    past_session(sessions, {"task": "something else"})
    assert found(sessions, words) == []


def test_other_projects_and_other_keys_are_never_found(tmp_path):
    past_session(sessions_in(tmp_path, "other"), {"task": "secret word"})
    past_session(sessions_in(tmp_path, api_key="key of another"), {"task": "secret word"})
    mine = sessions_in(tmp_path, api_key="mine")
    past_session(mine, {"task": "nothing"})
    assert found(mine, "secret") == found(sessions_in(tmp_path), "secret") == []
    assert SearchIndex(mine).search("secret").sessions == 1
    assert len(mine.nodes()) == 1
    assert found(sessions_in(tmp_path, api_key="key of another"), "secret") == [("user", 1)]


def test_a_key_is_kept_as_the_namespace_that_the_server_makes_of_it(tmp_path):
    sessions = sessions_in(tmp_path, api_key="sk-very-secret")
    path = sessions.path(past_session(sessions, {"task": "x"}))
    assert key_digest("sk-very-secret") == namespace_of(b"sk-very-secret")
    assert b"sk-very-secret" not in path.read_bytes()


def test_the_session_that_asks_finds_only_what_a_compaction_took_away(tmp_path):
    sessions = sessions_in(tmp_path)
    id = past_session(sessions, {"task": "early trampoline"}, {"task": "late trampoline"})
    assert found(sessions, "trampoline", own=id) == []
    transcript, _ = sessions.load(id)
    transcript.begin_anew([{"role": "user", "content": "summary"}], summary="it went well")
    transcript.close()
    assert found(sessions, "early trampoline", own=id) == [("user", 1)]
    assert found(sessions, "went well") == [("summary", 2)]


def test_a_fork_adds_only_its_own_words(tmp_path):
    sessions = sessions_in(tmp_path)
    id = past_session(sessions, {"task": "the trampoline"}, {"task": "more"})
    sessions.fork(id, 1)
    assert [match.session for match in SearchIndex(sessions).search("trampoline").matches] == [id]


def test_what_is_added_is_found_without_reading_all_again(tmp_path, monkeypatch):
    sessions = sessions_in(tmp_path)
    id = past_session(sessions, {"task": "first"})
    assert found(sessions, "first") == [("user", 1)]
    transcript, _ = sessions.load(id)
    transcript.say({"role": "user", "content": "second"}, task="second")
    transcript.close()
    starts, take = [], SearchIndex._take

    def counted(self, db, id, file, known, status):
        starts.append(known[2] if known else 0)
        return take(self, db, id, file, known, status)

    monkeypatch.setattr(SearchIndex, "_take", counted)
    assert found(sessions, "second") == [("user", 2)]
    assert found(sessions, "first") == [("user", 1)]
    assert len(starts) == 1 and starts[0] > 0


def test_a_transcript_that_was_replaced_is_read_anew(tmp_path):
    sessions = sessions_in(tmp_path)
    path = sessions.path(past_session(sessions, {"task": "before"}))
    assert found(sessions, "before")
    path.write_bytes(path.read_bytes().replace(b"before", b"behind") + b'{"turn": 2}\n')
    assert found(sessions, "before") == []
    assert found(sessions, "behind") == [("user", 1)]


def test_a_session_that_is_gone_is_not_found(tmp_path):
    sessions = sessions_in(tmp_path)
    path = sessions.path(past_session(sessions, {"task": "trampoline"}))
    assert found(sessions, "trampoline")
    path.unlink()
    assert found(sessions, "trampoline") == []


@pytest.mark.parametrize("seed", range(12))
def test_a_damaged_index_breaks_nothing(tmp_path, seed):
    sessions = sessions_in(tmp_path)
    past_session(sessions, *TURNS)
    assert found(sessions, "trampoline")
    path, rng = sessions.place / "recall.sqlite", random.Random(seed)
    data = bytearray(path.read_bytes())
    if seed % 3 == 0:
        data = bytearray(rng.randbytes(5_000))
    elif seed % 3 == 1:
        start = rng.randrange(len(data) - 3_000)
        data[start : start + 3_000] = rng.randbytes(3_000)
    else:
        del data[rng.randrange(1, len(data)) :]
    path.write_bytes(data)
    index = SearchIndex(sessions)
    index.search("zirconium")
    matches = index.search("trampoline").matches
    assert seed % 3 == 1 or [match.turn for match in matches] == [1]  # SQLite does not notice every changed byte


def test_an_index_of_another_form_is_made_again(tmp_path):
    sessions = sessions_in(tmp_path)
    past_session(sessions, *TURNS)
    with closing(sqlite3.connect(sessions.place / "recall.sqlite")) as db:
        db.execute("CREATE TABLE passage(words)")
    assert found(sessions, "trampoline") == [("thinking", 1)]


@pytest.mark.parametrize("kind", ["link", "pipe", "directory"])
def test_something_else_in_the_place_of_the_index_is_refused_by_name(tmp_path, kind):
    sessions = sessions_in(tmp_path)
    past_session(sessions, *TURNS)
    path = sessions.place / "recall.sqlite"
    {"link": lambda: path.symlink_to("/etc/passwd"), "pipe": lambda: os.mkfifo(path), "directory": path.mkdir}[kind]()
    with pytest.raises(StoreError, match="recall.sqlite"):
        SearchIndex(sessions).search("trampoline")


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"[]",
        b"7",
        b'{"turn": "x", "message": 7}',
        b'{"turn": 1, "message": {"role": "user", "content": ["x"]}}',
        b'{"turn": 1, "message": {"role": "assistant", "tool_calls": [7, {"function": {"arguments": 7}}]}}',
        b'{"turn": 1, "at": 1e300, "message": {"role": "assistant", "reasoning_content": 7, "content": null}}',
        b'{"turn": 1, "begin": 7, "summary": {"a": 1}}',
        b'{"turn": 1, "message": {"role": "tool", "content": "\\u0000\\ud800"}}',
        b"[" * 100_000,
        b"\xff\xfe",
    ],
    ids=lambda line: repr(line[:30]),
)
def test_a_transcript_of_somebody_else_breaks_nothing(tmp_path, line):
    sessions = sessions_in(tmp_path)
    past_session(sessions, *TURNS)
    other = sessions.path(past_session(sessions, {"task": "trampoline too"}))
    with open(other, "ab") as file:
        file.write(line + b"\n")
    assert sorted(found(sessions, "trampoline")) == [("thinking", 1), ("user", 1)]


def test_a_transcript_of_another_directory_is_not_taken_in(tmp_path):
    here, there = sessions_in(tmp_path), sessions_in(tmp_path, "other")
    id = past_session(there, {"task": "trampoline"})
    past_session(here, {"task": "nothing"})
    os.rename(there.path(id), here.path(id))
    assert found(here, "trampoline") == []


def test_the_oldest_sessions_leave_a_full_index_and_are_counted(tmp_path, monkeypatch):
    sessions = sessions_in(tmp_path)
    ids, create = iter(f"2026010{n}-000000-0000" for n in range(1, 9)), ProjectSessions.create

    def dated(self, *args, **named):
        transcript = create(self, *args, **named)
        os.rename(transcript.path, path := self.path(next(ids)))
        transcript.path = path
        return transcript

    monkeypatch.setattr(ProjectSessions, "create", dated)
    for n in range(5):
        past_session(sessions, {"task": f"trampoline {n}"}, {"task": f"word {n}"})
    result = SearchIndex(sessions, max_passages=6).search("trampoline")
    assert (result.sessions, result.left_out) == (3, 2)
    assert sorted(match.text for match in result.matches) == ["trampoline 2", "trampoline 3", "trampoline 4"]


def test_sessions_that_search_at_the_same_time_find_the_same(tmp_path):
    sessions = sessions_in(tmp_path)
    for n in range(8):
        past_session(sessions, {"task": f"trampoline {n}"})
    out = []
    threads = [threading.Thread(target=lambda: out.append(len(found(sessions, "trampoline")))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert out == [8] * 6


def test_a_long_passage_shows_the_lines_around_the_match(tmp_path):
    sessions = sessions_in(tmp_path)
    text = "\n".join([*(f"line {n} says nothing" for n in range(30)), "here is a trampoline", "and the end"])
    past_session(sessions, {"task": text})
    (match,) = SearchIndex(sessions).search("trampoline").matches
    assert "here is a trampoline" in match.text
    assert len(match.text) < 400
