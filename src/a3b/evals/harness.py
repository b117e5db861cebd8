"""Runs a benchmark's task with inspect-ai: the tries that are missing, in parallel, a record for each that ends.

inspect has the loop over samples, solvers, scorers, tools, sandboxes, limits and the log with every transcript. Which
tries are left is ours: a try is a sample of its own, so a resumed run is a dataset that lacks what is done. That holds
after kill -9, for any part of the epochs, and however inspect's log looks then. Enter at `run_tries`."""

from __future__ import annotations

import io
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from a3b.errors import A3BError, UsageError
from a3b.evals.benchmark import Benchmark
from a3b.evals.options import EvalOptions, case_seed
from a3b.evals.records import CaseCost, CaseRecord, RecordFile
from a3b.evals.tries import CaseTry, begin_try, current_try
from a3b.printable import printable

if TYPE_CHECKING:
    from inspect_ai import Task
    from inspect_ai.dataset import Sample
    from inspect_ai.log import EvalSample
    from inspect_ai.model import Model, ModelOutput

INSTALL = "pip install 'a3b[eval]'"
REQUEST_S = 6 * 3600  # of one request; a model on a CPU may write for hours
RETRIES = 5  # of a request that the server did not answer
MOST_FAILED = 5  # tries in a row that end with an error, and none that does not: the run stops
KEPT_DETAIL = 400  # characters
TESTED = ""  # the role of the model that is tested
REPR = re.compile(r"""\w+\((["'])(.*)\1,?\)""", re.DOTALL)
REQUEST, END_OF_REQUEST = r"\nRequest:\n", r"\n}\n\n"  # in the repr of an error of inspect-ai, before its reason

Tell = Callable[[CaseRecord], None]


class RunStopped(A3BError):
    """Tries are left because the server fails; --resume goes on."""


def check_installed() -> None:
    """Raises UsageError where inspect-ai is not there."""
    try:
        import inspect_ai  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"a3b eval runs benchmarks with inspect-ai, which is not installed ({error}): {INSTALL}"
        ) from None


def planned_tries(task: Task, options: EvalOptions) -> dict[str, tuple[CaseTry, Sample]]:
    """Every try of a run, by the id that its sample gets. Epoch by epoch, so that a cut run has whole epochs."""
    samples = list(task.dataset)[: options.limit]
    if not samples:
        raise UsageError("the benchmark has no cases; check --data and --limit")
    ids = [str(sample.id) if sample.id is not None else str(number) for number, sample in enumerate(samples, 1)]
    if len(set(ids)) < len(ids):
        twice = next(name for name in ids if ids.count(name) > 1)
        raise UsageError(f"two cases have the id {twice[:60]!r}; expected one of each")
    found = {}
    for epoch in range(1, options.epochs + 1):
        for name, sample in zip(ids, samples, strict=True):
            key = name if options.epochs == 1 else f"{name} #{epoch}"
            found[key] = CaseTry(name, epoch, case_seed(options.seed, name, epoch)), sample
    return found


def run_tries(
    benchmark: Benchmark,
    task: Task,
    tries: Mapping[str, tuple[CaseTry, Sample]],
    options: EvalOptions,
    logs: Path,
    records: RecordFile,
    tell: Tell,
) -> None:
    """Runs tries and records each as it ends; `tell` hears of it.

    Raises RunStopped if the server fails again and again, StoreError if a record cannot be written."""
    from inspect_ai import eval as inspect_eval
    from inspect_ai import task_with
    from inspect_ai.dataset import MemoryDataset

    def told(record: CaseRecord) -> None:
        with redirect_stderr(terminal):
            tell(record)

    terminal = sys.stderr
    course = _Course({key: found for key, (found, _) in tries.items()}, records, told)
    samples = [sample.model_copy(update={"id": key}, deep=True) for key, (_, sample) in tries.items()]
    setup = [course.setup(), *([] if task.setup is None else _listed(task.setup))]
    dataset = MemoryDataset(samples, name=task.dataset.name)
    with _Observed(course), redirect_stdout(io.StringIO()), redirect_stderr(EscapedStream(sys.stderr)):
        found = inspect_eval(
            task_with(task, dataset=dataset, setup=setup, epochs=1, name=benchmark.name),
            model=endpoint(options),
            log_dir=str(logs),
            log_format="eval",
            log_buffer=1,
            log_realtime=False,
            log_level="error",
            display="none",
            fail_on_error=False,
            max_samples=options.parallel,
            max_tasks=1,
            score_display=False,
            tags=["a3b"],
            **options.sampling,  # over what the task says
        )
    if course.trouble is not None:
        raise course.trouble
    for log in found:
        if log.error is not None:
            raise A3BError(f"{benchmark.name}: inspect-ai stopped: {log.error.message[:600]}")
    if course.stopped:
        raise RunStopped(
            f"stopped after {MOST_FAILED} errors in a row ({course.stopped[:400]}); what is left runs with --resume"
        )
    if course.num_ended < len(tries):  # inspect-ai ends in order on Ctrl-C, and returns
        raise KeyboardInterrupt


def endpoint(options: EvalOptions, role: str = TESTED) -> Model:
    """The model for inspect-ai: an OpenAI-compatible endpoint that gets a seed of each try. role: what it plays in a
    benchmark, if it is not the model that is tested; it then has seeds of its own, the same for whoever is tested."""
    from inspect_ai.model import GenerateConfig, get_model

    config = GenerateConfig(
        max_retries=RETRIES,
        attempt_timeout=REQUEST_S,
        max_connections=options.parallel,
    )
    try:
        model = get_model(
            f"openai-api/a3b/{options.model}",
            base_url=options.base_url.rstrip("/") + "/v1",
            api_key=options.api_key or "none",
            config=config,
            memoize=False,
            client_timeout=float(REQUEST_S),
            strict_tools=False,
            stream=options.streams,  # a server that reads for hours then shows that it lives
        )
    except Exception as error:  # for a package that is missing or old: inspect-ai does not export its class
        said = " ".join(re.sub(r"\[/?bold\]", "", str(error)).split())
        raise A3BError(f"inspect-ai: {said[:400]}; pip install --upgrade 'a3b[eval]' brings what it needs") from error
    plain = model.api.generate

    async def seeded(input: Any, tools: Any, tool_choice: Any, config: GenerateConfig) -> Any:
        ours: dict[str, Any] = {"extra_body": {**(config.extra_body or {}), **options.fields()}}
        with suppress(LookupError):
            current = current_try()
            ours["seed"] = case_seed(current.seed, role, current.epoch) if role else current.seed
        return await plain(input, tools, tool_choice, config.model_copy(update=ours))

    model.api.generate = seeded
    return model


def _listed(setup: Any) -> Iterable[Any]:
    return setup if isinstance(setup, Sequence) else [setup]


class _Course:
    """What happens while tries run."""

    def __init__(self, tries: Mapping[str, CaseTry], records: RecordFile, tell: Tell):
        self.tries, self._records, self._tell = tries, records, tell
        self.trouble: A3BError | None = None  # that ends the run
        self.stopped = ""  # the error of which there were too many
        self.num_ended = 0
        self._begun: dict[str, float] = {}
        self._session, self._failed, self._worked = time.time(), 0, False

    def setup(self) -> Any:
        """A solver that begins a try."""
        from inspect_ai.solver import solver

        def begin_of_a_try() -> Any:
            async def solve(state: Any, generate: Any) -> Any:
                if self.stopped or self.trouble is not None:
                    raise NotRun("not run: the run stops")
                self._begun[str(state.sample_id)] = time.time()
                begin_try(self.tries[str(state.sample_id)])
                return state

            return solve

        return solver(begin_of_a_try)()

    def ended(self, sample: EvalSample) -> None:
        """Records a sample, unless it was not run."""
        error = sample.error.message if sample.error is not None else ""
        key = str(sample.id)
        if key not in self._begun or self.trouble is not None or error.startswith("CancelledError("):
            return
        try:
            record = record_of(self.tries[key], sample, self._begun[key], self._session)
            self._records.add(record)
            self.num_ended += 1
        except A3BError as trouble:
            self.trouble = trouble
            return
        if sample.error is not None or not record.error:  # a case that cannot be tried here says nothing of the server
            self._failed, self._worked = (self._failed + 1, self._worked) if record.error else (0, True)
        if self._failed >= MOST_FAILED:
            self.stopped = self.stopped or record.error
        self._tell(record)


class EscapedStream(io.TextIOBase):
    """What libraries print beside the progress, such as errors that quote a model, with control characters escaped."""

    def __init__(self, to: TextIO):
        self._to = to

    def write(self, text: str) -> int:
        self._to.write(printable(text, lines=True))
        return len(text)

    def flush(self) -> None:
        self._to.flush()


class NotRun(A3BError):
    """A try that was not begun."""


class _Observed:
    """A hook of inspect-ai, for as long as a run takes."""

    active: _Course | None = None
    registered = False

    def __init__(self, course: _Course):
        self._course = course

    def __enter__(self) -> None:
        _Observed.active = self._course
        if not _Observed.registered:
            _register()
            _Observed.registered = True

    def __exit__(self, *_: object) -> None:
        _Observed.active = None


def _register() -> None:
    from inspect_ai.hooks import Hooks, SampleEnd, hooks

    async def on_sample_end(self: Any, data: SampleEnd) -> None:
        if _Observed.active is not None:
            _Observed.active.ended(data.sample)

    kind = type("A3BEvalHooks", (Hooks,), {"on_sample_end": on_sample_end})
    hooks(name="a3b_eval", description="records of a3b eval")(kind)


def record_of(found: CaseTry, sample: EvalSample, begun: float, session: float) -> CaseRecord:
    """The record of a sample that has ended. The figures of a solver of ours are in its metadata, under "a3b": `cost`
    (a CaseCost as a dict), `facts`, `detail`, and `error` if the case cannot be tried on this machine; the figures of
    requests through inspect-ai are added, those of another model than the tested one to the facts.

    Raises A3BError for a score of an unknown kind."""
    ours = sample.metadata.get("a3b") if isinstance(sample.metadata, dict) else None
    ours = ours if isinstance(ours, dict) else {}
    finished = time.time()
    cost = CaseCost(**ours["cost"]) if isinstance(ours.get("cost"), dict) else CaseCost()
    by_role = requested(sample)
    cost = replace(cost + by_role.pop(TESTED, CaseCost()), seconds=round(finished - begun, 3))
    error = "" if sample.error is None else plain_error(sample.error.message)
    error = error or str(ours.get("error") or "")[:KEPT_DETAIL]
    score, detail = (None, "") if error else score_of(sample)
    if sample.limit is not None:
        detail = f"{sample.limit.type} limit: {detail}"
    detail = str(ours.get("detail") or detail)[:KEPT_DETAIL]
    facts = ours.get("facts") if isinstance(ours.get("facts"), dict) else {}
    facts = {**(facts or {}), **{f"{role}_cost": spent.value() for role, spent in by_role.items()}}
    times = {"begun": round(begun, 3), "finished": round(finished, 3), "session": round(session, 3)}
    return CaseRecord(found.case, found.epoch, found.seed, score, error, detail, cost, facts, **times)


def requested(sample: EvalSample) -> dict[str, CaseCost]:
    """What requests through inspect-ai cost, by the role of the model that was asked."""
    found: dict[str, CaseCost] = {}
    for event in sample.events:
        if event.event == "model" and event.error is None and not event.pending:
            role = event.role or TESTED
            found[role] = found.get(role, CaseCost()) + _spent(event.output)
    return found


def _spent(output: ModelOutput) -> CaseCost:
    usage = output.usage
    if usage is None:
        is_refused = output.stop_reason == "model_length"  # for its length, so nothing was computed
        return CaseCost(requests=1, untold=int(not is_refused))
    cached, thinking = usage.input_tokens_cache_read or 0, usage.reasoning_tokens or 0
    # input_tokens: without what was cached, as inspect-ai counts
    return CaseCost.of_request(usage.input_tokens, cached, usage.output_tokens, thinking)


def plain_error(text: str) -> str:
    """What an exception says, from its repr, as inspect-ai keeps it, without the request that it quotes first."""
    found = REPR.fullmatch(text.strip())
    said = found[2] if found else text
    reason = said.partition(END_OF_REQUEST)[2]
    if said.startswith(REQUEST) and reason:
        return plain_error(reason.replace(r"\'", "'"))
    return said[:KEPT_DETAIL].strip() or "an error without a word"


def score_of(sample: EvalSample) -> tuple[float, str]:
    """The value of the first scorer, in [0, 1], and what it explains."""
    if not sample.scores:
        return 0.0, "no scorer said anything"
    name, score = next(iter(sample.scores.items()))
    value = score.value
    letters = {"C": 1.0, "I": 0.0, "P": 0.5, "N": 0.0}
    if isinstance(value, str) and value in letters:
        value = letters[value]
    if isinstance(value, bool | int | float) and 0 <= value <= 1:
        return float(value), score.explanation or str(score.answer or "")
    raise A3BError(f"scorer {name}: gave {str(value)[:80]!r}; expected C, I, or a number from 0 to 1")
