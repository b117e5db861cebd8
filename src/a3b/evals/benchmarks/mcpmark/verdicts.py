"""Whether a try solved its task, as the official verify.py says. Enter at `verdict_of`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from a3b.errors import A3BError
from a3b.evals.benchmarks.mcpmark.states import McpMarkState, Workplace
from a3b.evals.benchmarks.mcpmark.tasks import McpMarkTask

MAX_OUTPUT = 20_000  # characters that are kept, half from each end
# what a script prints when it could not judge at all
BROKEN = re.compile(r"^(?:ModuleNotFoundError|ImportError|SyntaxError|IndentationError): .*", re.MULTILINE)

FAILED = re.compile(r"[✗❌]|\bFAIL|\b(?:Missing|missed)\b", re.IGNORECASE)


class VerifierBroken(A3BError):
    """verify.py could not run: an error of the run, not a wrong answer."""


@dataclass(frozen=True)
class McpMarkVerdict:
    """passed: exit status 0 in time; output: what the script printed; why: "" if it ended by itself."""

    passed: bool
    output: str
    why: str = ""

    @property
    def reason(self) -> str:
        """The lines that say what failed, or the last one."""
        lines = [line.strip() for line in self.output.splitlines() if line.strip()]
        found = [line for line in lines if FAILED.search(line)]
        return " / ".join((found or lines[-1:])[:3])[:300]


async def verdict_of(workplace: Workplace, task: McpMarkTask, state: McpMarkState) -> McpMarkVerdict:
    """Runs verify.py. Raises VerifierBroken."""
    words = [str(task.verifier)]
    if database := state.variables.get("POSTGRES_DATABASE"):
        words.append(database)
    done = await workplace.run_script(task, words, state.variables, state.places)
    if done.status and (found := BROKEN.search(done.output)):
        raise VerifierBroken(f"{task.verifier}: {found[0][:300]}")
    return McpMarkVerdict(done.status == 0 and not done.why, shortened(done.output), done.why)


def shortened(text: str) -> str:
    """A text without its middle if it is long."""
    if len(text) <= MAX_OUTPUT:
        return text
    half = MAX_OUTPUT // 2
    return f"{text[:half]}\n... {len(text) - MAX_OUTPUT:,} characters ...\n{text[-half:]}"
