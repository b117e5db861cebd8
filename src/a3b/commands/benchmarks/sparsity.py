"""`a3b bench sparsity`: 35b-a3b against dense models: of its active size, its sibling, and of about its whole size.

Runs the same kernels on random weights of each shape, one after the other. A shape that disk or memory cannot hold runs
with its first layers only: time, bytes and operations of layers are multiplied, those of embedding and lm_head are not
(`whole`). Layers repeat in groups, so the first ones stand for the others. Directories made here are removed unless
kept."""

from __future__ import annotations

import gc
import json
import shutil
import statistics
import time
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from a3b.commands.benchmarks import plots, speed
from a3b.commands.benchmarks.random_model import directory_name, random_directory
from a3b.commands.cost import Price, costs, given_price
from a3b.commands.cost import table as cost_table
from a3b.commands.sizes import state_bytes
from a3b.errors import UsageError
from a3b.formats.packed import MANIFEST
from a3b.formats.tiles import Tiles
from a3b.kernels import Kernels, open_kernels, probe
from a3b.machine import Machine, OtherWork
from a3b.model.config_reader import config_from_dict
from a3b.model.known_shapes import SHAPES
from a3b.model.parameters import count_parameters
from a3b.packing.random_weights import random_source, shape_config
from a3b.printable import report

COMPARED = ("35b-a3b", "3b-dense", "27b", "31b-dense")
SPARSE, SMALL, LARGE = "35b-a3b", "3b-dense", "31b-dense"
SPARE_BYTES = 2 << 30  # of memory and of disk, in addition to the weights
PROMPTS, HEAD_RUNS = (512,), 20


def run(args: Namespace) -> None:
    price = given_price(args)  # refused before anything is measured, as is a plot
    if args.plot:
        plots.pyplot()
    runtime, machine = args.runtime, Machine.read()
    schedule = speed.Schedule.of(args)
    schedule = replace(schedule, prompts=args.prefill or PROMPTS, depths=(0,))
    kernels = open_kernels(runtime.isa, args.threads or runtime.threads or machine.num_threads)
    probe.runtime_of(kernels)  # refuses the twins
    parent = Path(args.dir or runtime.home).expanduser()
    rows = []
    for shape in COMPARED:
        num_layers = args.layers or layers_that_fit(parent, shape, args.preset, machine.memory_bytes)
        rows.append(compare(kernels, parent, shape, args.preset, num_layers, schedule, args.keep))
        gc.collect()  # the weights of this shape, before those of the next
    facts = {"isa": kernels.isa, "threads": kernels.num_threads, "preset": args.preset, "shapes": rows} | ratios(rows)
    facts["cost"] = cost(rows, price)
    if args.plot:
        plots.draw_sparsity(facts, args.plot)
    table = ["", *cost_table(price, facts["cost"]["shapes"])] if price and facts["cost"] else []
    report(json.dumps(facts, indent=2) if args.json else "\n".join(lines(facts) + table))


def compare(
    kernels: Kernels, parent: Path, shape: str, preset: str, num_layers: int, schedule: speed.Schedule, keep: bool
) -> dict[str, Any]:
    """Measure one shape; returns its row."""
    config, cut = config_from_dict(shape_config(shape), shape), config_from_dict(shape_config(shape, num_layers), shape)
    schedule.check(config)
    asked = None if num_layers == config.num_layers else num_layers
    directory = parent / directory_name(shape, preset, asked)
    was_there = (directory / MANIFEST).exists()
    try:
        random_directory(parent, shape, preset, asked)
        others, limits = OtherWork(), speed.limits(kernels, schedule.probe_s)
        loaded = speed.load(directory, kernels, "q8")
        speed.warm_up(loaded)
        head_s, head_bytes = head(loaded, kernels)
        scale = config.num_layers / num_layers
        seconds = schedule.probe_s * speed.BESIDE_SHARE
        in_place = speed.reading(loaded)
        beside = speed.Beside(lambda: in_place.bandwidth(seconds), loaded.token_bytes + 2 * state_bytes(cut))
        steps = [
            seconds / schedule.tokens for seconds in speed.decode(loaded, 0, schedule.tokens, schedule.runs, beside.add)
        ]
        decode = speed.summary([1 / whole(seconds, head_s, scale) for seconds in steps])
        prompts = {
            str(num): speed.summary(
                [num / whole(seconds, head_s, scale) for seconds in speed.prefill(loaded, num, schedule.runs)]
            )
            for num in schedule.prompts
        }
        weights = round(whole(loaded.token_bytes, head_bytes, scale))
        others_share = others.share()
    finally:
        if not was_there and not keep:
            shutil.rmtree(directory, ignore_errors=True)
    count, state = count_parameters(config), 2 * state_bytes(config)
    rate = decode["tokens_per_s"] * (weights + state)
    return {
        "shape": shape,
        "layers": config.num_layers,
        "layers_run": cut.num_layers,
        "parameters": count.total,
        "active": count.active,
        "bytes_per_token": {"weights": weights, "state": state},
        "operations_per_token": 2 * count.active,
        "decode": decode | {"bytes_per_s": rate, "bandwidth_fraction": beside.share},
        "prefill": prompts,
        "measured": limits,
        "step_s": statistics.median(steps),
        "head_s": head_s,
        "others_share": others_share,
    }


def whole(part: float, head: float, scale: float) -> float:
    """Extrapolate to the whole model: what belongs to the layers that were run grows with their number, the rest does
    not."""
    return head + (part - head) * scale


def head(loaded: speed.Loaded, kernels: Kernels) -> tuple[float, int]:
    """(seconds, bytes of weights) of what a step does after its layers: norm, lm_head, the most likely token."""
    config, weights = loaded.config, loaded.weights
    op = kernels.bind_linear([("lm_head", weights.lm_head)], config.hidden_size, weights.norm, config.norm_eps)
    hidden, times = np.ones((1, config.hidden_size), np.float32), []
    for _ in range(HEAD_RUNS):
        began = time.perf_counter()
        op(hidden).argmax()
        times.append(time.perf_counter() - began)
    lm_head = weights.lm_head
    if not isinstance(lm_head, np.ndarray | Tiles):
        raise TypeError("lm_head is mapped; expected a packed model")
    return statistics.median(times), lm_head.data.nbytes


def layers_that_fit(parent: Path, shape: str, preset: str, memory: int) -> int:
    """The most layers whose weights fit into memory, and on the disk if they are not there yet."""
    every, most = SHAPES[shape]["full_attention_interval"], SHAPES[shape]["num_hidden_layers"]
    parent.mkdir(parents=True, exist_ok=True)
    disk = shutil.disk_usage(parent).free
    one, two = (random_source(shape, shape_config(shape, num * every), preset)[1].num_bytes for num in (1, 2))
    there = (parent / directory_name(shape, preset) / MANIFEST).exists()
    room = (memory if there else min(memory, disk)) - SPARE_BYTES
    if room < one:
        raise UsageError(
            f"{shape}: {every} layers take {one / 1e9:.1f} GB; {room / 1e9:.1f} "
            f"GB are available in memory and in {parent}"
        )
    return int(min(most, every * (1 + (room - one) // (two - one))))


def ratios(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Ratios as measured, and corrected for the bandwidth measured with each shape, which varies on a shared
    machine."""
    rate = {row["shape"]: row["decode"]["tokens_per_s"] for row in rows}
    per_byte = {
        row["shape"]: row["decode"]["bandwidth_fraction"] / sum(row["bytes_per_token"].values()) for row in rows
    }
    return {
        "decode_to_small": rate[SPARSE] / rate[SMALL],
        "decode_to_large": rate[SPARSE] / rate[LARGE],
        "decode_to_small_at_one_bandwidth": per_byte[SPARSE] / per_byte[SMALL],
        "decode_to_large_at_one_bandwidth": per_byte[SPARSE] / per_byte[LARGE],
    }


def cost(rows: list[dict[str, Any]], price: Price | None) -> dict[str, Any] | None:
    """What tokens and a task cost at the speeds measured: of the longest prompt, and of decoding after none, so without
    what attention takes in a conversation that grows."""
    if price is None:
        return None
    found = {}
    for row in rows:
        read_s = 1 / row["prefill"][max(row["prefill"], key=int)]["tokens_per_s"]
        written_s = 1 / row["decode"]["tokens_per_s"]
        read, written = price.task
        found[row["shape"]] = costs(price, read_s, written_s, read * read_s + written * written_s)
    return {"per_hour": price.per_hour, "price": price.words, "task": price.task, "shapes": found}


def lines(facts: dict[str, Any]) -> list[str]:
    """A Markdown table, and the claim in numbers."""
    prompts = list(facts["shapes"][0]["prefill"])
    head_line = [
        "shape",
        "parameters",
        "for a token",
        "GB a token",
        "GOP a token",
        "decode, tokens/s",
        "GB/s",
        "of read",
        *(f"prefill {int(n):,}, tokens/s" for n in prompts),
        "layers run",
    ]
    out = [
        f"{facts['preset']}, {facts['isa']}, {facts['threads']} threads; medians (lowest – highest)",
        "",
        row_of(head_line),
        row_of(["---"] * len(head_line)),
    ]
    for row in facts["shapes"]:
        decode, size = row["decode"], sum(row["bytes_per_token"].values())
        cells = [
            row["shape"],
            f"{row['parameters'] / 1e9:.2f} B",
            f"{row['active'] / 1e9:.2f} B",
            f"{size / 1e9:.2f}",
            f"{row['operations_per_token'] / 1e9:.1f}",
            f"{decode['tokens_per_s']:.2f} ({speed.between(decode)})",
            f"{decode['bytes_per_s'] / 1e9:.1f}",
            f"{decode['bandwidth_fraction']:.0%}",
        ]
        cells += [f"{row['prefill'][num]['tokens_per_s']:.1f}" for num in prompts]
        out.append(row_of([*cells, f"{row['layers_run']} of {row['layers']}"]))
    small, large = (
        f"{facts['decode_to_small']:.2f} of the speed of {SMALL}",
        f"{facts['decode_to_large']:.1f} times that of {LARGE}",
    )
    same = f"{facts['decode_to_small_at_one_bandwidth']:.2f} and {facts['decode_to_large_at_one_bandwidth']:.1f} times"
    out += [
        "",
        f"{SPARSE} decodes at {small} and at {large}; at equal bandwidth, by the shares measured with each, at {same}.",
    ]
    out += [f"{row['shape']}: {told}." for row in facts["shapes"] if (told := speed.disturbance(row["others_share"]))]
    if any(row["layers_run"] < row["layers"] for row in facts["shapes"]):
        out.append(
            "Where not all layers were run, those that were represent all: their "
            "time was multiplied, that of lm_head was not."
        )
    return out


def row_of(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"
