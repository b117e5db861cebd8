"""`a3b bench speed`: prefill, decode at depths, start and memory of a model, against the limits of this machine.

A figure is the median of several runs, with the lowest and the highest; shares are of limits measured alongside the
work (`Beside`). The model reads random ids, then decodes the most likely token. Depths beyond a page are not read token
by token: their keys and values are random numbers (`state_at`). `load`, `prefill` and `decode` serve other measurements
too. Enter at `run`."""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from a3b.commands.benchmarks.plots import draw_roofline, pyplot
from a3b.commands.benchmarks.random_model import random_directory
from a3b.commands.info import size
from a3b.commands.sizes import gb, kv_bytes_per_token, operations, state_bytes
from a3b.engine.engine import resolve
from a3b.errors import UsageError
from a3b.formats.checkpoint import Checkpoint
from a3b.formats.packed import F32, PackedTensor
from a3b.formats.tiles import Tiles
from a3b.kernels import PAGE_LEN, Kernels, kv, open_kernels, probe
from a3b.kernels.huge_pages import HugePages
from a3b.kernels.native import is_bf16
from a3b.machine import Machine, OtherWork
from a3b.model.config import ATTENTION, ModelConfig
from a3b.model.config_reader import read_config
from a3b.model.forward import Model
from a3b.model.loader import files_of_text, load_weights
from a3b.model.parameters import count_parameters
from a3b.model.state import SEGMENT_LEN, SEGMENT_PAGES, State, advancing
from a3b.model.tensor_names import is_mtp
from a3b.model.weights import ModelWeights
from a3b.packing.plan import Half, bytes_per_token, tensor_values
from a3b.printable import report

WARM_UP_PROMPT = 64
WARM_UP = 4  # steps of decoding before the clock starts
SLICE = 8  # tokens decoded between two looks at the bandwidth
PROBE_S = 2.0
BESIDE_SHARE = 0.05  # of it, for a look at a limit between two pieces of work
NOTICEABLE = 0.05  # of the processors: on two cores, a tenth of one, for which the threads of the other wait


@dataclass(frozen=True)
class Schedule:
    """What is measured."""

    prompts: tuple[int, ...] = (512, 2048)
    depths: tuple[int, ...] = (0, 4096, 16384)
    runs: int = 3
    tokens: int = 64  # decoded in a run
    probe_s: float = PROBE_S

    @classmethod
    def of(cls, args: Namespace) -> Schedule:
        base = cls((512,), (0,), 1, 8, 0.2) if args.quick else cls()
        asked = {
            "prompts": args.prefill,
            "depths": getattr(args, "depths", None),
            "runs": args.runs,
            "tokens": args.tokens,
        }
        return replace(base, **{name: value for name, value in asked.items() if value is not None})

    def check(self, config: ModelConfig) -> None:
        longest = max(*self.prompts, *(depth + self.tokens + WARM_UP for depth in self.depths))
        if not all(self.prompts) or longest > config.max_context:
            raise UsageError(
                f"--prefill {self.prompts}, --depths {self.depths}: expected at least 1 token in a prompt, and at most "
                f"{config.max_context} tokens, {self.tokens + WARM_UP} of them decoded"
            )


@dataclass(frozen=True)
class Loaded:
    """A model ready to be measured, its weights where they are to stay."""

    config: ModelConfig
    model: Model
    weights: ModelWeights
    kernels: Kernels
    token_bytes: int  # of weights, read for one decoded token
    total_bytes: int  # of weights
    data: tuple[np.ndarray, ...]  # uint8: files of packed weights, where they are now
    facts: dict[str, Any]


def run(args: Namespace) -> None:
    schedule, runtime = Schedule.of(args), args.runtime
    if args.plot:
        pyplot()  # refused before anything is measured
    threads = args.threads or runtime.threads or Machine.read().num_threads
    kernels = open_kernels(runtime.isa, threads)
    probe.runtime_of(kernels)  # refuses the twins
    parent = Path(args.dir or runtime.home).expanduser()
    directory = (
        resolve(args.directory) if args.directory else random_directory(parent, args.shape, args.preset, args.layers)
    )
    schedule.check(read_config(directory))
    facts: dict[str, Any] = {"model": str(args.directory or f"random {args.shape}-{args.preset}")}
    others = OtherWork()
    facts |= {"start": start(directory, threads, schedule.runs), "measured": limits(kernels, schedule.probe_s)}
    facts |= measure(load(directory, kernels, runtime.kv), schedule)
    facts["others_share"] = others.share()
    if args.plot:
        draw_roofline(facts, args.plot)
    report(json.dumps(headline(facts, schedule) | facts, indent=2) if args.json else "\n".join(lines(facts)))


def disturbance(others_share: float | None) -> str:
    """That others worked beside a measurement, for people; "" if they did little, or it is not known."""
    if others_share is None or others_share < NOTICEABLE:
        return ""
    return f"others used {others_share:.0%} of the processors meanwhile, so speeds may be too low"


def limits(kernels: Kernels, seconds: float) -> dict[str, Any]:
    """The limits of the machine, measured now."""
    found = {
        "read_bytes_per_s": asdict(probe.read_bandwidth(kernels, seconds)),
        "int8_operations_per_s": asdict(probe.int8_operations(kernels, seconds / 2)),
    }
    forget_peak()
    return found


def load(directory: Path, kernels: Kernels, kv_type: str) -> Loaded:
    """Map, bind, and move into huge pages as far as that reads faster. Raises UsageError for weights that are decoded
    at each use."""
    began = time.perf_counter()
    config, checkpoint = read_config(directory), Checkpoint.open(directory)
    weights = load_weights(checkpoint, config)
    if weights.residency == "mapped":
        raise UsageError(f"{directory}: its weights are decoded at each use; pack it first: a3b pack {directory} DIR")
    model = Model(config, weights, kernels, kv_type)
    load_s = time.perf_counter() - began
    data: tuple[np.ndarray, ...] = ()
    moved: dict[str, Any] = {"moved_bytes": 0, "gain": None, "move_s": 0.0}
    if weights.residency == "packed":
        probe.tune(kernels)
        files = [(file.path, file.mapped) for file in files_of_text(checkpoint)]
        mover = HugePages(files, probe.runtime_of(kernels).probe_read).start()
        mover.wait()
        moved = {"moved_bytes": mover.moved_bytes, "gain": mover.gain, "move_s": time.perf_counter() - began - load_s}
        data = tuple(mapped for _, mapped in files)
    total = sum(tensor.num_bytes for name, tensor in checkpoint.tensors.items() if not is_mtp(name))
    facts = {
        "directory": str(directory),
        "isa": kernels.isa,
        "threads": kernels.num_threads,
        "kv": kv_type,
        "layers": config.num_layers,
        "asks_ahead": probe.runtime_of(kernels).prefetches_stream,
        "preset": checkpoint.manifest.preset if checkpoint.manifest else None,
        "source": checkpoint.manifest.source.get("name") if checkpoint.manifest else None,
        "weight_bytes": total,
        "parameters": {"total": count_parameters(config).total, "active": count_parameters(config).active},
        "load_s": load_s,
        "huge_pages": moved,
    }
    return Loaded(config, model, weights, kernels, token_bytes(config, weights), total, data, facts)


def token_bytes(config: ModelConfig, weights: ModelWeights) -> int:
    """Bytes of weights that the kernels read for one token; floats that are BF16 numbers are kept, and read, as
    those."""
    tensors, spared = [], 0
    for tensor, layer, value in tensor_values(config, weights):
        name = tensor.full_name(layer)
        tensors.append(PackedTensor(name, value.format.name if isinstance(value, Tiles) else F32, tuple(value.shape)))
        array = value.whole if isinstance(value, Half) else value
        if isinstance(array, np.ndarray) and not tensor.is_vector and is_bf16(array):
            spared += bytes_per_token(config, tensors[-1:]) // 2
    return bytes_per_token(config, tensors) - spared


def measure(loaded: Loaded, schedule: Schedule) -> dict[str, Any]:
    """Everything but the start, as JSON values."""
    warm_up(loaded)
    seconds, in_place = schedule.probe_s * BESIDE_SHARE, reading(loaded)
    rate = in_place.bandwidth(schedule.probe_s / 4) if loaded.data else None
    facts = loaded.facts | {"weights_read_bytes_per_s": rate, "prefill": {}, "decode": {}}
    work = operations(loaded.config)
    for num in schedule.prompts:
        beside = Beside(lambda: probe.int8_operations(loaded.kernels, seconds).median, work)
        found = summary([num / s for s in prefill(loaded, num, schedule.runs, beside.add)])
        facts["prefill"][str(num)] = found | {
            "operations_per_s": found["tokens_per_s"] * work,
            "peak_fraction": beside.share,
        }
    for depth in schedule.depths:
        traffic = decode_bytes(loaded, depth + schedule.tokens // 2)
        total = sum(traffic.values())
        beside = Beside(lambda: in_place.bandwidth(seconds), total)
        found = summary(
            [schedule.tokens / s for s in decode(loaded, depth, schedule.tokens, schedule.runs, beside.add)]
        )
        rate = found["tokens_per_s"] * total
        facts["decode"][str(depth)] = found | {
            "bytes_per_token": traffic,
            "bytes_per_s": rate,
            "bandwidth_fraction": beside.share,
        }
    return facts | {"memory": memory()}


def reading(loaded: Loaded) -> probe.InPlace:
    """The bandwidth that decode is compared with: of the same weights, since memory differs from place to place. Floats
    lie in many small arrays; a buffer stands for them."""
    return probe.InPlace(loaded.kernels, loaded.data or (probe.huge_buffer(probe.BUFFER_BYTES),))


class Beside:
    """Work as a share of a limit that is measured just before and just after each piece: on a shared machine it halves
    in minutes."""

    def __init__(self, limit: Callable[[], float], per_token: float):
        """limit: measures bytes or operations per second; per_token: how many a token takes."""
        self._limit, self._per_token, self._before = limit, per_token, limit()
        self._shares: list[float] = []

    def add(self, num_tokens: int, seconds: float) -> None:
        after = self._limit()
        self._shares.append(2 * num_tokens * self._per_token / seconds / (self._before + after))
        self._before = after

    @property
    def share(self) -> float:
        """The median."""
        return statistics.median(self._shares)


def warm_up(loaded: Loaded) -> None:
    """One short prompt: threads, buffers and page tables are in place when the clock starts."""
    loaded.model.forward(random_ids(loaded.config, WARM_UP_PROMPT), loaded.model.new_state())


def _untold(num: int, seconds: float) -> None:
    pass


def prefill(
    loaded: Loaded,
    num: int,
    runs: int,
    told: Callable[[int, float], None] = _untold,
    after: State | None = None,
) -> list[float]:
    """Seconds of reading `num` random ids into an empty state, or `after` another, run by run; `told` is called after
    each with tokens and seconds."""
    times = []
    for i in range(runs):
        ids, state = random_ids(loaded.config, num, i), after.fork() if after else loaded.model.new_state()
        began = time.perf_counter()
        loaded.model.forward(ids, state)
        times.append(time.perf_counter() - began)
        told(num, times[-1])
    return times


def decode(
    loaded: Loaded, depth: int, tokens: int, runs: int, told: Callable[[int, float], None] = _untold
) -> list[float]:
    """Seconds of decoding `tokens` tokens after `depth` others, run by run, from the same state each time.

    told: called between parts of a run, outside the clock, with tokens and seconds."""
    base, times = state_at(loaded, depth), []
    for i in range(runs):
        state, token, total, left = base.fork(), random_ids(loaded.config, 1, i), 0.0, tokens
        for _ in range(WARM_UP):
            token[0] = loaded.model.forward(token, state).argmax()
        while left:
            num, began = min(left, SLICE), time.perf_counter()
            for _ in range(num):
                token[0] = loaded.model.forward(token, state).argmax()
            seconds = time.perf_counter() - began
            total, left = total + seconds, left - num
            told(num, seconds)
        times.append(total)
    return times


def state_at(loaded: Loaded, depth: int, seed: int = 0) -> State:
    """As after `depth` tokens: the first page of them is read, later keys and values are random numbers of usual
    size."""
    config, model, state = loaded.config, loaded.model, loaded.model.new_state()
    if depth:
        model.forward(random_ids(config, min(depth, PAGE_LEN), seed), state, logits="none")
    if depth <= PAGE_LEN:
        return state
    rng = np.random.Generator(np.random.PCG64(seed))
    k, v = rng.standard_normal((2, SEGMENT_LEN, config.num_key_value_heads, config.head_dim), np.float32)
    keys, values = (
        np.zeros((SEGMENT_PAGES, config.num_key_value_heads, num), np.uint8)
        for num in kv.page_bytes(model.kv, config.head_dim)
    )
    kv.store(model.kv, keys, values, 0, k, v)
    pages = -(-depth // PAGE_LEN)
    with advancing([(state, depth - PAGE_LEN)]):
        for layer in range(config.layer_types.count(ATTENTION)):
            for i, (into_keys, into_values) in enumerate(state.segments(layer)):
                part = slice(1 if i == 0 else 0, min(SEGMENT_PAGES, pages - i * SEGMENT_PAGES))
                into_keys[part], into_values[part] = keys[part], values[part]
    return state


def decode_bytes(loaded: Loaded, depth: int) -> dict[str, int]:
    """What one token moves: weights and keys and values are read, the state of the delta rule is read and written."""
    config = loaded.config
    return {
        "weights": loaded.token_bytes,
        "state": 2 * state_bytes(config),
        "kv": depth * kv_bytes_per_token(config, loaded.model.kv),
    }


def random_ids(config: ModelConfig, num: int, seed: int = 0) -> np.ndarray:
    return np.random.Generator(np.random.PCG64(seed)).integers(0, config.vocab_size, num)


def summary(rates: list[float]) -> dict[str, Any]:
    return {"tokens_per_s": statistics.median(rates), "lowest": min(rates), "highest": max(rates), "runs": rates}


def start(directory: Path, threads: int, runs: int) -> dict[str, Any]:
    """Seconds from starting a process to its first token after a short prompt; one untimed start warms the page
    cache."""
    command = [
        sys.executable,
        "-P",
        "-m",
        "a3b.cli",
        "bench",
        "start",
        "--model",
        str(directory),
        "--threads",
        str(threads),
    ]
    times = []
    for _ in range(1 + runs):
        began = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            answered = process.stdout.readline() if process.stdout else ""
            times.append(time.perf_counter() - began)
            complaint = process.communicate()[1]
        if process.returncode or not answered:
            raise UsageError(f"{directory}: does not start: {complaint.strip()[-300:]}")
    return {
        "seconds": statistics.median(times[1:]),
        "lowest": min(times[1:]),
        "highest": max(times[1:]),
        "first": times[0],
    }


def memory() -> dict[str, int]:
    """Bytes of this process: the most at any time since loading began, and now."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    names = {"peak_rss": "VmHWM", "rss": "VmRSS", "anonymous": "RssAnon", "file": "RssFile"}
    return {name + "_bytes": int(status.get(key, "0").split()[0]) * 1024 for name, key in names.items()}


def forget_peak() -> None:
    """Reset the peak: the probe's buffer is not part of what a model takes."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass  # then the peak includes it


def headline(facts: dict[str, Any], schedule: Schedule) -> dict[str, Any]:
    """Decode at the first depth, prefill of the first prompt, arithmetic at the longest."""
    decoding, first = facts["decode"][str(schedule.depths[0])], facts["prefill"][str(schedule.prompts[0])]
    return {
        "decode_tokens_per_s": decoding["tokens_per_s"],
        "prefill_tokens_per_s": first["tokens_per_s"],
        "read_bandwidth_fraction": decoding["bandwidth_fraction"],
        "vnni_peak_fraction": facts["prefill"][str(max(schedule.prompts))]["peak_fraction"],
        "peak_rss_bytes": facts["memory"]["peak_rss_bytes"],
        "start_s": facts["start"]["seconds"],
    }


def lines(facts: dict[str, Any]) -> list[str]:
    limits, mem, moved, own = facts["measured"], facts["memory"], facts["huge_pages"], facts["weights_read_bytes_per_s"]
    read, ops, count = limits["read_bytes_per_s"], limits["int8_operations_per_s"], facts["parameters"]
    where = f"{gb(moved['moved_bytes'])} moved to huge pages in {moved['move_s']:.1f} s"
    out = [
        f"model     {facts['model']}, {facts['preset'] or 'own types'}, "
        f"{facts['layers']} layers: {gb(facts['weight_bytes'])}, "
        f"{count['total'] / 1e9:.2f} B parameters, {count['active'] / 1e9:.2f} B for each token",
        f"kernels   {facts['isa']}, {facts['threads']} threads, keys and values {facts['kv']}",
        f"machine   reads {spread(read, 1e9, 1)} GB/s, int8 {spread(ops, 1e9, 0)} GOP/s",
        f"weights   read at {own / 1e9:.1f} GB/s where they lie; {where}" if own else "weights   floats in memory",
        f"start     {facts['start']['seconds']:.2f} s to the first token, page cache warm",
    ]
    if told := disturbance(facts["others_share"]):
        out.append(f"busy      {told}; measure again on a quiet machine")
    out += [
        "",
        f"{'prefill':>9} {'tokens/s':>10} {'lowest – highest':>20} {'GOP/s':>8} {'of peak':>8}",
    ]
    for num, p in facts["prefill"].items():
        rate = f"{p['operations_per_s'] / 1e9:>8.0f} {p['peak_fraction']:>8.1%}"
        out.append(f"{int(num):>9,} {p['tokens_per_s']:>10.1f} {between(p):>20} {rate}")
    out += [
        "",
        (
            f"{'depth':>9} {'tokens/s':>10} {'lowest – highest':>20} {'GB/s':>8} "
            f"{'of read':>8}   weights + state + keys and values"
        ),
    ]
    for depth, d in facts["decode"].items():
        rate = f"{d['bytes_per_s'] / 1e9:>8.1f} {d['bandwidth_fraction']:>8.1%}"
        parts = " + ".join(size(n) for n in d["bytes_per_token"].values())
        out.append(f"{int(depth):>9,} {d['tokens_per_s']:>10.1f} {between(d):>20} {rate}   {parts}")
    now = f"now {gb(mem['anonymous_bytes'])} of its own, {gb(mem['file_bytes'])} of files"
    out += ["", f"memory    {gb(mem['peak_rss_bytes'])} at most; {now}"]
    out.append("shares are of limits measured just before and after each piece of work, medians")
    if any(int(depth) > PAGE_LEN for depth in facts["decode"]):
        out.append("keys and values of depths are random numbers, not read from a prompt")
    return out


def spread(rate: dict[str, float], unit: float, digits: int) -> str:
    median, lowest, highest = (f"{rate[key] / unit:,.{digits}f}" for key in ("median", "lowest", "highest"))
    return f"{median} ({lowest} – {highest})"


def between(found: dict[str, float]) -> str:
    digits = max(0, 2 - int(math.log10(max(found["lowest"], 1))))
    return f"{found['lowest']:,.{digits}f} – {found['highest']:,.{digits}f}"
