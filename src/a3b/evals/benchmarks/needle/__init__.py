"""needle: facts in a long text, by their depth and the length of the text; asked in the same words, in others, and
several at once. Enter at `BENCHMARK`."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Mapping
from contextlib import aclosing
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from a3b.agent.answer import ModelAnswer
from a3b.agent.client import ModelClient
from a3b.errors import A3BError, UsageError
from a3b.evals.benchmark import Benchmark, CaseTokens
from a3b.evals.benchmarks.needle.haystack import KINDS, Facts, Haystack, draw_facts
from a3b.evals.benchmarks.needle.judge import judged
from a3b.evals.benchmarks.needle.table import finish
from a3b.evals.family_task import as_solver, shown, verdict
from a3b.evals.options import EvalOptions, whole_number
from a3b.evals.records import CaseCost
from a3b.evals.tries import current_try
from a3b.units import token_count

if TYPE_CHECKING:
    from inspect_ai import Task

LENGTHS = (1024, 2048, 4096, 8192, 16_384, 32_768, 65_536, 131_072, 262_144, 524_288, 1_010_000)
DEPTHS = (0, 25, 50, 75, 100)
EACH = 4  # cases of a cell
ROOM = 512  # tokens of the longest text that are left to the question and the answer
NATIVE = 262_144  # context of the large model
OVERHEAD = 48  # tokens of the question and of the template
SAMPLE_CHARS = 20_000  # by which the tokens of a character are measured
GREEDY: Mapping[str, Any] = {"temperature": 0.0, "max_tokens": 4096}


@dataclass(frozen=True)
class Cell:
    """Cases that are alike. length: tokens of the prompt; depth: of the first fact asked for, in percent."""

    kind: str
    length: int
    depth: int


@dataclass(frozen=True)
class NeedleGrid:
    """What is asked for: kinds, lengths, depths, and the cases of each cell."""

    kinds: tuple[str, ...]
    lengths: tuple[int, ...]
    depths: tuple[int, ...]
    each: int
    thinks: bool

    @classmethod
    def of(cls, extra: Mapping[str, str], context: int | None) -> NeedleGrid:
        """context: of the server, if it says so. Raises UsageError."""
        kinds = tuple(extra.get("kinds", ",".join(KINDS)).split(","))
        for kind in kinds:
            if kind not in KINDS:
                raise UsageError(f"--set kinds={kind[:40]!r}: expected {', '.join(KINDS)}, with commas between them")
        most = None if context is None else context - ROOM
        if "lengths" in extra:
            lengths = _numbers("lengths", extra["lengths"], 128, 1 << 24)
        else:
            lengths = _up_to(context)
        if most is not None and max(lengths) > most:
            raise UsageError(
                f"--set lengths: {max(lengths):,} tokens; the server's context of {context:,} leaves {most:,} beside "
                f"the answer; serve with --context, or leave longer ones out"
            )
        depths = DEPTHS if "depths" not in extra else _numbers("depths", extra["depths"], 0, 100)
        think = extra.get("think", "on")
        if think not in ("on", "off"):
            raise UsageError(f"--set think={think[:40]!r}: expected on or off")
        each = whole_number(extra, "each", EACH, most=10_000)
        return cls(
            tuple(dict.fromkeys(kinds)),
            tuple(dict.fromkeys(lengths)),
            tuple(dict.fromkeys(depths)),
            each,
            think == "on",
        )

    def cells(self) -> Iterator[tuple[str, Cell, int]]:
        """(id, cell, number) of every case. The first ones of all cells come first, so that --limit cuts evenly; depths
        from the end of a text to its beginning, so that a cache of prefixes of any length serves the next. a3b's has
        those that end with a turn, and reads each text anew."""
        for number in range(self.each):
            for kind in self.kinds:
                for length in self.lengths:
                    for depth in sorted(self.depths, reverse=True):
                        yield f"{kind}-{length}-{depth}-{number}", Cell(kind, length, depth), number


def _up_to(context: int | None) -> tuple[int, ...]:
    """The usual lengths, the last one as long as fits where it is the context itself."""
    if context is None:
        return tuple(n for n in LENGTHS if n <= 32_768)
    return tuple(dict.fromkeys(min(n, context - ROOM) for n in LENGTHS if n <= context)) or (context - ROOM,)


def _numbers(name: str, text: str, least: int, most: int) -> tuple[int, ...]:
    try:
        found = tuple(int(part) if part.strip() == "0" else token_count(part) for part in text.split(","))
    except UsageError as error:
        raise UsageError(f"--set {name}: {error}") from None
    if wrong := [n for n in found if not least <= n <= most]:
        raise UsageError(f"--set {name}={wrong[0]}: expected numbers from {least:,} to {most:,}")
    return found


def context_of(options: EvalOptions) -> int | None:
    """Of the server, if it says so."""

    async def ask() -> int | None:
        async with aclosing(ModelClient(options.base_url, options.api_key, options.model)) as client:
            facts = await client.facts()
            return facts.context if facts.is_known else None

    return asyncio.run(ask())


def check(options: EvalOptions) -> None:
    NeedleGrid.of(options.extra, context_of(options))
    Haystack.of(options.data)


class Measure:
    """Characters of a token in the haystack's language, from the server: its tokenizer, or the usage of a probe."""

    def __init__(self, haystack: Haystack):
        self._sample, self._found, self._lock = haystack.sample(SAMPLE_CHARS), 0.0, asyncio.Lock()

    async def chars(self, client: ModelClient) -> float:
        """Raises ModelServerError."""
        async with self._lock:
            if not self._found:
                counts = [await self._tokens(client, text) for text in (self._sample, "x")]
                self._found = len(self._sample) / max(counts[0] - counts[1], 1)
            return self._found

    async def _tokens(self, client: ModelClient, text: str) -> int:
        facts = await client.facts()
        while len(text) > 1 and len(text) // 2 > facts.context - ROOM:  # two characters are a token in most texts
            text = self._sample = text[: len(text) // 2]
        body = {"model": facts.model, "messages": [{"role": "user", "content": text}]}
        found = await client.count(body)
        if found is not None:
            return found
        answer = await answered(client, {**body, "max_tokens": 1, "temperature": 0.0})
        if answer.prompt is None:
            raise A3BError(
                f"{client.root}: tells neither the tokens of a text (/tokenize) nor those of a prompt (usage), by "
                "which lengths are measured; serve with a3b, llama.cpp's own server, vLLM or SGLang"
            )
        return answer.prompt


async def answered(client: ModelClient, body: Mapping[str, Any]) -> ModelAnswer:
    """One answer. Raises A3BError."""
    request = {"stream": True, "stream_options": {"include_usage": True}, **body}
    async with aclosing(client.answer(request, set())) as items:
        async for item in items:
            if isinstance(item, ModelAnswer):
                return item
    raise A3BError(f"{client.root}: the answer has no end")


def make_task(options: EvalOptions) -> Task:
    from inspect_ai import Task
    from inspect_ai.dataset import MemoryDataset, Sample

    grid, haystack = NeedleGrid.of(options.extra, context_of(options)), Haystack.of(options.data)
    cells = {name: (cell, number) for name, cell, number in grid.cells()}
    samples = [Sample(id=name, input=f"{c.kind}, {c.length:,} tokens, {c.depth} %") for name, (c, _) in cells.items()]
    measure = Measure(haystack)

    async def solve(state: Any, generate: Any) -> Any:
        cell, number = cells[current_try().case]
        facts, seed = case_of(cell, number)
        server = ModelClient(options.base_url, options.api_key, options.model, streams=options.streams)
        async with aclosing(server) as client:
            chars = (cell.length - OVERHEAD) * await measure.chars(client)
            text = haystack.text(seed, facts, int(chars), cell.depth / 100)
            message = {"role": "user", "content": f"{text}\n\n{facts.question}"}
            thinks = {} if grid.thinks else {"chat_template_kwargs": {"enable_thinking": False}}
            fields = {**GREEDY, "seed": current_try().seed, **options.sampling, **options.fields(), **thinks}
            served = await client.facts()
            answer = await answered(client, {"model": served.model, "messages": [message], **fields})
        score, detail = judged(answer.text, facts)
        if answer.reason == "length" or answer.is_cut:
            detail = f"the answer was cut off; {detail}"
        usage = answer.usage
        found = {"kind": cell.kind, "length": cell.length, "depth": cell.depth}
        found |= {"prompt_tokens": usage.read + usage.cached or None}
        cost = asdict(CaseCost.of_request(usage.read, usage.cached, usage.written, usage.thinking))
        state.messages = [shown(_short(message)), shown(answer.message)]
        state.metadata["a3b"] = {"cost": cost, "detail": detail, "facts": found}
        state.metadata["outcome"] = {"ok": score, "detail": detail}
        return state

    return Task(dataset=MemoryDataset(samples, name="needle"), solver=as_solver("needle", solve), scorer=verdict())


def case_of(cell: Cell, number: int) -> tuple[Facts, str]:
    """The facts of a case and the seed of its filler; both are the same at all depths, filler for all kinds too."""
    return draw_facts(random.Random(f"{cell.kind}/{cell.length}/{number}"), cell.kind), f"{cell.length}/{number}"


def planned_grid(extra: Mapping[str, str]) -> NeedleGrid:
    """What a run on a server with the native context does, or with one that suffices for the lengths named."""
    return NeedleGrid.of(extra, None if "lengths" in extra else NATIVE)


def expected(grid: NeedleGrid) -> list[CaseTokens]:
    """What a case of each length costs."""
    source = f"lengths from {min(grid.lengths):,} to {max(grid.lengths):,}; answers of 300 tokens are assumed"
    return [CaseTokens(length, 300, 0, source) for length in grid.lengths]


def _short(message: Mapping[str, Any]) -> dict[str, Any]:
    """For the transcript: a text of a million tokens, made again from the case's id, without its middle."""
    text = str(message["content"])
    if len(text) <= 8000:
        return dict(message)
    return {**message, "content": f"{text[:4000]}\n[{len(text) - 8000:,} characters]\n{text[-4000:]}"}


BENCHMARK = Benchmark(
    name="needle",
    summary="facts in a long text, by depth and length: in the same words, in others, several at once",
    source="a3b's own generator (a3b.evals.benchmarks.needle), in a text of --data FILE or generated sentences",
    licence="Apache-2.0",
    make_task=make_task,
    check=check,
    protocol="no score is published with this generator; one public test of this model hid 20 facts: 16 found at "
    "50,000 tokens natively, 11 with YaRN factor 2; 20 and 19 at 250,000; 20 with factor 2 at 500,000",
    tokens_per_case=expected(NeedleGrid.of({}, NATIVE))[0],
    spread=lambda extra: expected(planned_grid(extra)),
    count=lambda extra: sum(1 for _ in planned_grid(extra).cells()),
    finish=finish,
    data="a text in which the facts are hidden (default: generated sentences)",
    extra={
        "lengths": "tokens of the prompts (default 1k, 2k, 4k ... up to the server's context)",
        "depths": "where the fact stands, in percent (default 0,25,50,75,100)",
        "kinds": f"of {', '.join(KINDS)} (default all)",
        "each": f"cases of each kind, length and depth (default {EACH})",
        "think": "off: answer without thinking (default on)",
    },
)
