"""`a3b plan [MODEL]`: which preset and context fit this machine, and how fast they will be. Reads no weights.

Sizes are exact (`sizes.py`). Speed is a roofline over rates that `measure` finds in a few seconds or the user gives:
decode reads every byte of a token once; prefill computes each product, or reads the weights once per chunk if that
takes longer. A whole step reaches only a share of these rates, which `shares` measures with a few random layers.
Functions take the machine and its speed as arguments. Enter at `describe`, `decode_seconds`, `prefill_seconds`."""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import statistics
import tempfile
import textwrap
from argparse import Namespace
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from a3b.commands.benchmarks import speed as bench
from a3b.commands.benchmarks.sparsity import COMPARED
from a3b.commands.cost import Price, costs, given_price
from a3b.commands.cost import table as cost_table
from a3b.commands.model_home import ModelHome
from a3b.commands.model_names import local_model
from a3b.commands.progress import Progress
from a3b.commands.sizes import (
    Sizes,
    Use,
    attention_operations,
    drafts_of,
    gb,
    kv_bytes_per_token,
    longest_context,
    memory_bytes,
    operations,
    sizes,
    state_bytes,
)
from a3b.engine.engine import NANO_NAMES, resolve
from a3b.errors import A3BError, CheckpointError, UsageError
from a3b.formats.checkpoint import Checkpoint, has_weights
from a3b.formats.gguf import is_gguf, models_in
from a3b.hub.client import is_repo
from a3b.kernels import Kernels, open_kernels, probe
from a3b.machine import Machine, OtherWork
from a3b.model.config import ModelConfig, with_context
from a3b.model.config_reader import read_config
from a3b.model.forward import CHUNK
from a3b.model.known_models import known_shape
from a3b.model.known_shapes import SHAPES, shape
from a3b.model.loader import as_stored
from a3b.model.parameters import count_parameters
from a3b.packing.gguf_source import describe_gguf
from a3b.packing.presets import PRESETS
from a3b.packing.random_weights import random_source, shape_config
from a3b.packing.writer import write
from a3b.printable import report, say
from a3b.settings import RuntimeConfig
from a3b.units import counted, span

DEFAULT, SHOWN = "35b-a3b", "balanced"
PROBE_S, BESIDE_S = 1.5, 0.05  # for each rate; for a look at it between two pieces of work
LONGEST_SAMPLE_S, SPARE_BYTES = 20.0, 1 << 29
SAMPLE_DEPTH = 16_384  # tokens before a prompt whose attention is measured
MEASURED_LOSS = (
    "the one public measurement with Qwen3.6-35B-A3B found 11 of 20 facts at 50,000 tokens with factor 2 and 16 "
    "without, 19 and 20 of them at 250,000, and 20 at 500,000 (pull request 259 of eugr/spark-vllm-docker)"
)


@dataclass(frozen=True)
class Sample:
    """A model small enough to be written and run in seconds, and too large for the caches of most machines."""

    shape: str
    layers: int
    sizes: dict[str, int]  # of its config, where they differ from the shape's
    prompt: int = 128
    tokens: int = 32
    runs: int = 3


# The experts of a layer are a quarter of those of the shape, so a quarter of a chunk gives each as many tokens.
SAMPLE = Sample(DEFAULT, 4, {"num_experts": 64, "vocab_size": 24_832, "eos_token_id": 0})
DENSE_SAMPLE = Sample("3b-dense", 8, {"vocab_size": 49_664, "eos_token_id": 0})


@dataclass(frozen=True)
class Speed:
    """What the machine can do per second, and the shares of it that a whole step reaches: measured, or typical.
    others_share: of the processors, that others used meanwhile, None if that is not known."""

    read_bytes: float
    int8_operations: float | None = None  # a multiply and an add are two
    read_share: float = 0.8
    operations_share: float = 0.5
    attention_share: float = 0.4  # of the integer operations too: keys and values are integers, or slower
    shares_measured: bool = False
    others_share: float | None = None


def run(args: Namespace) -> None:
    is_shape = args.shape is None or known_shape(args.shape)
    config, name = find(args.shape if is_shape else local_model(args.shape, ModelHome(args.runtime.home)))
    context = args.context or min(32768, config.max_context)
    price = given_price(args)
    for option, rate in (("--bandwidth", args.bandwidth), ("--operations", args.operations)):
        if rate is not None and not 0 < rate < math.inf:
            raise UsageError(f"{option} {rate:g}: expected a positive number")
    machine = Machine.read()
    speed, note = measure(
        args.runtime, machine, args.bandwidth, args.operations, DENSE_SAMPLE if config.dense else SAMPLE
    )
    use = Use(drafts=args.runtime.drafts != "off", kv=args.runtime.kv)
    facts = describe(config, name, context, machine, speed, use) | {"cost": cost(config, name, speed, price)}
    table = ["", *cost_table(price, facts["cost"]["shapes"])] if price and facts["cost"] else []
    report(json.dumps(facts, indent=2) if args.json else "\n".join(lines(facts) + table))
    if note:
        say(note)


def measure(
    runtime: RuntimeConfig, machine: Machine, bandwidth: float | None, operations: float | None, sample: Sample
) -> tuple[Speed | None, str]:
    """The rates given, in GB/s and GOPS, and measurements of those that are not; if none is given, also the shares that
    `sample` reaches. The note says why no speed is known, or why its shares are a guess."""
    read, int8 = (rate and rate * 1e9 for rate in (bandwidth, operations))
    if read and int8:
        return Speed(read, int8), ""
    others = OtherWork()
    speed, note = _measured(runtime, machine, read, int8, sample)
    return speed and replace(speed, others_share=others.share()), note


def _measured(
    runtime: RuntimeConfig, machine: Machine, read: float | None, int8: float | None, sample: Sample
) -> tuple[Speed | None, str]:
    is_given = bool(read or int8)
    with Progress("measuring", 5, "parts") as progress:
        try:
            kernels = open_kernels(runtime.isa, runtime.threads or machine.num_threads)
            buffer = probe.huge_buffer(min(probe.BUFFER_BYTES, max(machine.memory_bytes // 4, 1 << 20)))
            read = read or probe.read_bandwidth(kernels, PROBE_S, buffer).median
            del buffer
            progress(1)
            int8 = int8 or probe.int8_operations(kernels, PROBE_S).median
        except UsageError as error:
            if not read:
                return (
                    None,
                    f"tokens/s: not predicted, as this machine cannot be measured: {error}; or give --bandwidth GB/S",
                )
            return Speed(read), ""
        speed = Speed(read, int8)
        if is_given:
            return speed, ""
        progress(2)
        try:
            return shares(speed, sample, kernels, runtime.kv, machine.memory_bytes, progress), ""
        except (A3BError, OSError, MemoryError, RuntimeError) as error:  # RuntimeError: no more threads
            why = str(error) or "there is no memory for it"
            return (
                speed,
                (
                    f"tokens/s: {speed.read_share:.0%} and {speed.operations_share:.0%} "
                    f"are guessed, because no sample was run: {why}"
                ),
            )


def shares(speed: Speed, sample: Sample, kernels: Kernels, kv_type: str, memory: int, progress: Progress) -> Speed:
    """`speed` with the shares that decode and prefill of `sample` reach; rates are measured again around each run.

    memory: bytes available. Raises UsageError if the sample takes too much memory, disk or time, OSError if it cannot
    be written."""
    source, plan = random_source(
        "sample", shape_config(sample.shape, sample.layers) | sample.sizes, SHOWN, pool_bytes=1 << 20
    )
    # twice: while it moves into huge pages, or is in a file system in memory
    needed = 2 * plan.num_bytes + SPARE_BYTES
    if memory < needed:
        raise UsageError(f"it takes {gb(needed)} of memory, {gb(memory)} are available")
    tokens = bench.WARM_UP_PROMPT + sample.runs * (sample.prompt + sample.tokens + bench.WARM_UP)
    seconds = tokens * operations(source.config) / (int8_rate(speed) * speed.operations_share)
    if seconds > LONGEST_SAMPLE_S:
        raise UsageError(f"it would take {seconds:.0f} s")
    place, needed = tempfile.gettempdir(), plan.num_bytes + SPARE_BYTES
    if (free := shutil.disk_usage(place).free) < needed:
        raise UsageError(f"{place} has {gb(free)} free, it takes {gb(needed)}; set TMPDIR to a larger place")
    with tempfile.TemporaryDirectory(prefix="a3b-plan-", dir=place) as parent:
        write(source, plan, Path(parent) / "sample")
        loaded = bench.load(Path(parent) / "sample", kernels, kv_type)
    bench.warm_up(loaded)
    progress(3)
    traffic = sum(bench.decode_bytes(loaded, sample.tokens // 2).values())
    in_place = bench.reading(loaded)
    reading = bench.Beside(lambda: in_place.bandwidth(BESIDE_S), traffic)
    bench.decode(loaded, 0, sample.tokens, sample.runs, reading.add)
    progress(4)
    computing = bench.Beside(lambda: probe.int8_operations(kernels, BESIDE_S).median, operations(loaded.config))
    flat = bench.prefill(loaded, sample.prompt, sample.runs, computing.add)
    deep = bench.prefill(loaded, sample.prompt, sample.runs, after=bench.state_at(loaded, SAMPLE_DEPTH))
    share = min(computing.share, 1.0)
    return replace(
        speed,
        read_share=min(reading.share, 1.0),
        operations_share=share,
        attention_share=attention_share(loaded.config, sample.prompt, flat, deep, share, speed.attention_share),
        shares_measured=True,
    )


def attention_share(
    config: ModelConfig, num: int, flat: list[float], deep: list[float], share: float, typical: float
) -> float:
    """The share of the integer operations that attention reaches, when products reach `share`; `typical` if the times
    say nothing. flat, deep: seconds of `num` tokens of a prompt at depths 0 and SAMPLE_DEPTH."""
    products, both = statistics.median(flat), statistics.median(deep)
    if both <= 1.02 * products:
        return typical
    more = attention_operations(config, num, SAMPLE_DEPTH) - attention_operations(config, num)
    return min(1.0, share * more / (both - products) * products / (num * operations(config)))


def find(model: str | None) -> tuple[ModelConfig, str]:
    """A shape by its name, or the config of a directory or file. Raises UsageError, ConfigError."""
    name = model or DEFAULT
    if known := known_shape(name):
        return shape(known), known
    path = resolve(name) if name.lower() in NANO_NAMES else Path(name).expanduser()
    if not path.exists():
        step = (
            f"; if it is a repository of the hub, get its config: a3b pull {name} DIR --include config.json"
            if is_repo(name)
            else ""
        )
        raise UsageError(
            f"MODEL is {name!r}; expected a directory with a config.json, such a file, a .gguf file, "
            f"or one of nano, {', '.join(SHAPES)}{step}; a3b list --available names what can be had"
        )
    files = [path] if is_gguf(path) else []
    if path.is_dir() and not (path / "config.json").exists():
        files = models_in(path)
    if len(files) == 1:
        return describe_gguf(files[0])[0], name
    config = read_config(path)
    if path.is_dir() and has_weights(path):
        with contextlib.suppress(CheckpointError):  # files that are not whole yet
            config = as_stored(config, Checkpoint.open(path))
    return config, name


def describe(
    config: ModelConfig, name: str, context: int, machine: Machine, speed: Speed | None, use: Use | None = None
) -> dict[str, Any]:
    """Everything the command says but the cost, as plain JSON values. Raises UsageError beyond what RoPE scaling
    reaches."""
    use = use or Use()
    count, state, scaled = count_parameters(config), state_bytes(config), with_context(config, context)[0]
    presets: dict[str, Any] = {}
    reads = speed is not None and speed.int8_operations is not None
    most = max(context, config.max_context)
    for preset, kinds in PRESETS.items():
        found = sizes(config, kinds)
        needed = memory_bytes(config, found, context, use)
        presets[preset] = {
            "total_bytes": found.total_bytes,
            "stored_bytes": found.stored_bytes,
            "token_bytes": found.token_bytes,
            "memory_bytes": needed,
            "fits": needed <= machine.memory_bytes,
            "drafts_bytes": drafts_of(config, found, use).of(use.answers),
            "longest_context": longest_context(config, found, machine.memory_bytes, most, use),
            "decode_tokens_per_s": 1 / decode_seconds(config, found, 0, speed) if speed else None,
            "decode_tokens_per_s_at_context": 1 / decode_seconds(config, found, context, speed) if speed else None,
            "prefill_tokens_per_s": CHUNK / prefill_seconds(config, found, CHUNK, speed) if speed and reads else None,
            "prefill_bound_by": prefill_bound(config, found, CHUNK, speed) if speed and reads else None,
            "reading_context": reading(config, found, context, speed) if speed and reads else None,
        }
    return {
        "model": name,
        "model_type": config.model_type,
        "parameters": {"total": count.total, "active": count.active},
        "beside_the_text_model": {"mtp": count.mtp, "vision": count.vision},
        "operations_per_prompt_token": operations(config),
        "context": {
            "tokens": context,
            "kv_bytes": context * kv_bytes_per_token(config, use.kv),
            "state_bytes": state,
            "native": config.max_context,
            "positions": scaled.rope.scaling,
        },
        "machine": {**asdict(machine), "num_threads": machine.num_threads},
        "measured": asdict(speed) if speed else None,
        "presets": presets,
    }


def lines(facts: dict[str, Any]) -> list[str]:
    machine, context, count = facts["machine"], facts["context"], facts["parameters"]
    drafts = facts["beside_the_text_model"]["mtp"]
    quota = f", {machine['cpu_quota']:g} of them granted" if machine["cpu_quota"] else ""
    limit = f" (limit of {machine['memory_limit']})" if machine["memory_limit"] else ""
    free = f"{gb(machine['memory_bytes'])} of {gb(machine['total_memory_bytes'])} available{limit}"
    out = [
        f"machine    {machine['num_cores']} cores{quota}, {free}",
        (
            f"model      {facts['model']}: {count['total'] / 1e9:.2f} B parameters, "
            f"{count['active'] / 1e9:.2f} B for each token"
            + (f"; {drafts / 1e9:.2f} B for drafts beside them" if drafts else "")
        ),
        (
            f"context    {context['tokens']:,} tokens take {gb(context['kv_bytes'])}, "
            f"the state beside them {gb(context['state_bytes'])}"
            + (f", drafts {gb(ahead)}" if (ahead := facts["presets"][SHOWN]["drafts_bytes"]) else "")
            + ", of one answer at a time"
        ),
        "",
        (
            f"{'preset':<10} {'size':>9} {'a token':>9} {'memory':>9}  {'fits':<24} "
            f"{'tokens/s':>9} {'at context':>11} {'prefill':>9}"
        ),
    ]
    for name, p in facts["presets"].items():
        fits = f"up to {p['longest_context']:,} tokens" if p["longest_context"] else "no"
        rates = [p["decode_tokens_per_s"], p["decode_tokens_per_s_at_context"], p["prefill_tokens_per_s"]]
        shown = ["-" if rate is None else f"{rate:.1f}" for rate in rates]
        out.append(
            f"{name:<10} {gb(p['stored_bytes']):>9} {gb(p['token_bytes']):>9} {gb(p['memory_bytes']):>9}  {fits:<24} "
            f"{shown[0]:>9} {shown[1]:>11} {shown[2]:>9}"
        )
    return out + why(facts) + what_is_missing(facts) + long_context(facts)


def what_is_missing(facts: dict[str, Any]) -> list[str]:
    """The next step where no preset fits."""
    if any(p["fits"] for p in facts["presets"].values()):
        return []
    machine, context = facts["machine"], facts["context"]["tokens"]
    name, least = min(((name, p["memory_bytes"]) for name, p in facts["presets"].items()), key=lambda found: found[1])
    used = machine["total_memory_bytes"] - machine["memory_bytes"]
    return [
        "",
        f"no preset fits with {context:,} tokens: {name} needs {gb(least - machine['memory_bytes'])} more than is "
        "available. End other programs,",
        f"which use {gb(used)}, or take a shorter --context; a3b list --available names smaller models",
    ]


def why(facts: dict[str, Any]) -> list[str]:
    """Explain the tokens per second in two sentences."""
    speed, preset = facts["measured"], facts["presets"][SHOWN]
    if not speed:
        return []
    read, state, most = (
        gb(preset["token_bytes"]),
        gb(2 * facts["context"]["state_bytes"]),
        gb(facts["context"]["kv_bytes"]),
    )
    guess = "" if speed["shares_measured"] else " (a guess)"
    rate = f"{speed['read_share']:.0%}{guess} of {speed['read_bytes'] / 1e9:.1f} GB/s"
    out = [
        "",
        (
            f"tokens/s   {SHOWN} reads {read} of weights a token, moves {state} of "
            f"state, and reads keys and values that grow to {most};"
        ),
        f"           expected at {rate}",
    ]
    if speed["int8_operations"] and preset["prefill_bound_by"] == "arithmetic":
        rate = f"{speed['operations_share']:.0%}{guess} of {speed['int8_operations'] / 1e9:,.0f} GOP/s"
        out.append(f"prefill    a token takes {facts['operations_per_prompt_token'] / 1e9:.2f} GOP; expected at {rate}")
    elif speed["int8_operations"]:
        out.append(
            f"prefill    reading all {gb(preset['total_bytes'])} once for "
            f"{CHUNK} tokens takes longer than their products"
        )
    if told := bench.disturbance(speed["others_share"]):
        out.append(f"busy       {told}; plan again on a quiet machine")
    return out


def long_context(facts: dict[str, Any]) -> list[str]:
    """How long a conversation of the whole context takes to read, and what positions beyond the native length cost."""
    context, found = facts["context"], facts["presets"][SHOWN]["reading_context"]
    out = []
    if found:
        parts = f"{span(found['products_s'])} for products with weights, {span(found['attention_s'])} for attention"
        out += [
            f"reading    {context['tokens']:,} tokens are read once, in {span(found['s'])} "
            f"on {counted(facts['machine']['num_threads'], 'thread')}: {parts},",
            f"           which grows with the square of the length; the last are read at "
            f"{found['last_tokens_per_s']:.1f} tokens/s",
        ]
    if context["positions"] != "native positions":
        text = (
            f"{context['positions']} beyond the native {context['native']:,} tokens, for short prompts too: "
            f"{MEASURED_LOSS}. For work that fits {context['native']:,}, serve without --context"
        )
        out += [f"{'' if i else 'positions':<11}{line}" for i, line in enumerate(textwrap.wrap(text, 100))]
    return out


def int8_rate(speed: Speed) -> float:
    if speed.int8_operations is None:
        raise TypeError("this speed says nothing of arithmetic")
    return speed.int8_operations


def decode_seconds(config: ModelConfig, found: Sizes, depth: int, speed: Speed) -> float:
    """One token after `depth` others: weights and keys and values are read, the state is read and written."""
    num_bytes = found.token_bytes + depth * kv_bytes_per_token(config) + 2 * state_bytes(config)
    return num_bytes / (speed.read_bytes * speed.read_share)


def prefill_seconds(config: ModelConfig, found: Sizes, num_tokens: int, speed: Speed) -> float:
    """A chunk of a prompt, without its attention: the products, or the reading of all weights, whichever is longer."""
    return max(_prefill_parts(config, found, num_tokens, speed).values())


def attention_seconds(config: ModelConfig, num_tokens: int, start: int, speed: Speed) -> float:
    """Attention of `num_tokens` of a prompt over themselves and `start` tokens before them."""
    return attention_operations(config, num_tokens, start) / (int8_rate(speed) * speed.attention_share)


def reading(config: ModelConfig, found: Sizes, context: int, speed: Speed) -> dict[str, float]:
    """Seconds of reading a conversation of the whole context, and the speed at its end."""
    chunk = prefill_seconds(config, found, CHUNK, speed)
    last = chunk + attention_seconds(config, CHUNK, max(context - CHUNK, 0), speed)
    products, attention = context / CHUNK * chunk, attention_seconds(config, context, 0, speed)
    return {
        "products_s": products,
        "attention_s": attention,
        "s": products + attention,
        "last_tokens_per_s": CHUNK / last,
    }


def task_seconds(config: ModelConfig, found: Sizes, task: tuple[int, int], speed: Speed) -> float:
    """A task: its tokens are read, then its answers written, over a conversation that grows by both."""
    read, written = task
    seconds = read / CHUNK * prefill_seconds(config, found, CHUNK, speed) + attention_seconds(config, read, 0, speed)
    return seconds + written * decode_seconds(config, found, (read + written) // 2, speed)


def cost(config: ModelConfig, name: str, speed: Speed | None, price: Price | None) -> dict[str, Any] | None:
    """What tokens and a task cost, for this model and for the shapes that it is compared with, all in one preset."""
    if price is None:
        return None
    if speed is None or speed.int8_operations is None:
        raise UsageError("cost: needs the speed of this machine; give --bandwidth GB/S and --operations GOPS")
    rows = {}
    for shown, one in {name: config, **{other: shape(other) for other in COMPARED}}.items():
        found = sizes(one, PRESETS[SHOWN])
        read_s, task_s = prefill_seconds(one, found, CHUNK, speed) / CHUNK, task_seconds(one, found, price.task, speed)
        rows[shown] = costs(price, read_s, decode_seconds(one, found, 0, speed), task_s)
    return {"per_hour": price.per_hour, "price": price.words, "task": price.task, "preset": SHOWN, "shapes": rows}


def prefill_bound(config: ModelConfig, found: Sizes, num_tokens: int, speed: Speed) -> str:
    """Which of the two it is."""
    parts = _prefill_parts(config, found, num_tokens, speed)
    return max(parts, key=parts.__getitem__)


def _prefill_parts(config: ModelConfig, found: Sizes, num_tokens: int, speed: Speed) -> dict[str, float]:
    return {
        "arithmetic": num_tokens * operations(config) / (int8_rate(speed) * speed.operations_share),
        "reading": found.total_bytes / (speed.read_bytes * speed.read_share),
    }
