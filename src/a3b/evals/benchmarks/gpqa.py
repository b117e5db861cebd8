"""GPQA Diamond: 198 questions of graduate level with four choices.

The data is the user's: its authors ask not to put it on the web in plain text, so nothing of it is here, and the canary
of each row goes into the transcripts. Enter at `BENCHMARK`."""

from __future__ import annotations

import random
from typing import Any

from a3b.evals.benchmark import GEMMA, QWEN, Benchmark, CaseTokens, Need
from a3b.evals.benchmarks.asking import CARD, THINKING, generate_config
from a3b.evals.benchmarks.given_data import Row, field_of, given_rows, unique_name
from a3b.evals.options import EvalOptions

CASES = 198
MAX_TOKENS = 32_768
ORDER_SEED = 42  # of questions and choices; inspect-evals shuffles the choices by it too
KNOWN = {"41d1213cd7a4998605a26c2798500652572007161b3a92817ba46b35befcd305": "gpqa_diamond.csv of simple-evals"}
HOW = (
    "gpqa_diamond.csv is gated: get it from its authors (https://github.com/idavidrein/gpqa), or as simple-evals "
    "does: https://openaipublic.blob.core.windows.net/simple-evals/gpqa_diamond.csv"
)
WRONG = ("Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")


def make_task(options: EvalOptions) -> Any:
    from inspect_ai import Task
    from inspect_ai.dataset import MemoryDataset
    from inspect_ai.scorer import choice
    from inspect_ai.solver import multiple_choice

    return Task(
        dataset=MemoryDataset(samples(rows(options)), name="gpqa_diamond"),
        solver=multiple_choice(cot=True),
        scorer=choice(),
        config=generate_config(options, THINKING, MAX_TOKENS),
    )


def rows(options: EvalOptions) -> list[Row]:
    return given_rows(options.data, KNOWN, options.extra.get("sha256"), HOW)


def samples(rows: list[Row]) -> list[Any]:
    """Samples of inspect-ai, questions and choices in an order that depends on the rows alone."""
    from inspect_ai.dataset import Sample

    found: list[Any] = []
    taken: set[str] = set()
    for number, row in enumerate(rows, 1):
        right = field_of(row, "Correct Answer").strip()
        choices = [right, *(field_of(row, name).strip() for name in WRONG)]
        name = unique_name(row, number, taken, "Record ID")
        random.Random(f"{ORDER_SEED}/{name}").shuffle(choices)
        metadata = {"domain": str(row.get("High-level domain", "")), "canary": str(row.get("Canary String", ""))}
        found.append(
            Sample(
                id=name,
                input=field_of(row, "Question").strip(),
                choices=choices,
                target="ABCD"[choices.index(right)],
                metadata=metadata,
            )
        )
    random.Random(ORDER_SEED).shuffle(found)  # the file is sorted, so that --limit would take one kind
    return found


def check(options: EvalOptions) -> None:
    rows(options)


BENCHMARK = Benchmark(
    name="gpqa",
    summary="GPQA Diamond: questions of graduate level, four choices",
    source="https://github.com/idavidrein/gpqa; prompt and scorer of inspect-ai (multiple_choice, choice)",
    licence="data CC BY 4.0, not to be published in plain text",
    make_task=make_task,
    protocol="the card gives a score and no footnote: neither prompt, sampling nor number of runs is stated",
    differs=(
        f"our rules, since there are none to follow: {CARD}, min_p 0, max_tokens {MAX_TOKENS:,} as the card advises "
        "for most queries, 4 epochs as inspect-evals has; zero-shot, 'ANSWER: LETTER' on the last line"
    ),
    published={QWEN: 86.0, GEMMA: 84.3, "Qwen3.5-35B-A3B": 84.2},
    needs=(Need("gpqa_diamond.csv", HOW + "; then --data FILE", lambda options: bool(options and options.data)),),
    check=check,
    tokens_per_case=CaseTokens(300, 12_000, 0, "assumed: a long thought for each question; measure with --limit 10"),
    cases=CASES,
    data="the authors' file of questions, gpqa_diamond.csv",
    epochs=4,
    extra={"sha256": "SHA-256 of --data, if it is another file than the known one"},
)
