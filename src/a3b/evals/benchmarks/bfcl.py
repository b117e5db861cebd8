"""BFCL, the Berkeley Function-Calling Leaderboard: which functions a model calls, and with what arguments.

Data: the package bfcl-eval, of which nothing is imported for single turns. Solver and scorer: inspect-evals, given that
data, so nothing is downloaded. Enter at `BENCHMARK`."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from itertools import chain, islice, product
from pathlib import Path
from typing import Any

from a3b.errors import UsageError, did_you_mean
from a3b.evals.benchmark import Benchmark, CaseTokens, Need
from a3b.evals.benchmarks.asking import generate_config
from a3b.evals.benchmarks.by_kind import lines_by_kind
from a3b.evals.options import EvalOptions

VERSION = "2026.3.23"
INSTALL = f"pip install --no-deps bfcl-eval=={VERSION}"
HOW = f"The data comes with the package bfcl-eval: {INSTALL}; or give its directory bfcl_eval by --data DIR"
FILE = "BFCL_v4_simple_python.json"
BACKENDS = Path("eval_checker", "multi_turn_eval", "func_source_code")
MAX_TOKENS = 8192
ORDER_SEED = 42
MOST_MEANT = 1000  # values that one right value is spelled out to
SINGLE_TURN = {  # cases of each category
    "simple_python": 400,
    "simple_java": 100,
    "simple_javascript": 50,
    "multiple": 200,
    "parallel": 200,
    "parallel_multiple": 200,
    "irrelevance": 240,
    "live_simple": 258,
    "live_multiple": 1053,
    "live_parallel": 16,
    "live_parallel_multiple": 24,
    "live_relevance": 16,
    "live_irrelevance": 884,
}
MULTI_TURN = dict.fromkeys(
    ("multi_turn_base", "multi_turn_miss_func", "multi_turn_miss_param", "multi_turn_long_context"), 200
)
GREEDY = {"temperature": 0.0}


def make_task(options: EvalOptions) -> Any:
    from inspect_ai import Task
    from inspect_ai.dataset import MemoryDataset
    from inspect_evals.bfcl.bfcl import bfcl_scorer, bfcl_solver

    package, categories = package_directory(options), chosen(options.extra)
    if set(categories) & set(MULTI_TURN):
        load_backends(package)
    return Task(
        dataset=MemoryDataset(samples(package / "data", categories), name="bfcl"),
        solver=bfcl_solver(),
        scorer=bfcl_scorer(),
        config=generate_config(options, GREEDY, MAX_TOKENS),
    )


def chosen(extra: Mapping[str, str]) -> list[str]:
    """Raises UsageError."""
    known = (*SINGLE_TURN, *MULTI_TURN)
    named = [name.strip() for name in extra.get("categories", "").split(",") if name.strip()]
    for name in named:
        if name not in known:
            raise UsageError(
                f"--set categories: {name[:40]!r} is none of {', '.join(known)}{did_you_mean(name, known)}. Memory and "
                "web search are left out: they need a prepared memory, and the internet"
            )
    return list(dict.fromkeys(named)) or list(SINGLE_TURN)


def package_directory(options: EvalOptions) -> Path:
    """The directory bfcl_eval, given or installed. Raises UsageError."""
    given = options.data
    if given is not None:
        for path in (given, given / "bfcl_eval", given.parent):
            if (path / "data" / FILE).is_file():
                return path
        raise UsageError(f"--data {given}: there is no data/{FILE} in it. {HOW}")
    try:
        found = metadata.distribution("bfcl-eval")
    except metadata.PackageNotFoundError:
        raise UsageError(f"the data of BFCL is not here. {HOW}") from None
    path = Path(str(found.locate_file("bfcl_eval")))
    if not (path / "data" / FILE).is_file():
        raise UsageError(f"{path}: bfcl-eval {found.version} has no data/{FILE}. {HOW}")
    return path


def samples(data: Path, categories: list[str]) -> list[Any]:
    """One case of each category after another, each in an order that depends on its names alone."""
    from inspect_evals.bfcl.bfcl import multi_turn_record_to_sample, single_turn_record_to_sample
    from inspect_evals.bfcl.data import load_records_by_category

    columns = []
    for name in categories:
        make = multi_turn_record_to_sample if name in MULTI_TURN else single_turn_record_to_sample
        try:
            records = load_records_by_category(category_name=name, cache_dir=data)
        except (OSError, ValueError, KeyError) as error:
            raise UsageError(f"{data}: the category {name} cannot be read: {str(error)[:300]}. {HOW}") from None
        column = [make(records[key]) for key in sorted(records)]
        for sample in column:
            spell_out(sample.metadata.get("parsed_ground_truth", ()))
        random.Random(f"{ORDER_SEED}/{name}").shuffle(column)
        columns.append(column)
    longest = max(map(len, columns))
    return [column[i] for i in range(longest) for column in columns if i < len(column)]


def category_of(case: str) -> str:
    """The category of a case, with whose name its id begins."""
    return max((name for name in (*SINGLE_TURN, *MULTI_TURN) if case.startswith(f"{name}_")), key=len, default="other")


def spell_out(calls: Iterable[dict[str, dict[str, list[Any]]]]) -> None:
    """Replaces an object whose fields have lists of right values by the objects that are right.

    The authors' checker looks into such objects; the scorer of inspect-evals compares them as they stand, so that no
    answer would be right."""
    for call in calls:
        for arguments in call.values():
            for name, values in arguments.items():
                arguments[name] = list(islice(chain.from_iterable(map(_meant, values)), MOST_MEANT))


def _meant(value: Any) -> Iterator[Any]:
    """What a right value stands for: objects have a list of right values in each field, "" if it may be absent."""
    if isinstance(value, dict) and all(isinstance(options, list) for options in value.values()):
        fields = [list(islice(chain.from_iterable(map(_meant, options)), MOST_MEANT)) for options in value.values()]
        for chosen in product(*fields):
            yield dict(zip(value, chosen, strict=True))
            if "" in chosen:
                yield {name: one for name, one in zip(value, chosen, strict=True) if one != ""}
    elif isinstance(value, list):
        yield from map(list, product(*(list(islice(_meant(one), MOST_MEANT)) for one in value)))
    else:
        yield value


def load_backends(package: Path) -> None:
    """The package's own small programs (a file system, a calculator, tickets), on which several turns act. Raises
    UsageError."""
    from inspect_evals.bfcl.backends import setup_backend_classes

    if not (package / BACKENDS).is_dir():
        raise UsageError(f"{package}: there is no {BACKENDS} in it. {HOW}")
    setup_backend_classes(package / BACKENDS)


def is_here(options: EvalOptions | None) -> bool:
    try:
        return package_directory(options).is_dir() if options else bool(metadata.version("bfcl-eval"))
    except (UsageError, metadata.PackageNotFoundError):
        return False


def check(options: EvalOptions) -> None:
    package_directory(options)
    chosen(options.extra)


BENCHMARK = Benchmark(
    name="bfcl",
    summary="BFCL v4: the right function with the right arguments",
    source=f"https://gorilla.cs.berkeley.edu (package bfcl-eval {VERSION}); solver and scorer of inspect-evals",
    licence="Apache-2.0",
    make_task=make_task,
    protocol="not on the card; the authors: greedy, calls as the API returns them (FC mode), one try",
    differs=(
        "the score is the share of the cases that were run, not the leaderboard's weighted mean of categories; memory, "
        f"web search and the retired executed categories are left out; max_tokens {MAX_TOKENS:,}"
    ),
    needs=(Need("the package bfcl-eval", INSTALL, is_here),),
    check=check,
    tokens_per_case=CaseTokens(700, 400, 0, "assumed: a few functions and a short thought; measure with --limit 26"),
    more=lines_by_kind(category_of),
    count=lambda extra: sum({**SINGLE_TURN, **MULTI_TURN}[name] for name in chosen(extra)),
    data="the directory bfcl_eval, instead of the installed package's",
    extra={
        "categories": f"names, separated by commas; default: {', '.join(SINGLE_TURN)}; also {', '.join(MULTI_TURN)}"
    },
)
