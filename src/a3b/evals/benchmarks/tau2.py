"""tau2-bench: a customer, played by a second model, is served under a policy with tools on a database.

Domains, tools, policies and scorers: inspect-evals, which carries its data. Enter at `BENCHMARK`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from importlib import util
from typing import Any

from a3b.errors import UsageError
from a3b.evals.benchmark import Benchmark, CaseTokens, Need
from a3b.evals.benchmarks.asking import CARD, THINKING, generate_config
from a3b.evals.benchmarks.tau2_conversations import MOST_STEPS, conversation, without_copies
from a3b.evals.family_task import verdict
from a3b.evals.harness import endpoint
from a3b.evals.options import EvalOptions
from a3b.settings import process_environment

DOMAINS = {"airline": 50, "retail": 114, "telecom": 114, "banking": 97}  # cases
MAX_TOKENS = 32_768
USER = "user"  # the customer's role, as inspect-evals calls it
INSTALL = "pip install 'a3b[eval]'"


def make_task(options: EvalOptions) -> Any:
    from inspect_ai import Task
    from inspect_evals.tau2 import tau2

    name = domain(options.extra)
    made = getattr(tau2, f"tau2_{name}")(shuffle=False)
    return Task(
        dataset=made.dataset,
        setup=without_copies(),
        solver=conversation(made.solver, made.scorer[0], options.number("steps", MOST_STEPS, most=10_000)),
        scorer=verdict(),
        config=generate_config(options, THINKING, MAX_TOKENS),
        model_roles=user_role(options),
        name=f"tau2-{name}",
    )


def domain(extra: Mapping[str, str]) -> str:
    """Raises UsageError."""
    name = extra.get("domain", "airline")
    if name not in DOMAINS:
        raise UsageError(f"--set domain={name[:40]!r}: expected one of {', '.join(DOMAINS)}")
    return name


def user_role(options: EvalOptions) -> dict[str, Any]:
    """The model that plays the customer. It is a model of its own also where it is the one that is tested: a policy of
    thinking is not for it, and its seeds do not depend on who is tested, so that all meet the same customer."""
    from inspect_ai.model import GenerateConfig

    name, url = options.extra.get("user-model"), options.extra.get("user-base-url")
    root = (url or options.base_url).strip().rstrip("/").removesuffix("/v1")
    its = replace(options, base_url=root, model=name or options.model, api_key=user_key(options), policy=None)
    if plays_both(options.extra):
        config = generate_config(its, THINKING, MAX_TOKENS)
    else:
        config = GenerateConfig(temperature=0.0)  # as the authors have it
    model = endpoint(its, USER)
    model.config = model.config.merge(config)
    return {USER: model}


def plays_both(extra: Mapping[str, str]) -> bool:
    """Whether the model that is tested plays the customer too."""
    return "user-model" not in extra and "user-base-url" not in extra


def caution(extra: Mapping[str, str]) -> str:
    if not plays_both(extra):
        return ""
    return (
        "the model that is tested also plays the customer, without a policy and with the same seeds under all; "
        "--set user-model=NAME names another one"
    )


def user_key(options: EvalOptions) -> str:
    """The key of the customer's model: only the name of its variable is an option, since options are kept."""
    variable = options.extra.get("user-key-variable")
    if variable is None:
        return "" if options.extra.get("user-base-url") else options.api_key
    if not (key := process_environment().get(variable, "")):
        raise UsageError(f"--set user-key-variable={variable[:60]!r}: there is no such variable, or it is empty")
    return key


def is_here(options: EvalOptions | None) -> bool:
    return util.find_spec("inspect_evals") is not None


def check(options: EvalOptions) -> None:
    if not is_here(options):
        raise UsageError(f"the package inspect-evals is not installed: {INSTALL}")
    domain(options.extra)
    user_key(options)


BENCHMARK = Benchmark(
    name="tau2",
    summary="tau2-bench: customer service with tools, the customer is a model",
    source="https://github.com/sierra-research/tau2-bench, as inspect-evals has it (data included)",
    licence="MIT",
    make_task=make_task,
    protocol=(
        "the card has TAU3-Bench (67.2), another version with gpt-5.2 as customer; the authors of tau2: pass^1, the "
        "customer is gpt-4.1, at most 200 steps"
    ),
    differs=(
        "the customer is the model that is tested unless user-model says otherwise, without a policy of thinking and "
        "with seeds of its own, so scores of two models are not of one exam, and none compares with published ones; "
        f"its tokens are counted apart; {CARD}; no natural-language assertions, as inspect-evals; the default is the "
        "airline domain alone"
    ),
    needs=(Need("inspect-evals", INSTALL, is_here),),
    check=check,
    tokens_per_case=CaseTokens(9_000, 8_000, 120_000, "assumed: 20 turns over a policy and tools of 6,000 tokens"),
    count=lambda extra: DOMAINS[domain(extra)],
    caution=caution,
    extra={
        "domain": f"one of {', '.join(f'{name} ({count} cases)' for name, count in DOMAINS.items())}; default airline",
        "user-model": "the model that plays the customer (default: the one that is tested)",
        "user-base-url": "where it is served (default: the same server)",
        "user-key-variable": "the variable that has the key for it",
        "steps": f"most requests of a conversation, both sides (default {MOST_STEPS})",
    },
)
