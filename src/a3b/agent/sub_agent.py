"""Sub-agents: forks of the conversation that work on one task and report back, one at a time.

The child's requests begin with the parent's messages, so the server goes on from the state that it has computed for the
parent: a fork costs its own tokens only. The parent's next request extends its own last one as if there had been no
fork. Enter at `SubAgents.spawn`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from a3b.agent.compaction import Compactor
from a3b.agent.control import TaskControl
from a3b.agent.events import AgentEvent, Notice, TaskFinished, ToolFinished, ToolStarted, TurnFinished
from a3b.agent.loop import LoopParts, TaskLoop
from a3b.agent.sessions import ProjectSessions
from a3b.agent.tools.tool import ToolCallContext, ToolError, ToolResult
from a3b.agent.transcript import AgentTranscript, Message

MAX_TURNS = 40
BOUNDARY = """\
You are a sub-agent now. The conversation above is your parent's, which you were copied from; its task is not yours.
Do only this, with the same tools and the same rules, and start no further agent:

{task}

Your last message is all that your parent gets: what you found and did, with paths and lines."""
NOT_HERE = "Error: not run here: this is a call of your parent's."


class SubAgents:
    """Of one session. parts: of the parent's loop; control: of the task that runs."""

    def __init__(self, sessions: ProjectSessions, parts: LoopParts, control: TaskControl):
        self._sessions, self._parts, self._control = sessions, parts, control
        self._is_nested = False

    async def spawn(self, task: str, context: ToolCallContext) -> ToolResult:
        """Works on a task to its end. Raises ToolError."""
        if self._is_nested:
            raise ToolError("a sub-agent starts no further agent; do the task yourself")
        if not task.strip():
            raise ToolError("the task is empty")
        self._is_nested = True
        try:
            return await self._worked(task, context)
        finally:
            self._is_nested = False

    async def _worked(self, task: str, context: ToolCallContext) -> ToolResult:
        parent = self._parts.transcript
        child = self._sessions.create("sub-agent", parent.head.id, parent.turn, parent.head.model)
        try:
            child.begin_anew(
                forked(parent.messages, context.call, task),
                turn=parent.turn,
                task=task,
                prompt=parent.state.prompt,
                written=parent.state.written,
                counted=parent.state.counted,
            )
            context.emit(f"sub-agent {child.head.id}\n")
            control = self._control.child(MAX_TURNS)
            finished = await TaskLoop(self._of_child(child, context, control), control).run()
        finally:
            child.close()
        if finished.status == "done":
            return ToolResult(finished.text)
        return ToolResult(f"Error: the sub-agent did not finish ({finished.status}): {finished.text}", is_error=True)

    def _of_child(self, child: AgentTranscript, context: ToolCallContext, control: TaskControl) -> LoopParts:
        emit = _lines(context.emit)
        parent = self._parts
        compactor = Compactor(parent.requests, child, emit, lambda: "", parent.requests.facts.context)
        turn = parent.transcript.turn  # what a child changes belongs to the turn that started it, for an undo
        return replace(
            parent,
            transcript=child,
            emit=emit,
            make_room=lambda size: compactor.make_room(size, control),
            around_call=lambda tool, summary, _, run: parent.around_call(tool, summary, turn, run),
            reports=list,
        )


def forked(messages: list[Message], call: str, task: str) -> list[Message]:
    """The parent's conversation up to the call, whose result says what the child is. Other calls of that answer that
    have no result yet get one, so that none is left open."""
    answer = next(message for message in reversed(messages) if message["role"] == "assistant")
    answered = {message.get("tool_call_id") for message in messages if message["role"] == "tool"}
    found = list(messages)
    for other in answer.get("tool_calls", ()):
        if other["id"] == call:
            found.append({"role": "tool", "tool_call_id": call, "content": BOUNDARY.format(task=task)})
        elif other["id"] not in answered:
            found.append({"role": "tool", "tool_call_id": other["id"], "content": NOT_HERE})
    return found


def _lines(emit: Callable[[str], None]) -> Callable[[AgentEvent], None]:
    """Shows a child's steps as lines of the call that started it."""

    def show(event: AgentEvent) -> None:
        match event:
            case ToolStarted(summary=summary):
                emit(f"  {summary}\n")
            case ToolFinished(text=text, is_error=True):
                emit(f"  {text.splitlines()[0][:200] if text else 'Error'}\n")
            case TurnFinished(usage=usage, recomputed=recomputed):
                again = f", {recomputed:,} again" if recomputed else ""
                emit(f"  [{usage.read:,} read, {usage.cached:,} cached{again}, {usage.written:,} written]\n")
            case Notice(text=text):
                emit(f"  {text}\n")
            case TaskFinished():
                pass

    return show
