"""Servers outside of the sandbox run nothing that the agent can change."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from a3b.agent.mcp.config import McpServerConfig
from a3b.agent.mcp.guard import ServerFault
from a3b.agent.mcp.launch import ServerLauncher, start_hint
from a3b.agent.sandbox.sandbox import SandboxPolicy
from tests.support.unconfined import Unconfined


@pytest.fixture
def places(tmp_path):
    """(workspace, home), with a program and a script in the workspace."""
    workspace, home = tmp_path / "work", tmp_path / "home"
    (workspace / "bin").mkdir(parents=True)
    home.mkdir()
    for name in ("bin/server", "server.js"):
        (workspace / name).write_text("#!/bin/sh\n", encoding="utf-8")
        (workspace / name).chmod(0o755)
    (home / "link").symlink_to(workspace / "bin" / "server")
    return workspace, home


def refused(places, *command, env=(), cwd="", path="/usr/bin:/bin", is_sandboxed=False):
    """What is said of a server that does not start; nothing may have been started."""
    workspace, home = places
    sandbox = Unconfined(SandboxPolicy(workspace))
    launcher = ServerLauncher(sandbox.policy, sandbox.make, {"HOME": str(home), "PATH": path})
    server = McpServerConfig(
        "s", Path("mcp.json"), "user", "d", command=command, env=dict(env), cwd=cwd, is_sandboxed=is_sandboxed
    )
    with pytest.raises(ServerFault) as caught:
        asyncio.run(launcher.start(server))
    assert sandbox.commands == []
    return str(caught.value)


def test_a_program_of_the_workspace_is_refused(places):
    workspace, home = places
    assert "with the program" in refused(places, str(workspace / "bin" / "server"))
    assert "with the program" in refused(places, "server", path=str(workspace / "bin"))
    assert "with the program" in refused(places, str(home / "link"))


@pytest.mark.parametrize("form", ["{}", "--require={}"])
def test_a_script_of_the_workspace_is_refused(places, form):
    assert "with the file" in refused(places, "/bin/sh", form.format(places[0] / "server.js"))


def test_starting_in_the_workspace_is_refused(places):
    assert "with the directory" in refused(places, "/bin/true", cwd=str(places[0] / "bin"))


@pytest.mark.parametrize("name", ["PATH", "PYTHONPATH", "NODE_PATH", "LD_PRELOAD"])
def test_loading_code_from_the_workspace_is_refused(places, name):
    assert "with the directory of code" in refused(places, "/bin/true", env={name: f"/x:{places[0]}/lib"})


def test_programs_of_the_workspace_are_not_found_by_what_runs_outside(places):
    workspace, home = places
    (workspace / "bin" / "true").write_text("#!/bin/sh\n", encoding="utf-8")
    (workspace / "bin" / "true").chmod(0o755)
    sandbox = Unconfined(SandboxPolicy(workspace))
    variables = {"HOME": str(home), "PATH": f"{workspace}/bin:bin:/usr/bin:/bin"}
    launcher = ServerLauncher(sandbox.policy, sandbox.make, variables)
    server = McpServerConfig("s", Path("mcp.json"), "user", "d", command=("true",), is_sandboxed=False)

    async def run():
        await (await launcher.start(server)).wait()

    asyncio.run(run())
    assert sandbox.commands[0][0] == ["/usr/bin/true"]
    assert sandbox.made[0][2]["PATH"] == "/usr/bin:/bin"


def test_the_workspace_as_data_is_fine(places):
    workspace, home = places

    async def run():
        sandbox = Unconfined(SandboxPolicy(workspace))
        launcher = ServerLauncher(sandbox.policy, sandbox.make, {"HOME": str(home), "PATH": "/usr/bin:/bin"})
        server = McpServerConfig(
            "s", Path("mcp.json"), "user", "d", command=("true", str(workspace)), is_sandboxed=False
        )
        return await (await launcher.start(server)).wait()

    assert asyncio.run(run()).status == 0


@pytest.mark.parametrize("is_sandboxed", [True, False])
def test_a_program_that_is_not_there_is_named(places, is_sandboxed):
    assert "there is no program 'nowhere'" in refused(places, "nowhere", is_sandboxed=is_sandboxed)


def test_a_command_line_in_one_text_is_explained(places):
    assert '; put its arguments into "args"' in refused(places, "npx -y server", is_sandboxed=True)


def test_programs_that_fetch_what_they_run_are_explained():
    server = McpServerConfig("s", Path("mcp.json"), "user", "d", command=(os.path.join("/usr/bin", "npx"), "x"))
    assert "npx needs the network" in start_hint(server, Path("/w"), Path("/h"))
    for config in ({"command": ("node", "x")}, {"url": "https://x.test"}):
        assert start_hint(McpServerConfig("s", Path("mcp.json"), "user", "d", **config), Path("/w"), Path("/h")) == ""


def test_a_file_of_the_home_that_the_sandbox_hides_is_named_with_what_shows_it(tmp_path):
    home, workspace, script = tmp_path / "home", tmp_path / "home" / "work", tmp_path / "home" / "servers" / "one.py"
    for file in (script, workspace / "two.py"):
        file.parent.mkdir(parents=True)
        file.touch()

    def hint(file, **more):
        server = McpServerConfig("s", Path("mcp.json"), "user", "d", command=("python3", str(file)), **more)
        return start_hint(server, workspace, home)

    assert f"hides {script} from it" in hint(script) and f'"readable": ["{script.parent}"]' in hint(script)
    shown = hint(script, readable=(str(script.parent),))
    assert shown == hint(workspace / "two.py") == hint(home / "nowhere.py") == hint(script, is_sandboxed=False) == ""
