"""`a3b eval thinking NAME...`: the same cases of benchmarks under several policies of thinking, compared case by case.

    DIR/thinking.json       what was asked for
    DIR/NAME.POLICY/        a run of `a3b eval` each
    DIR/comparison.json     scores, costs, and differences with their intervals

Each policy gets a server of its own, or at least a key: nothing that one has read is in the cache of another. Enter at
`run`."""

from __future__ import annotations

import json
import os
import secrets
import time
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import Any

from a3b.commands.client_server import first_key, planned
from a3b.commands.eval_run import (
    NOBODY,
    SAVED,
    Answering,
    asked_of,
    conduct,
    endpoint,
    gone_on,
    options_of,
    resume_command,
)
from a3b.errors import StoreError, UsageError
from a3b.evals.compare import ALL, BUDGET, NONE, TASK, Comparison, as_markdown, compare
from a3b.evals.conditions import are_identities, check_files, identity_of
from a3b.evals.harness import check_installed, planned_tries
from a3b.evals.options import checked_options, checked_policy
from a3b.evals.roster import benchmark
from a3b.evals.runs import CONFIG, config_of, new_run, open_run, slug, write_json
from a3b.files import read_text
from a3b.printable import report, say

FORMAT, PLAN, MAX_PLAN = 1, "thinking.json", 1 << 20
NANO, KEYS, SERVER = "a3b-nano", "--api-key", "a3b"
FEW, MANY = 32, 8192  # tokens of a budget by default: a thought of a3b-nano or two, and some of a large model


@dataclass(frozen=True)
class PolicyTest:
    """What is compared. asked: options of each run, by benchmark; files: of the user's, as they were at first."""

    path: Path
    names: tuple[str, ...]
    policies: tuple[str, ...]
    asked: Mapping[str, Mapping[str, Any]]
    files: Mapping[str, Sequence[Mapping[str, Any]]]

    def directory(self, name: str, policy: str) -> Path:
        return self.path / f"{name}.{policy.replace(':', '-')}"

    def is_done(self, name: str, policy: str) -> bool:
        """Whether every try of a run has a score. Raises StoreError."""
        directory = self.directory(name, policy)
        if not (directory / CONFIG).exists():
            return False
        return open_run(directory).is_done


def run(args: Namespace) -> int:
    check_installed()
    test = _begun(args) if args.resume is None else _opened(args)
    for name in test.names:
        if told := benchmark(name).caution(test.asked[name]["extra"]):
            say(f"a3b eval thinking: {name}: {told}")
    again = resume_command(args, "thinking", test.path)
    complete = True
    try:
        for policy in test.policies:
            if all(test.is_done(name, policy) for name in test.names):
                continue  # no server has to be started for it
            own = _isolated(args)
            with endpoint(own) as server:
                for name in test.names:
                    complete = _run_one(own, test, name, policy, server) and complete
    except KeyboardInterrupt:
        say(f"a3b eval thinking: stopped; {again}")
        raise
    found = {name: _compared(test, name) for name in test.names}
    values = {name: result.as_json() for name, result in found.items()}
    write_json(test.path / "comparison.json", values)
    report(json.dumps(values, indent=2) if args.json else "\n\n".join(map(as_text, found, found.values())))
    if not complete:
        say(f"a3b eval thinking: some tries are left, and no figure counts them; {again}")
    return 0 if complete else 1


def _begun(args: Namespace) -> PolicyTest:
    """A new test in a new directory. Raises UsageError."""
    if not args.names:
        raise UsageError("name the benchmarks to run, such as secret revise; a3b eval list tells which there are")
    names = tuple(dict.fromkeys(args.names))
    every = [benchmark(name) for name in names]
    asked = {chosen.name: asked_of(args, chosen, every) for chosen in every}
    _check(args, asked)
    files = {one.name: [identity_of(path) for path in one.given_files(asked[one.name])] for one in every}
    policies = _policies(args)
    if args.base_url is not None or args.port is not None:
        say("a3b eval thinking: the policies share that server's cache: what one has read, the next finds there")
    elif args.api_key is not None or args.api_key_file is not None:
        raise UsageError(f"{KEYS} belongs to a server that is named with --base-url or --port; others get new keys")
    home = Path(os.path.abspath(Path(args.runtime.home).expanduser()))
    path = args.out or unused(home / "evals" / f"thinking-{slug('-'.join(names))}-{time.strftime('%Y%m%d-%H%M%S')}")
    try:
        path.mkdir(parents=True, exist_ok=args.out is not None)
        if any(path.iterdir()):
            hint = f"; --resume {path} goes on with a test" if (path / PLAN).exists() else ""
            raise UsageError(f"{path}: there are files in it; expected a new or an empty directory{hint}")
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}; give a place with --out DIR") from None
    plan = {"format": FORMAT, "names": names, "policies": policies, "asked": asked, "files": files}
    write_json(path / PLAN, plan)
    return PolicyTest(path, names, policies, asked, files)


def unused(path: Path) -> Path:
    """This one, or another that is not there yet."""
    numbered = (path.with_name(f"{path.name}.{number}") for number in count(2))
    return next(p for p in chain([path], numbered) if not p.exists())


def _opened(args: Namespace) -> PolicyTest:
    """The test of --resume. Raises UsageError for options that would change it, StoreError for what is no test."""
    given = [f"--{n.replace('_', '-')}" for n in (*SAVED, "policies", "out") if getattr(args, n) not in (None, 0)]
    if args.names or given:
        raise UsageError(
            f"--resume goes on as the test was begun, so {(given or args.names)[0][:60]} has no place there"
        )
    path = Path(args.resume).expanduser()
    file = path / PLAN
    try:
        plan = json.loads(read_text(file, MAX_PLAN))
        if plan["format"] != FORMAT:
            raise ValueError(f"format {plan['format']}, this a3b reads {FORMAT}")
        names, policies = tuple(map(str, plan["names"])), tuple(str(checked_policy(p)) for p in plan["policies"])
        asked = {benchmark(name).name: checked_options(plan["asked"][name]) for name in names}
        files = {name: plan.get("files", {}).get(name, []) for name in names}  # older tests do not say it
        if not all(map(are_identities, files.values())):
            raise ValueError("files: no lists of objects with a path")
        if len(policies) < 2 or not names:
            raise ValueError("nothing to compare")
    except FileNotFoundError:
        raise StoreError(f"{path}: there is no {PLAN}, so this is no test of a3b eval thinking") from None
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, UsageError) as error:
        raise StoreError(f"{file}: {str(error)[:200]}; was it edited? Begin a new test") from None
    _check(args, asked)
    return PolicyTest(path, names, policies, asked, files)


def _check(args: Namespace, asked: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises UsageError for what is missing, before a model is loaded for minutes."""
    home = Path(os.path.abspath(Path(args.runtime.home).expanduser()))
    for name, options in asked.items():
        if not benchmark(name).asks_model(options["extra"]):
            raise UsageError(f"{name}: asks no model with these options, so there is no thinking to compare")
        benchmark(name).check(options_of(options, NOBODY, home, "", args.parallel))


def _policies(args: Namespace) -> tuple[str, ...]:
    """Those of --policies, or all kinds. Raises UsageError."""
    is_nano = args.policies is None and args.base_url is None and planned(args).name == NANO
    return policies_of(args.policies, FEW if is_nano else MANY)


def policies_of(given: str | None, budget: int = MANY) -> tuple[str, ...]:
    """Policies with commas between, or all kinds with this budget. Raises UsageError."""
    if given is None:
        return ALL, TASK, f"{BUDGET}{budget}", NONE
    found = tuple(dict.fromkeys(str(checked_policy(part.strip())) for part in given.split(",")))
    if len(found) < 2:
        raise UsageError(f"--policies {given[:60]!r}: expected at least two, to compare them")
    return found


def _isolated(args: Namespace) -> Namespace:
    """Options of a server for one policy: a new one with a key that nobody had before, unless one is named."""
    if args.base_url is not None or args.port is not None:
        return args
    return Namespace(**{**vars(args), "port": 0, "api_key": secrets.token_hex(16), "api_key_file": None})


def _run_one(args: Namespace, test: PolicyTest, name: str, policy: str, server: Answering) -> bool:
    """One benchmark under one policy; whether it is complete."""
    chosen, asked = benchmark(name), {**test.asked[name], "policy": policy}
    home = Path(os.path.abspath(Path(args.runtime.home).expanduser()))
    directory = test.directory(name, policy)
    earlier = open_run(directory) if (directory / CONFIG).exists() else None
    if earlier is not None and earlier.config["model"] != server.model:
        raise UsageError(f"{directory}: was run with {earlier.config['model']!r}, and {server.model!r} is served now")
    if server.kind != SERVER:
        raise UsageError(
            f"{server.url}: policies of thinking are a3b's; expected its server, this one is {server.kind!r}"
        )
    check_files(test.files.get(name, ()), test.path)  # every policy gets the same
    options = options_of(asked, server, home, first_key(args), args.parallel)
    chosen.check(options)
    task = chosen.make_task(options)
    tries = planned_tries(task, options)
    planned = {(one.case, one.epoch) for one, _ in tries.values()}
    if earlier is None:
        told = {"model": server.model, **asked}
        config = config_of(name, told, server.facts(), options.parallel, chosen.given_files(asked))
        found = new_run(test.path, name, config, directory).plan(planned)
    else:
        found = gone_on(earlier.plan(planned), server, options)
    say(f"a3b eval thinking: {name} under {policy}")
    summary = conduct(chosen, task, tries, options, found)
    for line in chosen.finish(found):
        say(f"  {line}")
    return summary.is_complete


def _compared(test: PolicyTest, name: str) -> Comparison:
    runs = {policy: open_run(test.directory(name, policy)).records() for policy in test.policies}
    return compare(runs, seed=int(test.asked[name]["seed"]))


def as_text(name: str, found: Comparison) -> str:
    """Both tables, below what was run."""
    tries = "" if found.tries == found.cases else f", {found.tries} tries"
    left = f"; {len(found.left_out)} tries that not every policy finished are left out" if found.left_out else ""
    return f"{name}: {found.cases} cases{tries}{left}\n\n{as_markdown(found)}"
