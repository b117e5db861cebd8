"""How questions go to the model, and how answers become scores: what the benchmarks of one question a case share.

Seeds and the endpoint are the harness's. Enter at `generate_config`, `right_or_wrong`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from a3b.evals.options import EvalOptions

THINKING = {"temperature": 1.0, "top_p": 0.95, "top_k": 20, "min_p": 0.0, "presence_penalty": 1.5}  # general tasks
CODING = {**THINKING, "temperature": 0.6, "presence_penalty": 0.0}  # precise coding
IN_BODY = ("top_k", "min_p", "repetition_penalty")  # fields that OpenAI's own API does not have

CARD = "the card's preset for thinking in general tasks (temperature 1.0, top_p 0.95, top_k 20, presence_penalty 1.5)"
CARD_CODING = "the card's preset for precise coding (temperature 0.6, top_p 0.95, top_k 20)"


def generate_config(options: EvalOptions, preset: Mapping[str, float], max_tokens: int) -> Any:
    """inspect-ai's GenerateConfig: the preset, what the user set over it, and the thinking policy."""
    from inspect_ai.model import GenerateConfig

    fields = {**preset, "max_tokens": max_tokens, **options.sampling}
    known = GenerateConfig.model_fields.keys() - {"extra_body", *IN_BODY}
    body = {name: value for name, value in fields.items() if name not in known}
    body |= options.fields()
    return GenerateConfig(**{name: value for name, value in fields.items() if name in known}, extra_body=body or None)


def right_or_wrong(judge: Any, name: str) -> Any:
    """A scorer from `judge(state, target)`, which says whether an answer is right, what it was and why."""
    from inspect_ai.scorer import CORRECT, INCORRECT, Score, accuracy, scorer, stderr

    async def score(state: Any, target: Any) -> Any:
        is_right, answer, why = await judge(state, target)
        return Score(value=CORRECT if is_right else INCORRECT, answer=answer, explanation=why)

    def make() -> Any:
        return score

    return scorer(metrics=[accuracy(), stderr()], name=name)(make)()
