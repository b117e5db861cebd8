"""`a3b serve` with a model that computes every token and says what a script tells it to.

    python -m bench.scripted_serve SCRIPT [options of a3b serve]

What an agent costs depends on its prompts and on what it keeps of them, not on the model's wits. So that agents can be
compared on equal work, and with random weights, each answer is dictated: the n-th answer of a conversation thinks, and
calls the tool that runs shell commands with the n-th command; after the last one it says that it is done. All tokens
are computed as if they had been sampled. SCRIPT is JSON:

    {"thinking": "the next part", "commands": ["cat a.txt", "cat b.txt"], "answer": "Done."}

A command may also be the call of another tool, {"tool": "read", "path": "a.txt"}; thinking may be a list, one for each
answer. A sub-agent of `a3b code` gets "agent_commands" instead, and a conversation that is to begin anew "summary".
Requests without such a tool, as for titles, get the answer at once."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np

from a3b.agent.compaction import ASKED
from a3b.agent.sub_agent import BOUNDARY
from a3b.cli import main as a3b
from a3b.commands import serve
from a3b.engine.generation import Generation, Sampled
from a3b.engine.request_renderer import PreparedRequest
from a3b.engine.service import Service
from a3b.interface.request import Request
from a3b.prompt.tokenizer import Tokenizer

SHELLS = ("bash", "run_shell_command", "Bash", "shell")  # what agents call the tool
SUB_AGENT = BOUNDARY.splitlines()[0]
Command = str | dict[str, Any]
CONTROL = re.compile(r"(</?think>|</?tool_call>|<\|im_end\|>)")


class Dictated(Generation):
    """An answer whose tokens were decided before; the logits are computed and not looked at."""

    dictated: list[int]

    def choose(self, logits: np.ndarray) -> Sampled:
        self._raise_failure()
        token = self.dictated[min(len(self.sampled), len(self.dictated) - 1)]
        self._chosen = (len(self.sampled), token)
        return Sampled(token, None)


class Script:
    def __init__(self, path: Path):
        found = json.loads(path.read_text(encoding="utf-8"))
        self.thinking: str | list[str] = found["thinking"]
        self.commands: list[Command] = found["commands"]
        self.answer: str = found["answer"]
        self.summary: str = found.get("summary", self.answer)
        self.agent_commands: list[Command] = found.get("agent_commands", [])

    def text(self, request: Request) -> str:
        """What follows the opening of the thinking."""
        tools = {tool["function"]["name"]: tool["function"] for tool in request.tools}
        shell = next((name for name in SHELLS if name in tools), None)
        commands, messages = self.commands, list(request.messages)
        for i, message in enumerate(messages):
            if message["role"] == "tool" and str(message["content"]).startswith(SUB_AGENT):
                commands, messages = self.agent_commands, messages[i:]
                break
        turn = sum(bool(message.get("tool_calls")) for message in messages)
        several = isinstance(self.thinking, list)
        thinking = self.thinking[min(turn, len(self.thinking) - 1)] if several else self.thinking
        if request.messages[-1]["content"] == ASKED:
            return f"{thinking}\n</think>\n\n{self.summary}<|im_end|>"
        if shell is None or turn >= len(commands):
            return f"{thinking}\n</think>\n\n{self.answer}<|im_end|>"
        command = commands[turn]
        arguments = dict(command) if isinstance(command, dict) else {"command": command}
        shell = arguments.pop("tool", shell)
        parameters = tools[shell].get("parameters") or {}
        for name in parameters.get("required", ()):  # some tools ask for more than the command
            arguments.setdefault(name, filler(parameters["properties"][name]))
        given = "".join(f"<parameter={name}>\n{value}\n</parameter>\n" for name, value in arguments.items())
        call = f"<tool_call>\n<function={shell}>\n{given}</function>\n</tool_call>"
        return f"{thinking}\n</think>\n\n{call}<|im_end|>"


def filler(schema: dict[str, Any]) -> str:
    return {"boolean": "false", "integer": "60", "number": "60"}.get(schema.get("type", ""), "the next part")


def encoded(tokenizer: Tokenizer, text: str) -> list[int]:
    ids: list[int] = []
    for piece in CONTROL.split(text):
        ids += [tokenizer.control_id(piece)] if CONTROL.fullmatch(piece) else tokenizer.encode_text(piece)
    return ids


class DictatingService(Service):
    script: Script

    def _generation(self, prepared: PreparedRequest) -> Generation:
        generation = super()._generation(prepared)
        text = self.script.text(prepared.request)
        if prepared.request.prompt is None and not prepared.request.only_reads:
            generation.__class__ = Dictated
            generation.dictated = encoded(self.info.tokenizer, text)
        return generation


def main() -> int:
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        print(__doc__, file=sys.stderr)
        return 2
    DictatingService.script = Script(Path(sys.argv[1]))
    serve.Service = DictatingService  # what `build` makes
    return a3b(["serve", *sys.argv[2:]])


if __name__ == "__main__":
    sys.exit(main())
