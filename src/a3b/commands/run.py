"""`a3b run [MODEL] [PROMPT]`: one answer on stdout, thinking on stderr."""

from __future__ import annotations

import json
import re
from argparse import Namespace
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

from a3b.commands.dialogue import Dialogue, Printer, check_sampling, drafts, load, sampling
from a3b.commands.model_here import model_here
from a3b.commands.piped_input import piped_text
from a3b.engine.engine import NANO_NAMES
from a3b.errors import UsageError
from a3b.formats.gguf import is_gguf
from a3b.model.known_models import known_model, known_shape
from a3b.printable import report, say
from a3b.prompt.message_faults import check_tools

PATH_BEGINS = ("/", "./", "../", "~/")


def run(args: Namespace) -> int:
    check_sampling(args)
    tools = check_tools(args.tools, "--tools")
    model, prompt = model_and_prompt(args.words, args.named, args.stdin_timeout)
    args.model = model if model is not None else args.runtime.model
    args.model = model_here(args.model, args)
    engine = load(args)
    preserve = args.preserve_thinking == "on"
    dialogue = Dialogue(engine, args.system, not args.no_think, preserve, tools, drafts(args))
    show = (lambda event: None) if args.json else Printer(thinking=not args.hide_thinking)
    with closing(dialogue):
        message, finished, _ = dialogue.ask(prompt, sampling(args, engine, bool(tools)), show)
    if args.json:
        result = {
            "model": engine.name,
            "message": message,
            "finish_reason": finished.reason,
            "usage": asdict(finished.usage),
        }
        report(json.dumps(result, ensure_ascii=False))
    elif finished.reason == "length":
        say("a3b run: stopped at the token limit; raise --max-tokens or --context for more")
    return 0


def model_and_prompt(words: list[str], named: str | None, timeout_s: float) -> tuple[str | None, str]:
    """MODEL (None: the default) and the prompt with what was piped.

    Two words are MODEL and PROMPT. One word is the PROMPT, unless it is a path or the name of a model: then it is
    MODEL, and the prompt must come on stdin."""
    most = 1 if named is not None else 2
    if len(words) > most:
        expected = "PROMPT, because --model names the model" if named is not None else "[MODEL] PROMPT"
        raise UsageError(f"expected {expected}, found {len(words)} words; put the prompt in quotes")
    model, given = named, words[-1] if words else None
    if len(words) == 2:
        model = words[0]
        if model and "/" not in model and not is_model(model):
            raise UsageError(
                f"MODEL {model[:60]!r} is not a directory; if it is a part of the prompt, put all of that in quotes"
            )
    elif given is not None and named is None and is_model(given):
        model, given = given, None
    return model, prompt_of(given, model, timeout_s)


def prompt_of(given: str | None, model: str | None, timeout_s: float) -> str:
    """The words given, a blank line and the text on stdin; either alone if the other is missing."""
    if given in (None, "-"):
        text = piped_text()
        if text.strip():
            return text
        if given == "-":
            raise UsageError("PROMPT is '-', but stdin is empty; pipe text into the command")
        what = f"{model!r} is taken as MODEL, and a PROMPT is missing" if model is not None else "a PROMPT is missing"
        here = f" {model}" if model is not None else ""
        raise UsageError(f"{what}; give one: a3b run{here} 'Name three birds.', or pipe text, or talk: a3b chat{here}")
    if not given.strip():
        raise UsageError("PROMPT is empty; give a text, or '-' to read it from stdin")
    text = piped_text(timeout_s) if timeout_s else ""
    return f"{given}\n\n{text}" if text.strip() else given


def is_model(word: str) -> bool:
    """Whether a word alone is meant as MODEL: also if the path does not exist, or the model is not here."""
    name = word.lower()
    looks_like_one = word.startswith(PATH_BEGINS) and not any(map(str.isspace, word))
    return (
        is_path(word)
        or looks_like_one
        or is_known(word)
        or name in NANO_NAMES
        or re.fullmatch(r"qwen/qwen[\w.-]+", name) is not None
    )


def is_known(word: str) -> bool:
    """Whether a word is a short name or that of a shape, also if its tag is wrong."""
    try:
        return known_shape(word) is not None or known_model(word) is not None
    except UsageError:
        return True


def is_path(word: str) -> bool:
    """Whether a word is the place of a model: a directory, or a file that could be packed."""
    try:
        path = Path(word).expanduser()
        return path.is_dir() or is_gguf(path)
    except (OSError, ValueError, RuntimeError):  # too long, a zero byte, a home that is not known
        return False
