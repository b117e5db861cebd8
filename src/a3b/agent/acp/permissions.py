"""Questions of the sandbox, asked by the editor. Enter at `AcpApprover`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from acp import text_block, tool_content
from acp.schema import AllowedOutcome, PermissionOption, ToolCallUpdate

from a3b.agent.acp.updates import SessionUpdates, clean
from a3b.agent.approvals import ApprovalRequest, Decision

OPTIONS = [
    PermissionOption(option_id="once", name="Allow once", kind="allow_once"),
    PermissionOption(option_id="always", name="Always allow in this project", kind="allow_always"),
    PermissionOption(option_id="no", name="Do not allow", kind="reject_once"),
]
DECISIONS: dict[str, Decision] = {"once": "once", "always": "always"}


class AcpApprover:
    """Asks the client. session: its id, once the client knows it; before that nobody can be asked, and the answer is
    no, but for MCP servers that the client itself has given in the file `given`."""

    def __init__(self, client: Any, given: Path | None):
        self._client, self._given = client, given
        self.session: str | None = None
        self.updates: SessionUpdates | None = None
        self.refused: list[ApprovalRequest] = []
        self._num_asked = 0

    async def ask(self, request: ApprovalRequest) -> Decision:
        if request.kind == "mcp_server" and self._given is not None and request.where == str(self._given):
            return "once"
        if self.session is None:
            self.refused.append(request)
            return "no"
        self._num_asked += 1
        running = self.updates.running if self.updates else None
        always = f'"Always" allows {request.always}.' if request.always else ""
        words = "\n".join(filter(None, (request.what, request.why, request.where, always)))
        changes = self.updates.of_diff(request.diff) if self.updates else []
        call = ToolCallUpdate(
            tool_call_id=clean(running or f"approval-{self._num_asked}"),
            title=clean(request.what.partition("\n")[0])[:400],
            status="pending",
            content=[*changes, tool_content(text_block(clean(words)))],
        )
        try:
            answer = await self._client.request_permission(session_id=self.session, tool_call=call, options=OPTIONS)
        except Exception:  # the client has gone, or its answer has no meaning
            return "no"
        if isinstance(answer.outcome, AllowedOutcome):
            return DECISIONS.get(answer.outcome.option_id, "no")
        return "no"
