"""The list of tensors is the only place that knows the names of tensors."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from a3b.model import tensor_names
from a3b.model.config_reader import config_from_dict
from a3b.model.tensor_names import MTP_LAYER, TENSORS, Place, mtp_tensors, tensors_of
from a3b.model.weights import by_role
from tests.support.random_model import SIZES, config_dict, model_weights, random_tensors
from tests.support.sources import FILES, facts_of

SPELT = re.compile(
    r"self_attn\.|linear_attn\.|mlp\.|embed_tokens|layernorm\.weight|lm_head\.weight|[a-z]_proj\.weight|"
    r"\bmtp\.layers|pre_fc_norm|\bnextn\.|\bblk\.|attn_q\b|attn_norm|\bssm_|ffn_|token_embd|output_norm|output\.weight"
)


def test_no_other_module_spells_the_name_of_a_tensor():
    found = [
        f"{path.name}:{line}: {text}"
        for path in FILES
        if path.name != Path(tensor_names.__file__).name and SPELT.search(path.read_text(encoding="utf-8"))
        for line, text, _ in facts_of(path).strings
        if SPELT.search(text)
    ]
    assert found == []


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_every_tensor_of_the_list_is_a_weight_that_the_model_reads(sizes):
    config = config_from_dict(config_dict(sizes))
    weights = model_weights(config, random_tensors(sizes, 1, mtp=True))
    listed: dict[int | None, list[str]] = {}
    for tensor, layer in (*tensors_of(config), *mtp_tensors(config)):
        listed.setdefault(layer, []).append(tensor.role)
    assert MTP_LAYER in listed
    for layer, roles in listed.items():
        assert sorted(roles) == sorted(by_role(weights, layer))


@pytest.mark.parametrize("names", [lambda t: t.role, lambda t: t.name, lambda t: t.gguf or t.role])
def test_no_name_belongs_to_two_tensors(names):
    found = [(names(tensor), tensor.place in (Place.HEAD, Place.MODEL)) for tensor in TENSORS]
    assert len(found) == len(set(found))
