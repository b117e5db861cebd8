"""Agents in Python: aider and mini-swe-agent.

Each function says how one of them is told where the server is, and what it needs so that its prompts begin as the ones
before. docs/clients.md has what was measured. Enter at `aider`, `mini_swe_agent`."""

from __future__ import annotations

import json
from pathlib import Path

from a3b.clients.setup import Endpoint, Setup

DAY_S = 86_400  # for time-outs


def aider(server: Endpoint, directory: Path) -> Setup:
    """Its reminder stands below the newest question and leaves when there is a newer one, as a part of the question or
    as a system message. It is also at the end of its system prompt, where it stays."""
    name = f"openai/{server.name}"
    settings = [{"name": name, "reminder": None, "extra_params": {"max_tokens": server.most_output}}]
    costs = {"input_cost_per_token": 0, "output_cost_per_token": 0, "litellm_provider": "openai", "mode": "chat"}
    limits = {"max_input_tokens": server.context, "max_tokens": server.context, "max_output_tokens": server.most_output}
    return Setup(
        arguments=("--model", name, "--weak-model", name, "--editor-model", name),
        environment={
            "OPENAI_API_BASE": f"{server.url}/v1",
            "OPENAI_API_KEY": server.token,
            "AIDER_MODEL_SETTINGS_FILE": str(directory / "model-settings.yml"),
            "AIDER_MODEL_METADATA_FILE": str(directory / "model-metadata.json"),
        },
        preferred={
            "AIDER_ANALYTICS": "false",
            "AIDER_CHECK_UPDATE": "false",
            "AIDER_SHOW_MODEL_WARNINGS": "false",
            "AIDER_SHOW_RELEASE_NOTES": "false",
            "AIDER_TIMEOUT": str(DAY_S),
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        },
        unset=("OPENAI_BASE_URL", "AIDER_OPENAI_API_BASE", "AIDER_OPENAI_API_KEY"),
        files={
            "model-settings.yml": json.dumps(settings, indent=2) + "\n",  # JSON is YAML
            "model-metadata.json": json.dumps({name: {**limits, **costs}}, indent=2) + "\n",
        },
    )


def mini_swe_agent(server: Endpoint, directory: Path) -> Setup:
    options = {
        "agent.cost_limit": "0",
        "model.model_kwargs.max_tokens": str(server.most_output),
        "model.model_kwargs.timeout": str(DAY_S),
    }
    changed = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
    return Setup(
        arguments=("--model", f"openai/{server.name}", "-c", "mini.yaml", *changed),
        environment={
            "OPENAI_API_BASE": f"{server.url}/v1",
            "OPENAI_API_KEY": server.token,
            "MSWEA_GLOBAL_CONFIG_DIR": str(directory),
        },
        preferred={
            "MSWEA_COST_TRACKING": "ignore_errors",
            "MSWEA_CONFIGURED": "true",
            "MSWEA_SILENT_STARTUP": "1",
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        },
        unset=("OPENAI_BASE_URL",),
    )
