"""Composition root: a model directory becomes something that answers prompts.

Owns loading, the state of a conversation between answers (`Sequence`) and the generation loop. Knows no wire format
and no terminal. Enter at `Engine.load`, then `Engine.generate`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from a3b.engine.generation import Generation
from a3b.errors import ContextError, ConversationError, UsageError
from a3b.formats.checkpoint import Checkpoint
from a3b.formats.gguf import listed, models_in
from a3b.hub.client import is_repo
from a3b.interface.events import Event, Finished, Usage
from a3b.interface.sampling_params import SamplingParams, preset
from a3b.kernels import open_kernels
from a3b.kernels.huge_pages import HugePages
from a3b.kernels.probe import runtime_of, tune
from a3b.machine import Machine
from a3b.model.config import ModelConfig, with_context
from a3b.model.config_reader import read_config
from a3b.model.forward import Model
from a3b.model.known_shapes import how_to_get, known_shape
from a3b.model.loader import load_weights
from a3b.model.state import Snapshot, State
from a3b.prompt.chat_template import ChatTemplate, check_messages
from a3b.prompt.message_faults import check_tools, missing_fault
from a3b.prompt.normalise_messages import KNOWN, ROLES, normalise_messages
from a3b.prompt.segments import END_OF_TURN, Control, Prompt, Replay, Text, ends_in_thinking, refuse_images
from a3b.prompt.tokenizer import Tokenizer

PREFILL_CHUNK = 512  # tokens between two looks at `cancel` and two calls of `on_prefill`
NANO_NAMES = ("a3b-nano", "nano")


def nano_directory() -> Path:
    """Where the embedded model lies inside the installed package."""
    return Path(__file__).parent.parent / "nano_model"


def resolve(model: str | Path | None) -> Path:
    """A model argument as a directory: None is the embedded model, and so is its name where no directory of that name
    holds a model.

    Raises UsageError for anything else, with the commands that help."""
    if model is None:
        return nano_directory()
    path = _place(model)
    has_config = path.is_dir() and (path / "config.json").exists()
    found = models_in(path) if path.is_dir() and not has_config else []
    if found:
        raise UsageError(f"model {str(model)!r} holds {packing_of(found)}")
    if str(model).lower() in NANO_NAMES and not has_config:
        return nano_directory()
    if path.is_dir():
        return path
    raise UsageError(f"model {what_else(str(model), path)}")


def packing_of(files: list[Path]) -> str:
    """What to do with GGUF files, as the end of a sentence."""
    if len(files) == 1:
        return f"the GGUF file {files[0].name} and no config.json; pack it first: a3b pack {files[0]} DIR"
    return (
        f"{len(files)} GGUF models and no config.json; pack the one you want first: "
        f"a3b pack FILE DIR, FILE being one of {listed(files)}"
    )


def what_else(model: str, path: Path) -> str:
    """What a model argument that is not a directory is, and what to do, as the end of a sentence."""
    if path.is_file() and path.suffix == ".gguf":
        return f"{model!r} is a GGUF file; pack it first: a3b pack {model} DIR"
    if path.exists():
        return f"{model!r} is a file; give the directory of a checkpoint, such as {str(path.parent)!r}"
    if shape := known_shape(model):
        return how_to_get(shape)
    expected = (
        "give the directory of a checkpoint (config.json, tokenizer.json, "
        "*.safetensors), or none for the embedded model"
    )
    if is_repo(model):
        expected = f"if it is a repository of the hub, get it: a3b pull {model} DIR; or " + expected
    return f"{model!r} is not a directory; {expected}"


def _place(model: Any) -> Path:
    """A model argument as a path that can be looked at. Raises UsageError."""
    if not isinstance(model, str | Path):
        raise UsageError(
            f"model: {type(model).__name__}; expected the name of a directory, or None for the embedded model"
        )
    if not str(model) or "\0" in str(model):
        raise UsageError(
            f"model: the name {'is empty' if not str(model) else 'holds a zero byte'}; "
            "leave it out for the embedded model"
        )
    try:
        path = Path(model).expanduser()
        path.is_dir()
    # a name that is too long, a directory that may not be read, ~user who is not known
    except (OSError, RuntimeError) as error:
        why = getattr(error, "strerror", None) or error
        raise UsageError(f"model {str(model)[:200]!r}: {why}; give the directory of a checkpoint") from None
    return path


@dataclass
class Sequence:
    """Tokens the model has read and the state they left; `sync` reuses as much of them as a new prompt allows."""

    state: State
    ids: list[int] = field(default_factory=list)  # exactly what `state` has consumed
    answer_ids: tuple[int, ...] = ()  # the last answer as sampled, with its end-of-turn token if it came
    _marks: list[tuple[int, Snapshot]] = field(default_factory=list)  # (tokens, state) after earlier prompts

    MAX_MARKS = 8

    def sync(self, ids: list[int], fresh: Callable[[], State]) -> int:
        """Bring the state to the longest usable prefix of `ids` (at least one token remains); its length."""
        common = 0
        for mine, asked in zip(self.ids, ids[:-1], strict=False):
            if mine != asked:
                break
            common += 1
        if common < len(self.ids):
            self._marks = [mark for mark in self._marks if mark[0] <= common]
            if self._marks:
                common = self._marks[-1][0]
                self.state.restore(self._marks[-1][1])
            else:
                common, self.state = 0, fresh()
            del self.ids[common:]
        return common

    def forget(self) -> None:
        """After a step was torn in the middle: the next `sync` starts from nothing."""
        self._marks = []
        self.ids = [-1]  # the prefix of no prompt

    def mark(self) -> None:
        """Remember the state as it is now, so that a later prompt can branch off here."""
        self._marks = [*self._marks[-self.MAX_MARKS + 1 :], (len(self.ids), self.state.snapshot())]


@dataclass(frozen=True)
class Engine:
    """A loaded model with its tokenizer and template. Immutable; conversations live in `Sequence`."""

    model: Model
    tokenizer: Tokenizer
    template: ChatTemplate
    name: str
    is_nano: bool
    context: int  # tokens, prompt and answer together
    notes: tuple[str, ...] = ()  # what the user should know about how it was loaded
    huge_pages: HugePages | None = None  # for packed weights: `start` it if the process will read them many times

    @classmethod
    def load(
        cls,
        directory: str | Path | None = None,
        *,
        context: int | None = None,
        expand: bool | None = None,
        isa: str | None = None,
        threads: int | None = None,
        kv: str = "q8",
    ) -> Engine:
        """Read a checkpoint directory; None is the embedded model. Raises CheckpointError, TokenizerError, UsageError.

        context: tokens wanted, beyond the native length with YaRN. expand: weights as float32 in memory (True), read
        from the mapped file at each use (False), or what fits (None). isa, threads: as for `open_kernels`; no threads:
        what this process may use. kv: how keys and values are kept."""
        _check_kind("context", context, int, type(None))
        _check_kind("expand", expand, bool, type(None))
        _check_kind("isa", isa, str, type(None))
        _check_kind("threads", threads, int, type(None))
        _check_kind("kv", kv, str)
        if threads is not None and threads < 1:
            raise UsageError(f"threads: {threads}; expected at least 1, or None for what this process may use")
        path = resolve(directory)
        kernels = open_kernels(isa, threads or Machine.read().num_threads)
        config, note = load_config(path, context)
        tokenizer = Tokenizer.read(path)
        if tokenizer.num_tokens > config.vocab_size:
            raise UsageError(
                f"{path}: tokenizer.json has {tokenizer.num_tokens} tokens, config.json "
                f"a vocab_size of {config.vocab_size}; they belong to different models"
            )
        config = with_end_of_turn(config, tokenizer)
        template = ChatTemplate.read(path)
        checkpoint = Checkpoint.open(path)
        weights = load_weights(checkpoint, config, expand=expand)
        limit = context or config.max_context
        nano = path.resolve() == nano_directory().resolve()
        notes = (note,) if note else ()
        if weights.residency == "mapped":
            notes += (
                f"weights are decoded at each use: expect seconds per token; make them fast: a3b pack {path} DIR",
            )
        mover = None
        if weights.residency == "packed" and kernels.isa != "reference":
            tune(kernels)
            mover = HugePages([(file.path, file.mapped) for file in checkpoint.files], runtime_of(kernels).probe_read)
        name = "a3b-nano" if nano else path.resolve().name
        return cls(Model(config, weights, kernels, kv), tokenizer, template, name, nano, limit, notes, mover)

    @property
    def config(self) -> ModelConfig:
        return self.model.config

    def new_sequence(self) -> Sequence:
        return Sequence(self.model.new_state())

    def generate(
        self,
        prompt: Prompt | str | list[Mapping[str, Any]],
        params: SamplingParams | None = None,
        *,
        sequence: Sequence | None = None,
        tools: list[Mapping[str, Any]] | None = None,
        cancel: Callable[[], bool] = lambda: False,
        on_prefill: Callable[[int, int], None] = lambda done, total: None,
    ) -> Iterator[Event]:
        """Answer `prompt`; the last event is always `Finished`.

        prompt: what a user says, messages, or what `template.render` made of messages. params: None is what suits the
        model. sequence: the conversation's state, reused where its tokens are a prefix of the prompt. cancel: asked
        before each token and each piece of the prompt. on_prefill: told (tokens read, tokens to read). Raises
        ContextError for a prompt that leaves no room to answer, UsageError for images and arguments of other types."""
        tools = check_tools(tools)
        if params is None:
            params = preset("nano" if self.is_nano else "thinking", has_tools=bool(tools), is_nano=self.is_nano)
        _check_kind("params", params, SamplingParams)
        _check_kind("sequence", sequence, Sequence, type(None))
        for name, function in (("cancel", cancel), ("on_prefill", on_prefill)):
            if not callable(function):
                raise UsageError(f"{name}: {type(function).__name__}; expected a function")
        prompt = self._prompt(prompt, tools)
        refuse_images(prompt)
        ids = self.tokenizer.encode(prompt)
        room = self.context - len(ids)
        if room < 1:
            raise ContextError(
                f"prompt: {len(ids)} tokens do not fit the context of {self.context} with room to answer; "
                "shorten the conversation or raise --context"
            )
        answer = Generation(
            self.tokenizer,
            self.config.eos_token_ids,
            ids,
            params,
            min(params.max_tokens or room, room),
            tools=tools,
            in_thinking=ends_in_thinking(prompt),
        )
        return _Reading(self, ids, sequence or self.new_sequence(), answer).run(cancel, on_prefill)

    def _prompt(self, given: Any, tools: list[Mapping[str, Any]] | None) -> Prompt:
        """What `generate` takes, as segments."""
        if isinstance(given, str):
            given = [{"role": "user", "content": given}]
        if not isinstance(given, list | tuple) or not given:
            found = "nothing" if isinstance(given, list | tuple) else type(given).__name__
            raise UsageError(f"prompt: {found}; expected text, a list of messages, or what template.render gives")
        if all(isinstance(item, Control | Text | Replay) for item in given):
            return list(given)
        if fault := missing_fault(check_messages(given), {*KNOWN, *ROLES}):
            raise ConversationError(fault)
        messages, _ = normalise_messages(given)
        return self.template.render(messages, tools=tools, preserve_thinking=True)


def _check_kind(name: str, value: Any, *kinds: type) -> None:
    """Raises UsageError unless the type of an argument is one of these; a boolean is not a number."""
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        expected = " or ".join(
            {"NoneType": "None", "int": "a whole number"}.get(kind.__name__, kind.__name__) for kind in kinds
        )
        raise UsageError(f"{name}: {repr(value)[:80]}; expected {expected}")


def load_config(path: Path, context: int | None) -> tuple[ModelConfig, str | None]:
    """config.json of a directory, with RoPE scaling for `context` tokens and a note if that scaling is on."""
    config = read_config(path)
    return with_context(config, context) if context is not None else (config, None)


def with_end_of_turn(config: ModelConfig, tokenizer: Tokenizer) -> ModelConfig:
    """The config with the template's end of turn among the end tokens, which the files of a checkpoint need not
    name."""
    ends = [tokenizer.control_id(END_OF_TURN)] if END_OF_TURN in tokenizer.control_names else []
    return replace(config, eos_token_ids=tuple(dict.fromkeys((*config.eos_token_ids, *ends))))


class _Reading:
    """One run of the generation loop over a sequence of its own."""

    def __init__(self, engine: Engine, ids: list[int], sequence: Sequence, answer: Generation):
        self.engine, self.ids, self.sequence, self.answer = engine, ids, sequence, answer
        self.cached = 0
        self.prefill_s = self.decode_s = 0.0

    def run(self, cancel, on_prefill) -> Iterator[Event]:
        try:
            yield from self._run(cancel, on_prefill)
        except GeneratorExit:  # the caller stopped listening, between two steps
            raise
        except BaseException:
            self.sequence.forget()
            raise

    def _run(self, cancel, on_prefill) -> Iterator[Event]:
        answer, start = self.answer, time.perf_counter()
        logits = self._prefill(cancel, on_prefill)
        self.prefill_s = time.perf_counter() - start
        if logits is None:
            yield self._finished("cancelled")
            return
        self.sequence.mark()
        start = time.perf_counter()
        while answer.reason is None:
            token, logprobs = answer.choose(logits)
            yield from answer.accept((token,), (logprobs,)).events
            self.sequence.answer_ids = tuple(answer.sampled)
            self.decode_s = time.perf_counter() - start
            if answer.reason is None and cancel():
                yield from answer.stop("cancelled")
            if answer.reason is None:
                logits = self._read(answer.feed, last=True)
        yield self._finished(answer.reason)

    def _prefill(self, cancel, on_prefill) -> np.ndarray | None:
        """Read the part of the prompt that the sequence does not hold yet; logits of its last token."""
        self.cached = self.sequence.sync(self.ids, self.engine.model.new_state)
        rest = self.ids[self.cached :]
        for start in range(0, len(rest), PREFILL_CHUNK):
            if cancel():
                return None
            piece = rest[start : start + PREFILL_CHUNK]
            logits = self._read(piece, last=start + len(piece) == len(rest))
            on_prefill(start + len(piece), len(rest))
        return logits

    def _read(self, ids: list[int], last: bool) -> np.ndarray | None:
        logits = self.engine.model.forward(
            np.array(ids, np.int64), self.sequence.state, logits="last" if last else "none"
        )
        self.sequence.ids.extend(ids)
        return logits

    def _finished(self, reason: str) -> Finished:
        usage = Usage(
            prompt_tokens=len(self.ids),
            cached_tokens=self.cached,
            completion_tokens=len(self.answer.sampled),
            thinking_tokens=self.answer.thinking_tokens,
            prefill_s=self.prefill_s,
            decode_s=self.decode_s,
        )
        return Finished(reason, usage, self.answer.stop_string, self.answer.thinking_stop)
