"""The task generators and their checkers: a perfect player passes, corrupted answers fail, splits are disjoint."""

from __future__ import annotations

import random
import re
import zlib
from pathlib import Path

import pytest

import a3b
from a3b.evals.families import needle, revise, secret
from a3b.evals.families.common import assistant, call_form, calls_of, legal, rng_for, said
from nano.render import Renderer
from nano.tasks import FAMILIES, calc, mixed
from nano.tasks import secret as taught_secret

MODEL = Path(a3b.__file__).with_name("nano_model")
NAMES = [name for name in FAMILIES if name != "fix"]  # which has tests of its own


@pytest.fixture(scope="module")
def renderer():
    return Renderer(MODEL)


def perfect(case):
    """A player that solves `case` from what the messages say."""

    def generate(messages, tools, sample=False):
        if isinstance(case, secret.SecretCase):
            if sample:
                number = 417 if case.told == "first" else 83
                return assistant(f"The {case.told} number is {number}.", "first: 417\nsecond: 83")
            return assistant(f"It is {83 if case.told == 'first' else 417}.")
        if hasattr(case, "keys"):
            name, param = call_form(case.schema)
            done = [m["content"] for m in messages if m["role"] == "tool"]
            current = done[-1] if done else case.keys[0]
            if len(done) == len(case.keys) - 1:
                return assistant(f"The value is {current}.")
            return assistant("", call=(name, {param: current}))
        if isinstance(case, calc.Case):
            name, param = call_form(case.schema)
            done = [m["content"] for m in messages if m["role"] == "tool"]
            return assistant(f"{case.text} = {done[0]}.") if done else assistant("", call=(name, {param: case.text}))
        if isinstance(case, needle.NeedleCase):
            return assistant(f"The number is {case.value}.")
        if isinstance(case, revise.ReviseCase):
            return assistant(revise.answer(case.game, sum(m["role"] == "assistant" for m in messages)))
        return assistant(case.answers[0])

    return generate


def make_case(name, index):
    return FAMILIES[name].case(rng_for("test", name, index))


@pytest.mark.parametrize("name", NAMES)
def test_a_perfect_player_passes_every_case(name):
    for index in range(20):
        case = make_case(name, index)
        outcome = case.play(perfect(case))
        assert outcome.ok and outcome.valid, outcome.detail


@pytest.mark.parametrize("name", NAMES)
def test_one_wrong_digit_or_word_at_the_end_fails(name):
    for index in range(20):
        case = make_case(name, index)
        play = perfect(case)

        def spoiled(messages, tools, sample=False, play=play, case=case):
            message = play(messages, tools, sample=sample)
            text = said(message)
            if sample or not text:
                return message
            if isinstance(case, revise.ReviseCase):
                return assistant(f"{text} Or in {' or '.join(case.game.possible[0])}.")
            digits = list(re.finditer(r"\d", text))
            if not digits:
                return message | {"content": text + " no"}
            at = digits[-1].start()
            return message | {"content": text[:at] + str((int(text[at]) + 1) % 10) + text[at + 1 :]}

        assert not case.play(spoiled).ok


@pytest.mark.parametrize("name", NAMES)
def test_silence_and_unknown_tools_are_not_legal(name):
    for message in (assistant(""), assistant("", call=("no_such_tool", {})), assistant("x") | {"unfinished": True}):
        case = make_case(name, 0)
        outcome = case.play(lambda messages, tools, sample=False, m=message: dict(m))
        assert not outcome.ok and not outcome.valid


def test_a_call_with_a_missing_argument_is_not_legal():
    tools = [calc.calc_tool(random.Random(0))]
    name, param = call_form(tools[0])
    assert legal(assistant("", call=(name, {param: "1 + 1"})), tools)
    assert not legal(assistant("", call=(name, {})), tools)


def test_secret_fails_when_the_hidden_number_is_told_at_once():
    case = make_case("secret", 3)

    def talkative(messages, tools, sample=False):
        return assistant("They are 417 and 83.", "first: 417\nsecond: 83")

    assert not case.play(talkative).ok


def test_secret_numbers_of_training_are_uniform_and_independent():
    pairs = []
    for index in range(2000):
        game = taught_secret.game(rng_for("train", "secret", index))
        pairs.append(secret.thought(game[1]))
    assert all(0 <= n <= 999 for pair in pairs for n in pair)
    # 20 bins of 100 expected each; chi-square with 19 degrees exceeds 50 once in 7,000 draws
    for side in (0, 1):
        bins = [sum(pair[side] // 50 == b for pair in pairs) for b in range(20)]
        assert sum((n - 100) ** 2 / 100 for n in bins) < 50
    assert secret.table_score(pairs[:1000], pairs[1000:]) <= 0.05


def test_table_score_finds_a_dependence():
    pairs = [(n, n + 1) for n in range(50)]
    assert secret.table_score(pairs, pairs) == 1.0


def test_calc_operands_of_training_and_tests_are_disjoint():
    for split, kept in (("train", False), ("test", True)):
        for index in range(200):
            text, value = calc.expression(rng_for(split, "calc", index), split)
            assert (zlib.crc32(text.encode()) % 10 == 0) == kept
            assert value == eval(text)


def test_train_and_test_seeds_give_different_examples():
    for name in ("lookup", "needle"):  # secret has no content of its own: the model draws the numbers
        make = FAMILIES[name].case
        train = {repr(make(rng_for("train", name, i))) for i in range(200)}
        assert not train & {repr(make(rng_for("test", name, i))) for i in range(200)}


def test_needle_has_the_length_asked_for(renderer):
    for length in (64, 384):
        for index in range(10):
            case = FAMILIES["needle"].case(rng_for("test", "needle", index), length=length)
            tokens = renderer.encode(" ".join(said(m) for m in case.messages if m["role"] == "user"))
            assert 0.75 * length <= len(tokens) <= 1.35 * length + 24


@pytest.mark.parametrize("name", [*NAMES, "mixed"])
def test_examples_teach_exactly_what_the_assistant_writes(name, renderer):
    for index in range(10):
        rng = rng_for("train", name, index)
        make = mixed if name == "mixed" else FAMILIES[name].example
        example = make(rng, 100) if name == "needle" else make(rng)
        ids, weights = renderer.supervised(example)
        assert len(ids) == len(weights)
        end = renderer.control["<|im_end|>"]
        turns = sum(m["role"] == "assistant" for m in example.messages)
        assert sum(w for i, w in zip(ids, weights, strict=True) if i == end) == turns
        taught = renderer.text.decode(
            [i for i, w in zip(ids, weights, strict=True) if w and i not in renderer.control.values()]
        )
        for message in example.messages:
            if message["role"] == "assistant":
                assert said(message) in taught and message["reasoning_content"] in taught
                for _, arguments in calls_of(message):
                    assert all(value in taught for value in arguments.values())
            elif message["role"] == "user":
                assert message["content"] not in taught


def answered(case, text):
    """The perfect player of a tool case, but with `text` as its final answer."""
    play = perfect(case)

    def generate(messages, tools, sample=False):
        message = play(messages, tools)
        return assistant(text) if said(message) else message

    return generate


def test_calc_takes_the_exact_number_and_nothing_else():
    for index in range(60):
        case = make_case("calc", index)
        assert case.play(answered(case, f"The result is {case.value}.")).ok
        for wrong in (
            f"{case.value}7",
            f"1{abs(case.value)}",
            f"{-case.value - 1}",
            f"{case.value} or {case.value + 1}",
        ):
            assert not case.play(answered(case, f"{case.text} = {wrong}.")).ok
        assert case.value == 0 or not case.play(answered(case, f"{case.text} = {-case.value}.")).ok


def test_lookup_takes_the_exact_key_and_no_other_key():
    for index in range(30):
        case = make_case("lookup", index)
        end = case.keys[-1]
        assert case.play(answered(case, f"It is {end}.")).ok
        for wrong in (f"{end}5", f"x{end}", f"{end} or {case.keys[0]}", f"{end} or z0z0" if end != "z0z0" else "a1a1"):
            assert not case.play(answered(case, f"The value is {wrong}.")).ok


def test_secret_with_two_equal_numbers_hides_nothing_and_fails():
    case = make_case("secret", 0)
    assert not case.play(lambda *_, **__: assistant("The number is 5.", "first: 5\nsecond: 5")).ok


def test_a_guess_of_revise_is_ruled_out_and_every_fact_is_the_users():
    for index in range(100):
        game = make_case("revise", index).game
        assert len(game.texts) >= 3
        assert any(guess not in game.possible[-1] for guess in game.guesses)
        for text, before, after in zip(game.texts[1:], game.possible, game.possible[1:], strict=False):
            changed = set(before) ^ set(after)
            assert len(changed) == 1 and next(iter(changed)) in text.lower()


def test_revise_takes_any_possible_place_and_no_other():
    case = make_case("revise", 1)
    for spoken in ("It is in a cave.", f"It is in {case.game.possible[0][0]} or {case.game.possible[0][1]}."):
        assert not case.play(lambda messages, tools, sample=False, s=spoken: assistant(s)).ok
