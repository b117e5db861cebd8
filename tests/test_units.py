"""Sizes, numbers of tokens and ages as people type them, on the command line and in variables."""

from __future__ import annotations

import pytest

from a3b import cli, units
from a3b.commands import options
from a3b.errors import UsageError
from a3b.settings import RuntimeConfig


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("1", 1),
        ("512b", 512),
        ("256M", 256 << 20),
        ("256m", 256 << 20),
        ("1K", 1024),
        ("2G", 2 << 30),
        ("1T", 1 << 40),
        ("2GiB", 2 << 30),
        ("2gib", 2 << 30),
        ("2Gi", 2 << 30),
        ("500MB", 500_000_000),
        ("1.5G", 3 << 29),
        ("1.5 GiB", 3 << 29),
        (" 7kB ", 7000),
        ("1,048,576", 1 << 20),
        ("1_000", 1000),
        ("9007199254740993", 9007199254740993),
    ],
)
def test_sizes_are_read_as_people_type_them(text, size):
    assert units.byte_size(text) == size


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("4096", 4096),
        ("128k", 131072),
        ("128K", 131072),
        ("256Ki", 262144),
        ("1M", 1 << 20),
        ("1.5k", 1536),
        ("131,072", 131072),
    ],
)
def test_numbers_of_tokens_are_read_as_people_type_them(text, number):
    assert units.token_count(text) == number


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "1 s"), (89, "89 s"), (90, "2 min"), (5400, "1.5 h"), (172_799, "48.0 h"), (172_800, "2.0 days")],
)
def test_times_are_said_in_the_unit_that_people_would_use(seconds, text):
    assert units.span(seconds) == text


@pytest.mark.parametrize(
    ("text", "seconds"), [("7d", 604800), ("12h", 43200), ("90s", 90), ("2w", 1209600), ("1.5m", 90)]
)
def test_ages_are_read_as_people_type_them(text, seconds):
    assert units.duration(text) == seconds


WRONG = [
    "",
    "k",
    "-1",
    "+1",
    "1e6",
    "1,5G",
    "12,34",
    "1__0",
    "0x10",
    "1 2",
    "nan",
    "inf",
    "٣",
    "½",
    "1.k",
    ".5k",
    "1kk",
    "9" * 5000,
    "1k\n1",
]


@pytest.mark.parametrize("read", [units.byte_size, units.token_count, units.duration])
@pytest.mark.parametrize("text", WRONG)
def test_what_is_no_amount_is_refused_by_its_words(read, text):
    with pytest.raises(UsageError, match="such as") as told:
        read(text)
    assert len(str(told.value)) < 200


def test_what_is_more_than_there_can_be_is_the_most():
    assert units.byte_size("9" * 30) == units.duration("9" * 30 + "d") == (1 << 63) - 1


@pytest.mark.parametrize(
    ("read", "text"),
    [
        (units.token_count, "0"),
        (units.token_count, "0.3"),
        (units.token_count, "4GB"),
        (units.token_count, "9" * 30),
        (units.duration, "7"),
        (units.byte_size, "7d"),
    ],
)
def test_amounts_of_another_kind_are_refused(read, text):
    with pytest.raises(UsageError):
        read(text)


OPTIONS = [
    ("serve --context 128k", 131072),
    ("serve --cache-ram 256M", 256 << 20),
    ("serve --cache-disk 2g", 2 << 30),
    ("serve --max-body 64K", 65536),
    ("serve --thinking-budget 8k", 8192),
    ("serve --task-thinking-budget 1M", 1 << 20),
    ("serve --preserve-thinking budget:4k", "budget:4096"),
    ("info --context 256k", 262144),
    ("chat --context 4k", 4096),
    ("run hi --max-tokens 2k", 2048),
    ("plan --context 32k", 32768),
    ("logits M --ids /dev/null --out x --context 1k", 1024),
    ("cache prune --max-bytes 2G", 2 << 30),
    ("eval quality --tokens 8k", 8192),
    ("bench speed --depths 0,4k,16k", (0, 4096, 16384)),
    ("bench speed --prefill 512,2k", (512, 2048)),
    ("bench speed --tokens 1k", 1024),
]


@pytest.mark.parametrize(("line", "value"), OPTIONS, ids=[line for line, _ in OPTIONS])
def test_every_option_that_is_a_size_or_a_number_of_tokens_takes_suffixes(line, value, monkeypatch):
    monkeypatch.setattr(options, "json_file", lambda path: [])
    *argv, option, given = line.split()
    assert getattr(cli.build_parser().parse_args([*argv, option, given]), option.lstrip("-").replace("-", "_")) == value


def test_an_option_tells_what_was_expected(capsys):
    with pytest.raises(SystemExit):
        cli.main(["serve", "--context", "much"])
    assert "--context: 'much' is not a positive number of tokens, such as 32768, 128k or 1M" in capsys.readouterr().err


# -- the same in variables


def test_a_variable_takes_suffixes_too():
    assert RuntimeConfig.from_env({"A3B_CONTEXT": "128k"}).context == 131072


@pytest.mark.parametrize("name", ["A3B_CONTEXT", "A3B_THREADS", "A3B_PORT", "A3B_LOG_LEVEL", "A3B_KV", "A3B_DRAFTS"])
def test_a_malformed_variable_stops_what_uses_it_by_its_name_and_nothing_else(name, capsys, monkeypatch):
    monkeypatch.setenv(name, "tcp://10.0.0.1:8080")
    with pytest.raises(UsageError, match=f"{name}: 'tcp://10.0.0.1:8080' is"):
        getattr(RuntimeConfig.from_env(), name.removeprefix("A3B_").lower())
    assert cli.main(["cache", "list", "--dir", "/nonexistent"]) == 0
    assert name not in capsys.readouterr().err


@pytest.mark.parametrize("name", ["A3B_PORT_8080_TCP", "A3B_SPEED"])
def test_an_unknown_variable_is_reported_and_stops_nothing(name, capsys, monkeypatch):
    monkeypatch.setenv(name, "1")
    assert cli.main(["cache", "list", "--dir", "/nonexistent"]) == 0
    err = capsys.readouterr().err
    assert f"unknown and ignored: {name}; known: A3B_MODEL, A3B_CONTEXT" in err


def test_an_empty_variable_is_none():
    runtime = RuntimeConfig.from_env({"A3B_CONTEXT": "", "A3B_CACHE": "", "XDG_CACHE_HOME": "/x"})
    assert (runtime.context, runtime.home, runtime.unknown) == (None, "/x/a3b", [])


def test_values_may_be_given_by_name():
    runtime = RuntimeConfig(cache="/x", threads=3)
    assert (runtime.home, runtime.threads, runtime.port) == ("/x", 3, 8080)
    with pytest.raises(TypeError, match="speed"):
        RuntimeConfig(speed=1)


def test_what_is_counted_is_named_once_or_in_the_plural():
    assert [units.counted(n, "turn") for n in (0, 1, 1200)] == ["0 turns", "1 turn", "1,200 turns"]


@pytest.mark.parametrize("value", [None, "1", float("nan"), float("inf"), -1, 10**400, [1], 1e300])
def test_what_is_no_time_is_the_beginning_of_time(value):
    assert units.moment(value) == 0.0
    assert units.moment(1_790_000_000) == 1_790_000_000.0
