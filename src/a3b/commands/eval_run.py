"""`a3b eval NAME`: runs a benchmark against an endpoint, into a directory from which a killed run goes on.

Exit status: 0 the run is complete, 1 tries ended with errors or are left, 2 wrong usage, 130 Ctrl-C. Enter at `run`."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from a3b.commands.client_server import first_key, serving
from a3b.commands.client_server import found as running
from a3b.commands.eval_progress import RunProgress, expected
from a3b.commands.server_answers import checked_url
from a3b.errors import StoreError, UsageError, did_you_mean
from a3b.evals.benchmark import Benchmark
from a3b.evals.conditions import conditions
from a3b.evals.harness import RunStopped, check_installed, planned_tries, run_tries
from a3b.evals.options import SAMPLING, EvalOptions, checked_options
from a3b.evals.records import CaseCost, CaseRecord, RecordFile, total_cost
from a3b.evals.roster import benchmark
from a3b.evals.runs import CONFIG, RunDirectory, RunSummary, config_of, new_run, open_run, scores_by_case
from a3b.printable import printable, report, say
from a3b.units import counted, span

ASSUMED_PARALLEL, MOST_PARALLEL = 4, 256
SAVED = ("limit", "epochs", "seed", "policy", "data", "set", "temperature", "top_p", "max_tokens", "no_stream")


@dataclass(frozen=True)
class Answering:
    """A server that answers. kind: "a3b", "llama.cpp", "vllm", "sglang" or "other"; slots: answers at once, None where
    it does not say; about: what a3b's server says of its version, its weights and what computes."""

    url: str
    model: str
    kind: str
    context: int | None
    slots: int | None
    about: Mapping[str, str] = field(default_factory=dict)

    def facts(self) -> dict[str, Any]:
        return {"base_url": self.url, "kind": self.kind, "context": self.context, "slots": self.slots, **self.about}


NOBODY = Answering("", "nobody", "none", None, 1)  # for what asks no model


def run(args: Namespace) -> int:
    chosen = benchmark(args.kind)
    home = Path(os.path.abspath(Path(args.runtime.home).expanduser()))
    earlier = None if args.resume is None else _earlier(args, home / "evals")
    asked = asked_of(args, chosen) if earlier is None else _kept(earlier)
    if earlier is not None and earlier.is_done:
        say(f"a3b eval {chosen.name}: every try of {printable(str(earlier.path))} is done already")
        return _ended(args, chosen, earlier, earlier.write_results())
    if earlier is not None:
        earlier.check_files()
    check_installed()
    chosen.check(options_of(asked, NOBODY, home, "", args.parallel))  # before a model is loaded for minutes
    with endpoint(args) if chosen.asks_model(asked["extra"]) else nullcontext(NOBODY) as server:
        if earlier is not None and earlier.config["model"] != server.model:
            raise UsageError(
                f"--resume {earlier.path}: ran with the model {earlier.config['model']!r}, and {server.url} serves "
                f"{server.model!r}; start the same model, or begin a new run"
            )
        options = options_of(asked, server, home, first_key(args), args.parallel)
        task = chosen.make_task(options)
        tries = planned_tries(task, options)
        planned = {(one.case, one.epoch) for one, _ in tries.values()}
        if earlier is None:
            told = {"model": server.model, **asked}
            config = config_of(chosen.name, told, server.facts(), options.parallel, chosen.given_files(asked))
            found = new_run(home / "evals", chosen.name, config, args.out).plan(planned)
        else:
            found = gone_on(earlier.plan(planned), server, options)
        return _course(args, chosen, task, tries, options, found)


def gone_on(found: RunDirectory, server: Answering, options: EvalOptions) -> RunDirectory:
    """A run that goes on, with what has changed since it was begun in its config, and said."""
    found, changed = found.go_on(conditions(server.facts(), options.parallel))
    if changed:
        say(f"a3b eval {found.benchmark}: not all is as it was: {printable('; '.join(changed))}")
    return found


def _course(
    args: Namespace,
    chosen: Benchmark,
    task: Any,
    tries: Mapping[str, Any],
    options: EvalOptions,
    found: RunDirectory,
) -> int:
    """Runs what is missing; the exit status."""
    say(f"a3b eval {chosen.name}: results go to {found.path}")
    try:
        summary = conduct(chosen, task, tries, options, found)
    except KeyboardInterrupt:
        say(f"a3b eval {chosen.name}: stopped; {resume_command(args, chosen.name, found.path)}")
        raise
    return _ended(args, chosen, found, summary)


def _ended(args: Namespace, chosen: Benchmark, found: RunDirectory, summary: RunSummary) -> int:
    """Says what came out; the exit status."""
    added = chosen.finish(found)
    if args.json:
        report(json.dumps(json.loads((found.path / "results.json").read_text("utf-8")), indent=2))
    else:
        report("\n".join([*lines(chosen, found, summary), *added]))
    if not summary.is_complete:
        again = resume_command(args, chosen.name, found.path)
        say(f"a3b eval {chosen.name}: some tries are left; {again}")
    return 0 if summary.is_complete else 1


def conduct(
    chosen: Benchmark, task: Any, tries: Mapping[str, Any], options: EvalOptions, found: RunDirectory
) -> RunSummary:
    """Runs the tries that a run lacks, with progress, and writes its results, after Ctrl-C too. A server that fails
    again and again ends it, and is told of."""
    with closing(RecordFile(found.cases_file)) as records:
        done = found.records()
        left = {k: v for k, v in tries.items() if _is_left(done.get((v[0].case, v[0].epoch)))}
        if len(left) < len(tries):
            say(f"a3b eval {chosen.name}: {len(tries) - len(left)} of {len(tries)} are done already")
        if told := expected(chosen, options, len(left)):
            say(f"a3b eval {chosen.name}: {told}")
        try:
            if left:
                with RunProgress(chosen.name, len(tries), done) as shown:
                    run_tries(chosen, task, left, options, found.logs, records, shown.tell)
        except RunStopped as error:
            say(f"a3b eval {chosen.name}: {error}")
        finally:
            summary = found.write_results()
    return summary


def resume_command(args: Namespace, kind: str, path: Path) -> str:
    """The command that goes on with a run, or a test of policies: with the model and the endpoint that were named."""
    named = {"--model": args.named, "--base-url": args.base_url, "--port": args.port, "--context": args.context}
    named["--api-key-file"] = args.api_key_file
    given = [word for option, value in named.items() if value is not None for word in (option, str(value))]
    return printable(shlex.join(["a3b", "eval", kind, "--resume", str(path), *given]))


def _is_left(record: CaseRecord | None) -> bool:
    return record is None or record.score is None


def set_for(given: Sequence[str] | None, chosen: Benchmark, every: Sequence[Benchmark]) -> dict[str, str]:
    """What --set says for a benchmark; what only others of those asked for have is theirs. Raises UsageError."""
    extra: dict[str, str] = {}
    known = list(dict.fromkeys(name for one in every for name in one.extra))
    for text in given or ():
        name, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"--set {text[:60]!r}: expected NAME=VALUE")
        if name not in known:
            has = f"; {chosen.name} has {', '.join(known) or 'none'}"
            raise UsageError(f"--set {name[:40]!r} is no option{did_you_mean(name, known) or has}")
        if name in chosen.extra:
            extra[name] = value
    return extra


def asked_of(args: Namespace, chosen: Benchmark, every: Sequence[Benchmark] = ()) -> dict[str, Any]:
    """The options that make a run what it is, among several benchmarks those of `chosen`. Raises UsageError."""
    extra = set_for(args.set, chosen, every or [chosen])
    if args.data is not None and not any(one.data for one in every or [chosen]):
        raise UsageError(f"--data: {chosen.name} takes none; it makes its cases itself, or has them from a package")
    sampling = {name: getattr(args, name) for name in SAMPLING if getattr(args, name) is not None}
    asked = {
        "limit": args.limit,
        "epochs": args.epochs or chosen.epochs,
        "seed": args.seed,
        "policy": args.policy,
        "data": None if args.data is None or not chosen.data else os.path.abspath(args.data.expanduser()),
        "sampling": sampling,
        "extra": extra,
        "streams": not args.no_stream,
    }
    return checked_options(asked)


def _kept(earlier: RunDirectory) -> dict[str, Any]:
    """The options of a run that goes on. Raises StoreError."""
    try:
        return checked_options(earlier.config["options"])
    except UsageError as error:
        raise StoreError(f"{earlier.path / CONFIG}: {error}; was it edited? Begin a new run") from None


def options_of(asked: Mapping[str, Any], server: Answering, home: Path, key: str, parallel: int | None) -> EvalOptions:
    data = None if asked["data"] is None else Path(asked["data"])
    return EvalOptions(
        server.url,
        server.model,
        home,
        key,
        **{**asked, "data": data},
        parallel=min(parallel or server.slots or ASSUMED_PARALLEL, MOST_PARALLEL),
    )


def _earlier(args: Namespace, parent: Path) -> RunDirectory:
    """The run of --resume. Raises UsageError for options that would make it another one."""
    given = [name for name in SAVED if getattr(args, name) not in (None, 0)]
    if given or args.out is not None:
        name = (given or ["out"])[0].replace("_", "-")
        raise UsageError(
            f"--resume: goes on as the run was begun, so --{name} has no place there; begin a new run for it"
        )
    if args.resume:
        found = open_run(Path(args.resume).expanduser())
    else:
        runs = [path.parent for path in parent.glob(f"*/{CONFIG}")] if parent.is_dir() else []
        runs = [path for path in runs if path.name.startswith(f"{args.kind}-")]
        if not runs:
            raise UsageError(f"--resume: no run of {args.kind} is in {parent}; name one with --resume DIR")
        found = open_run(max(runs, key=lambda path: (path / CONFIG).stat().st_mtime))
    if found.benchmark != args.kind:
        raise UsageError(
            f"--resume {found.path}: is a run of {found.benchmark!r}; a3b eval {found.benchmark[:40]} --resume DIR"
        )
    return found


@contextmanager
def endpoint(args: Namespace) -> Iterator[Answering]:
    """The server: any that was named, or one of a3b's own. Raises A3BError."""
    if args.base_url is not None:
        yield asyncio.run(_ask(checked_url(args.base_url), first_key(args), args.named))
        return
    if args.port is None and running(args) is None:  # two runs that each start a server get two ports
        args = Namespace(**{**vars(args), "port": 0})
    with serving(args, lambda _: None) as served:
        yield asyncio.run(_ask(served.asker.url, first_key(args), None))


async def _ask(url: str, key: str, model: str | None) -> Answering:
    from a3b.agent.client import ModelClient

    client = ModelClient(url, key, model)
    try:
        facts = await client.facts()
        slots, about = await client.slots(), await client.about()
    finally:
        await client.aclose()
    context = facts.context if facts.is_known else None
    return Answering(client.root, facts.model, facts.kind, context, slots, about)


def lines(chosen: Benchmark, found: RunDirectory, summary: RunSummary) -> list[str]:
    """What came out of a run, for people."""
    records = found.records()
    cost, share = total_cost(records.values()), summary.share
    out = [f"{chosen.name} with {printable(str(found.config['model']))}"]
    if share.cases:
        out.append(
            f"score      {share.mean:.1%}, 95 % interval {share.low:.1%} to {share.high:.1%} "
            f"({share.cases} cases, {share.method})"
        )
    out += chosen.more(scores_by_case(list(records.values())))
    if summary.errors or summary.missing:
        out.append(
            f"left       {summary.errors} ended with an error, {summary.missing} were not run; neither is counted"
        )
    out += [
        f"tokens     {_tokens(cost)}",
        f"time       {span(summary.seconds)}, {cost.requests:,} requests",
        f"results    {found.path}",
    ]
    return out


def _tokens(cost: CaseCost) -> str:
    if not cost.is_told:
        return "unknown: the server tells no usage"
    read = f"{cost.computed:,} computed, {cost.cached:,} cached"
    return f"{read}, {cost.written:,} written, {cost.thinking:,} of them thinking" + (
        f"; those of {counted(cost.untold, 'request')} were not told and are not counted" if cost.untold else ""
    )
