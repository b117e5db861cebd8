"""Environment variables: how each is read, its default, and what is refused."""

from __future__ import annotations

import pytest

from a3b.errors import UsageError
from a3b.settings import VARIABLES, RuntimeConfig

DEFAULTS = {
    "model": None,
    "context": None,
    "threads": None,
    "isa": None,
    "kv": "q8",
    "cache": "~/.cache/a3b",
    "host": "127.0.0.1",
    "port": 8080,
    "api_key": (),
    "allow_host": (),
    "allow_origin": (),
    "log_level": "info",
}


def test_without_variables_each_setting_has_its_default():
    runtime = RuntimeConfig.from_env({})
    assert {name: getattr(runtime, name) for name in VARIABLES} == DEFAULTS


@pytest.mark.parametrize("name", DEFAULTS)
def test_a_variable_that_is_set_to_nothing_is_as_if_it_were_not_set(name):
    assert getattr(RuntimeConfig.from_env({f"A3B_{name.upper()}": ""}), name) == DEFAULTS[name]


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("model", "/m", "/m"),
        ("threads", "1", 1),
        ("threads", "999999999", 999_999_999),
        ("isa", "avx2", "avx2"),
        ("kv", "BF16", "bf16"),
        ("kv", "f32", "f32"),
        ("kv", "q8", "q8"),
        ("cache", "/c", "/c"),
        ("host", "::", "::"),
        ("port", "0", 0),
        ("port", "65535", 65535),
        ("api_key", " a ,, b", ["a", "b"]),
        *[("log_level", level, level) for level in ("error", "warning", "info", "debug")],
    ],
)
def test_a_variable_is_read(name, text, value):
    assert getattr(RuntimeConfig.from_env({f"A3B_{name.upper()}": text}), name) == value


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        *[
            ("threads", text, "is not a positive whole number")
            for text in ("0", "-1", "1.5", "1000000000", "\u00b2", "")
        ],
        *[("port", text, "is not a port, 0 to 65535") for text in ("65536", "-1", "000080", "\u0663", "http")],
        ("kv", "q4", "is none of q8, bf16, f32"),
        ("log_level", "trace", "is none of error, warning, info, debug"),
    ],
)
def test_a_malformed_variable_is_named_when_it_is_used(name, text, why):
    runtime = RuntimeConfig({name: text})
    with pytest.raises(UsageError) as error:
        getattr(runtime, name)
    assert str(error.value) == f"environment variable A3B_{name.upper()}: {text!r} {why}"


def test_a_malformed_variable_is_quoted_in_part_if_it_is_long():
    with pytest.raises(UsageError) as error:
        RuntimeConfig({"threads": "x" * 1000}).threads  # noqa: B018
    assert len(str(error.value)) < 150


def test_the_cache_is_below_the_cache_home_unless_it_is_given():
    home = {"XDG_CACHE_HOME": "/home"}
    assert RuntimeConfig.from_env(home).cache == "/home/a3b"
    assert RuntimeConfig.from_env(home | {"A3B_CACHE": "/c"}).cache == "/c"
    assert RuntimeConfig.from_env(home).host == "127.0.0.1"


def test_a_value_that_is_given_wins_over_its_variable_and_a_name_that_is_none_is_an_attribute_error():
    runtime = RuntimeConfig({"threads": "2", "speed": "3", "age": "4"}, threads=5)
    assert runtime.threads == 5
    assert runtime.unknown == ["A3B_AGE", "A3B_SPEED"]
    with pytest.raises(AttributeError):
        runtime.speed  # noqa: B018
