"""MCPMark's scores from the tries of each task: pass@1, avg@k, pass@k, pass^k. Enter at `scores_of`, `score_lines`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev


@dataclass(frozen=True)
class McpMarkScores:
    """Shares of tasks. k: tries of each; pass_1: of one try, averaged over the k runs, which MCPMark also calls avg@k;
    pass_1_spread: standard deviation between runs; pass_k: solved in any try, pass_hat_k: solved in all of them."""

    tasks: int
    k: int
    pass_1: float
    pass_1_spread: float
    pass_k: float
    pass_hat_k: float

    def line(self) -> str:
        """For people."""
        if self.k == 1:
            return f"{self.tasks} tasks, one try: pass@1 {self.pass_1:.1%}"
        return (
            f"{self.tasks} tasks, {self.k} tries: pass@1 = avg@{self.k} {self.pass_1:.1%} ± {self.pass_1_spread:.1%}, "
            f"pass@{self.k} {self.pass_k:.1%}, pass^{self.k} {self.pass_hat_k:.1%}"
        )


def scores_of(tries: Mapping[str, Sequence[bool]]) -> McpMarkScores:
    """tries: by task, whether each try passed; all tasks have the same number. Raises ValueError otherwise."""
    counts = {len(passed) for passed in tries.values()}
    if len(counts) != 1 or 0 in counts:
        raise ValueError(f"tries of each task: {sorted(counts)}; expected the same number for all, at least one")
    k = counts.pop()
    runs = [fmean(passed[run] for passed in tries.values()) for run in range(k)]
    return McpMarkScores(
        tasks=len(tries),
        k=k,
        pass_1=fmean(runs),
        pass_1_spread=pstdev(runs),
        pass_k=fmean(any(passed) for passed in tries.values()),
        pass_hat_k=fmean(all(passed) for passed in tries.values()),
    )


def score_lines(tries: Mapping[str, Sequence[float]]) -> list[str]:
    """Lines for people, from the scores of the tries of each task. Tasks with fewer tries than others are left out, and
    told."""
    if not tries:
        return []
    k = max(map(len, tries.values()))
    whole = {task: [score == 1 for score in scores] for task, scores in tries.items() if len(scores) == k}
    lines = [f"MCPMark    {scores_of(whole).line()}"]
    if len(whole) < len(tries):
        lines.append(f"           {len(tries) - len(whole)} tasks have fewer than {k} tries, and are not in this line")
    return lines
