"""Which clients can be launched, how each is installed, and what its first prompt costs.

Tokens were counted with the vocabulary of Qwen3.6, in an empty directory. Enter at `CLIENTS`."""

from __future__ import annotations

from a3b.clients import node_agents, python_agents
from a3b.clients.setup import Client, Way

QUESTION = "Say done."  # what a captured session asks

CLIENTS = {
    client.name: client
    for client in (
        Client(
            "claude",
            "Claude Code",
            "claude",
            "npm install -g @anthropic-ai/claude-code",
            node_agents.claude,
            tokens=9_100,
            version="2.1.332",
            ways=(
                Way("terminal", (QUESTION,), terminal=True, trusts=node_agents.trusted_by_claude),
                Way("claude -p", ("-p", QUESTION)),
            ),
            carried=("CLAUDE.md", "agents", "commands", "skills", "plugins", "output-styles"),
        ),
        Client(
            "qwen",
            "Qwen Code",
            "qwen",
            "npm install -g @qwen-code/qwen-code",
            node_agents.qwen,
            tokens=18_100,
            version="0.24.4",
            ways=(Way("terminal", ("-i", QUESTION), terminal=True), Way("qwen -p", ("-p", QUESTION))),
            carried=("QWEN.md", "AGENTS.md", "agents", "commands", "skills", "extensions"),
        ),
        Client(
            "codex",
            "Codex",
            "codex",
            "npm install -g @openai/codex",
            node_agents.codex,
            tokens=8_800,
            version="0.171.0",
            ways=(Way("codex exec", ("exec", "--skip-git-repo-check", QUESTION)),),
            carried=("config.toml", "AGENTS.md", "skills", "prompts"),
        ),
        Client(
            "opencode",
            "opencode",
            "opencode",
            "npm install -g opencode-ai",
            node_agents.opencode,
            tokens=7_300,
            version="1.18.33",
            ways=(Way("opencode run", ("run", QUESTION)),),
        ),
        Client(
            "pi",
            "pi",
            "pi",
            "npm install -g @earendil-works/pi-coding-agent",
            node_agents.pi,
            tokens=1_400,
            version="1.6.0",
            ways=(Way("pi -p", ("-p", QUESTION)),),
            carried=("AGENTS.md", "SYSTEM.md", "APPEND_SYSTEM.md", "extensions", "skills", "prompts", "mcp.json"),
        ),
        Client(
            "aider",
            "aider",
            "aider",
            "uv tool install --python 3.12 aider-chat",
            python_agents.aider,
            tokens=500,
            version="0.86.2",
            ways=(Way("aider", ("--message", QUESTION, "--yes-always", "--no-git")),),
        ),
        Client(
            "mini-swe-agent",
            "mini-swe-agent",
            "mini",
            "uv tool install mini-swe-agent",
            python_agents.mini_swe_agent,
            tokens=900,
            version="2.4.6",
            ways=(Way("mini", ("--task", QUESTION, "--yolo", "--exit-immediately", "-c", "agent.step_limit=1")),),
        ),
        Client(
            "little-coder",
            "little-coder",
            "little-coder",
            "npm install -g little-coder",
            node_agents.little_coder,
            tokens=7_000,
            version="not tried",
        ),
    )
}
