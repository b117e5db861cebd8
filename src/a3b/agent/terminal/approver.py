"""Asks the user before something leaves the sandbox. Enter at `TerminalApprover`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from rich.text import Text

from a3b.agent.approvals import ApprovalRequest, Decision
from a3b.agent.terminal.lines import DIFF_STYLES, fit_line, output_lines

CHOICES = "[o]nce, [a]lways or [N]o?"
WORDS: dict[str, Decision] = {
    "o": "once",
    "once": "once",
    "y": "once",
    "yes": "once",
    "a": "always",
    "always": "always",
    "": "no",
    "n": "no",
    "no": "no",
}
SHOWN_LINES, DIFF_LINES = 12, 400  # of a text; of a change
TAKEN_BACK = "/tools forget takes it back"


class AskingScreen(Protocol):
    """What an approver needs of a screen."""

    def write(self, text: Text, wrap: bool = True) -> None: ...

    async def ask(self, question: Text, choices: str) -> str: ...


class TerminalApprover:
    """Anything but a clear yes is a no, and what is no answer at all is asked again."""

    def __init__(self, screen: AskingScreen, waits: Callable[[bool], None] = lambda waits: None):
        """waits: is told when an answer is waited for, and when not any more."""
        self._screen, self._waits = screen, waits

    async def ask(self, request: ApprovalRequest) -> Decision:
        self._waits(True)
        try:
            return await self._answer(_question(request))
        finally:
            self._waits(False)

    async def _answer(self, question: Text) -> Decision:
        while True:
            answer = (await self._screen.ask(question, CHOICES)).lower()
            if answer in WORDS:
                decision = WORDS[answer]
                self._screen.write(Text(f"answered: {decision}", "dim"))
                return decision
            question = Text(f"{fit_line(answer, 40)!r} is none of once, always and no", "yellow")


def _question(request: ApprovalRequest) -> Text:
    text = Text()
    always = f"{request.always or f'{request.kind} {request.subject}'}; {TAKEN_BACK}"
    rows = ("Allow", request.what), ("why", request.why), ("where", request.where), ("always would allow", always)
    for label, value in rows:
        if value:
            lines = value.split("\n")
            shown = [fit_line(line, 400) for line in lines[:SHOWN_LINES]]
            shown += [f"... {len(lines) - SHOWN_LINES} more lines"] if len(lines) > SHOWN_LINES else []
            text.append(f"{label}: ", "bold yellow" if label == "Allow" else "dim")
            text.append("\n       ".join(shown) + "\n")
    lines = output_lines(request.diff) if request.diff else []
    for line in lines[:DIFF_LINES]:
        text.append(f"    {line}\n", DIFF_STYLES.get(line[:1], ""))
    if len(lines) > DIFF_LINES:
        text.append(f"    {len(lines) - DIFF_LINES:,} more lines are NOT shown\n", "bold yellow")
    text.rstrip()
    return text
