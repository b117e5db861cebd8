"""`a3b info [MODEL]`: what a model directory holds, from its config and headers; weights are not read.

MODEL may also be a config.json, a directory with one and no weights, a GGUF file, a directory with a single GGUF file,
or a name that `plan` knows."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

from a3b.engine.engine import resolve
from a3b.errors import UsageError
from a3b.formats.checkpoint import Checkpoint, has_weights
from a3b.formats.gguf import GgufFile, is_gguf, models_in
from a3b.kernels import open_kernels
from a3b.machine import Machine
from a3b.model.config import ModelConfig, with_context
from a3b.model.config_reader import read_config
from a3b.model.known_models import how_to_get, known_shape
from a3b.model.known_shapes import shape
from a3b.model.loader import as_stored, check_tensors
from a3b.model.parameters import count_parameters
from a3b.model.tensor_names import is_mtp
from a3b.packing.gguf_source import describe_gguf
from a3b.packing.plan import bytes_per_token
from a3b.printable import printable, report
from a3b.settings import RuntimeConfig


def run(args: Namespace) -> None:
    facts = describe(args.model, args.context) | {"runs_on": runs_on(args.runtime)}
    report(json.dumps(facts, indent=2) if args.json else "\n".join(lines(facts)))


def describe(model: str | None, context: int | None) -> dict[str, Any]:
    """Facts about a model as plain JSON values. Raises CheckpointError for anything that would fail to load."""
    path, config, held, advice = find(model)
    scaled, note = with_context(config, context) if context else (config, None)
    count = count_parameters(config)
    by_config, native = config.rope.type == "yarn", config.max_context
    limit = max(native, int(config.rope.factor * config.rope.original_context)) if by_config else 4 * native
    facts: dict[str, Any] = {
        "path": str(path),
        "model_type": config.model_type,
        "parameters": {"total": count.total, "active": count.active, **count.breakdown},
        "beside_the_text_model": {"mtp": count.mtp, "vision": count.vision},
        "layers": {kind: config.layer_types.count(kind) for kind in dict.fromkeys(config.layer_types)},
        "experts": None
        if config.dense
        else {
            "routed": config.num_experts,
            "chosen": config.num_experts_per_tok,
            "width": config.intermediate_size,
            "shared_width": config.shared_expert_intermediate_size,
        },
        "mlp_width": config.intermediate_size if config.dense else None,
        "context": {
            "native": config.max_context,
            "asked": context,
            "rope": scaled.rope.type,
            "factor": scaled.rope.factor,
            "scaled_by_config": by_config,
            "limit": limit,
        },
        "note": note,
        "weights": held,
        "next_step": advice,
    }
    return facts


def find(model: str | None) -> tuple[Path, ModelConfig, dict[str, Any] | None, str | None]:
    """(path, config, facts about the weights, what to do before it runs). Raises UsageError, CheckpointError."""
    path = Path(model or "").expanduser()
    if model and not path.exists() and (known := known_shape(model)):
        return path, shape(known), None, how_to_get(model)
    files = models_in(path) if model and path.is_dir() and not (path / "config.json").exists() else []
    if is_gguf(path) or len(files) == 1:
        file = files[0] if files else path
        config, parts = describe_gguf(file)
        return file, config, gguf_weights(parts), f"pack it before it runs: a3b pack {file} DIR"
    if not (model and model.endswith(".json")):
        path = resolve(model)
    config = read_config(path)
    if not (path.is_dir() and has_weights(path)):
        return path, config, None, None
    checkpoint = Checkpoint.open(path)
    return path, as_stored(config, checkpoint), weights(checkpoint, config), None


def gguf_weights(files: list[GgufFile]) -> dict[str, Any]:
    """The facts of `weights` for the files of a GGUF model."""
    tensors = [info for file in files for info in file.tensors.values()]
    dtypes: dict[str, int] = {}
    for info in tensors:
        dtypes[info.dtype] = dtypes.get(info.dtype, 0) + info.num_bytes
    num_bytes = sum(file.num_bytes for file in files)
    return {
        "packed": None,
        "bytes": num_bytes,
        "files": len(files),
        "tensors": len(tensors),
        "dtypes": dtypes,
        "kept_for_later": {},
    }


def weights(checkpoint: Checkpoint, config: ModelConfig) -> dict[str, Any]:
    """Formats and sizes of the files; every tensor is checked by name, shape and dtype."""
    extra = check_tensors(checkpoint, config)
    manifest = checkpoint.manifest
    packed = (
        {
            "preset": manifest.preset,
            "bytes_per_token": bytes_per_token(config, manifest.tensors.values()),
            "source": manifest.source,
            "left_out": manifest.skipped,
            "mtp_bytes": sum(tensor.num_bytes for name, tensor in manifest.tensors.items() if is_mtp(name)),
        }
        if manifest
        else None
    )
    return {
        "packed": packed,
        "bytes": checkpoint.num_bytes,
        "files": checkpoint.num_files,
        "tensors": len(checkpoint.tensors),
        "dtypes": checkpoint.dtypes,
        "kept_for_later": extra,
    }


def runs_on(runtime: RuntimeConfig) -> str:
    """The kernels that would run on this machine."""
    try:
        kernels = open_kernels(runtime.isa, runtime.threads or Machine.read().num_threads)
    except UsageError as error:
        return f"nothing: {error}"
    what = "NumPy twins" if kernels.isa == "reference" else f"compiled kernels for {kernels.isa}"
    return f"{what}, {kernels.num_threads} thread(s)"


def lines(facts: dict[str, Any]) -> list[str]:
    p, layers, experts, context = facts["parameters"], facts["layers"], facts["experts"], facts["context"]
    rows = [
        ("model", facts["path"]),
        ("architecture", f"{facts['model_type']}: " + " + ".join(f"{n} {kind}" for kind, n in layers.items())),
        (
            "experts",
            f"{experts['routed']} of width {experts['width']}, {experts['chosen']} chosen, "
            f"and a shared one of width {experts['shared_width']}",
        )
        if experts
        else ("mlp", f"one of width {facts['mlp_width']}, no experts"),
        ("parameters", f"{p['total']:,} in total, {p['active']:,} active per token ({p['total'] / p['active']:.1f}:1)"),
        ("context", context_line(context)),
    ]
    if any(facts["beside_the_text_model"].values()):
        beside = ", ".join(f"{name} {n:,}" for name, n in facts["beside_the_text_model"].items() if n)
        unused = "; vision is not run yet" if facts["beside_the_text_model"]["vision"] else ""
        rows.append(("beside it", f"{beside} parameters{unused}"))
    if facts["note"]:
        rows.append(("asked", facts["note"]))
    if w := facts["weights"]:
        dtypes = ", ".join(f"{name} {size(n)}" for name, n in w["dtypes"].items())
        rows.append(("weights", f"{size(w['bytes'])} in {w['files']} file(s), {w['tensors']:,} tensors: {dtypes}"))
        if packed := w["packed"]:
            rows.append(
                (
                    "packed",
                    f"{packed['preset'] or 'own types'}, from {packed['source'].get('name', 'elsewhere')}; "
                    f"a decoded token reads {size(packed['bytes_per_token'])}",
                )
            )
            rows.append(("drafts", drafts(packed["mtp_bytes"], facts["path"])))
    else:
        rows.append(("weights", "none here"))
    if facts["next_step"]:
        rows.append(("next", facts["next_step"]))
    rows.append(("runs on", facts["runs_on"]))
    return [f"{name:<13} {printable(value)}" for name, value in rows]


def drafts(mtp_bytes: int, path: str) -> str:
    if mtp_bytes:
        return f"MTP module stored, {size(mtp_bytes)}: guesses tokens that are read ahead"
    return f"no MTP module stored; one of the original model can be added: a3b pack --add-mtp SRC {path}"


def context_line(context: dict[str, Any]) -> str:
    if context["scaled_by_config"]:
        return f"{context['limit']:,} tokens, YaRN factor {context['factor']:g} as config.json says"
    return f"{context['native']:,} tokens native, {context['limit']:,} with YaRN"


def size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.1f} MB"
