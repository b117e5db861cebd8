"""Published models that a3b runs, by the short names that people type: repositories, sizes, and what was tried.

The one table of names. None of the published weights could be had where a3b was made: `tried` says what stands in for
them, and `unsure` what only others say. Names of repositories were compared with public sources in November 2026. Enter
at `known_model`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from a3b.errors import UsageError, did_you_mean
from a3b.model.known_shapes import SHAPES

PRESETS = ("fast", "balanced", "faithful")  # names that a tag may have; a test compares them with packing's
PLAIN = ("", "latest", "fp8", "bf16", "instruct", "thinking")  # tags that choose nothing
QUANT = re.compile(r"(?:ud_)?(?:q4_[01]|q[4568]_k(?:_(?:s|m|l|xl))?|q8_0)|f16")  # tags of files that may be readable
OTHER_QUANT = re.compile(r"(?:^|_)(?:q\d|iq\d|tq\d|mxfp|nvfp|awq|gptq|int[48]|mlx|w[48]a)")
FULL_SHAPE = (
    "the full shape with random weights was packed, run and timed; small random models agree with transformers; "
    "published weights were not tried"
)
SAME_SHAPE = "nothing of its own; its shape is that of qwen3.6, which see"
DENSE = (
    "layers of the full shape with random weights were packed, run and timed; a small random dense model agrees with "
    "transformers; published weights were not tried"
)


@dataclass(frozen=True)
class KnownModel:
    """A published model. Sizes are those of the download in GB, rounded, as the hub's lists may change."""

    name: str
    title: str  # as it was published
    shape: str  # a name of SHAPES
    weights: str  # repository that the presets are packed from
    weights_gb: int
    gguf: str  # repository of GGUF files
    tags: tuple[str, ...]  # of its files, by their types; all are of types that a3b reads
    tried: str
    other_names: tuple[str, ...] = ()
    original: str | None = None  # repository of the same model in BF16, if `weights` is FP8
    unsure: str = ""

    @property
    def repositories(self) -> tuple[str, ...]:
        return tuple(repo for repo in (self.weights, self.original, self.gguf) if repo)

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name, *self.other_names)


TAGS = ("q4_k_m", "q4_k_xl", "q5_k_m", "q6_k", "q8_0")
TYPES_UNSEEN = "the types in its GGUF files were not seen; they are checked before the download"
KNOWN_MODELS = (
    KnownModel(
        "qwen3.6",
        "Qwen3.6-35B-A3B",
        "35b-a3b",
        "Qwen/Qwen3.6-35B-A3B-FP8",
        37,
        "unsloth/Qwen3.6-35B-A3B-GGUF",
        TAGS,
        FULL_SHAPE,
        ("qwen3.6-35b-a3b", "qwen3.6-35b"),
        "Qwen/Qwen3.6-35B-A3B",
    ),
    KnownModel(
        "qwen3.6-27b",
        "Qwen3.6-27B",
        "27b",
        "Qwen/Qwen3.6-27B-FP8",
        31,
        "unsloth/Qwen3.6-27B-GGUF",
        TAGS,
        DENSE,
        ("qwen3.6-27b-dense",),
        "Qwen/Qwen3.6-27B",
        TYPES_UNSEEN,
    ),
    KnownModel(
        "qwen3.8-27b",
        "Qwen3.8-27B",
        "27b",
        "Qwen/Qwen3.8-27B-FP8",
        31,
        "unsloth/Qwen3.8-27B-GGUF",
        TAGS,
        DENSE,
        ("qwen3.8",),
        "Qwen/Qwen3.8-27B",
        f"its template was not rendered here; {TYPES_UNSEEN}",
    ),
    KnownModel(
        "qwen3.5",
        "Qwen3.5-35B-A3B",
        "35b-a3b",
        "Qwen/Qwen3.5-35B-A3B-FP8",
        37,
        "unsloth/Qwen3.5-35B-A3B-GGUF",
        TAGS,
        SAME_SHAPE,
        ("qwen3.5-35b-a3b", "qwen3.5-35b"),
        "Qwen/Qwen3.5-35B-A3B",
        TYPES_UNSEEN,
    ),
    KnownModel(
        "qwen3.5-27b",
        "Qwen3.5-27B",
        "27b",
        "Qwen/Qwen3.5-27B-FP8",
        31,
        "unsloth/Qwen3.5-27B-GGUF",
        TAGS,
        DENSE,
        (),
        "Qwen/Qwen3.5-27B",
        TYPES_UNSEEN,
    ),
    KnownModel(
        "qwen3.5-122b",
        "Qwen3.5-122B-A10B",
        "122b-a10b",
        "Qwen/Qwen3.5-122B-A10B-FP8",
        127,
        "unsloth/Qwen3.5-122B-A10B-GGUF",
        TAGS,
        "nothing: no machine here could hold it; its shape is that of qwen3.6, only larger",
        ("qwen3.5-122b-a10b",),
        "Qwen/Qwen3.5-122B-A10B",
        f"its sizes are those of its card, which add up to 122 B; {TYPES_UNSEEN}",
    ),
    KnownModel(
        "ornith",
        "Ornith-1.0-35B",
        "35b-a3b",
        "deepreinforce-ai/Ornith-1.0-35B",
        70,
        "deepreinforce-ai/Ornith-1.0-35B-GGUF",
        ("q4_k_m", "q5_k_m", "q6_k", "q8_0"),
        SAME_SHAPE,
        ("ornith-1.0-35b", "ornith-1.0", "ornith-35b"),
        None,
        f"packed from BF16, as its FP8 repository has a scale for each row, which a3b does not read; {TYPES_UNSEEN}",
    ),
    KnownModel(
        "agentworld",
        "Qwen-AgentWorld-35B-A3B",
        "35b-a3b",
        "Qwen/Qwen-AgentWorld-35B-A3B",
        72,
        "unsloth/Qwen-AgentWorld-35B-A3B-GGUF",
        TAGS,
        SAME_SHAPE,
        ("qwen-agentworld-35b-a3b", "qwen-agentworld-35b", "qwen-agentworld", "agentworld-35b"),
        None,
        f"no official FP8 repository was found, so it is packed from BF16; {TYPES_UNSEEN}",
    ),
)


@dataclass(frozen=True)
class ShortName:
    """A short name as it was meant: the model and what its tag chooses, a preset or the types of a GGUF file."""

    model: KnownModel
    preset: str | None = None
    quant: str | None = None  # in lower case, with "_"

    @property
    def text(self) -> str:
        tag = self.preset or self.quant
        return f"{self.model.name}:{tag}" if tag else self.model.name


def known_model(text: str) -> ShortName | None:
    """What a short name with its tag means, in any case and however its parts are joined; None if it is none.

    `qwen3.6:35b-a3b-q4_K_M`, `qwen3.6-35b:q4_k_m` and `Qwen3.6-35B-A3B-UD-Q4_K_M` are the same. Raises UsageError for a
    known name with a tag that is none of its own."""
    flat = _flat(text)
    keys = {_flat(name): model for model in KNOWN_MODELS for name in model.names}
    for key in sorted(keys, key=len, reverse=True):
        if flat == key or flat.startswith(key + "-"):
            return _with_tag(text, keys[key], flat[len(key) :].strip("-").replace("-", "_"))
    return None


def by_repository(repo: str) -> KnownModel | None:
    """The model that a repository of the hub holds, in whatever form."""
    return next((m for m in KNOWN_MODELS if repo.lower() in (r.lower() for r in m.repositories)), None)


def by_shape(shape: str) -> KnownModel | None:
    """The first model of a shape."""
    return next((model for model in KNOWN_MODELS if model.shape == shape), None)


def short_names() -> list[str]:
    return [name for model in KNOWN_MODELS for name in model.names]


def known_shape(name: str) -> str | None:
    """The name in SHAPES of a model, given as such, by a repository or by a short name; case does not matter."""
    if name.lower() in SHAPES:
        return name.lower()
    if found := by_repository(name):
        return found.shape
    try:
        short = known_model(name)
    except UsageError:
        return None
    return short.model.shape if short else None


def how_to_get(name: str) -> str:
    """What a name of a shape or a model is, and the command that gets its weights."""
    short = None if name.lower() in SHAPES else known_model(name)
    if short is None and not (by_repository(name) or by_shape(name.lower())):
        return (
            f"{name!r} is a shape for planning and measuring that was never trained: "
            f"a3b plan {name}, a3b bench speed --shape {name}"
        )
    model = by_shape(name.lower())
    return f"{name!r} is known but not here; get it: a3b up {model.name if model else name}"


def _with_tag(text: str, model: KnownModel, tag: str) -> ShortName:
    if tag in PLAIN:
        return ShortName(model)
    if tag in PRESETS:
        return ShortName(model, preset=tag)
    if QUANT.fullmatch(tag):
        return ShortName(model, quant=tag.removeprefix("ud_"))
    names = [f"{model.name}:{own}" for own in (*PRESETS, *model.tags)]
    if OTHER_QUANT.search(tag):
        raise UsageError(f"{text[:80]!r}: types of {tag!r} cannot be read; take one of {', '.join(names)}")
    if re.fullmatch(r"\d+b(?:_\w*)?", tag):
        names = [other.name for other in KNOWN_MODELS if other.name.partition("-")[0] == model.name.partition("-")[0]]
        raise UsageError(f"{text[:80]!r}: there is no such size; expected one of {', '.join(names)}")
    meant = did_you_mean(text, [*names, *short_names()]) or f"; expected one of {', '.join(names)}"
    raise UsageError(f"{text[:80]!r}: {model.title} has no {tag[:40]!r}{meant}")


def _flat(text: str) -> str:
    return re.sub(r"[:\s-]+", "-", text.strip().lower()).removesuffix(".gguf")
