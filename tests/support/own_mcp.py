"""An MCP server of our own, written with the SDK: a tool of each kind, a resource, a template and a prompt.

python -m tests.support.own_mcp            # on stdin and stdout
python -m tests.support.own_mcp http PORT  # on 127.0.0.1, at /mcp
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from mcp.server.mcpserver import Image, MCPServer
from mcp.server.mcpserver.exceptions import ToolError

server = MCPServer("own")


@server.tool()
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@server.tool()
def write(path: str, text: str) -> str:
    """Write a file."""
    Path(path).write_text(text, encoding="utf-8")
    return f"wrote {path}"


@server.tool()
def fail() -> str:
    """Fail."""
    raise ToolError("it cannot be done")


@server.tool()
def picture() -> Image:
    """A picture."""
    return Image(data=b"\x89PNG" + bytes(100), format="png")


@server.tool()
def variables() -> dict[str, str]:
    """The environment."""
    return dict(os.environ)


@server.resource("note://today")
def today() -> str:
    """What is to be done today."""
    return "buy bread"


@server.resource("note://{day}/plan")
def plan(day: str) -> str:
    """The plan of a day."""
    return f"nothing on {day}"


@server.prompt()
def review(file: str) -> str:
    """Review a file."""
    return f"Review {file} for mistakes."


def main() -> None:
    if sys.argv[1:2] == ["http"]:
        server.run("streamable-http", host="127.0.0.1", port=int(sys.argv[2]))
    else:
        server.run("stdio")


if __name__ == "__main__":
    main()
