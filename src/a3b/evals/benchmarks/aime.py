"""AIME 2026: the 30 problems of the American Invitational Mathematics Examination, I and II, answers from 0 to 999.

The problems are the copyright of the MAA, so the data is the user's. Enter at `BENCHMARK`."""

from __future__ import annotations

from typing import Any

from a3b.errors import UsageError
from a3b.evals.benchmark import GEMMA, QWEN, Benchmark, CaseTokens, Need
from a3b.evals.benchmarks.asking import CARD, THINKING, generate_config, right_or_wrong
from a3b.evals.benchmarks.final_answers import whole_number
from a3b.evals.benchmarks.given_data import Row, field_of, given_rows, unique_name
from a3b.evals.options import EvalOptions

CASES = 30
MAX_TOKENS = 81_920
HOW = (
    "The 30 problems are not redistributed: get them from https://huggingface.co/datasets/math-ai/aime26 or "
    "https://huggingface.co/datasets/MathArena/aime_2026, as .jsonl, .json, .csv or .parquet with the fields "
    "problem and answer"
)
PROMPT = "{problem}\n\nPlease reason step by step, and put your final answer within \\boxed{{}}."  # the card's words


def make_task(options: EvalOptions) -> Any:
    from inspect_ai import Task
    from inspect_ai.dataset import MemoryDataset
    from inspect_ai.solver import generate

    return Task(
        dataset=MemoryDataset(samples(rows(options)), name="aime2026"),
        solver=generate(),
        scorer=right_or_wrong(judge, "whole_number"),
        config=generate_config(options, THINKING, MAX_TOKENS),
    )


def rows(options: EvalOptions) -> list[Row]:
    """Nobody publishes the sum of a file, so the user states the one that he trusts."""
    return given_rows(options.data, {}, options.extra.get("sha256"), HOW)


def samples(rows: list[Row]) -> list[Any]:
    from inspect_ai.dataset import Sample

    found: list[Any] = []
    taken: set[str] = set()
    for number, row in enumerate(rows, 1):
        answer = field_of(row, "answer", "expected_answer").strip()
        if whole_number(f"ANSWER: {answer}") is None or not 0 <= int(answer) <= 999:
            raise UsageError(f"the answer of problem {number} is {answer[:40]!r}; expected a number from 0 to 999")
        name = unique_name(row, number, taken, "id", "problem_idx")
        problem = field_of(row, "problem", "question").strip()
        found.append(Sample(id=name, input=PROMPT.format(problem=problem), target=str(int(answer))))
    return found


async def judge(state: Any, target: Any) -> tuple[bool, str, str]:
    found = whole_number(state.output.completion)
    return found == int(target.text), "" if found is None else str(found), ""


def check(options: EvalOptions) -> None:
    rows(options)


BENCHMARK = Benchmark(
    name="aime",
    summary="AIME 2026, I and II: 30 problems, whole numbers as answers",
    source="https://huggingface.co/datasets/math-ai/aime26",
    licence="copyright of the Mathematical Association of America; not redistributed",
    make_task=make_task,
    protocol="the card: all problems of AIME 2026 I and II; sampling and number of runs are not stated",
    differs=(
        f"our rules for what is not stated: {CARD}, min_p 0, max_tokens {MAX_TOKENS:,} as the card advises for "
        "mathematics, 8 epochs, since 30 problems alone give an interval of ±10 points; the card's prompt (\\boxed{})"
    ),
    published={QWEN: 92.7, GEMMA: 89.2, "Qwen3.5-35B-A3B": 91.0},
    needs=(Need("the 30 problems", HOW + "; then --data FILE", lambda options: bool(options and options.data)),),
    check=check,
    tokens_per_case=CaseTokens(200, 25_000, 0, "assumed: a long proof for each problem; measure with --limit 3"),
    cases=CASES,
    data="a file of the problems",
    epochs=8,
    extra={"sha256": "SHA-256 of --data: it is always asked for, as no file of these problems has a known one"},
)
