"""The options of `eval`. Enter at `fill`."""

from __future__ import annotations

import argparse
from functools import partial

from a3b.commands.argument_types import path, policy, positive, real, tokens, whole
from a3b.commands.client_options import server
from a3b.evals.options import POLICIES
from a3b.evals.roster import BENCHMARKS
from a3b.model.known_models import PRESETS

MODEL_HELP = "name of a model in 'a3b list', or a directory; none means the embedded a3b-nano"


def fill(parser: argparse.ArgumentParser) -> None:
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True)
    for name, (summary, _) in BENCHMARKS.items():
        one = kinds.add_parser(name, help=summary, description=f"{name}: {summary}.")
        one.late_epilog = partial(_about, name)  # type: ignore[attr-defined]  # a Parser
        _benchmark(one)
    _thinking(kinds.add_parser("thinking", help="benchmarks under several policies of thinking, compared case by case"))
    listing = kinds.add_parser("list", help="the benchmarks: what each needs, and what of it is here")
    listing.add_argument("--json", action="store_true", help="print one JSON object")
    _report(kinds.add_parser("report", help="results of runs beside published scores, with protocols and costs"))
    _compare(kinds.add_parser("compare", help="two runs of one benchmark, case by case: what the second has more of"))
    _plan(kinds.add_parser("plan", help="how many hours a benchmark takes, at this machine's speed or at given rates"))
    _quality(kinds.add_parser("quality", help="what packing costs: mean KL divergence per token against another model"))


def _about(name: str) -> str:
    from a3b.commands.eval_list import about  # loads the benchmark

    return about(name)


def _benchmark(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what is run")
    group.add_argument(
        "--policy", type=policy, metavar="POLICY", help=f"of earlier thinking: {POLICIES} (default: the server's)"
    )
    _cases(group)
    group = parser.add_argument_group("how it is run")
    _course(group)
    group.add_argument(
        "--resume",
        nargs="?",
        const="",
        metavar="DIR",
        help="go on with a run; without DIR, the last one of this benchmark",
    )
    endpoint = parser.add_argument_group("the endpoint (default: a3b's server, started if none runs)")
    server(endpoint)
    endpoint.add_argument(
        "--no-stream",
        action="store_true",
        help="ask for whole answers: for a server that streams no tool calls, or tells no usage of streams",
    )


def _thinking(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(policy=None, no_stream=False)  # each run gets its own policy, and a3b's server streams
    parser.add_argument("names", nargs="*", metavar="NAME", help="benchmarks (a3b eval list), such as secret or tau2")
    group = parser.add_argument_group("what is run")
    group.add_argument(
        "--policies",
        metavar="POLICY,...",
        help=f"of {POLICIES}, at least two (default: all,current-task,budget:8192,none; for a3b-nano budget:32)",
    )
    _cases(group)
    group = parser.add_argument_group("how it is run")
    _course(group)
    group.add_argument("--resume", metavar="DIR", help="go on with a test, and compare again")
    server(parser.add_argument_group("the endpoint (default: a server of a3b's own for each policy)"))


def _cases(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--limit", type=positive, metavar="N", help="only the first N cases")
    group.add_argument("--epochs", type=positive, metavar="N", help="try each case N times (default: the benchmark's)")
    group.add_argument("--seed", type=whole, default=0, metavar="N", help="of the run; each try gets its own from it")
    group.add_argument(
        "--data", type=path, metavar="PATH", help="the benchmark's data, where it needs some (a3b eval list)"
    )
    group.add_argument(
        "--set", action="append", metavar="NAME=VALUE", help="an option of the benchmark (a3b eval list); repeatable"
    )
    group.add_argument("--temperature", type=real, metavar="X", help="of sampling (default: the benchmark's)")
    group.add_argument("--top-p", type=real, metavar="X", help="of sampling (default: the benchmark's)")
    group.add_argument("--max-tokens", type=tokens, metavar="N", help="most of one answer (default: the benchmark's)")


def _course(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--parallel", type=positive, metavar="N", help="cases at once (default: answers that the server writes at once)"
    )
    group.add_argument(
        "--out", type=path, metavar="DIR", help="where the results go (default: a new directory below A3B_HOME/evals)"
    )
    group.add_argument("--json", action="store_true", help="print the results as one JSON object")


def _report(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "directories",
        nargs="*",
        type=path,
        metavar="DIR",
        help="runs, or directories of runs (default: A3B_HOME/evals)",
    )
    parser.add_argument("--markdown", action="store_true", help="print Markdown")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--plot", type=path, metavar="FILE.png", help="draw it too (needs matplotlib: pip install 'a3b[bench]')"
    )


def _compare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("first", type=path, metavar="DIR", help="a run")
    parser.add_argument("second", type=path, metavar="OTHER", help="another one of the same benchmark")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _plan(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help="benchmarks (default: all whose tokens are known); thinking NAME ... for a test of policies",
    )
    parser.add_argument(
        "--policies",
        metavar="POLICY,...",
        help="for thinking: those that are compared, as there (default: four of them)",
    )
    parser.add_argument(
        "--shape", default="35b-a3b", metavar="MODEL", help="as for a3b plan: a shape, or a directory (default 35b-a3b)"
    )
    parser.add_argument("--preset", default="balanced", choices=PRESETS, help="of the weights (default balanced)")
    parser.add_argument(
        "--rates",
        type=rates,
        metavar="PREFILL,DECODE",
        help="tokens a second, of prompts and of answers (default: measured, as a3b plan does)",
    )
    parser.add_argument(
        "--from", dest="measured", type=path, metavar="DIR", help="take the tokens of a case from this run"
    )
    parser.add_argument("--set", action="append", metavar="NAME=VALUE", help="as for the benchmark; repeatable")
    parser.add_argument("--limit", type=positive, metavar="N", help="only the first N cases")
    parser.add_argument("--epochs", type=positive, metavar="N", help="tries of each case (default: the benchmark's)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def rates(text: str) -> tuple[float, float]:
    parts = [real(part) for part in text.split(",")]
    if len(parts) != 2 or not all(0 < part < 1e9 for part in parts):
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not two positive numbers, such as 110,9.5")
    return parts[0], parts[1]


def _quality(quality: argparse.ArgumentParser) -> None:
    quality.add_argument("model", nargs="?", metavar="MODEL", help=MODEL_HELP)
    quality.add_argument(
        "--against", metavar="DIR", help="the reference: what pack --keep-source kept; none means a3b-nano"
    )
    quality.add_argument("--text", type=path, metavar="FILE", help="text to read; none means generated conversations")
    quality.add_argument(
        "--tokens", type=tokens, default=8192, metavar="N", help="read at most this many (default 8192)"
    )
    quality.add_argument(
        "--weights-only", action="store_true", help="compute in floats, to see what the weights alone cost"
    )
    quality.add_argument("--json", action="store_true", help="print one JSON object")
