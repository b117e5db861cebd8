"""`a3b plan [MODEL]`: which preset and context fit this machine, and how fast they will be. Reads a config, no weights.

Sizes are exact: they follow from the config and the formats. Speed is a roofline over rates that `measure` finds out in a few
seconds, or that the user knows: decode reads every byte of a token once at
the measured bandwidth; prefill computes each product at the measured rate, or reads the weights once a chunk if that
takes longer. Functions take the machine and its speed as arguments. Enter at `sizes`, `memory_bytes`, `decode_seconds`.
"""

from __future__ import annotations

import json
import math
import sys
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from a3b.config import ATTENTION, ModelConfig, RuntimeConfig, with_context
from a3b.errors import UsageError
from a3b.kernels import open_kernels, probe
from a3b.kernels.kv import PAGE_LEN, page_bytes
from a3b.machine import Machine
from a3b.model import CHUNK
from a3b.packing.presets import PRESETS, format_for
from a3b.shapes import SHAPES, shape

DEFAULT, SHOWN = "35b-a3b", "balanced"
WORK_BYTES = 1 << 30  # interpreter, tokenizer, buffers of a chunk; an allowance
PROBE_S = 1.5  # for each rate
BANDWIDTH_SHARE, OPERATIONS_SHARE = 0.8, 0.5  # of what was measured, that a whole step is expected to reach


@dataclass(frozen=True)
class Speed:
    """What the machine was measured to do. Rates a second."""

    read_bytes: float
    int8_operations: float | None = None  # a multiply and an add are two


@dataclass(frozen=True)
class Sizes:
    """Bytes of a packed model: all of it, and what one token reads of it."""

    total_bytes: int
    token_bytes: int


def run(args: Namespace) -> None:
    config, name = find(args.shape)
    context = args.context or min(32768, config.max_context)
    with_context(config, context)  # refuses what no RoPE scaling reaches
    for option, rate in (("--bandwidth", args.bandwidth), ("--operations", args.operations)):
        if rate is not None and not 0 < rate < math.inf:
            raise UsageError(f"{option} {rate:g}: expected a positive number")
    machine = Machine.read()
    speed, note = measure(args.runtime, machine, args.bandwidth, args.operations)
    facts = describe(config, name, context, machine, speed)
    print(json.dumps(facts, indent=2) if args.json else "\n".join(lines(facts)))
    if note:
        print(note, file=sys.stderr)


def measure(runtime: RuntimeConfig, machine: Machine, bandwidth: float | None, operations: float | None) -> tuple[Speed | None, str]:
    """What is not given, in GB/s and GOPS, is measured with the kernels; no speed, and why, if they cannot run here."""
    rates = [rate and rate * 1e9 for rate in (bandwidth, operations)]
    if not all(rates):
        try:
            kernels = open_kernels(runtime.isa, runtime.threads or machine.num_threads)
            buffer = probe.huge_buffer(min(probe.BUFFER_BYTES, max(machine.memory_bytes // 4, 1 << 20)))
            rates[0] = rates[0] or probe.read_bandwidth(kernels, PROBE_S, buffer).median
            rates[1] = rates[1] or probe.int8_operations(kernels, PROBE_S).median
        except UsageError as error:
            if not rates[0]:
                return None, f"tokens/s: not predicted, for this machine cannot be measured: {error}; or give --bandwidth GB/S"
    return Speed(*rates), ""


def find(model: str | None) -> tuple[ModelConfig, str]:
    """A shape by its name, or the config of a directory or file. Raises UsageError, ConfigError."""
    name = model or DEFAULT
    if name in SHAPES:
        return shape(name), name
    path = Path(name).expanduser()
    if not path.exists():
        raise UsageError(f"MODEL is {name!r}; expected a directory with a config.json, such a file, or one of {', '.join(SHAPES)}")
    return ModelConfig.read(path), name


def describe(config: ModelConfig, name: str, context: int, machine: Machine, speed: Speed | None) -> dict[str, Any]:
    """Everything the command says, as plain JSON values."""
    count, state = config.count_parameters(), state_bytes(config)
    presets = {}
    for preset, kinds in PRESETS.items():
        found = sizes(config, kinds)
        needed = memory_bytes(config, found, context)
        presets[preset] = {
            "total_bytes": found.total_bytes,
            "token_bytes": found.token_bytes,
            "memory_bytes": needed,
            "fits": needed <= machine.memory_bytes,
            "longest_context": longest_context(config, found, machine.memory_bytes),
            "decode_tokens_per_s": 1 / decode_seconds(config, found, 0, speed) if speed else None,
            "decode_tokens_per_s_at_context": 1 / decode_seconds(config, found, context, speed) if speed else None,
            "prefill_tokens_per_s": CHUNK / prefill_seconds(config, found, CHUNK, speed) if speed and speed.int8_operations else None,
            "prefill_bound_by": prefill_bound(config, found, CHUNK, speed) if speed and speed.int8_operations else None,
        }
    return {
        "model": name,
        "model_type": config.model_type,
        "parameters": {"total": count.total, "active": count.active},
        "operations_per_prompt_token": operations(config),
        "context": {"tokens": context, "kv_bytes": context * kv_bytes_per_token(config), "state_bytes": state},
        "machine": {**asdict(machine), "num_threads": machine.num_threads},
        "measured": asdict(speed) if speed else None,
        "presets": presets,
    }


def lines(facts: dict[str, Any]) -> list[str]:
    machine, context, count = facts["machine"], facts["context"], facts["parameters"]
    quota = f", {machine['cpu_quota']:g} of them granted" if machine["cpu_quota"] else ""
    limit = f" (limit of {machine['memory_limit']})" if machine["memory_limit"] else ""
    free = f"{gb(machine['memory_bytes'])} of {gb(machine['total_memory_bytes'])} to be had{limit}"
    out = [
        f"machine    {machine['num_cores']} cores{quota}, {free}",
        f"model      {facts['model']}: {count['total'] / 1e9:.2f} B parameters, {count['active'] / 1e9:.2f} B for each token",
        f"context    {context['tokens']:,} tokens take {gb(context['kv_bytes'])}, the state beside them {gb(context['state_bytes'])}",
        "",
        f"{'preset':<10} {'size':>9} {'a token':>9} {'memory':>9}  {'fits':<24} {'tokens/s':>9} {'at context':>11} {'prefill':>9}",
    ]
    for name, p in facts["presets"].items():
        fits = f"up to {p['longest_context']:,} tokens" if p["longest_context"] else "no"
        rates = [p["decode_tokens_per_s"], p["decode_tokens_per_s_at_context"], p["prefill_tokens_per_s"]]
        shown = ["-" if rate is None else f"{rate:.1f}" for rate in rates]
        out.append(f"{name:<10} {gb(p['total_bytes']):>9} {gb(p['token_bytes']):>9} {gb(p['memory_bytes']):>9}  {fits:<24} "
                   f"{shown[0]:>9} {shown[1]:>11} {shown[2]:>9}")  # fmt: skip
    return out + why(facts)


def why(facts: dict[str, Any]) -> list[str]:
    """Where the tokens a second come from, in two sentences."""
    speed, preset = facts["measured"], facts["presets"][SHOWN]
    if not speed:
        return []
    read, state, most = gb(preset["token_bytes"]), gb(2 * facts["context"]["state_bytes"]), gb(facts["context"]["kv_bytes"])
    rate = f"{BANDWIDTH_SHARE:.0%} of {speed['read_bytes'] / 1e9:.1f} GB/s"
    out = [
        "",
        f"tokens/s   {SHOWN} reads {read} of weights a token, moves {state} of state, and reads keys and values that grow to {most};",
        f"           expected at {rate}",
    ]
    if speed["int8_operations"] and preset["prefill_bound_by"] == "arithmetic":
        rate = f"{OPERATIONS_SHARE:.0%} of {speed['int8_operations'] / 1e9:,.0f} GOP/s"
        out.append(f"prefill    a token takes {facts['operations_per_prompt_token'] / 1e9:.2f} GOP; expected at {rate}")
    elif speed["int8_operations"]:
        out.append(f"prefill    reading all {gb(preset['total_bytes'])} once for {CHUNK} tokens takes longer than their products")
    return out


def sizes(config: ModelConfig, kinds: dict[str, str]) -> Sizes:
    """kinds: format name of each kind of matrix, as in PRESETS. Matrices without a kind are float32."""
    total = token = 0.0
    for kind, count, rows, n, share in tensors(config):
        format = format_for(kinds, kind, n) if kind else None
        num_bytes = count * (format.num_bytes(rows, n) if format else 4 * rows * n)
        total += num_bytes
        token += num_bytes * share
    return Sizes(round(total), round(token))


def tensors(config: ModelConfig) -> Iterator[tuple[str | None, int, int, int, float]]:
    """(kind, how many, rows, columns, share that a token reads) of all tensors of the text model."""
    c = config
    num_full = c.layer_types.count(ATTENTION)
    num_delta = c.num_layers - num_full
    yield "embed", 1, c.V, c.D, float(c.tie_word_embeddings)  # untied, a token reads one row
    if not c.tie_word_embeddings:
        yield "lm_head", 1, c.V, c.D, 1.0
    for rows in (2 * c.Hq * c.Dh, c.Hkv * c.Dh, c.Hkv * c.Dh):
        yield "attention_in", num_full, rows, c.D, 1.0
    yield "attention_out", num_full, c.D, c.Hq * c.Dh, 1.0
    yield None, num_full, 2, c.Dh, 1.0  # q_norm, k_norm
    channels = 2 * c.Hk * c.Dk + c.Hv * c.Dv
    for rows in (channels, c.Hv * c.Dv):
        yield "delta_in", num_delta, rows, c.D, 1.0
    yield "delta_out", num_delta, c.D, c.Hv * c.Dv, 1.0
    yield None, num_delta, 2 * c.Hv, c.D, 1.0  # b, a
    yield None, num_delta, channels, c.conv_len, 1.0
    yield None, num_delta, 1, 2 * c.Hv + c.Dv, 1.0  # dt_bias, A_log, norm
    if c.dense:
        yield "experts", 2 * c.num_layers, c.F, c.D, 1.0
        yield "down", c.num_layers, c.D, c.F, 1.0
    else:
        yield None, c.num_layers, c.E + 1, c.D, 1.0  # router, gate of the shared expert
        yield "experts", 2 * c.num_layers * c.E, c.F, c.D, c.K / c.E
        yield "down", c.num_layers * c.E, c.D, c.F, c.K / c.E
        yield "shared", 2 * c.num_layers, c.Fs, c.D, 1.0
        yield "shared", c.num_layers, c.D, c.Fs, 1.0
    yield None, 2 * c.num_layers + 1, 1, c.D, 1.0


def kv_bytes_per_token(config: ModelConfig, kv: str = "q8") -> int:
    """Keys and values, with their scales."""
    return config.layer_types.count(ATTENTION) * config.Hkv * sum(page_bytes(kv, config.Dh)) // PAGE_LEN


def state_bytes(config: ModelConfig) -> int:
    """Float32 matrices and windows of the delta-net layers; they do not grow with the context."""
    c = config
    channels = 2 * c.Hk * c.Dk + c.Hv * c.Dv
    return 4 * (c.num_layers - c.layer_types.count(ATTENTION)) * (c.Hv * c.Dk * c.Dv + (c.conv_len - 1) * channels)


def memory_bytes(config: ModelConfig, found: Sizes, context: int) -> int:
    """What one conversation of `context` tokens keeps resident."""
    return found.total_bytes + state_bytes(config) + context * kv_bytes_per_token(config) + WORK_BYTES


def longest_context(config: ModelConfig, found: Sizes, memory: int) -> int:
    """Tokens that fit into `memory`, at most what the model knows natively; 0 if not even one does."""
    left = memory - memory_bytes(config, found, 0)
    return max(0, min(config.max_context, left // kv_bytes_per_token(config))) if kv_bytes_per_token(config) else config.max_context


def decode_seconds(config: ModelConfig, found: Sizes, depth: int, speed: Speed) -> float:
    """One token after `depth` others: weights and keys and values are read, the state is read and written."""
    num_bytes = found.token_bytes + depth * kv_bytes_per_token(config) + 2 * state_bytes(config)
    return num_bytes / (speed.read_bytes * BANDWIDTH_SHARE)


def prefill_seconds(config: ModelConfig, found: Sizes, num_tokens: int, speed: Speed) -> float:
    """A chunk of a prompt, without its attention: the products, or the reading of all weights, whichever is longer."""
    return max(_prefill_parts(config, found, num_tokens, speed).values())


def prefill_bound(config: ModelConfig, found: Sizes, num_tokens: int, speed: Speed) -> str:
    """Which of the two it is."""
    parts = _prefill_parts(config, found, num_tokens, speed)
    return max(parts, key=parts.__getitem__)


def _prefill_parts(config: ModelConfig, found: Sizes, num_tokens: int, speed: Speed) -> dict[str, float]:
    return {
        "arithmetic": num_tokens * operations(config) / (speed.int8_operations * OPERATIONS_SHARE),
        "reading": found.total_bytes / (speed.read_bytes * BANDWIDTH_SHARE),
    }


def operations(config: ModelConfig) -> int:
    """Integer multiplications and additions of a prompt token; lm_head computes for the last one only."""
    return 2 * (config.count_parameters().active - config.V * config.D)


def gb(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.2f} GB"
