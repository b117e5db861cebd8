"""reasoning-gym: puzzles that are generated from a seed, and verified by the package's own code.

Some verifiers of the package evaluate the answer as an expression. They would run what a model wrote outside of the
sandbox, so only families whose verifiers were read are taken. Enter at `BENCHMARK`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from importlib import util
from itertools import chain
from typing import Any

from a3b.errors import UsageError, did_you_mean
from a3b.evals.benchmark import Benchmark, CaseTokens, Need
from a3b.evals.benchmarks.asking import CARD, THINKING, generate_config, right_or_wrong
from a3b.evals.benchmarks.by_kind import lines_by_kind
from a3b.evals.benchmarks.final_answers import between_tags
from a3b.evals.options import EvalOptions, whole_number

INSTALL = "pip install reasoning-gym"
EACH, MOST_EACH = 5, 10_000  # cases of a family
MAX_TOKENS = 32_768
MAX_ANSWER = 4000  # characters
FAMILIES = (
    "base_conversion",
    "basic_arithmetic",
    "caesar_cipher",
    "calendar_arithmetic",
    "chain_sum",
    "count_bits",
    "family_relationships",
    "gcd",
    "knights_knaves",
    "leg_counting",
    "letter_counting",
    "mini_sudoku",
    "number_sequence",
    "number_sorting",
    "shortest_path",
    "simple_equations",
    "spell_backward",
    "syllogism",
    "word_sorting",
    "zebra_puzzles",
)
PROMPT = "{question}\n\nGive the final answer, and nothing else, between <answer> and </answer>."


def make_task(options: EvalOptions) -> Any:
    from inspect_ai import Task
    from inspect_ai.dataset import MemoryDataset
    from inspect_ai.solver import generate

    check(options)
    import reasoning_gym

    families = chosen(options.extra)
    seed, each = options.number("data-seed", 42, least=0), options.number("each", EACH, most=MOST_EACH)
    datasets = {name: reasoning_gym.create_dataset(name, seed=seed, size=each) for name in families}
    return Task(
        dataset=MemoryDataset(samples(datasets, each), name="reasoning-gym"),
        solver=generate(),
        scorer=right_or_wrong(Judge(datasets), "verified"),
        config=generate_config(options, THINKING, MAX_TOKENS),
    )


def chosen(extra: Mapping[str, str]) -> list[str]:
    """Raises UsageError for a family that is not known, or not known to verify without running the answer."""
    named = [name.strip() for name in extra.get("families", "").split(",") if name.strip()]
    for name in named:
        if name not in FAMILIES:
            raise UsageError(
                f"--set families: {name[:40]!r} is none of {', '.join(FAMILIES)}{did_you_mean(name, FAMILIES)}. "
                "Others of reasoning-gym are left out, since some evaluate what the model wrote as code"
            )
    return list(dict.fromkeys(named)) or list(FAMILIES)


def samples(datasets: dict[str, Any], each: int) -> list[Any]:
    """One case of each family after another, so that --limit takes some of all."""
    from inspect_ai.dataset import Sample

    rows = (
        [
            Sample(
                id=f"{name}-{index}",
                input=PROMPT.format(question=str(dataset[index]["question"]).strip()),
                target=str(dataset[index]["answer"]),
                metadata={"family": name, "index": index},
            )
            for name, dataset in datasets.items()
        ]
        for index in range(each)
    )
    return list(chain.from_iterable(rows))


class Judge:
    """Asks the verifier of a case's family. An answer is right if it gets the whole point: shares, which many verifiers
    give for the form alone, count as wrong."""

    def __init__(self, datasets: dict[str, Any]):
        self._datasets = datasets

    async def __call__(self, state: Any, target: Any) -> tuple[bool, str, str]:
        answer = between_tags(state.output.completion)
        if answer is None or len(answer) > MAX_ANSWER:
            return False, "", "nothing between <answer> and </answer>" if answer is None else "the answer is too long"
        dataset = self._datasets[state.metadata["family"]]
        entry = dataset[state.metadata["index"]]
        points = await asyncio.to_thread(dataset.score_answer, answer, entry)
        return points >= 1.0, answer, f"{float(points):.3f} of 1 from the verifier"


def is_here(options: EvalOptions | None) -> bool:
    return util.find_spec("reasoning_gym") is not None


def check(options: EvalOptions) -> None:
    if not is_here(options):
        raise UsageError(f"the package reasoning-gym is not installed: {INSTALL}")
    chosen(options.extra)


BENCHMARK = Benchmark(
    name="reasoning-gym",
    summary="puzzles made from a seed, verified by code (arithmetic, words, logic, graphs)",
    source="https://github.com/open-thought/reasoning-gym (package reasoning-gym 0.1.25)",
    licence="Apache-2.0",
    make_task=make_task,
    protocol="not on the card; the package states generators and verifiers, and leaves families and sizes to the user",
    differs=(
        f"{len(FAMILIES)} families in their default difficulty, {EACH} cases each from data-seed 42; {CARD}, "
        f"max_tokens {MAX_TOKENS:,}; only the whole point counts"
    ),
    needs=(Need("the package reasoning-gym", INSTALL, is_here),),
    check=check,
    tokens_per_case=CaseTokens(250, 6_000, 0, "assumed: a thought of some pages; measure with --limit 20"),
    more=lines_by_kind(lambda case: case.rpartition("-")[0]),
    count=lambda extra: len(chosen(extra)) * whole_number(extra, "each", EACH, most=MOST_EACH),
    extra={
        "families": f"names, separated by commas; default: {', '.join(FAMILIES)}",
        "each": f"cases of each family (default {EACH})",
        "data-seed": "from which the puzzles are made (default 42)",
    },
)
