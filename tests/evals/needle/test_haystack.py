"""Texts of the wanted length with facts at the wanted depth, which differ between depths in nothing else."""

from __future__ import annotations

import random

import pytest

from a3b.errors import UsageError
from a3b.evals.benchmarks.needle.haystack import COLOURS, KINDS, OTHERS, SEVERAL, THINGS, Haystack, draw_facts

BOOK = "It was a cold day. The door stood open!\nNobody came; the lamp went out.\n\nShe wrote 417 letters. " * 30


def facts_of(kind: str, seed: int = 1):
    return draw_facts(random.Random(seed), kind)


@pytest.mark.parametrize("kind", KINDS)
def test_facts_have_different_things_and_numbers(kind):
    for seed in range(50):
        facts = facts_of(kind, seed)
        hidden = [*facts.asked, *facts.others]
        assert len(facts.asked) == (SEVERAL if kind == "several" else 1) and len(facts.others) == OTHERS
        for values in ([f.thing for f in hidden], [f.also for f in hidden], [f.value for f in hidden]):
            assert len(set(values)) == len(values)
        assert all(str(fact.value) in fact.text for fact in hidden)


def test_an_exact_question_and_its_fact_share_the_name_and_a_paraphrased_one_shares_no_word_of_it():
    for seed in range(50):
        exact, other = facts_of("exact", seed), facts_of("paraphrased", seed)
        assert exact.asked[0].thing in exact.question and exact.asked[0].thing in exact.asked[0].text
        colour, thing = other.asked[0].thing.split()
        assert colour in other.question and thing in other.question
        low = other.asked[0].text.lower()
        assert colour not in low.split() and thing not in low.split() and "number" not in low
        assert other.asked[0].also in low


def test_other_words_stand_for_one_thing_only():
    for words in (COLOURS, THINGS):
        assert len(set(words.values())) == len(words) and not set(words) & set(words.values())


@pytest.mark.parametrize("haystack", [Haystack(), Haystack(BOOK)], ids=["generated", "given"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_chars", [1500, 20_000])
def test_a_text_is_as_long_as_wanted_and_holds_every_fact_once(haystack, kind, num_chars):
    facts = facts_of(kind)
    for depth in (0.0, 0.5, 1.0):
        text = haystack.text("seed", facts, num_chars, depth)
        assert num_chars - 2 <= len(text) <= num_chars + 120
        assert all(text.count(fact.text) == 1 for fact in (*facts.asked, *facts.others))


@pytest.mark.parametrize("haystack", [Haystack(), Haystack(BOOK)], ids=["generated", "given"])
def test_the_fact_stands_at_the_depth(haystack):
    facts = facts_of("exact")
    for percent in (0, 10, 25, 50, 75, 90, 100):
        text = haystack.text("seed", facts, 20_000, percent / 100)
        place = text.index(facts.asked[0].text) / (len(text) - len(facts.asked[0].text))
        assert place == pytest.approx(percent / 100, abs=0.01)


def test_only_the_place_of_the_fact_differs_between_depths():
    """So that a server that keeps prefixes reads the rest once, and nothing else makes a depth harder."""
    facts = facts_of("exact")
    texts = [Haystack().text("seed", facts, 4000, depth) for depth in (0.0, 0.4, 1.0)]
    assert len(set(texts)) == 3
    assert (
        len({text.replace(facts.asked[0].text + " ", "").replace(" " + facts.asked[0].text, "") for text in texts}) == 1
    )


def test_several_facts_are_spread_over_the_text_from_the_depth_on():
    facts = facts_of("several")
    text = Haystack().text("seed", facts, 40_000, 0.1)
    places = [text.index(fact.text) / len(text) for fact in facts.asked]
    assert places == pytest.approx([0.1, 0.35, 0.6, 0.85], abs=0.02)


def test_the_same_seed_gives_the_same_text_and_another_one_another():
    facts = facts_of("exact")
    for haystack in (Haystack(), Haystack(BOOK)):
        texts = [haystack.text(seed, facts, 3000, 0.5) for seed in ("a", "a", "b")]
        assert texts[0] == texts[1] != texts[2]


def test_a_text_that_is_too_short_for_the_length_begins_again():
    text = Haystack(BOOK).text("seed", facts_of("exact"), 3 * len(BOOK), 0.5)
    assert text.count("cold day") > 60


def test_a_file_that_is_no_text_or_too_short_is_refused_by_name(tmp_path):
    assert Haystack.of(None).data is None
    (tmp_path / "binary").write_bytes(b"\xff\xfe" * 1000)
    (tmp_path / "short").write_text("Too short.")
    (tmp_path / "book").write_text(BOOK)
    assert Haystack.of(tmp_path / "book").data == BOOK
    for name, why in (("binary", "UTF-8"), ("short", "10 characters"), ("missing", "No such file"), ("", "directory")):
        with pytest.raises(UsageError, match=why):
            Haystack.of(tmp_path / name)


@pytest.mark.parametrize("text", ["\n" * 5000, " " * 5000, ".!?" * 2000])
def test_a_text_without_a_sentence_is_refused(text, tmp_path):
    (tmp_path / "text").write_text(text)
    with pytest.raises(UsageError, match="expected sentences"):
        Haystack.of(tmp_path / "text")


@pytest.mark.parametrize(
    "text", ["x" * 500_000, "no end of a sentence " * 3000, "one. \n" + " " * 5000, "?" * 5000 + "yes"]
)
def test_a_text_without_sentences_is_used_as_well_as_it_goes(text):
    facts = facts_of("exact")
    found = Haystack(text).text("seed", facts, 2000, 0.5)
    assert facts.asked[0].text in found and len(found) < 20_000
