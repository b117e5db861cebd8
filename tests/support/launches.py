"""Launches of fake clients in the tests: how they are started, and what a client was told."""

from __future__ import annotations

import hashlib
import json
import socket
import tomllib
from pathlib import Path
from typing import Any

from a3b.cli import main
from a3b.clients.catalogue import CLIENTS
from tests.support.fake_clients import FakeServer

NAMES = tuple(CLIENTS)
SECRET = "key-of-the-tests"


def started(name: str, server: FakeServer, *options: str, args: tuple[str, ...] = ()) -> int:
    return main(["launch", name, "--base-url", server.url, *options, *(["--", *args] if args else [])])


def digest(directory: Path) -> str:
    """Of all names, kinds, modes and bytes below a directory."""
    total = hashlib.sha256()
    for path in sorted(directory.rglob("*")):
        total.update(f"{path}{path.lstat().st_mode}{path.lstat().st_mtime_ns}".encode())
        total.update(path.read_bytes() if path.is_file() else b"")
    return total.hexdigest()


def told(name: str, record: dict[str, Any]) -> tuple[str, str, str]:
    """(URL with /v1, model, key) by which a client of this name would ask, from how it was started."""
    env, argv = record["env"], record["argv"]
    match name:
        case "claude":
            return env["ANTHROPIC_BASE_URL"] + "/v1", env["ANTHROPIC_MODEL"], env["ANTHROPIC_AUTH_TOKEN"]
        case "qwen":
            settings = json.loads(Path(env["QWEN_HOME"], "settings.json").read_text())
            assert settings["model"]["name"] == env["OPENAI_MODEL"]
            return env["OPENAI_BASE_URL"], env["OPENAI_MODEL"], env["OPENAI_API_KEY"]
        case "codex":
            found = tomllib.loads("\n".join(value for flag, value in zip(argv, argv[1:], strict=False) if flag == "-c"))
            provider = found["model_providers"]["a3b"]
            assert provider["wire_api"] == "responses"
            return provider["base_url"], found["model"], env[provider["env_key"]]
        case "opencode":
            config = json.loads(Path(env["OPENCODE_CONFIG"]).read_text())
            provider = config["provider"]["a3b"]
            (model,) = provider["models"]
            assert config["model"] == f"a3b/{model}"
            variable = provider["options"]["apiKey"].removeprefix("{env:").removesuffix("}")
            return provider["options"]["baseURL"], model, env[variable]
        case "pi":
            provider = json.loads(Path(env["PI_CODING_AGENT_DIR"], "models.json").read_text())["providers"]["a3b"]
            return provider["baseUrl"], provider["models"][0]["id"], env[provider["apiKey"].removeprefix("$")]
        case "little-coder":
            return env["LLAMACPP_BASE_URL"], "m", env["LLAMACPP_API_KEY"]
        case _:
            model = argv[argv.index("--model") + 1].removeprefix("openai/")
            return env["OPENAI_API_BASE"], model, env["OPENAI_API_KEY"]


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def launch_runtime():
    from a3b.settings import RuntimeConfig

    return RuntimeConfig.from_env()
