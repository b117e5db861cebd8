"""Runs the built-in tools without a session."""

from __future__ import annotations

import asyncio

from a3b.agent.tools.built_in import BuiltInTools
from a3b.agent.tools.kept_output import KeptOutput
from a3b.agent.tools.tool import ToolCallContext, ToolError
from tests.support.bare_sandbox import BareSandbox


def with_tools(workspace, use, agents_md=""):
    """What `use(tools, sandbox)`, a coroutine function, returns; everything that was started has ended then."""

    async def go():
        kept, sandbox = KeptOutput(), BareSandbox(workspace)
        tools = BuiltInTools(sandbox, kept, agents_md)
        try:
            return await use(tools, sandbox)
        finally:
            await tools.close()
            kept.close()

    return asyncio.run(go())


async def text_of(tools, name, emit=lambda text: None, /, **arguments):
    """What the model reads of a call; errors begin with "Error: "."""
    tool = next(tool for tool in tools.all if tool.name == name)
    try:
        return (await tool.run(arguments, ToolCallContext("call", emit))).text
    except ToolError as error:
        return f"Error: {error}"


def texts_of(workspace, *calls, agents_md=""):
    """What the model reads of calls (name, arguments), one after the other."""

    async def use(tools, sandbox):
        return [await text_of(tools, name, **arguments) for name, arguments in calls]

    return with_tools(workspace, use, agents_md)
