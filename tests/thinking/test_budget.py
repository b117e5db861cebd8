"""Ending the thinking: budgets token by token, the nudge, loops found and honest texts left alone."""

from __future__ import annotations

import random
import re
from itertools import count, cycle, islice

import pytest

from a3b.engine.engine import nano_directory
from a3b.output.parser import OutputParser
from a3b.prompt.segments import Control
from a3b.prompt.tokenizer import Tokenizer
from a3b.thinking.budget import NUDGE, ThinkingControl, ThinkingTokens
from a3b.thinking.loop_detector import (
    CHECK_TOKENS,
    LINE_BYTES,
    LINES,
    MAX_PERIOD,
    MIN_REPEATED,
    SAME_LINES,
    LoopDetector,
)

OPEN, CLOSE, CALL, WORD, STOP, LINE, GAP, N1, N2, BLANK, END = range(11)
NAMED = [b"<think>", b"</think>", b"<tool_call>", b" so", b".", b"\n", b"\n\n", b"Now", b" stop\n", b" ", b" end."]
BYTES = dict.fromkeys(range(2000), b" word") | dict(enumerate(NAMED))
TOKENS = ThinkingTokens(OPEN, CLOSE, {CALL: 24}, (N1, N2), (LINE, CLOSE, GAP))


def control(**options):
    return ThinkingControl(TOKENS, BYTES.__getitem__, **{"in_thinking": True, **options})


def play(thinking, model, num):
    """The first `num` tokens of an answer in which the model samples from `model` and the control inserts what it
    wants."""
    answer, forced, sampled = [], thinking.start(), iter(model)
    while len(answer) < num:
        token = forced.pop(0) if forced else next(sampled)
        answer.append(token)
        asked = thinking.after(token)
        assert not (forced and asked)  # never while others are still to come
        forced = forced or asked
    return answer


# Budgets


def test_without_a_budget_nothing_is_put_in():
    thinking = control()
    model = [*islice(cycle([WORD, WORD, STOP, WORD, LINE]), 200), CLOSE, GAP, WORD]
    assert play(thinking, model, 203) == model
    assert (thinking.reason, thinking.thinking_tokens, thinking.needs_text) == ("closed", 200, False)


def test_budget_0_closes_at_once_as_the_template_writes_it():
    thinking = control(budget=0)
    assert play(thinking, [WORD], 4) == [LINE, CLOSE, GAP, WORD]
    assert thinking.reason == "budget"


@pytest.mark.parametrize("budget", [1, 2, 31, 32])
def test_a_small_budget_is_spent_to_the_last_token_and_then_closed(budget):
    thinking = control(budget=budget)
    assert play(thinking, cycle([WORD]), budget + 4) == [WORD] * budget + [LINE, CLOSE, GAP, WORD]
    assert thinking.reason == "budget"


def test_a_budget_that_ends_with_a_line_is_closed_without_another():
    assert play(control(budget=2), cycle([WORD, LINE]), 5) == [WORD, LINE, CLOSE, GAP, WORD]


def test_33_tokens_are_nudged_at_the_first_end_of_a_sentence_after_2():
    model = [END, END, WORD, WORD, STOP, *[WORD] * 40]  # 32 left behind the first: not below 32
    assert play(control(budget=33), model, 36) == [END, END, N1, N2, *model[2:5], *[WORD] * 26, LINE, CLOSE, GAP]


def test_without_an_end_of_a_sentence_the_nudge_comes_where_half_of_the_rest_is_left():
    assert play(control(budget=33), cycle([WORD]), 36) == [*[WORD] * 17, N1, N2, *[WORD] * 14, LINE, CLOSE, GAP]


def test_the_last_tenth_of_a_large_budget_is_nudged_once():
    fresh = count(20)  # no loop
    answer = play(control(budget=1000), (STOP if i % 4 == 2 else next(fresh) for i in count()), 1004)
    assert answer.index(N1) == 903 and answer.count(N1) == 1  # 901: less than a tenth is left; 902: a sentence ends
    assert answer[1000:1003] == [LINE, CLOSE, GAP]


def test_a_loop_ends_the_thinking_without_a_budget_and_with_one():
    for options in ({}, {"budget": 1000}):
        thinking = control(**options)
        answer = play(thinking, cycle([WORD, WORD, STOP, WORD]), 300)
        assert MIN_REPEATED <= answer.index(CLOSE) - 1 <= MIN_REPEATED + CHECK_TOKENS
        assert thinking.reason == "repetition" and not thinking.may_think
        assert answer[answer.index(CLOSE) - 1 :][:3] == [LINE, CLOSE, GAP]


def test_a_loop_that_is_found_at_the_end_of_a_line_is_closed_without_another():
    answer = play(control(), cycle([GAP]), MIN_REPEATED + CHECK_TOKENS + 3)
    assert answer[answer.index(CLOSE) - 1 :][:3] == [GAP, CLOSE, GAP] and LINE not in answer


def test_a_model_that_heeds_the_nudge_closes_itself():
    thinking = control(budget=40)
    answer = play(thinking, [*[WORD] * 8, STOP, CLOSE, GAP, WORD], 14)
    assert answer == [*[WORD] * 8, STOP, N1, N2, CLOSE, GAP, WORD]
    assert (thinking.reason, thinking.thinking_tokens) == ("closed", 11)


def test_a_nudge_longer_than_what_is_left_is_left_out():
    tokens = ThinkingTokens(OPEN, CLOSE, {CALL: 24}, (N1,) * 50, (LINE, CLOSE, GAP))
    thinking = ThinkingControl(tokens, BYTES.__getitem__, in_thinking=True, budget=60)
    assert N1 not in play(thinking, cycle([WORD, STOP]), 70)


@pytest.mark.parametrize(
    ("options", "num"),
    [
        ({"task_budget": 20}, 20),
        ({"task_budget": 20, "spent": 15}, 5),
        ({"task_budget": 20, "spent": 20}, 0),
        ({"task_budget": 20, "spent": 99}, 0),
        ({"task_budget": 20, "spent": 15, "budget": 3}, 3),
        ({"task_budget": 20, "spent": 18, "budget": 3}, 2),
        ({"budget": 7, "spent": 100}, 7),
    ],
)
def test_what_was_spent_counts_against_the_task_alone(options, num):
    assert play(control(**options), cycle([WORD]), num + 4) == [WORD] * num + [LINE, CLOSE, GAP, WORD]


def test_a_second_block_counts_against_the_same_budget():
    thinking = control(budget=10)
    model = [*[WORD] * 6, CLOSE, GAP, OPEN, *[WORD] * 20]
    assert play(thinking, model, 17) == [*[WORD] * 6, CLOSE, GAP, OPEN, *[WORD] * 4, LINE, CLOSE, GAP, WORD]
    assert thinking.reason == "budget"


def test_a_block_opened_when_nothing_is_left_is_closed_at_once():
    thinking = control(budget=3)
    assert play(thinking, [WORD, WORD, WORD, OPEN, WORD], 11) == [WORD] * 3 + [
        LINE,
        CLOSE,
        GAP,
        OPEN,
        LINE,
        CLOSE,
        GAP,
        WORD,
    ]


def test_whether_the_model_may_think_again_is_reported():
    thinking = control(budget=3)
    told = []
    for token in [WORD, WORD, CLOSE, WORD, OPEN, WORD, CLOSE, WORD]:
        thinking.after(token)
        told.append(thinking.may_think)
    assert told == [True] * 5 + [False] * 3
    assert control().may_think and not control(budget=0).may_think


def test_an_answer_without_thinking_is_left_alone():
    thinking = control(in_thinking=False, budget=2)
    assert play(thinking, [WORD] * 50, 50) == [WORD] * 50
    assert (thinking.reason, thinking.thinking_tokens) == ("", 0)


def test_after_a_forced_end_text_is_needed_until_some_was_written():
    thinking = control(budget=1)
    needed = []
    for token in [WORD, LINE, CLOSE, GAP, BLANK, LINE, WORD, LINE]:
        thinking.after(token)
        needed.append(thinking.needs_text)
    assert needed == [True] * 6 + [False] * 2


def test_after_the_models_own_end_no_text_is_needed():
    thinking = control(budget=5)
    for token in [WORD, CLOSE]:
        thinking.after(token)
        assert not thinking.needs_text


def test_a_call_inside_the_thinking_is_not_cut():
    thinking = control(budget=3)
    asked = [thinking.after(WORD, True), thinking.after(WORD, True), thinking.after(CALL, True)]
    asked += [thinking.after(WORD, True) for _ in range(5)]  # "\n<function=name>": the parser does not know yet
    asked += [thinking.after(WORD, False) for _ in range(50)]
    assert not any(asked) and thinking.reason == "closed"


def test_a_tag_that_begins_no_call_only_delays_the_end():
    thinking = control(budget=3)
    asked = [thinking.after(token, True) for token in islice(cycle([WORD, WORD, CALL]), 40)]
    assert [bool(tokens) for tokens in asked].index(True) == 2 + 24


def test_the_parser_decides_what_is_thinking():
    thinking = control(in_thinking=False, budget=1)
    assert thinking.after(OPEN, False) == [] and not thinking.in_thinking  # a tag that the text speaks of
    assert thinking.after(OPEN, True) == [] and thinking.after(WORD, True) == [LINE, CLOSE, GAP]


# With the embedded vocabulary


@pytest.mark.parametrize("budget", [0, 5, 33, 64, 200])
def test_forced_tokens_come_out_of_the_parser_as_thinking_and_answer(budget):
    tokenizer = Tokenizer.read(nano_directory())
    tokens = ThinkingTokens.of(tokenizer)
    thinking = ThinkingControl(tokens, tokenizer.token_bytes, in_thinking=True, budget=budget)
    words = (tokenizer.encode_text(f" thought number {i}, a new one.") for i in count())
    model = (token for ids in words for token in ids)
    answer, forced, parser = [], thinking.start(), OutputParser()
    events = []
    while True:
        if thinking.needs_text and not forced:
            break
        token = forced.pop(0) if forced else next(model)
        answer.append(token)
        name = tokenizer.control_name(token)
        events += parser.push(Control(name) if name else tokenizer.token_bytes(token).decode())
        forced += thinking.after(token, parser.in_thinking)
    events += parser.push("Yes.") + parser.finish()
    text = "".join(event.text for event in events if type(event).__name__ == "ThinkingDelta")
    assert [event.text for event in events if type(event).__name__ == "TextDelta"] == ["Yes."]
    assert (NUDGE.strip() in text) == (budget > 32)
    assert budget <= thinking.thinking_tokens <= budget + 1  # the new line before the end


# loops


def words(text):
    """Text as tokens, (id, bytes): words with the space before them, punctuation, line ends."""
    for piece in re.findall(r" ?\w+|\s+|[^\w\s]", text):
        yield hash(piece), piece.encode()


def num_until_found(pieces, limit=20_000):
    """Tokens until a loop is found; None if there is none."""
    loops = LoopDetector()
    for num, (token, data) in enumerate(islice(pieces, limit), 1):
        loops.add(token, data)
        if loops.found:
            return num
    return None


@pytest.mark.parametrize("period", [1, 2, 3, 7, 16, 50, 85, 86, 100, 255, 256])
@pytest.mark.parametrize("before", [0, 3, 1000])
def test_a_passage_that_repeats_is_found_within_a_bound(period, before):
    passage = [(i, b" x%d" % i) for i in range(period)]
    pieces = [*((1000 + i, b" y%d" % i) for i in range(before)), *islice(cycle(passage), 3000)]
    needed = max(3 * period, MIN_REPEATED)
    assert before + needed <= num_until_found(pieces) < before + needed + CHECK_TOKENS


def test_a_passage_longer_than_the_longest_is_not_looked_for():
    assert num_until_found(islice(cycle([(i, b" x%d" % i) for i in range(MAX_PERIOD + 1)]), 5000)) is None


def test_one_token_that_differs_begins_the_count_again():
    passage = [(i, b" x") for i in range(10)]
    pieces = [
        *islice(cycle(passage), MIN_REPEATED - 16),
        (99, b" y"),
        *islice(cycle(passage), MIN_REPEATED - 16),
        (98, b" z"),
    ]
    assert num_until_found(pieces) is None


def test_lines_that_come_back_between_changing_ones_are_a_loop():
    rounds = (
        f"Wait, let me check the sum once more.\nActually, no.\nMaybe {i} is right after all.\n\n" for i in count()
    )
    found = num_until_found(piece for text in rounds for piece in words(text))
    assert found is not None and found < 6 * LINES  # tokens; a line has about 8, and 20 lines are needed


def same_lines(line, wrap="{}"):
    """The same line four times, then a unique one, and so on: all but a fifth is stale, no period."""
    return num_until_found(piece for i in range(60) for piece in words(wrap.format(f"{line}\n" * 4 + f"x = {i}\n")))


def test_lines_of_code_and_of_grids_do_not_count():
    line = "print(the same line again)"
    assert same_lines(line) is not None
    assert same_lines("    " + line) is None and same_lines("\t" + line) is None
    assert same_lines(line, "```python\n{}```\n") is None
    assert same_lines("print(this)") is None
    assert same_lines("| pass | pass | pass | pass | pass |") is None


def test_a_line_that_comes_back_less_often_is_no_loop():
    lines = [f"This is line {name} of a long refrain.\n" for name in "abcdefghijkl"]
    assert num_until_found(piece for i in range(40) for line in [*lines, f"{i}\n"] for piece in words(line)) is None


def test_a_walk_through_a_program_is_no_loop():
    step = (
        "Step {}: look at the node.\nThe distance does not get shorter.\nSo the queue stays as it was.\nVisited: {}\n"
    )
    assert num_until_found(piece for i in range(500) for piece in words(step.format(i, i))) is None


VERBS = "check open read parse write send merge split sort hash".split()
NOUNS = "file list tree node user token cache line index table request header".split()


def code(r):
    name = f"{r.choice(VERBS)}_{r.choice(NOUNS)}"
    body = "".join(
        (
            f"    if {r.choice(NOUNS)} is None:\n        raise ValueError('{r.choice(NOUNS)} "
            "is missing')\n        return False\n"
        )
        for _ in range(r.randrange(1, 3))
    )
    return f"def {name}({r.choice(NOUNS)}):\n{body}    return True\n\n"


def fenced(r):
    return f"```python\nprint('the same line of code again')\nassert f({r.random():.3f}) == 1\n```\n"


def table(r):
    row = "".join(f"| {r.choice(NOUNS)} | {r.randrange(10)} | yes |\n" for _ in range(r.randrange(1, 4)))
    return f"| name | n | ok |\n| --- | --- | --- |\n{row}\n"


def numbers(r):
    start = r.randrange(1000)
    return "".join(f"{i}, " for i in range(start, start + 8)) + "\n"


def listing(r):
    return "".join(f"- [ ] {r.choice(VERBS)} the {r.choice(NOUNS)} and the {r.choice(NOUNS)}\n" for _ in range(3))


def headings(r):
    return f"## {r.choice(NOUNS).title()}\n\nStatus: done\n\n---\n\n"


def grid(r):
    size = r.randrange(3, 10)
    return f"Board {r.random()}:\n" + ("0 " * size + "\n") * size + "\n"


def prose(r):
    return f"Let me {r.choice(VERBS)} the {r.choice(NOUNS)}. The {r.choice(NOUNS)} has {r.randrange(100)} parts.\n"


@pytest.mark.slow
def test_10000_honest_texts_are_left_alone():
    r = random.Random(4)
    kinds = [code, fenced, table, numbers, listing, headings, grid, prose]
    num_texts = 0
    for kind in [*kinds, None]:  # one kind after itself, and all of them mixed
        for _ in range(12):
            text = "".join((kind or r.choice(kinds))(r) for _ in range(93))
            num_texts += 93
            assert num_until_found(words(text), 10**6) is None, text[-2000:]
    assert num_texts > 10_000


def test_counting_up_is_no_loop():
    assert num_until_found(piece for i in range(3000) for piece in words(f"{i}. The number is {i}.\n")) is None


@pytest.mark.parametrize(
    ("num_bytes", "times", "is_loop"),
    [
        (LINE_BYTES, SAME_LINES, True),
        (LINE_BYTES, SAME_LINES - 1, False),
        (LINE_BYTES - 1, LINES, False),
    ],
)
def test_a_line_counts_from_its_least_length_and_its_least_number_on(num_bytes, times, is_loop):
    loops, line = LoopDetector(), b"one two three and so".ljust(num_bytes, b"n")[:num_bytes]
    for i in range(times):
        assert not loops.found
        loops.add(i, line + b"\n")
    assert loops.found is is_loop


def found_after(*lines: bytes) -> int | None:
    """Lines until a loop is found, each given as a single token; None if there is none."""
    loops = LoopDetector()
    for num, line in enumerate(lines, 1):
        loops.add(num, line + b"\n")
        if loops.found:
            return num
    return None


def own(num: int) -> list[bytes]:
    return [b"a line of its own, number %d" % i for i in range(num)]


SAME, OTHER = b"the same line again and again", b"another line, again and again"


@pytest.mark.parametrize(
    ("line", "is_loop"), [(b"three different words......", True), (b"two two different.......", False)]
)
def test_a_line_counts_from_its_least_number_of_words_on(line, is_loop):
    assert (found_after(*[line] * SAME_LINES) is not None) is is_loop


@pytest.mark.parametrize(("num_own", "is_loop"), [(3, True), (4, False)])
def test_two_thirds_of_the_lines_are_enough(num_own, is_loop):
    assert found_after(*own(num_own), *[SAME] * 6) == (num_own + 6 if is_loop else None)


@pytest.mark.parametrize(("times", "is_loop"), [(3, True), (2, False)])
def test_a_line_is_stale_from_its_third_time_on(times, is_loop):
    lines = [*own(4), *[OTHER] * times, *[SAME] * 6]
    assert found_after(*lines) == (len(lines) if is_loop else None)


@pytest.mark.parametrize(("num_between", "is_loop"), [(4, True), (5, False)])
def test_a_line_counts_as_long_as_it_is_among_the_last(num_between, is_loop):
    refrains = [b"refrain %d of this long song" % i for i in range(6) for _ in range(5)]
    lines = [SAME, *refrains, *own(num_between), *[SAME] * 5]
    assert len(lines) == LINES + (not is_loop)
    assert found_after(*lines) == (LINES if is_loop else None)
