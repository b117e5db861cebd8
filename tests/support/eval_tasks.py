"""Runs a benchmark's task with a scripted model in place of a server. Needs inspect-ai."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from a3b.evals.options import EvalOptions

Answer = str | Sequence[tuple[str, dict[str, Any]]]  # a text, or calls: name and arguments


def options(tmp_path: Path, **fields: Any) -> EvalOptions:
    return EvalOptions(base_url="http://127.0.0.1:9", model="scripted", home=tmp_path / "home", **fields)


def scripted(answer: Callable[[list[Any], list[Any]], Answer]) -> Any:
    """A model of inspect-ai that says what `answer(messages, tools)` returns."""
    from inspect_ai.model import ChatCompletionChoice, ChatMessageAssistant, ModelOutput, ModelUsage, get_model
    from inspect_ai.tool import ToolCall

    def say(messages: list[Any], tools: list[Any], choice: Any, config: Any) -> Any:
        said = answer(messages, tools)
        calls = [] if isinstance(said, str) else list(said)
        message = ChatMessageAssistant(
            content=said if isinstance(said, str) else "",
            tool_calls=[ToolCall(id=f"call_{i}", function=n, arguments=a) for i, (n, a) in enumerate(calls)] or None,
        )
        reason = "tool_calls" if calls else "stop"
        usage = ModelUsage(input_tokens=1, output_tokens=1, total_tokens=2)  # else inspect-ai counts, from the internet
        return ModelOutput(
            model="scripted", choices=[ChatCompletionChoice(message=message, stop_reason=reason)], usage=usage
        )

    return get_model("mockllm/model", custom_outputs=say, memoize=False)


def scores(task: Any, answer: Callable[[list[Any], list[Any]], Answer], logs: Path) -> dict[str, float]:
    """The score of each case, by its id. A case that breaks fails the test."""
    log = run(task, answer, logs)
    assert log.status == "success", log.error
    return {str(sample.id): _value(sample) for sample in log.samples or ()}


def run(task: Any, answer: Callable[[list[Any], list[Any]], Answer], logs: Path, **fields: Any) -> Any:
    """inspect-ai's log of a run. The scripted model plays all roles."""
    from inspect_ai import eval as inspect_eval

    model = scripted(answer)
    given = {"model": model, "model_roles": dict.fromkeys(task.model_roles or (), model), **fields}
    return inspect_eval(task, display="none", log_dir=str(logs), log_level="error", **given)[0]


def _value(sample: Any) -> float:
    (score,) = sample.scores.values()
    return {"C": 1.0, "I": 0.0}.get(score.value, score.value)
