"""The command line: arguments in, one command out. Thin: each command is a module of `a3b.commands`.

Answers go to stdout; progress, thinking and errors to stderr. Exit status: 0 done, 1 refused, 2 wrong usage, 130 Ctrl-C.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import sys
from pathlib import Path

from a3b import __version__
from a3b.config import RuntimeConfig
from a3b.errors import A3BError, UsageError

SIZE_UNITS = {"": 1, "b": 1} | {letter + b: base**i for i, letter in enumerate("kmgt", 1) for b, base in (("b", 1000), ("ib", 1024))}
TIME_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
MODEL_HELP = "directory of a checkpoint; none means the embedded a3b-nano"


def main(argv: list[str] | None = None) -> int:
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a terminal that cannot show a character still gets the rest
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.command is None:
        parser.print_help()
        return 0
    try:
        args.runtime = RuntimeConfig.from_env()
        if "model" in args:
            args.model = args.model or args.runtime.model
        if "context" in args:
            args.context = args.context or args.runtime.context
        return importlib.import_module(f"a3b.commands.{args.command}").run(args) or 0
    except A3BError as error:
        print(f"a3b {args.command}: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of stdout went away, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="a3b",
        description="Run Qwen3.6-35B-A3B, or the embedded a3b-nano, on the CPU; earlier thinking is kept.",
        epilog="'a3b COMMAND --help' explains a command. Environment: A3B_MODEL, A3B_CONTEXT, A3B_THREADS, A3B_CACHE.",
    )
    parser.add_argument("--version", action="version", version=f"a3b {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    _chat(commands.add_parser("chat", help="talk to a model"))
    _run(commands.add_parser("run", help="answer one prompt and exit"))
    _serve(commands.add_parser("serve", help="answer clients of OpenAI and Anthropic over HTTP"))
    _info(commands.add_parser("info", help="architecture, parameters, context, formats and size of a model"))
    _plan(commands.add_parser("plan", help="which preset and context fit this machine, and how fast"))
    _pull(commands.add_parser("pull", help="download a model, resumable and verified"))
    _render(commands.add_parser("render", help="print the exact prompt that messages become"))
    _logits(commands.add_parser("logits", help="write the logits of a list of token ids"))
    _pack(commands.add_parser("pack", help="write a model as the packed weights that the kernels read"))
    _verify(commands.add_parser("verify", help="check every byte of a packed model"))
    _cache(commands.add_parser("cache", help="sessions kept on disk: list, verify, prune, forget"))
    _eval(commands.add_parser("eval", help="what packing costs: KL divergence, agreement, bytes per token"))
    _bench(commands.add_parser("bench", help="measure speed: of a model, of a start, of the sparse shape beside dense ones"))
    return parser


def _chat(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", metavar="MODEL", help=MODEL_HELP)
    _generation(parser)


def _run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("words", nargs="+", metavar="[MODEL] PROMPT", help=f"MODEL: {MODEL_HELP}; PROMPT '-' reads stdin")
    parser.add_argument("--json", action="store_true", help="print one JSON object: message, finish reason, usage")
    parser.add_argument("--tools", type=json_file, metavar="FILE.json", help="tools the model may call (calls are printed)")
    _generation(parser)


def _serve(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="where to listen (default 127.0.0.1: this machine only)")
    parser.add_argument("--port", type=int, default=8080, metavar="N", help="default 8080; 0 takes a free one")
    parser.add_argument("--api-key", action="append", metavar="KEY", help="clients must give one of these; repeatable")
    parser.add_argument("--api-key-file", type=Path, metavar="FILE", help="the same, one in each line")
    parser.add_argument("--context", type=positive, metavar="N", help="context in tokens; beyond the native length YaRN")
    parser.add_argument("--parallel", type=positive, default=4, metavar="N", help="answers written at once (default 4)")
    parser.add_argument("--queue", type=positive, default=32, metavar="N", help="requests that may wait; more get 429 (default 32)")
    parser.add_argument("--max-body", type=byte_size, default=32 << 20, metavar="SIZE", help="of a request (default 32MiB)")
    parser.add_argument("--trace", metavar="FILE", help="append all token ids of each answer as a line of JSON, to prove what was computed")
    group = parser.add_argument_group("thinking")
    group.add_argument("--preserve-thinking", default="all", metavar="POLICY",
                       help="of earlier turns: all, current-task, none or budget:TOKENS (default all)")  # fmt: skip
    group.add_argument("--thinking-budget", type=positive, metavar="N", help="most tokens of thinking in one answer")
    group.add_argument("--task-thinking-budget", type=positive, metavar="N", help="the same since the last turn of the user")
    group.add_argument("--no-think", action="store_true", help="answer without thinking unless a request asks for it")
    group = parser.add_argument_group("sessions")
    group.add_argument("--cache-ram", type=byte_size, metavar="SIZE", help="memory for sessions (default a quarter of free memory)")
    group.add_argument("--cache-dir", metavar="DIR", help="where sessions outlive the process (default ~/.cache/a3b/sessions)")
    group.add_argument("--cache-disk", type=byte_size, default=20 << 30, metavar="SIZE", help="most of it (default 20GiB)")
    group.add_argument("--session-days", type=positive, default=30, metavar="N", help="unused sessions are removed then (default 30)")
    group.add_argument("--no-persist", action="store_true", help="keep sessions in memory only")
    group.add_argument("--no-persist-thinking", action="store_true", help="write nothing to disk from the first thinking of a session on")
    group.add_argument("--exact-dates", action="store_true",
                       help="take dates in system prompts from each request; else a conversation keeps those it began with")  # fmt: skip
    group.add_argument("--verify-cache", type=int, default=0, metavar="N", help="compute one in N cache hits again, and compare every bit")


def _info(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument("--context", type=positive, metavar="N", help="context in tokens, to see the RoPE scaling it takes")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _plan(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shape", nargs="?", metavar="MODEL", help="DIR, config.json, 35b-a3b, 27b, 3b-dense or 31b-dense (default 35b-a3b)")
    parser.add_argument("--context", type=positive, metavar="N", help="tokens of the conversation (default 32768)")
    parser.add_argument("--bandwidth", type=float, metavar="GB/S", help="read bandwidth of this machine, instead of measuring it")
    parser.add_argument("--operations", type=float, metavar="GOPS", help="int8 operations of this machine, likewise")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _pull(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("repo", metavar="REPO", help="OWNER/NAME on the hub, such as Qwen/Qwen3.6-35B-A3B")
    parser.add_argument("dir", nargs="?", metavar="DIR", help="where to; none means NAME in this directory")
    parser.add_argument("--revision", metavar="R", help="branch, tag or commit; none means main")
    parser.add_argument("--include", action="append", metavar="GLOB", help="fetch these files, not those a3b needs; repeatable")


def _render(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument("--messages", type=json_file, required=True, metavar="FILE.json", help="list of messages; '-' is stdin")
    parser.add_argument("--tools", type=json_file, metavar="FILE.json", help="list of tools")
    parser.add_argument("--kwargs", type=json_object, default={}, metavar="JSON", help="template arguments, exactly as given")
    parser.add_argument("--no-generation-prompt", action="store_true", help="do not open an assistant turn at the end")
    parser.add_argument("--ids", action="store_true", help="print token ids as a JSON list instead of text")
    parser.add_argument("--fit", action="store_true", help="first make the messages fit, as chat and run do")


def _logits(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="directory of a checkpoint; needs no tokenizer")
    parser.add_argument("--ids", type=json_file, required=True, metavar="FILE.json", help="list of token ids; '-' is stdin")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.npy", help="float32 [T, V]")
    parser.add_argument("--context", type=positive, metavar="N", help="context in tokens; beyond the native length YaRN")


def _pack(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, metavar="SRC", help="directory (BF16, F16, F32, FP8 or GPTQ) or .gguf file")
    parser.add_argument("target", type=Path, metavar="DST", help="directory to be made; a stopped run goes on in DST.part")
    parser.add_argument("--preset", choices=("fast", "balanced", "faithful"), help="default balanced; integers of GGUF and GPTQ are kept")
    parser.add_argument("--importance", type=Path, metavar="FILE", help="text, or .json of conversations, that the model reads before: "
                        "what its columns meet there (in 4,096 tokens) weighs the errors of rounding them")  # fmt: skip
    parser.add_argument("--tokenizer", type=Path, metavar="DIR", help="take tokenizer and template from there")


def _verify(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", type=Path, metavar="DIR", help="a packed model")


def _cache(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="the end of every conversation, latest first")
    listing.add_argument("--json", action="store_true", help="print one JSON object")
    verify = actions.add_parser("verify", help="check every byte; what is wrong is dropped, and the status is 1")
    prune = actions.add_parser("prune", help="make room: what was used longest ago goes first")
    prune.add_argument("--max-bytes", type=byte_size, metavar="SIZE", help="keep at most that much, such as 2GiB or 500MB")
    prune.add_argument("--older-than", type=duration, metavar="AGE", help="drop what was not used for that long, such as 7d or 12h")
    forget = actions.add_parser("forget", help="drop a conversation, or all of them")
    forget.add_argument("id", nargs="?", metavar="ID", help="as `a3b cache list` shows it; its first digits are enough")
    forget.add_argument("--all", action="store_true", help="every conversation and every remembered turn")
    for action in (listing, verify, prune, forget):
        action.add_argument("--dir", type=Path, metavar="DIR", help="where they are kept (default: sessions below A3B_CACHE)")


def _eval(parser: argparse.ArgumentParser) -> None:
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True)
    quality = kinds.add_parser("quality", help="mean KL divergence per token against another model")
    quality.add_argument("model", nargs="?", metavar="MODEL", help=MODEL_HELP)
    quality.add_argument("--against", metavar="DIR", help="the model to be faithful to; none means the embedded a3b-nano")
    quality.add_argument("--text", type=Path, metavar="FILE", help="text to read; none means generated conversations")
    quality.add_argument("--tokens", type=positive, default=8192, metavar="N", help="read at most that many (default 8192)")
    quality.add_argument("--weights-only", action="store_true", help="compute in floats, to see what the weights alone cost")
    quality.add_argument("--json", action="store_true", help="print one JSON object")


def _bench(parser: argparse.ArgumentParser) -> None:
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True)
    speed = kinds.add_parser("speed", help="prefill, decode, start and memory, beside the limits of this machine")
    speed.add_argument("--model", dest="directory", metavar="DIR", help="a packed model; none means random weights")
    speed.add_argument("--shape", default="35b-a3b", help="of the random weights: 35b-a3b, 27b, 3b-dense or 31b-dense")
    speed.add_argument("--depths", type=numbers, metavar="N,...", help="tokens before those decoded (default 0,4096,16384)")
    start = kinds.add_parser("start", help="load, read a short prompt, print the first token: to be timed from outside")
    start.add_argument("--model", dest="directory", metavar="DIR", help=MODEL_HELP)
    sparsity = kinds.add_parser("sparsity", help="35b-a3b beside dense models of its active and of its whole size")
    sparsity.add_argument("--keep", action="store_true", help="do not remove the random weights written for this")
    for kind, text in ((speed, "only the first N layers"), (sparsity, "of each shape, scaled to all; none means as many as fit")):
        kind.add_argument("--preset", default="balanced", help="fast, balanced, faithful, Q4_0 or Q4_K_M (default balanced)")
        kind.add_argument("--layers", type=positive, metavar="N", help=text)
        kind.add_argument("--dir", type=Path, metavar="DIR", help="where random weights are kept (default ~/.cache/a3b)")
        kind.add_argument("--prefill", type=numbers, metavar="N,...", help="tokens of the prompts (default 512,2048; sparsity 512)")
        kind.add_argument("--runs", type=positive, metavar="N", help="of each measurement (default 3)")
        kind.add_argument("--tokens", type=positive, metavar="N", help="decoded in a run (default 64)")
        kind.add_argument("--plot", type=Path, metavar="FILE.png", help="draw it too (needs matplotlib: pip install 'a3b[bench]')")
        kind.add_argument("--quick", action="store_true", help="one short run: to see that it works")
        kind.add_argument("--json", action="store_true", help="print one JSON object")
    for kind in (speed, start, sparsity):
        kind.add_argument("--threads", type=positive, metavar="N", help="of the kernels (default: what this process may use)")


def _generation(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("sampling (defaults come from the preset)")
    group.add_argument("--preset", metavar="NAME", help="thinking, coding, instruct, greedy or nano")
    for name, kind, text in (
        ("temperature", float, "0 is greedy"),
        ("top-k", int, "0 is off"),
        ("top-p", float, "in (0, 1]"),
        ("min-p", float, "in [0, 1]"),
        ("presence-penalty", float, "in [-2, 2]"),
        ("frequency-penalty", float, "in [-2, 2]"),
        ("repetition-penalty", float, "1 is off"),
        ("seed", int, "the same seed gives the same answer"),
        ("max-tokens", int, "longest answer, thinking included"),
    ):
        group.add_argument(f"--{name}", type=kind, metavar="X" if kind is float else "N", help=text)
    group.add_argument("--stop", action="append", metavar="TEXT", help="end the answer before this text; repeatable")
    group = parser.add_argument_group("conversation")
    group.add_argument("--system", metavar="TEXT", help="system prompt")
    group.add_argument("--no-think", action="store_true", help="answer without thinking")
    group.add_argument(
        "--preserve-thinking", choices=("on", "off"), default="on",
        help="keep the thinking of earlier turns in the prompt (default on); off is the template's own rule",
    )  # fmt: skip
    group.add_argument("--hide-thinking", action="store_true", help="do not show thinking")
    group.add_argument("--context", type=positive, metavar="N", help="context in tokens; beyond the native length YaRN")


def byte_size(text: str) -> int:
    return _amount(text, SIZE_UNITS, "a size, such as 2GiB or 500MB")


def duration(text: str) -> int:
    """Seconds."""
    return _amount(text, TIME_UNITS, "an age, such as 7d or 12h")


def _amount(text: str, units: dict[str, int], expected: str) -> int:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", text.strip().lower())
    if not found or found[2] not in units:
        raise argparse.ArgumentTypeError(f"{text} is not {expected}")
    return int(float(found[1]) * units[found[2]])


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return number


def numbers(text: str) -> tuple[int, ...]:
    found = text.split(",")
    if not all(part.isdecimal() for part in found):
        raise argparse.ArgumentTypeError(f"{text} is not a list of whole numbers, such as 512,2048")
    return tuple(int(part) for part in found)


def json_file(path: str):
    """The JSON value in a file, or on stdin for '-'."""
    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")
        return json.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        raise argparse.ArgumentTypeError(f"cannot read {path}: {error}") from None
    except (ValueError, RecursionError) as error:
        raise argparse.ArgumentTypeError(f"{path} is not JSON: {error}") from None


def json_object(text: str) -> dict:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise argparse.ArgumentTypeError(f"not JSON: {error}") from None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"expected a JSON object, found {type(value).__name__}")
    return value


if __name__ == "__main__":
    sys.exit(main())
