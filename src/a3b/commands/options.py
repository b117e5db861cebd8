"""Every option of every command: its name, how its text is read, its default and its help. Imports nothing that
computes, so that help is quick.

`a3b.commands.serve` says what the options of `serve` do. Enter at `COMMANDS`."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from a3b.commands import client_options, code_options, eval_options
from a3b.commands.argument_types import (
    byte_size,
    duration,
    json_file,
    json_object,
    not_negative,
    numbers,
    path,
    policy,
    positive,
    real,
    seconds,
    some_bytes,
    tokens,
    whole,
)
from a3b.interface.sampling_params import SAMPLING_FIELDS, SamplingField
from a3b.model.known_models import PRESETS
from a3b.settings import DRAFTS, LOG_LEVELS

PARALLEL = 4  # answers that a server writes at once
MODEL_HELP = "name of a model in 'a3b list', or a directory; none means the embedded a3b-nano"


def _chat(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument("--yes", action="store_true", help="get a model that is not here without asking (see a3b up)")
    group = parser.add_argument_group("earlier conversations")
    group.add_argument(
        "--continue", dest="go_on", action="store_true", help="continue the last conversation with this model"
    )
    group.add_argument(
        "--resume", nargs="?", const="", metavar="ID", help="continue this conversation; without ID, list them"
    )
    group.add_argument(
        "--no-history", action="store_true", help="save neither this conversation nor the lines typed in it"
    )
    _generation(parser)


def _run(parser: argparse.ArgumentParser) -> None:
    parser.usage = "a3b run [MODEL] [PROMPT] [options]"
    parser.add_argument(
        "words",
        nargs="*",
        metavar="[MODEL] [PROMPT]",
        help=(
            f"MODEL: {MODEL_HELP}; PROMPT: text in quotes, '-' is stdin. Piped "
            "text is added to PROMPT, or is the prompt"
        ),
    )
    parser.add_argument(
        "-m", "--model", dest="named", metavar="MODEL", help="the model; a word after it is then always PROMPT"
    )
    parser.add_argument(
        "--stdin-timeout",
        type=seconds,
        default=30.0,
        metavar="S",
        help="seconds within which text piped besides a PROMPT must begin (default 30); 0 ignores stdin",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object: message, finish reason, usage")
    parser.add_argument(
        "--tools", type=json_file, metavar="FILE.json", help="tools the model may call (calls are printed)"
    )
    _generation(parser)


def _up(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "name",
        nargs="?",
        metavar="NAME",
        help="a short name with or without a tag (a3b list --available), OWNER/NAME, OWNER/NAME:TAG or "
        "OWNER/NAME/FILE.gguf on the hub, a directory, a .gguf file, or nano (default A3B_MODEL or qwen3.6)",
    )
    parser.add_argument(
        "--preset", choices=PRESETS, help="default: the best that fits memory, with a useful context, and disk"
    )
    parser.add_argument("--download", action="store_true", help="download, also if the model is on this disk")
    _serve_options(parser)


def _serve(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", metavar="MODEL", help=MODEL_HELP)
    _serve_options(parser)


def _serve_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--yes", action="store_true", help="get a model that is not here without asking (see a3b up)")
    parser.add_argument(
        "--host", metavar="ADDRESS", help="where to listen (default A3B_HOST or 127.0.0.1: this machine only)"
    )
    parser.add_argument("--port", type=whole, metavar="N", help="default A3B_PORT or 8080; 0 takes a free one")
    parser.add_argument("--api-key", action="append", metavar="KEY", help="clients must send one of these; repeatable")
    parser.add_argument("--api-key-file", type=Path, metavar="FILE", help="a file of keys, one per line")
    parser.add_argument("--context", type=tokens, metavar="N", help="context in tokens; beyond the native length YaRN")
    parser.add_argument(
        "--parallel", type=positive, default=PARALLEL, metavar="N", help=f"answers written at once (default {PARALLEL})"
    )
    parser.add_argument(
        "--queue", type=positive, default=32, metavar="N", help="requests that may wait; more get 429 (default 32)"
    )
    parser.add_argument(
        "--max-body", type=some_bytes, default=32 << 20, metavar="SIZE", help="of a request (default 32MiB)"
    )
    parser.add_argument(
        "--max-connections",
        type=positive,
        default=1000,
        metavar="N",
        help="open at once; idle ones are closed first (default 1000)",
    )
    parser.add_argument(
        "--log-level", choices=LOG_LEVELS, help="default A3B_LOG_LEVEL or info: one line for each request"
    )
    parser.add_argument(
        "--trace",
        metavar="FILE",
        help="append all token ids of each answer as a line of JSON, to prove what was computed",
    )
    _drafts(parser)
    _serve_browsers(parser.add_argument_group("browsers and names"))
    _serve_thinking(parser.add_argument_group("thinking"))
    _serve_sessions(parser.add_argument_group("sessions"))


def _drafts(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--drafts",
        choices=DRAFTS,
        help="read tokens ahead where that is measured to pay, or never; no token differs (default A3B_DRAFTS or auto)",
    )


def _serve_browsers(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--allow-host",
        action="append",
        metavar="NAME",
        help="a host name of this server, besides localhost; * is any; repeatable",
    )
    group.add_argument(
        "--allow-origin",
        action="append",
        metavar="URL",
        help="pages that may send requests from a browser, such as https://chat.example; * is every page; repeatable",
    )


def _serve_thinking(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--preserve-thinking",
        type=policy,
        default="all",
        metavar="POLICY",
        help="of earlier turns: all, current-task, none or budget:TOKENS (default all)",
    )
    group.add_argument("--thinking-budget", type=tokens, metavar="N", help="most tokens of thinking in one answer")
    group.add_argument(
        "--task-thinking-budget", type=tokens, metavar="N", help="the same since the last turn of the user"
    )
    group.add_argument("--no-think", action="store_true", help="answer without thinking unless a request asks for it")


def _serve_sessions(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--cache-ram", type=byte_size, metavar="SIZE", help="memory for sessions (default a quarter of free memory)"
    )
    group.add_argument(
        "--cache-dir",
        metavar="DIR",
        help="where sessions are kept on disk (default: the model's own below ~/.cache/a3b/sessions)",
    )
    group.add_argument(
        "--cache-disk",
        type=byte_size,
        default=20 << 30,
        metavar="SIZE",
        help="most disk space for sessions (default 20GiB)",
    )
    group.add_argument(
        "--session-days",
        type=positive,
        default=30,
        metavar="N",
        help="remove sessions that were not used for N days (default 30)",
    )
    group.add_argument("--no-persist", action="store_true", help="keep sessions in memory only")
    group.add_argument(
        "--no-persist-thinking",
        action="store_true",
        help="write nothing of a session to disk from its first thinking on",
    )
    group.add_argument(
        "--exact-dates",
        action="store_true",
        help="use the dates in each request's system prompt; otherwise a conversation keeps those it began with",
    )
    group.add_argument(
        "--verify-cache",
        type=not_negative,
        default=0,
        metavar="N",
        help="recompute one in N cache hits and compare every bit",
    )


def _list(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--available", action="store_true", help="the names of models that can be had, and their sizes")
    parser.add_argument(
        "--found",
        action="store_true",
        help="models that other programs keep on this disk: hub cache, llama.cpp, LM Studio, Ollama, a3b pull",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _rm(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "names", nargs="+", metavar="NAME", help="as 'a3b list' shows it; also of one that stopped half way"
    )
    parser.add_argument("--sessions", action="store_true", help="remove the model's sessions too")
    parser.add_argument("--yes", action="store_true", help="do not ask")


def _info(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument(
        "--context", type=tokens, metavar="N", help="context in tokens, to see the RoPE scaling it needs"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _plan(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "shape",
        nargs="?",
        metavar="MODEL",
        help="DIR, config.json, .gguf, nano, 35b-a3b, 27b, 3b-dense or 31b-dense (default 35b-a3b)",
    )
    parser.add_argument("--context", type=tokens, metavar="N", help="tokens of the conversation (default 32768)")
    parser.add_argument(
        "--bandwidth", type=real, metavar="GB/S", help="read bandwidth of this machine; none means measure it"
    )
    parser.add_argument(
        "--operations",
        type=real,
        metavar="GOPS",
        help="int8 operations of this machine, in billions a second; none means measure them",
    )
    _price(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _price(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("cost (in any currency)")
    group.add_argument("--price-per-hour", type=real, metavar="P", help="of this machine: adds what tokens cost")
    group.add_argument("--watts", type=real, metavar="W", help="power of this machine while it computes")
    group.add_argument("--price-per-kwh", type=real, metavar="P", help="of electricity, beside --watts")
    group.add_argument(
        "--task", type=numbers, metavar="READ,WRITTEN", help="tokens of a task (default 30000,8000), beside a price"
    )


def _pull(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("repo", metavar="REPO", help="OWNER/NAME on the hub, such as Qwen/Qwen3.6-35B-A3B")
    parser.add_argument("dir", nargs="?", metavar="DIR", help="where to put it; none means NAME in this directory")
    parser.add_argument("--revision", metavar="R", help="branch, tag or commit; none means main")
    parser.add_argument(
        "--include",
        action="append",
        metavar="GLOB",
        help="fetch these files instead of those that a3b needs; repeatable",
    )


def _render(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument(
        "--messages", type=json_file, required=True, metavar="FILE.json", help="list of messages; '-' is stdin"
    )
    parser.add_argument("--tools", type=json_file, metavar="FILE.json", help="list of tools")
    parser.add_argument(
        "--kwargs", type=json_object, default={}, metavar="JSON", help="template arguments, exactly as given"
    )
    parser.add_argument("--no-generation-prompt", action="store_true", help="do not open an assistant turn at the end")
    parser.add_argument("--ids", action="store_true", help="print token ids as a JSON list instead of text")
    parser.add_argument("--fit", action="store_true", help="first make the messages fit, as chat and run do")


def _logits(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="directory of a checkpoint; needs no tokenizer")
    parser.add_argument(
        "--ids", type=json_file, required=True, metavar="FILE.json", help="list of token ids; '-' is stdin"
    )
    parser.add_argument("--out", type=path, required=True, metavar="FILE.npy", help="float32 [T, V]")
    parser.add_argument("--context", type=tokens, metavar="N", help="context in tokens; beyond the native length YaRN")


def _pack(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source",
        metavar="SRC",
        help="directory (BF16, F16, F32, FP8 or GPTQ) or .gguf file; or OWNER/NAME on the hub, packed while it arrives",
    )
    parser.add_argument(
        "target", type=path, metavar="DST", help="directory to create; a stopped run is resumed from DST.part"
    )
    parser.add_argument(
        "--preset",
        choices=PRESETS,
        help="default balanced; integers of GGUF and GPTQ are kept",
    )
    parser.add_argument(
        "--importance",
        type=path,
        metavar="FILE",
        help="text, or .json of conversations, that the model reads first: "
        "the inputs of its columns (over 4,096 tokens) weigh their rounding errors",
    )
    parser.add_argument("--tokenizer", type=path, metavar="DIR", help="directory to take tokenizer and template from")
    parser.add_argument("--no-mtp", action="store_true", help="leave out the MTP module, which drafts tokens")
    parser.add_argument(
        "--add-mtp",
        action="store_true",
        help="add the MTP module of SRC to DST, a packed directory of the same model; nothing else in it changes",
    )
    parser.add_argument("--revision", metavar="R", help="branch, tag or commit of a repository; none means main")
    parser.add_argument(
        "--include", action="append", metavar="GLOB", help="which model of a repository that holds several; repeatable"
    )
    parser.add_argument(
        "--keep-source", type=path, metavar="DIR", help="download a repository to DIR first, and keep it there"
    )


def _verify(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", type=path, metavar="DIR", help="a packed model")


def _cache(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="every conversation, latest first")
    listing.add_argument("--json", action="store_true", help="print one JSON object")
    verify = actions.add_parser("verify", help="check every byte; drop what is wrong, with status 1")
    prune = actions.add_parser("prune", help="make room: least recently used first")
    prune.add_argument(
        "--max-bytes", type=byte_size, metavar="SIZE", help="keep at most this much, such as 2GiB or 500MB"
    )
    prune.add_argument(
        "--older-than", type=duration, metavar="AGE", help="drop what was not used for this long, such as 7d or 12h"
    )
    forget = actions.add_parser("forget", help="drop a conversation, or all of them")
    forget.add_argument("id", nargs="?", metavar="ID", help="as `a3b cache list` shows it; its first digits are enough")
    forget.add_argument("--all", action="store_true", help="every conversation and every remembered turn")
    for action in (listing, verify, prune, forget):
        action.add_argument(
            "--dir", type=path, metavar="DIR", help="where they are kept (default: sessions below A3B_HOME)"
        )


def _bench(parser: argparse.ArgumentParser) -> None:
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True)
    speed = kinds.add_parser("speed", help="prefill, decode, start and memory, against the limits of this machine")
    speed.add_argument("--model", dest="directory", metavar="DIR", help="a packed model; none means random weights")
    speed.add_argument("--shape", default="35b-a3b", help="of the random weights: 35b-a3b, 27b, 3b-dense or 31b-dense")
    speed.add_argument(
        "--depths", type=numbers, metavar="N,...", help="tokens before those decoded (default 0,4096,16384)"
    )
    start = kinds.add_parser("start", help="load, read a short prompt, print the first token: to be timed from outside")
    start.add_argument("--model", dest="directory", metavar="DIR", help=MODEL_HELP)
    sparsity = kinds.add_parser("sparsity", help="35b-a3b against dense models of its active and of its whole size")
    sparsity.add_argument("--keep", action="store_true", help="do not remove the random weights written for this")
    _price(sparsity)
    for kind, text in (
        (speed, "only the first N layers"),
        (sparsity, "of each shape, scaled to all; none means as many as fit"),
    ):
        kind.add_argument(
            "--preset", default="balanced", help="fast, balanced, faithful, Q4_0 or Q4_K_M (default balanced)"
        )
        kind.add_argument("--layers", type=positive, metavar="N", help=text)
        kind.add_argument(
            "--dir", type=path, metavar="DIR", help="where random weights are kept (default ~/.cache/a3b)"
        )
        kind.add_argument(
            "--prefill", type=numbers, metavar="N,...", help="tokens of the prompts (default 512,2048; sparsity 512)"
        )
        kind.add_argument("--runs", type=positive, metavar="N", help="of each measurement (default 3)")
        kind.add_argument("--tokens", type=tokens, metavar="N", help="decoded in a run (default 64)")
        kind.add_argument(
            "--plot", type=path, metavar="FILE.png", help="draw it too (needs matplotlib: pip install 'a3b[bench]')"
        )
        kind.add_argument("--quick", action="store_true", help="one short run, to see that it works")
        kind.add_argument("--json", action="store_true", help="print one JSON object")
    for kind in (speed, start, sparsity):
        kind.add_argument(
            "--threads", type=positive, metavar="N", help="of the kernels (default: what this process may use)"
        )


def _generation(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("sampling (defaults come from the preset)")
    group.add_argument("--preset", metavar="NAME", help="thinking, coding, instruct, greedy or nano")
    for field in SAMPLING_FIELDS.values():
        kind = tokens if field.name == "max_tokens" else whole if field.is_whole else real
        option = f"--{field.name.replace('_', '-')}"
        group.add_argument(option, type=kind, metavar="X" if kind is real else "N", help=field.meaning + _limits(field))
    group.add_argument("--stop", action="append", metavar="TEXT", help="end the answer before this text; repeatable")
    group = parser.add_argument_group("conversation")
    group.add_argument("--system", metavar="TEXT", help="system prompt")
    group.add_argument("--no-think", action="store_true", help="answer without thinking")
    group.add_argument(
        "--preserve-thinking",
        choices=("on", "off"),
        default="on",
        help="keep the thinking of earlier turns in the prompt (default on); off is the template's own rule",
    )
    group.add_argument("--hide-thinking", action="store_true", help="do not show thinking")
    group.add_argument("--context", type=tokens, metavar="N", help="context in tokens; beyond the native length YaRN")
    _drafts(group)


def _limits(field: SamplingField) -> str:
    if field.is_whole or field.high == math.inf:
        return ""
    return f", in {'(' if field.excludes_low else '['}{field.low:g}, {field.high:g}]"


def _help(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("words", nargs="*", metavar="COMMAND", help="such as run, or cache list")


def _completion(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=("bash", "zsh", "fish"), metavar="SHELL", help="bash, zsh or fish")


COMMANDS = {  # name: (what it does, what fills its parser), in the order of the help
    "up": ("get a model that suits this machine, and serve it", _up),
    "chat": ("talk to a model", _chat),
    "run": ("answer one prompt and exit", _run),
    "serve": ("speak the OpenAI and Anthropic APIs over HTTP", _serve),
    "code": ("work on the project in this directory: the coding agent", code_options.code),
    "launch": ("start a coding agent on the served model, such as claude or qwen", client_options.launch),
    "warm": ("read a coding agent's instructions ahead of time", client_options.warm),
    "info": ("architecture, parameters, context, formats and size of a model", _info),
    "plan": ("which preset and context fit this machine, and how fast", _plan),
    "list": ("models that are here, and what lies in A3B_HOME", _list),
    "rm": ("remove models, also those that stopped half way", _rm),
    "pull": ("download a model, resumable and verified", _pull),
    "render": ("print the exact prompt that messages become", _render),
    "logits": ("write the logits of a list of token ids", _logits),
    "pack": ("write a model as the packed weights that the kernels read", _pack),
    "verify": ("check every byte of a packed model", _verify),
    "cache": ("sessions kept on disk: list, verify, prune, forget", _cache),
    "eval": ("benchmarks of any endpoint; what packing costs in quality", eval_options.fill),
    "bench": ("measure speed: of a model, of a start, of the sparse shape against dense ones", _bench),
    "completion": ("print a script that completes commands and options in a shell", _completion),
    "help": ("explain a command", _help),
}
