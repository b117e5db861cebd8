"""`a3b run [MODEL] PROMPT`: one answer on stdout, thinking on stderr."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from dataclasses import asdict

from a3b.commands.answer import Dialogue, Printer, load, sampling
from a3b.errors import UsageError


def run(args: Namespace) -> int:
    model, prompt = model_and_prompt(args.words)
    args.model = model or args.runtime.model
    if args.tools is not None and not isinstance(args.tools, list):
        raise UsageError(f"--tools: expected a JSON list of tools, found {type(args.tools).__name__}")
    engine = load(args)
    dialogue = Dialogue(engine, args.system, not args.no_think, args.preserve_thinking == "on", args.tools)
    show = (lambda event: None) if args.json else Printer(thinking=not args.hide_thinking)
    message, finished = dialogue.ask(prompt, sampling(args, engine, bool(args.tools)), show)
    if args.json:
        result = {"model": engine.name, "message": message, "finish_reason": finished.reason, "usage": asdict(finished.usage)}
        print(json.dumps(result, ensure_ascii=False))
    elif finished.reason == "length":
        print("a3b run: stopped at the token limit; raise --max-tokens or --context for more", file=sys.stderr)
    return 0


def model_and_prompt(words: list[str]) -> tuple[str | None, str]:
    """One word is the prompt, two are model and prompt; '-' as prompt reads stdin."""
    if len(words) > 2:
        raise UsageError(f"expected [MODEL] PROMPT, found {len(words)} words; put the prompt in quotes")
    prompt = sys.stdin.read() if words[-1] == "-" else words[-1]
    if not prompt.strip():
        raise UsageError("PROMPT is empty; give a text, or '-' to read it from stdin")
    return (words[0] if len(words) == 2 else None), prompt
