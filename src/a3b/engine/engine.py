"""Loading: what a model argument means, and a model directory as weights, tokenizer and template.

Knows no requests: what answers them is `engine/service.py`. Enter at `Engine.load`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from a3b.errors import UsageError, did_you_mean
from a3b.formats.checkpoint import Checkpoint
from a3b.formats.gguf import is_gguf, listed, models_in
from a3b.hub.client import is_repo
from a3b.kernels import open_kernels
from a3b.kernels.huge_pages import HugePages
from a3b.kernels.probe import runtime_of, tune
from a3b.machine import Machine
from a3b.model.config import ModelConfig, with_context
from a3b.model.config_reader import read_config
from a3b.model.forward import Model
from a3b.model.known_models import how_to_get, known_shape, short_names
from a3b.model.loader import files_of_text, load_weights
from a3b.prompt.chat_template import ChatTemplate
from a3b.prompt.segments import END_OF_TURN
from a3b.prompt.tokenizer import Tokenizer

NANO_NAMES = ("a3b-nano", "nano")


def nano_directory() -> Path:
    """The directory of the embedded model in the installed package."""
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
    if is_gguf(path):
        return f"{model!r} is a GGUF file; pack it first: a3b pack {model} DIR"
    if path.exists():
        return f"{model!r} is a file; give the directory of a checkpoint, such as {str(path.parent)!r}"
    if known_shape(model):
        return how_to_get(model)
    if meant := did_you_mean(model, [*short_names(), *NANO_NAMES]):
        return f"{model!r} is not a directory and no name of a model{meant} 'a3b list --available' shows all"
    expected = (
        "give the directory of a checkpoint (config.json, tokenizer.json, "
        "*.safetensors), or none for the embedded model"
    )
    if is_repo(model.partition(":")[0]):
        expected = f"if it is a repository of the hub, get it: a3b up {model}; or " + expected
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


@dataclass(frozen=True)
class Engine:
    """A loaded model with its tokenizer and template. Immutable."""

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
        mtp: bool = True,
    ) -> Engine:
        """Read a checkpoint directory; None is the embedded model. Raises CheckpointError, TokenizerError, UsageError.

        context: tokens wanted, beyond the native length with YaRN. expand: weights as float32 in memory (True), read
        from the mapped file at each use (False), or what fits (None). isa, threads: as for `open_kernels`; no threads:
        what this process may use. kv: how keys and values are kept. mtp: load the module that drafts tokens, if the
        checkpoint has one."""
        check_kind("context", context, int, type(None))
        check_kind("expand", expand, bool, type(None))
        check_kind("isa", isa, str, type(None))
        check_kind("threads", threads, int, type(None))
        check_kind("kv", kv, str)
        check_kind("mtp", mtp, bool)
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
        weights = load_weights(checkpoint, config, expand=expand, mtp=mtp)
        limit = context or config.max_context
        nano = path.resolve() == nano_directory().resolve()
        notes: tuple[str, ...] = (note,) if note else ()
        if weights.residency == "mapped":
            notes += (
                f"weights are decoded at each use: expect seconds per token; make them fast: a3b pack {path} DIR",
            )
        mover = None
        if weights.residency == "packed" and kernels.isa != "reference":
            tune(kernels)
            used = checkpoint.files if mtp else files_of_text(checkpoint)
            files = [(file.path, file.mapped) for file in used]
            mover = HugePages(files, runtime_of(kernels).probe_read)
        name = "a3b-nano" if nano else path.resolve().name
        return cls(Model(config, weights, kernels, kv), tokenizer, template, name, nano, limit, notes, mover)

    @property
    def config(self) -> ModelConfig:
        return self.model.config

    @property
    def positions(self) -> str:
        return self.config.rope.scaling

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        return self.config.eos_token_ids


def check_kind(name: str, value: Any, *kinds: type) -> None:
    """Raises UsageError unless the type of an argument is one of these; a boolean is not a number."""
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        expected = " or ".join(
            {"NoneType": "None", "int": "a whole number"}.get(kind.__name__, kind.__name__) for kind in kinds
        )
        raise UsageError(f"{name}: {repr(value)[:80]}; expected {expected}")


def load_config(path: Path, context: int | None) -> tuple[ModelConfig, str | None]:
    """config.json of a directory, with RoPE scaling for `context` tokens and a note if that scaling is on."""
    config = read_config(path)
    return with_context(config, config.max_context if context is None else context)


def with_end_of_turn(config: ModelConfig, tokenizer: Tokenizer) -> ModelConfig:
    """The config with the template's end of turn among the end tokens, even if no file names it."""
    ends = [tokenizer.control_id(END_OF_TURN)] if END_OF_TURN in tokenizer.control_names else []
    return replace(config, eos_token_ids=tuple(dict.fromkeys((*config.eos_token_ids, *ends))))
