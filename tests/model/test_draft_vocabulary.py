"""The list of tokens that drafts may guess, and the page that says what it was counted in."""

from __future__ import annotations

import re

import numpy as np

from a3b.model.draft_vocabulary import FILE, VOCAB_SIZE, frequent_ids
from bench.draft_sources import read_sources
from bench.draft_vocabulary import PAGE, PROMPT, SIZE, SIZES, WEIGHTS, missing, ranked
from tests.support.paths import ROOT


def test_the_list_has_its_size_and_is_of_one_vocabulary_only():
    ids = frequent_ids(VOCAB_SIZE)
    assert ids is not None and len(ids) == SIZE and SIZE in SIZES
    assert (np.diff(ids) > 0).all() and ids[-1] < VOCAB_SIZE
    assert FILE.stat().st_size == VOCAB_SIZE // 8
    assert frequent_ids(VOCAB_SIZE + 8) is None
    assert f"a head of {SIZE:,} frequent tokens" in (ROOT / "DESIGN.md").read_text(encoding="utf-8")


def test_the_page_names_each_source_with_its_version():
    rows = re.findall(r"^\| (\w+): (\S+) \| (\S+) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    sources = read_sources()
    assert sorted(rows) == sorted((source.registry, source.name, source.version) for source in sources)
    assert len({source.place for source in sources}) == len(sources)


def test_what_is_counted_does_not_measure():
    roles = {source.name: source.role for source in read_sources()}
    assert len(roles) == len(read_sources()) and set(roles.values()) == {"count", "measure"}


def test_languages_weigh_the_same_whatever_their_volume():
    counts = {language: np.zeros(VOCAB_SIZE) for language in WEIGHTS}
    for at, language in enumerate(WEIGHTS):
        counts[language][at] = 10.0**at
    order = ranked(counts)[: len(WEIGHTS)].tolist()
    assert order == sorted(order, key=lambda at: -list(WEIGHTS.values())[at])


def test_tokens_of_the_context_are_missing_once():
    ids = np.arange(100)
    document = np.concatenate((np.full(PROMPT - 1, 5), [700], np.tile([1, 700, 800, 2], 10)))
    rare, missed = missing([document], ids)
    assert rare == 21 / (PROMPT + 40) and missed == 1 / 40
