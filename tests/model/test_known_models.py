"""Short names: one table, every way of writing a name, and what a wrong tag is told."""

from __future__ import annotations

import re

import pytest

from a3b.errors import UsageError
from a3b.hub.client import is_repo
from a3b.model.known_models import KNOWN_MODELS, PRESETS, by_repository, known_model, known_shape, short_names
from a3b.model.known_shapes import SHAPES
from a3b.packing import presets


def test_the_presets_of_tags_are_those_of_packing():
    assert tuple(presets.PRESETS) == PRESETS


@pytest.mark.parametrize("model", KNOWN_MODELS, ids=lambda model: model.name)
def test_an_entry_is_complete_and_says_what_was_tried(model):
    assert model.shape in SHAPES and all(map(is_repo, model.repositories))
    assert model.tried and model.tags and model.weights_gb > 0
    assert all(by_repository(repo) is model for repo in model.repositories)
    for name in model.names:
        assert known_model(name).model is model and known_shape(name) == model.shape
        for tag in (*PRESETS, *model.tags):
            assert known_model(f"{name}:{tag}").text == f"{model.name}:{tag}"


def test_no_name_is_used_twice():
    names = short_names()
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("qwen3.6", "qwen3.6"),
        ("Qwen3.6", "qwen3.6"),
        ("qwen3.6:latest", "qwen3.6"),
        ("qwen3.6:35b", "qwen3.6"),
        ("qwen3.6:35b-a3b", "qwen3.6"),
        ("Qwen3.6-35B-A3B", "qwen3.6"),
        ("Qwen3.6-35B-A3B-FP8", "qwen3.6"),
        ("qwen3.6:35b-a3b-q8_0", "qwen3.6:q8_0"),
        ("qwen3.6:35b-a3b-q4_K_M", "qwen3.6:q4_k_m"),
        ("Qwen3.6-35B-A3B-UD-Q4_K_XL.gguf", "qwen3.6:q4_k_xl"),
        ("qwen3.6:UD-Q4_K_XL", "qwen3.6:q4_k_xl"),
        ("qwen3.6:FAITHFUL", "qwen3.6:faithful"),
        ("qwen3.6:27b", "qwen3.6-27b"),
        ("qwen3.6:27b-q4_k_m", "qwen3.6-27b:q4_k_m"),
        ("qwen3.5:122b", "qwen3.5-122b"),
        ("qwen3.8", "qwen3.8-27b"),
        ("ornith-1.0:35b", "ornith"),
        ("Qwen-AgentWorld-35B-A3B:fast", "agentworld:fast"),
    ],
)
def test_a_name_is_known_however_it_is_written(written, meant):
    assert known_model(written).text == meant


@pytest.mark.parametrize("text", ["", "llama3", "qwen3", "qwen3.60", "my-qwen3.6", "Qwen/Qwen3.6-35B-A3B", "./qwen3.6"])
def test_other_words_are_no_names(text):
    assert known_model(text) is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("qwen3.6:14b", "there is no such size; expected one of qwen3.6, qwen3.6-27b"),
        ("qwen3.6:nvfp4", "types of 'nvfp4' cannot be read; take one of qwen3.6:fast, "),
        ("qwen3.6:35b-a3b-coding-nvfp4", "types of 'coding_nvfp4' cannot be read"),
        ("qwen3.6:iq4_xs", "types of 'iq4_xs' cannot be read"),
        ("qwen3.6:q3_k_m", "types of 'q3_k_m' cannot be read"),
        ("qwen3.6:q5_1", "types of 'q5_1' cannot be read"),
        ("qwen3.6:blanced", "has no 'blanced'; did you mean 'qwen3.6:balanced'?"),
        ("ornith:\x1b[31mx", "Ornith-1.0-35B has no"),
        ("qwen3.6:" + "x" * 9999, "Qwen3.6-35B-A3B has no"),
    ],
)
def test_a_known_name_with_a_wrong_tag_is_told_what_there_is(text, told):
    with pytest.raises(UsageError, match=re.escape(told)) as refused:
        known_model(text)
    assert len(str(refused.value)) < 600
