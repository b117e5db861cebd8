"""Conversations of the task generators as token ids with loss weights.

The prompt text comes from nano's own chat template; ids are cut at control tokens exactly as at inference.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer


class Renderer:
    def __init__(self, model_dir: Path):
        spec = json.loads((model_dir / "tokenizer.json").read_text(encoding="utf-8"))
        self.control = {t["content"]: t["id"] for t in spec.pop("added_tokens")}
        self.text = Tokenizer.from_str(json.dumps({**spec, "added_tokens": []}))
        self.pattern = re.compile("(" + "|".join(re.escape(c) for c in self.control) + ")")
        env = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        env.filters["tojson"] = lambda value, **_: json.dumps(value, ensure_ascii=False)
        env.globals["raise_exception"] = _refuse
        self.template = env.from_string((model_dir / "chat_template.jinja").read_text(encoding="utf-8"))
        self.cache: dict[str, list[int]] = {}

    def encode(self, text: str) -> list[int]:
        """Ids of a rendered prompt whose control tokens are trusted: the generators write none into their texts."""
        ids: list[int] = []
        for piece in self.pattern.split(text):
            if piece in self.control:
                ids.append(self.control[piece])
            elif piece:
                if piece not in self.cache:
                    if len(self.cache) > 50_000:
                        self.cache.clear()
                    self.cache[piece] = self.text.encode(piece, add_special_tokens=False).ids
                ids.extend(self.cache[piece])
        return ids

    def supervised(self, example, preserve: bool = True) -> tuple[list[int], list[float]]:
        """(ids, weights) of a whole conversation; weight 1 on what the assistant writes.

        With `preserve` false the template's default applies, and only turns that keep their thinking are taught."""
        kwargs = {"preserve_thinking": preserve, **example.kwargs}
        text = self.template.render(
            messages=example.messages, tools=example.tools, add_generation_prompt=False, **kwargs
        )
        closed = kwargs.get("enable_thinking") is False
        opener = "<|im_start|>assistant\n<think>\n" + ("\n</think>\n\n" if closed else "")
        ids: list[int] = []
        weights: list[float] = []
        pieces = text.split(opener)
        own = [0.0 if m.get("untaught") else 1.0 for m in example.messages if m["role"] == "assistant"]
        own = [0.0, *own[len(own) - len(pieces) + 1 :]]  # the turns that keep their thinking are the last ones
        for index, part in enumerate(pieces):
            if index == 0:
                ids += self.encode(part)
                weights += [0.0] * len(ids)
                continue
            head = self.encode(opener)
            answer, end, rest = part.partition("<|im_end|>")
            body, tail = self.encode(answer + end), self.encode(rest)
            ids += head + body + tail
            other = example.context_weight if "def " in rest else 0.0
            weights += [0.0] * len(head) + [own[index]] * len(body) + [other] * len(tail)
        return ids, weights


def _refuse(message: str):
    raise ValueError(message)
