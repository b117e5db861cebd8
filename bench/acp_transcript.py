"""What an editor and `a3b code --acp` tell each other, in short form, as in docs/agent.md.

    python -m bench.acp_transcript

The agent is a real process on a server that says what the script has (`bench.scripted_serve`). Each message is printed
as it goes over the pipe, without the envelope of JSON-RPC and with long values cut; pieces of one kind are joined."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from a3b.agent.demo import TASK, write_demo
from bench.agent_picture import SCRIPT, served

FETCH = "python3 -c 'import urllib.request as u; u.urlopen(\"http://example.org\")' 2>&1 | tail -1"
CALLS = [*SCRIPT["commands"], FETCH]  # type: ignore[misc]
LEFT_OUT = ("_meta", "cwd", "mcpServers", "usage")
LONGEST = 120  # characters of a line
VALUE = 60  # of a text in it


class Editor:
    """The client's side of a pipe to the agent."""

    def __init__(self, process: subprocess.Popen[str]):
        self.process, self.count = process, 0
        self.chunk: tuple[str, str] | None = None  # kind and text of pieces that are not shown yet

    def send(self, message: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
        self.process.stdin.flush()

    def ask(self, method: str, **params: Any) -> Any:
        """The result; prints all that is said until it comes."""
        self.count += 1
        self.send({"id": self.count, "method": method, "params": params})
        show("-->", method, params)
        for line in self.process.stdout or ():
            message = json.loads(line)
            if message.get("id") == self.count and "method" not in message:
                self.end_chunk()
                show("<--", method, message.get("result", message.get("error")))
                return message.get("result")
            self.take(message)

    def take(self, message: dict[str, Any]) -> None:
        params = message["params"]
        if message["method"] == "session/request_permission":
            names = [option["name"] for option in params["options"]]
            show("<--", message["method"], {"title": params["toolCall"].get("title"), "options": names})
            chosen = next(option["optionId"] for option in params["options"] if option["kind"] == "reject_once")
            outcome = {"outcome": {"outcome": "selected", "optionId": chosen}}
            self.send({"id": message["id"], "result": outcome})
            show("-->", message["method"], outcome["outcome"])
        elif message["method"] == "session/update":
            self.update(params["update"])

    def update(self, update: dict[str, Any]) -> None:
        kind = update["sessionUpdate"]
        if kind.endswith("_chunk"):
            if self.chunk and self.chunk[0] != kind:
                self.end_chunk()
            self.chunk = (kind, (self.chunk[1] if self.chunk else "") + update["content"]["text"])
            return
        self.end_chunk()
        if kind == "tool_call":
            show("<--", kind, {name: update[name] for name in ("title", "kind")})
        elif kind == "tool_call_update" and update.get("status"):
            shown = [part.get("content", {}).get("text") or part.get("newText") for part in update.get("content", ())]
            types = [part["type"] for part in update.get("content", ())]
            show("<--", kind, {"status": update["status"], **dict(zip(types, shown, strict=True))})

    def end_chunk(self) -> None:
        if self.chunk:
            show("<--", self.chunk[0], self.chunk[1])
        self.chunk = None


def show(arrow: str, name: str, value: Any) -> None:
    line = f"{arrow} {name.removeprefix('session/')} {json.dumps(cut(value), ensure_ascii=False)}"
    print(line if len(line) <= LONGEST else line[: LONGEST - 3] + "...")


def cut(value: Any) -> Any:
    """Without what is empty, and with long texts shortened."""
    if isinstance(value, dict):
        return {key: cut(entry) for key, entry in value.items() if entry not in (None, [], {}) and key not in LEFT_OUT}
    if isinstance(value, list):
        return [cut(entry) for entry in value]
    return value if not isinstance(value, str) or len(value) <= VALUE else value[: VALUE - 3] + "..."


def main() -> int:
    with tempfile.TemporaryDirectory() as root:
        work = Path(root) / "books"
        work.mkdir()
        write_demo(work)
        with served(Path(root), Path(root) / "home", {**SCRIPT, "commands": CALLS}) as port:
            command = [sys.executable, "-m", "a3b.cli", "code", "--acp", "--base-url", f"http://127.0.0.1:{port}"]
            env = os.environ | {"A3B_HOME": str(Path(root) / "home")}
            with subprocess.Popen(command, stdin=-1, stdout=-1, text=True, env=env, cwd=work) as process:
                editor = Editor(process)
                editor.ask("initialize", protocolVersion=1, clientCapabilities={})
                session = editor.ask("session/new", cwd=str(work), mcpServers=[])["sessionId"]
                editor.ask("session/prompt", sessionId=session, prompt=[{"type": "text", "text": TASK}])
                copy = editor.ask("session/fork", sessionId=session, cwd=str(work), mcpServers=[])["sessionId"]
                editor.ask("session/prompt", sessionId=copy, prompt=[{"type": "text", "text": "/cost"}])
                assert process.stdin is not None
                process.stdin.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
