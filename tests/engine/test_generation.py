"""A run of tokens in one step gives what the same tokens give one by one, however the answer ends."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from a3b.constrain.constraints import Grammars
from a3b.engine.generation import Generation
from a3b.errors import A3BError, LogitsError, UsageError
from a3b.interface.events import Event, TextDelta, ThinkingDelta, TokenLogprobs, ToolCallEnd, merge_events
from a3b.interface.request import Request
from a3b.interface.sampling_params import SamplingParams
from a3b.prompt.tokenizer import Tokenizer
from a3b.thinking.budget import NUDGE, ThinkingControl, ThinkingTokens
from tests.support.paths import ROOT

TOKENIZER = Tokenizer.read(ROOT / "src" / "a3b" / "nano_model")
GRAMMARS = Grammars(TOKENIZER)


@pytest.fixture(scope="module", autouse=True)
def grammars_end_with_the_tests():
    yield
    GRAMMARS.close()


CONTROLS = ("<|im_end|>", "<|endoftext|>", "<think>", "</think>", "<tool_call>", "</tool_call>")
EOS = [TOKENIZER.control_id("<|im_end|>"), TOKENIZER.control_id("<|endoftext|>")]
TOOL = {
    "type": "function",
    "function": {
        "name": "get",
        "parameters": {"type": "object", "properties": {"key": {"type": "string"}}, "required": ["key"]},
    },
}
CALL = "<tool_call>\n<function=get>\n<parameter=key>\nab<c\n</parameter>\n</function>\n</tool_call>"
PROMPT = [5, 6, 7]


def ids_of(text: str) -> list[int]:
    """Ids of a text in which the names of control tokens are control tokens."""
    for name in CONTROLS:
        text = text.replace(name, f"\0{name}\0")
    parts = [part for part in text.split("\0") if part]
    return [
        token
        for part in parts
        for token in ([TOKENIZER.control_id(part)] if part in CONTROLS else TOKENIZER.encode_text(part))
    ]


class Watched:
    """A constraint that notes what it is told, and fails after `fails_after` tokens."""

    knows_end, sees_thinking, ready, notes, thinking = False, True, True, (), None

    def __init__(self, barred: tuple[int, ...] = (), fails_after: int | None = None):
        self.barred, self.fails_after, self.told = list(barred), fails_after, []

    def mask(self) -> np.ndarray:
        if self.fails_after is not None and len(self.told) >= 2 * self.fails_after:
            raise UsageError("the grammar is too slow")
        allowed = np.ones(TOKENIZER.num_tokens, bool)
        allowed[self.barred] = len(self.told) < 8  # from the fifth token on
        return allowed

    def accept(self, token_id: int) -> None:
        self.told.append(token_id)

    def at(self, *place: Any) -> None:
        self.told.append(place)

    def wait(self, seconds: float) -> None: ...

    def close(self) -> None: ...


@dataclass
class Case:
    """What the model wants to write, and how the answer that it becomes is set up."""

    script: list[int]
    reason: str | None  # None: an error
    params: dict[str, Any] = field(default_factory=dict)
    max_tokens: int = 1000
    options: dict[str, Any] = field(default_factory=dict)
    budget: dict[str, int] | None = None
    request: Request | None = None  # gives the constraint
    watched: dict[str, Any] | None = None
    cancel_at: int | None = None
    nan_at: int | None = None


AFTER = ids_of(" and more <tool_call>\n<function=get>")  # never part of an answer
CLOSING = ThinkingTokens.of(TOKENIZER).closing
HALF = ids_of("🙂")[:1]
LOOP = ids_of("I should look at the file again and then decide.\n") * 40
CASES = {
    "end of turn": Case(ids_of("hm\n</think>\n\nHello there<|im_end|>") + AFTER, "stop"),
    "another end": Case(ids_of("hm</think>Hello there<|endoftext|>") + AFTER, "stop"),
    "end inside the thinking": Case(ids_of("hm, so<|im_end|>") + AFTER, "stop"),
    "end inside half a character": Case([*ids_of("x</think>a"), *HALF, EOS[0], *AFTER], "stop"),
    "end inside a tag": Case(ids_of("x</think>a<tool_call>\n<func<|im_end|>") + AFTER, "stop"),
    "stop string in a token": Case(ids_of("x</think>one two three four") + AFTER, "stop", {"stop": ("wo",)}),
    "stop string across tokens": Case(
        ids_of("x</think>one two three four") + AFTER, "stop", {"stop": ("two thr", "four")}
    ),
    "stop string that only the end shows": Case(
        [*ids_of("x</think>a"), *HALF], "stop", {"stop": ("a\ufffd",)}, max_tokens=len(ids_of("x</think>a")) + 1
    ),
    "token limit": Case(ids_of("x</think>one two three four five six seven") + AFTER, "length", max_tokens=6),
    "token limit in the thinking": Case(ids_of("one two three four five six seven") + AFTER, "length", max_tokens=3),
    "no thinking budget": Case(ids_of("hm, so what</think>\n\nHello<|im_end|>") + AFTER, "stop", budget={"budget": 0}),
    "thinking budget": Case(
        ids_of("one two three four five six seven eight nine</think>Hello<|im_end|>") + AFTER,
        "stop",
        budget={"budget": 5},
    ),
    "thinking budget and what it forces was guessed": Case(
        [*ids_of("one two three four five six")[:5], *CLOSING, *ids_of("Hello<|im_end|>"), *AFTER],
        "stop",
        budget={"budget": 5},
    ),
    "token limit in what the budget forces": Case(
        ids_of("one two three four five six"), "length", max_tokens=6, budget={"budget": 5}
    ),
    "nudge": Case(
        ids_of("This is a sentence. " * 30 + NUDGE + "</think>Hello<|im_end|>") + AFTER, "stop", budget={"budget": 100}
    ),
    "thinking in circles": Case([*LOOP, *ids_of("</think>Hello<|im_end|>")], "stop", budget={}),
    "second thinking that may not begin": Case(
        ids_of("a b c d e f g h</think><think>again</think>Hello<|im_end|>"), "stop", budget={"budget": 4}
    ),
    "call": Case(ids_of(f"x</think>\n\n{CALL}<|im_end|>") + AFTER, "tool_calls", options={"tools": [TOOL]}),
    "call and text": Case(
        ids_of(f"x</think>So: {CALL}{CALL} done<|im_end|>") + AFTER, "tool_calls", options={"tools": [TOOL]}
    ),
    "half a call": Case(ids_of("x</think>" + CALL[:50] + "<|im_end|>") + AFTER, "stop", options={"tools": [TOOL]}),
    "token limit in a call": Case(
        ids_of("x</think>" + CALL), "length", options={"tools": [TOOL]}, max_tokens=len(ids_of("x</think>" + CALL)) - 6
    ),
    "required call": Case(
        ids_of(f"x</think>\n\nI will not. {CALL}<|im_end|>") + AFTER,
        "tool_calls",
        options={"tools": [TOOL]},
        request=Request(tools=[TOOL], tool_choice="required"),
    ),
    "call of no tool": Case(ids_of(f"x</think>\n\n{CALL}<|im_end|>") + AFTER, "stop", request=Request()),
    "document and its end": Case(
        ids_of('x</think>\n\n{"a": 12} and more text'),
        "stop",
        request=Request(
            schema={
                "type": "object",
                "properties": {"a": {"type": "integer"}},
                "required": ["a"],
                "additionalProperties": False,
            }
        ),
    ),
    "constraint": Case(ids_of("x</think>a b c d a b c d<|im_end|>"), "stop", watched={"barred": tuple(ids_of(" b"))}),
    "constraint that fails": Case(ids_of("x</think>a b c d a b c d<|im_end|>"), None, watched={"fails_after": 6}),
    "cancelled": Case(
        [*ids_of("x</think>Hello "), *HALF, *AFTER], "cancelled", cancel_at=len(ids_of("x</think>Hello ")) + 1
    ),
    "cancelled in a call": Case(
        ids_of("x</think>" + CALL),
        "cancelled",
        options={"tools": [TOOL]},
        cancel_at=len(ids_of("x</think>" + CALL)) - 6,
    ),
    "not a number": Case(ids_of("x</think>Hello there") + AFTER, None, nan_at=5),
    "text that is continued": Case(
        ids_of("as <think> is <tool_call> it<|im_end|>") + AFTER, "stop", options={"is_raw": True}
    ),
}


def generation_of(case: Case) -> tuple[Generation, Any]:
    constraint: Any = None
    if case.request is not None:
        constraint = GRAMMARS.of(case.request)
    elif case.watched is not None:
        constraint = Watched(**case.watched)
    control = None
    if case.budget is not None:
        control = ThinkingControl(ThinkingTokens.of(TOKENIZER), TOKENIZER.token_bytes, in_thinking=True, **case.budget)
    params = SamplingParams(temperature=0.0, top_k=0, top_p=1.0, **case.params)
    generation = Generation(
        TOKENIZER,
        EOS,
        PROMPT,
        params,
        case.max_tokens,
        constraint=constraint,
        control=control,
        top_logprobs=0,
        **case.options,
    )
    return generation, constraint


def logits_for(case: Case, position: int) -> np.ndarray:
    """What the model wants at a position, then an end, then what is left."""
    logits = np.linspace(1, 0, TOKENIZER.num_tokens, dtype=np.float32)
    logits[EOS[0]] = 5
    if position < len(case.script):
        logits[case.script[position]] = 9
    if position == case.nan_at:
        logits[3] = np.nan
    return logits


def logprobs_of(token: int, position: int) -> TokenLogprobs:
    return TokenLogprobs(token, b"", -float(position), ())


def written(case: Case, sizes: Any) -> dict[str, Any]:
    """The answer in steps of so many tokens: the first chosen, the others as the model would want them."""
    generation, constraint = generation_of(case)
    events, error = list(generation.start()), None
    try:
        while generation.reason is None:
            at = len(generation.sampled)
            if case.cancel_at is not None and at >= case.cancel_at:
                events += generation.stop("cancelled")
                break
            most = min(
                next(sizes), min(n for n in (case.cancel_at, case.nan_at, 10**6) if n is not None and n > at) - at
            )
            run = [generation.choose(logits_for(case, at)).token_id, *case.script[at + 1 : at + most]]
            before = list(generation.sampled)
            accepted = generation.accept(run, [logprobs_of(token, at + i) for i, token in enumerate(run)])
            events += accepted.events
            assert 1 <= accepted.num_kept <= len(run), "the first token was chosen, so it is kept"
            assert generation.sampled[: at + accepted.num_kept] == before + run[: accepted.num_kept]
            assert generation.feed == ([] if generation.reason else generation.sampled[at:])
    except A3BError as caught:
        error = str(caught)
    finally:
        generation.close()
    counts, ids = generation._counts, np.arange(TOKENIZER.num_tokens)
    return {
        "events": events,
        "error": error,
        "reason": generation.reason,
        "sampled": generation.sampled,
        "thinking": (generation.thinking_tokens, generation.thinking_stop),
        "stop string": generation.stop_string,
        "cuts": generation.cuts,
        "complete": generation.all_complete,
        "counts": (counts.of(ids).tolist(), sorted(counts.seen), sorted(counts.generated)),
        "constraint": constraint.told if isinstance(constraint, Watched) else None,
        "decoder": generation._decoder.is_whole,
    }


def always(size: int) -> Any:
    return iter(lambda: size, 0)


ONE_BY_ONE: dict[str, dict[str, Any]] = {}


def one_by_one(name: str) -> dict[str, Any]:
    if name not in ONE_BY_ONE:
        ONE_BY_ONE[name] = written(CASES[name], always(1))
    return ONE_BY_ONE[name]


@pytest.mark.parametrize("name", CASES)
def test_each_case_ends_as_its_name_says(name):
    found = one_by_one(name)
    assert found["reason"] == CASES[name].reason
    assert (found["error"] is not None) == (CASES[name].reason is None)


@pytest.mark.parametrize("size", range(2, 9))
@pytest.mark.parametrize("name", CASES)
def test_a_run_of_tokens_gives_what_they_give_one_by_one(name, size):
    assert written(CASES[name], always(size)) == one_by_one(name)


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=8, deadline=None)
@given(sizes=st.lists(st.integers(1, 8), min_size=1, max_size=30))
def test_runs_of_any_lengths_give_what_the_tokens_give_one_by_one(name, sizes):
    def cycled() -> Any:
        while True:
            yield from sizes

    assert written(CASES[name], cycled()) == one_by_one(name)


def test_the_cases_hold_what_their_names_say():
    assert one_by_one("stop string in a token")["stop string"] == "wo"
    assert one_by_one("stop string across tokens")["stop string"] == "two thr"
    assert one_by_one("thinking budget")["thinking"][1] == "budget"
    assert one_by_one("thinking in circles")["thinking"][1] == "repetition"
    nudged = one_by_one("nudge")["sampled"]
    nudge = TOKENIZER.encode_text(NUDGE)
    assert any(nudged[i : i + len(nudge)] == nudge for i in range(len(nudged)))
    ends = [event for event in one_by_one("half a call")["events"] if isinstance(event, ToolCallEnd)]
    assert [end.complete for end in ends] == [False]
    refused = one_by_one("constraint")["sampled"]
    assert refused != CASES["constraint"].script and refused[-1] == EOS[0]


def test_nothing_comes_after_the_end():
    generation, _ = generation_of(CASES["end of turn"])
    generation.accept(CASES["end of turn"].script)
    sampled = list(generation.sampled)
    assert generation.accept(ids_of("more")) == ([], 0) and generation.sampled == sampled


def test_how_many_tokens_were_kept_is_told():
    generation, _ = generation_of(CASES["end of turn"])
    script = CASES["end of turn"].script
    assert generation.accept(script).num_kept == script.index(EOS[0]) + 1


def test_tokens_that_a_budget_forces_count_as_kept_where_they_were_guessed():
    case = CASES["thinking budget and what it forces was guessed"]
    generation, _ = generation_of(case)
    assert generation.accept(case.script[:8]).num_kept == 8
    other, _ = generation_of(CASES["thinking budget"])
    assert other.accept(CASES["thinking budget"].script[:8]).num_kept == 5
    assert other.feed == [*CASES["thinking budget"].script[:5], *CLOSING]


@pytest.mark.parametrize(
    ("token", "error"), [(-1, UsageError), (TOKENIZER.num_tokens, UsageError), (1 << 40, UsageError)]
)
def test_an_id_that_is_no_token_is_refused_before_anything_is_taken(token, error):
    generation, _ = generation_of(CASES["end of turn"])
    with pytest.raises(error, match="token id"):
        generation.accept([*ids_of("ab"), token])
    assert generation.sampled == [] and generation.cuts[-1].num_ids == 0


def test_logits_that_are_not_numbers_change_nothing():
    case = CASES["not a number"]
    generation, _ = generation_of(case)
    generation.accept(case.script[:5])
    with pytest.raises(LogitsError, match="position 8"):
        generation.choose(logits_for(case, 5))
    events = generation.accept(case.script[5:]).events
    assert merge_events(events) and len(generation.sampled) == len(case.script)


def half_written(*ids: int) -> tuple[Generation, list[Event]]:
    """An answer after these tokens and the first half of a character."""
    generation = Generation(TOKENIZER, EOS, PROMPT, SamplingParams(temperature=0.0), 1000)
    return generation, generation.accept([*ids, *HALF]).events


def said(events: list[Event]) -> tuple[str, str]:
    """(thinking, text)."""
    thinking, text = ("".join(e.text for e in events if isinstance(e, kind)) for kind in (ThinkingDelta, TextDelta))
    return thinking, text


def test_half_a_character_before_the_end_of_the_thinking_is_no_part_of_the_text():
    generation, events = half_written(*ids_of("hm "))
    events += generation.accept(ids_of("</think>\n\nHello<|im_end|>")).events
    assert said(events) == ("hm \ufffd", "Hello")


@pytest.mark.parametrize(("ends", "text"), [("stop", "a\ufffd"), ("cancelled", "a")])
def test_half_a_character_at_the_end_is_shown_unless_the_client_has_left(ends, text):
    generation, events = half_written(*ids_of("</think>\n\na"))
    assert said(events + generation.stop(ends))[1] == text


def test_an_answer_cannot_be_cut_within_a_character():
    generation, _ = half_written(*ids_of("</think>\n\na"))
    assert generation.cuts[-1].num_ids == len(generation.sampled) - 1


def test_white_space_has_logprobs_within_a_text_and_not_before_it():
    script = [*ids_of("x</think>"), *ids_of("\n\n"), *ids_of("one"), *ids_of("\n"), *ids_of("two"), EOS[0]]
    generation, _ = generation_of(Case(script, "stop"))
    events = list(generation.start())
    for position, token in enumerate(script):
        events += generation.accept([token], [logprobs_of(token, position)]).events
    scored = b"".join(TOKENIZER.token_bytes(event.token_id) for event in events if isinstance(event, TokenLogprobs))
    assert scored == b"one\ntwo"
