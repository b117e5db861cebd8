"""Environment variables: how each is read, its default, and what is refused."""

from __future__ import annotations

import re

import pytest

from a3b.errors import UsageError
from a3b.settings import VARIABLES, RuntimeConfig, model_places
from tests.support.paths import ROOT

DEFAULTS = {
    "model": None,
    "context": None,
    "threads": None,
    "isa": None,
    "kv": "q8",
    "drafts": "auto",
    "home": "~/.cache/a3b",
    "cache": None,
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
        ("home", "/c", "/c"),
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


def test_the_home_is_below_the_cache_home_unless_it_is_given_by_its_name_or_the_older_one():
    home = {"XDG_CACHE_HOME": "/home"}
    assert RuntimeConfig.from_env(home).home == "/home/a3b"
    assert RuntimeConfig.from_env(home | {"A3B_CACHE": "/c"}).home == "/c"
    assert RuntimeConfig.from_env(home | {"A3B_CACHE": "/c", "A3B_HOME": "/h"}).home == "/h"
    assert RuntimeConfig.from_env(home).host == "127.0.0.1"


def test_two_names_of_the_home_that_differ_are_told_apart():
    differ = {"A3B_CACHE": "/c", "A3B_HOME": "/h"}
    assert RuntimeConfig.from_env(differ).overruled == "A3B_HOME and its older name A3B_CACHE differ: A3B_HOME is used"
    assert RuntimeConfig.from_env(differ | {"A3B_CACHE": "/h"}).overruled == ""
    assert RuntimeConfig.from_env({"A3B_CACHE": "/c"}).overruled == ""


@pytest.mark.parametrize(
    ("environ", "program", "places"),
    [
        ({}, "hub cache", ("~/.cache/huggingface/hub", "~/.cache/llama.cpp")),
        ({"XDG_CACHE_HOME": "/x"}, "hub cache", ("/x/huggingface/hub", "/x/llama.cpp")),
        ({"XDG_CACHE_HOME": "/x", "HF_HOME": "/h"}, "hub cache", ("/h/hub", "/x/llama.cpp")),
        ({"HF_HOME": "/h", "HF_HUB_CACHE": "/c", "LLAMA_CACHE": "/l"}, "hub cache", ("/c", "/l")),
        ({"LLAMA_CACHE": "/l"}, "llama.cpp", ("/l",)),
        ({}, "LM Studio", ("~/.lmstudio/models", "~/.cache/lm-studio/models")),
        ({}, "Ollama", ("~/.ollama/models", "/usr/share/ollama/.ollama/models")),
        ({"OLLAMA_MODELS": "/o"}, "Ollama", ("/o",)),
    ],
)
def test_models_of_other_programs_are_looked_for_where_their_variables_say(environ, program, places):
    assert model_places(environ)[program] == places


def test_a_value_that_is_given_wins_over_its_variable_and_a_name_that_is_none_is_an_attribute_error():
    runtime = RuntimeConfig({"threads": "2", "speed": "3", "age": "4"}, threads=5)
    assert runtime.threads == 5
    assert runtime.unknown == ["A3B_AGE", "A3B_SPEED"]
    with pytest.raises(AttributeError):
        runtime.speed  # noqa: B018


@pytest.mark.parametrize("page", ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))])
def test_a_page_tells_users_to_set_no_variable_that_a3b_would_warn_of(page):
    exported = re.findall(r"(?:export |env_key = \")A3B_([A-Z_]+)", (ROOT / page).read_text(encoding="utf-8"))
    assert {name.lower() for name in exported} <= VARIABLES.keys()
