"""Agents that run on Node.js, or come through npm: Claude Code, Qwen Code, opencode, codex, pi and little-coder.

Each function says how one of them is told where the server is, and what it needs so that thinking comes back and
prompts begin as the ones before. docs/clients.md has what was measured. Enter at `claude`, `qwen`, ..."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from a3b.clients.setup import KEY_VARIABLE, Endpoint, JsonFile, Setup

DAY_MS = 86_400_000  # for time-outs: a long prompt is read for as long as it takes
COMPACT_AT = 0.85  # of the context
KINDS = ("CONFIG", "DATA", "STATE", "CACHE")  # of XDG directories


def claude(server: Endpoint, directory: Path) -> Setup:
    """The skills, agents and memory that are left out are about Claude itself, or name the directory in front of all
    the rest: with them, 74 % of the first prompt would be the same elsewhere, not 92 %."""
    ours: dict[str, Any] = {
        "permissions": {
            "deny": ["Agent(claude-code-guide)", "Agent(statusline-setup)", "Skill(plugin-authoring)"],
        },
    }
    # "auto" would leave the judgement of commands to a service that only its own servers have
    defaults = {
        "permissions": {"defaultMode": "default"},
        "spinnerTipsEnabled": False,
        "disableDeepLinkRegistration": "disable",
    }
    return Setup(
        environment={
            "CLAUDE_CONFIG_DIR": str(directory),
            "ANTHROPIC_BASE_URL": server.url,
            "ANTHROPIC_AUTH_TOKEN": server.token,
            "ANTHROPIC_MODEL": server.name,
            "ANTHROPIC_DEFAULT_HAIKU_MODEL": server.name,
        },
        preferred={
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "CLAUDE_CODE_ATTRIBUTION_HEADER": "0",
            "CLAUDE_CODE_DISABLE_GIT_INSTRUCTIONS": "1",
            "CLAUDE_CODE_DISABLE_AUTO_MEMORY": "1",
            "CLAUDE_CODE_DISABLE_BUNDLED_SKILLS": "1",
            "CLAUDE_CODE_DISABLE_WORKFLOWS": "1",
            "CLAUDE_CODE_MAX_CONTEXT_TOKENS": str(server.context),
            "CLAUDE_CODE_MAX_OUTPUT_TOKENS": str(server.most_output),
            "API_TIMEOUT_MS": str(DAY_MS),
            "CLAUDE_STREAM_IDLE_TIMEOUT_MS": str(DAY_MS),
            "CLAUDE_STREAM_FIRST_BYTE_TIMEOUT_MS": str(DAY_MS),
        },
        unset=(
            "ANTHROPIC_API_KEY",
            "ANTHROPIC_CUSTOM_HEADERS",
            "CLAUDE_CODE_OAUTH_TOKEN",
            "CLAUDE_CODE_USE_BEDROCK",
            "CLAUDE_CODE_USE_VERTEX",
            "CLAUDE_CODE_USE_FOUNDRY",
        ),
        files={
            "settings.json": JsonFile(ours, defaults),
            ".claude.json": JsonFile(defaults={"hasCompletedOnboarding": True, "theme": "dark"}),
        },
    )


def trusted_by_claude(work: Path) -> dict[str, JsonFile]:
    trusted = {"hasTrustDialogAccepted": True, "hasCompletedProjectOnboarding": True}
    return {".claude.json": JsonFile({"projects": {str(work): trusted}})}


def qwen(server: Endpoint, directory: Path) -> Setup:
    """Its memory is asked for in requests of its own, and puts the directory's name in front of the skills; so does the
    file of the language, whose path it gives relative to the directory."""
    ours = {
        "security": {"auth": {"selectedType": "openai"}},
        "model": {
            "name": server.name,
            "generationConfig": {
                "contextWindowSize": server.context,
                "timeout": DAY_MS,
                "streamIdleTimeout": 0,
            },
        },
    }
    defaults = {
        "memory": {"enableManagedAutoMemory": False, "enableManagedAutoDream": False},
        "ui": {"enableFollowupSuggestions": False, "enableUserFeedback": False},
        "general": {"enableAutoUpdate": False},
        "privacy": {"usageStatisticsEnabled": False},
    }
    return Setup(
        arguments=("--auth-type", "openai"),
        environment={
            "QWEN_HOME": str(directory),
            "OPENAI_BASE_URL": f"{server.url}/v1",
            "OPENAI_API_KEY": server.token,
            "OPENAI_MODEL": server.name,
        },
        preferred={"QWEN_TELEMETRY_ENABLED": "false", "QWEN_CODE_MAX_OUTPUT_TOKENS": str(server.most_output)},
        files={"settings.json": JsonFile(ours, defaults)},
        links={"output-language.md": "/dev/null"},
    )


def opencode(server: Endpoint, directory: Path) -> Setup:
    """Pruning takes old results out of the middle of a conversation, so that all behind them would be read again."""
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "name": "a3b",
        "options": {"baseURL": f"{server.url}/v1", "apiKey": f"{{env:{KEY_VARIABLE}}}", "timeout": False},
        "models": {
            server.name: {
                "name": server.name,
                "reasoning": True,
                "tool_call": True,
                "limit": {"context": server.context, "output": server.most_output},
            }
        },
    }
    config = {
        "$schema": "https://opencode.ai/config.json",
        "provider": {"a3b": provider},
        "enabled_providers": ["a3b"],
        "model": f"a3b/{server.name}",
        "small_model": f"a3b/{server.name}",
        "plugin": [(directory / "shell.js").as_uri()],
        "compaction": {"prune": False},
        "autoupdate": False,
        "share": "disabled",
    }
    return Setup(
        environment={
            KEY_VARIABLE: server.token,
            "OPENCODE_CONFIG": str(directory / "opencode.json"),
            "npm_config_cache": str(directory / "npm"),
            **{f"XDG_{kind}_HOME": str(directory / kind.lower()) for kind in KINDS},
        },
        preferred={"OPENCODE_DISABLE_MODELS_FETCH": "1", "OPENCODE_DISABLE_AUTOUPDATE": "1"},
        unset=("OPENCODE_CONFIG_CONTENT", "OPENCODE_CONFIG_DIR"),
        kept={
            "npm_config_cache": "USERS_npm_config_cache",
            **{f"XDG_{kind}_HOME": f"USERS_XDG_{kind}_HOME" for kind in KINDS},
        },
        files={"opencode.json": JsonFile(config), "shell.js": _OPENCODE_SHELL},
    )


# opencode has no directory of its own but by these variables; commands that it runs get the user's back
_OPENCODE_SHELL = """\
const users = {
  XDG_CONFIG_HOME: ".config",
  XDG_DATA_HOME: ".local/share",
  XDG_STATE_HOME: ".local/state",
  XDG_CACHE_HOME: ".cache",
  npm_config_cache: ".npm",
};
export const UsersDirectories = async () => ({
  "shell.env": async (input, output) => {
    for (const name in users) {
      output.env[name] = process.env["USERS_" + name] || `${process.env.HOME}/${users[name]}`;
    }
  },
});
"""


def codex(server: Endpoint, directory: Path) -> Setup:
    """Its settings are arguments: it writes config.toml itself, with what its user allows."""
    provider = {
        "name": '"a3b"',
        "base_url": toml(f"{server.url}/v1"),
        "wire_api": '"responses"',
        "env_key": toml(KEY_VARIABLE),
        "stream_idle_timeout_ms": str(DAY_MS),
    }
    settings = {
        "model": toml(server.name),
        "model_provider": '"a3b"',
        "model_context_window": str(server.context),
        "model_auto_compact_token_limit": str(server.first_of_context(COMPACT_AT)),
        "check_for_update_on_startup": "false",
        "model_providers.a3b": f"{{{', '.join(f'{key} = {value}' for key, value in provider.items())}}}",
    }
    return Setup(
        arguments=tuple(part for key, value in settings.items() for part in ("-c", f"{key}={value}")),
        environment={"CODEX_HOME": str(directory), KEY_VARIABLE: server.token},
        unset=("OPENAI_BASE_URL",),
    )


def toml(text: str) -> str:
    """A basic string of TOML, which escapes as JSON does, and DEL besides."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def pi(server: Endpoint, directory: Path) -> Setup:
    """Thinking goes back in its messages, and the template is told to keep it."""
    model = {
        "id": server.name,
        "name": server.name,
        "reasoning": True,
        "input": ["text"],
        "contextWindow": server.context,
        "maxTokens": server.most_output,
        "compat": {"thinkingFormat": "qwen-chat-template", "supportsMidConvoSystemMessages": True},
    }
    provider = {
        "baseUrl": f"{server.url}/v1",
        "api": "openai-completions",
        "apiKey": f"${KEY_VARIABLE}",
        "models": [model],
    }
    return Setup(
        environment={"PI_CODING_AGENT_DIR": str(directory), KEY_VARIABLE: server.token},
        preferred={"PI_OFFLINE": "1", "PI_SKIP_VERSION_CHECK": "1", "PI_TELEMETRY": "0"},
        files={
            "models.json": json.dumps({"providers": {"a3b": provider}}, indent=2) + "\n",
            "settings.json": JsonFile(
                {
                    "defaultProvider": "a3b",
                    "defaultModel": server.name,
                    "httpIdleTimeoutMs": "disabled",
                    "compaction": {"reserveTokens": server.context - server.first_of_context(COMPACT_AT)},
                },
                {"enableInstallTelemetry": False},
            ),
        },
    )


def little_coder(server: Endpoint, directory: Path) -> Setup:
    """pi with extensions. Its settings for Qwen3.6 go by the model's name, and it asks the server for its context."""
    return Setup(
        arguments=("--model", "llamacpp/qwen3.6-35b-a3b"),
        environment={
            "PI_CODING_AGENT_DIR": str(directory),
            "LLAMACPP_BASE_URL": f"{server.url}/v1",
            "LLAMACPP_API_KEY": server.token,
        },
        preferred={"PI_OFFLINE": "1", "PI_SKIP_VERSION_CHECK": "1", "PI_TELEMETRY": "0"},
        files={"settings.json": JsonFile({"httpIdleTimeoutMs": "disabled"})},
    )
