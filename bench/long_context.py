"""Long context at the full width: three delta-net layers and the attention layer of 35b-a3b, with random weights.

    python -m bench.long_context DIR                      # everything below; hours on two cores, and resumable
    python -m bench.long_context DIR --only read --read 262144
    python -m bench.long_context DIR --only placed --placed 524288,1010000 --kv q8,bf16
    python -m bench.long_context DIR --table              # what is in DIR/results.jsonl, as Markdown

`read` reads every position of the native context through the model, and keeps snapshots in DIR/sessions as a server
does, where a run that was stopped goes on. `placed` fills the cache of a longer context, whose RoPE is scaled by YaRN,
with keys and values by construction: random ones of ordinary size, and for chosen queries a key that answers them far
away. Then 2,048 tokens are read and 64 decoded. Checked at each depth: the compiled attention against its NumPy twin
and float64 arithmetic on sampled queries, that planted keys are found, equal bits for other cuts and for one thread,
and equal bytes and logits after a way to disk and back. A wrong result ends with status 1.

Times are of the wall and of the processor (`cpu`, of all threads together): on a machine that is shared, the second
says what the work costs. Each finished step is a line of DIR/results.jsonl and is not repeated."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from a3b.cache.disk_store import Store
from a3b.cache.identity import cache_identity
from a3b.cache.prefix_cache import PrefixCache
from a3b.commands.benchmarks import speed
from a3b.commands.benchmarks.random_model import random_directory
from a3b.commands.sizes import attention_operations, kv_bytes_per_token, state_bytes
from a3b.kernels import PAGE_LEN, Kernels, kv, open_kernels
from a3b.kernels.ref import ops
from a3b.machine import Machine
from a3b.model.config import ModelConfig, with_context
from a3b.model.config_reader import config_from_dict, read_config
from a3b.model.forward import Model
from a3b.model.rope import Rope
from a3b.model.state import SEGMENT_LEN, SEGMENT_PAGES, Snapshot, State, advancing
from a3b.packing.random_weights import shape_config
from bench.restore import forget_files

LAYERS, PRESET = 4, "balanced"
PIECE, LAST = 8192, 512  # tokens between two snapshots; the piece that is read again in other cuts
CUTS = (1, 63, 200, 1, 247)
READ, DECODED = 2048, 64
NEEDLES = 6  # planted keys
STRENGTH = 40.0  # score of a planted key; others are of spread 1, and a million of them weigh e^14.3 together
U = 2.0**-24


class Log:
    """Finished steps, a JSON object per line, by name."""

    def __init__(self, path: Path):
        self.path = path
        lines = path.read_text().splitlines() if path.exists() else []
        self.steps: dict[str, dict[str, Any]] = {}
        for line in lines:
            try:
                step = json.loads(line)
            except ValueError:
                continue  # cut by a kill
            self.steps[step["step"]] = step

    def add(self, name: str, **facts: Any) -> None:
        step = {"step": name, **facts}
        self.steps[name] = step
        with self.path.open("a") as file:
            file.write(json.dumps(step) + "\n")
        print(json.dumps(step), flush=True)


class Timer:
    """Seconds of the wall and of the processor."""

    def __enter__(self) -> Timer:
        self.began, self.cpu_began = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.s, self.cpu_s = time.perf_counter() - self.began, time.process_time() - self.cpu_began

    @property
    def facts(self) -> dict[str, float]:
        return {"s": round(self.s, 4), "cpu_s": round(self.cpu_s, 4)}


def require(what: str, is_so: bool) -> None:
    if not is_so:
        raise SystemExit(f"WRONG: {what}")


def memory() -> dict[str, int]:
    """Bytes of this process: the most since the last call of `speed.forget_peak`, and now."""
    found = speed.memory()
    return {"peak_bytes": found["peak_rss_bytes"], "now_bytes": found["rss_bytes"]}


def digest(state: State, logits: np.ndarray | None = None) -> str:
    """Of every number that a state holds, and of logits."""
    total = hashlib.blake2b(digest_size=16)
    for array in (state.conv, state.delta, *([] if logits is None else [logits])):
        total.update(np.ascontiguousarray(array))
    for array in used_pages(state):
        total.update(np.ascontiguousarray(array))
    return total.hexdigest()


def used_pages(state: State | Snapshot) -> Iterator[np.ndarray]:
    """uint8: keys and values of the tokens of a state, without what follows the last one."""
    snapshot = state.snapshot() if isinstance(state, State) else state
    for i, segment in enumerate(snapshot.segments):
        left = min(max(snapshot.num_tokens - i * SEGMENT_LEN, 0), SEGMENT_LEN)
        keys, values = segment.keys[0, : -(-left // PAGE_LEN)], segment.values[0, : -(-left // PAGE_LEN)]
        if left % PAGE_LEN:
            keys, values = keys.copy(), values.copy()
            kv.clear(snapshot.kv, keys[-1], values[-1], left % PAGE_LEN)
        yield from (keys, values)


def cut(ids: np.ndarray, cuts: Sequence[int]) -> Iterator[np.ndarray]:
    at = 0
    for num in [*cuts, len(ids)]:
        if len(piece := ids[at : at + num]):
            yield piece
        at += num


def decode(model: Model, state: State, first: int) -> tuple[list[int], np.ndarray]:
    """DECODED greedy tokens and the last logits."""
    ids, logits = [first], np.empty(0, np.float32)
    for _ in range(DECODED):
        logits = model.forward(np.array(ids[-1:]), state)
        ids.append(int(logits.argmax()))
    return ids, logits


def read_native(log: Log, place: Path, directory: Path, models: Models, total: int, kv_type: str) -> None:
    """Read `total` positions, piece by piece; a snapshot after each."""
    name = f"read {total} {kv_type}"
    if f"{name} restored" in log.steps:
        return
    model = models.of(total, kv_type)
    ids = speed.random_ids(model.config, total, seed=5)
    identity = cache_identity(model.config, directory, kv_type, model.isa)
    sessions = place / "sessions"
    with Store(sessions, 40 * 10**9) as store:
        cache = PrefixCache(identity, model.new_state, 1 << 30, store)
        state = cache.sync("", [*ids.tolist(), 0]).state
        speed.forget_peak()
        for stop in [*range(PIECE, total - LAST, PIECE), total - LAST, total]:
            if stop <= state.num_tokens:
                continue
            start = state.num_tokens
            with Timer() as timer:
                logits = model.forward(ids[start:stop], state)
            require("logits that are finite", bool(np.isfinite(logits).all()))
            log.add(f"{name} to {stop}", tokens=stop - start, depth=(start + stop) // 2, **timer.facts, **memory())
            cache.add("", ids[:stop], state.snapshot(), "turn")
            require("written within ten minutes", store.flush(600))
        if f"{name} again" not in log.steps:
            before = cache.sync("", ids[: total - LAST + 1].tolist()).state
            require("the snapshot before the last piece", before.num_tokens == total - LAST)
            for threads, cuts in ((model_threads(models), CUTS), (1, ())):
                other, again = models.of(total, kv_type, threads), before.fork()
                for piece in cut(ids[total - LAST :], cuts):
                    logits_again = other.forward(piece, again)
                require(f"the same bits with {threads} threads, cut {cuts}", digest(again) == digest(state))
            log.add(f"{name} again", digest=digest(state), cuts=CUTS, logits=digest_of(logits_again))
        with Timer() as timer:
            written, logits = decode(model, state.fork(), int(ids[-1]))
        log.add(f"{name} decoded", tokens=DECODED, depth=total, **timer.facts, **memory())
        kept = digest(state)
    log.add(f"{name} restored", **back_from_disk(model, sessions, identity, ids, kept, written, logits))


def back_from_disk(
    model: Model, sessions: Path, identity: bytes, ids: np.ndarray, kept: str, written: list[int], logits: np.ndarray
) -> dict[str, Any]:
    """Read a session in a new store, compare every byte, and decode again."""
    forget_files(sessions)
    with Timer() as timer, Store(sessions, 40 * 10**9) as store:
        cache = PrefixCache(identity, model.new_state, 1 << 30, store)
        state = cache.sync("", [*ids.tolist(), 0]).state
    require(f"{len(ids)} tokens from disk, found {state.num_tokens}", state.num_tokens == len(ids))
    require("every byte from disk", digest(state) == kept)
    again, logits_again = decode(model, state, written[0])
    require("the same tokens after a way to disk", again == written)
    require("the same logits after a way to disk", logits_again.tobytes() == logits.tobytes())
    return timer.facts | {"kv_bytes": sum(array.nbytes for array in used_pages(state)), "digest": kept}


def digest_of(array: np.ndarray) -> str:
    return hashlib.blake2b(np.ascontiguousarray(array), digest_size=16).hexdigest()


class Models:
    """Models over the same weights: for each context, format of keys and values, and number of threads."""

    def __init__(self, directory: Path, threads: int | None):
        self.threads = threads or Machine.read().num_threads
        self.config: ModelConfig = read_config(directory)
        self.loaded = speed.load(directory, self.kernels(self.threads), "q8")

    def kernels(self, threads: int) -> Kernels:
        return open_kernels(None, threads)

    def of(self, context: int, kv_type: str, threads: int | None = None) -> Model:
        config, note = with_context(self.config, context)
        if note:
            print(note, flush=True)
        return Model(config, self.loaded.weights, self.kernels(threads or self.threads), kv_type)


def model_threads(models: Models) -> int:
    return models.threads


# -- keys and values placed by construction


def placed_state(model: Model, num: int) -> State:
    """A state of `num` tokens: LAST of them are read, later keys and values are random numbers of ordinary size, other
    ones in each segment."""
    config, state = model.config, model.new_state()
    model.forward(speed.random_ids(config, LAST, seed=7), state, logits="none")
    rng = np.random.default_rng(11)
    with advancing([(state, num - LAST)]):
        for i, (keys, values) in enumerate(state.segments(0)):
            first = LAST if i == 0 else 0
            stop = min(SEGMENT_LEN, num - i * SEGMENT_LEN)
            if stop > first:
                size = (stop - first, config.num_key_value_heads, config.head_dim)
                kv.store(model.kv, keys, values, first, *(rng.standard_normal(size, np.float32) for _ in range(2)))
    return state


class Lazy(Sequence[tuple[np.ndarray, np.ndarray]]):
    """Keys and values of one KV head as the twin reads them, decoded segment by segment."""

    def __init__(self, segments: Sequence[tuple[np.ndarray, np.ndarray]], kv_type: str, head: int, Dh: int):
        self.segments, self.kv, self.head, self.Dh = segments, kv_type, head, Dh

    def __len__(self) -> int:
        return len(self.segments)

    def __getitem__(self, i: Any) -> Any:
        keys, values = (np.ascontiguousarray(array[:, self.head : self.head + 1]) for array in self.segments[i])
        return kv.load(self.kv, keys, values, self.Dh)


def exact(q: np.ndarray, lazy: Lazy, position: int) -> np.ndarray:
    """Attention of one query at a position, in float64: q [Dh] -> [Dh]."""
    top, norm, mixed = -np.inf, 0.0, np.zeros(len(q))
    for i in range(position // SEGMENT_LEN + 1):
        keys, values = (array.reshape(-1, len(q)).astype(np.float64) for array in lazy[i])
        seen = position + 1 - i * SEGMENT_LEN
        scores = keys[:seen] @ q / np.sqrt(len(q))
        new_top = max(top, scores.max())
        weights = np.exp(scores - new_top)
        fade = np.exp(top - new_top)
        norm, mixed = norm * fade + weights.sum(), mixed * fade + weights @ values[:seen]
        top = new_top
    return mixed / norm


def check_attention(model: Model, models: Models, state: State, tokens: int = 4) -> dict[str, Any]:
    """Compare the compiled attention of a few tokens after `state` with the twin, with float64, and with itself cut
    otherwise and on one thread; some of their queries have a planted key that answers them."""
    c, a, start = model.config, model.config.axes, state.num_tokens
    rng, half = np.random.default_rng(3), c.rope.rotary_dim // 2
    projected = rng.standard_normal((tokens, 2 * (a.Hq + a.Hkv) * a.Dh), np.float32)
    q_norm, k_norm = (rng.normal(1, 0.1, a.Dh).astype(np.float32) for _ in range(2))
    cos, sin = Rope(c.rope)(np.arange(start, start + tokens))
    q = projected[:, : 2 * a.Hq * a.Dh].reshape(tokens, a.Hq, 2, a.Dh)
    turned = ops.bind_rms_norm(np.tile(q_norm, (a.Hq, 1)), c.norm_eps, "q_norm")(np.ascontiguousarray(q[:, :, 0]))
    ops.rope_apply(turned, cos, sin)
    planted = plant(model, state, turned, rng)
    segments = state.fork()  # written behind its end only
    outs = []
    for threads, cuts in ((models.threads, ()), (models.threads, (1, 2)), (1, (3,))):
        fork = segments.fork()
        op = models.kernels(threads).bind_attention(q_norm, k_norm, c.norm_eps, a.Hq, a.Hkv, a.Dh, half, model.kv)
        found, at = [], 0
        with advancing([(fork, tokens)]):
            for piece in cut(projected, cuts):
                rows = slice(at, at + len(piece))
                found.append(op(piece, cos[rows], sin[rows], fork.segments(0), start + at))
                at += len(piece)
        outs.append(np.concatenate(found).reshape(tokens, a.Hq, a.Dh))
    require("attention with the same bits for other cuts and threads", all((o == outs[0]).all() for o in outs))
    return compare(model, fork, outs[0], turned, q, planted, start)


def plant(model: Model, state: State, queries: np.ndarray, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Put keys that answer single queries at depths from the first page to the last, with values of their own."""
    a, num = model.config.axes, state.num_tokens
    planted = []
    for i in range(NEEDLES):
        t, head = i % len(queries), (3 * i + i // len(queries)) % a.Hq  # a pair of its own
        position = LAST + (num - LAST - 1) * i // (NEEDLES - 1)
        q, group = queries[t, head], head // (a.Hq // a.Hkv)
        key = q * np.float32(STRENGTH * np.sqrt(a.Dh) / (q @ q))
        value = rng.standard_normal(a.Dh, np.float32)
        keys, values = state.segments(0)[position // SEGMENT_LEN]
        heads = slice(group, group + 1)
        one = [np.ascontiguousarray(array[:, heads]) for array in (keys, values)]
        kv.store(model.kv, one[0], one[1], position % SEGMENT_LEN, key[None, None], value[None, None])
        keys[:, heads], values[:, heads] = one
        planted.append({"token": t, "head": head, "position": position, "value": value})
    return planted


def compare(
    model: Model,
    state: State,
    found: np.ndarray,
    queries: np.ndarray,
    q: np.ndarray,
    planted: list[dict[str, Any]],
    start: int,
) -> dict[str, Any]:
    """Largest differences: to the twin and to float64 on sampled queries, and to the values of planted keys."""
    a, per_group = model.config.axes, model.config.axes.Hq // model.config.axes.Hkv
    sampled = [(t, head) for t in (0, len(found) - 1) for head in (0, a.Hq - 1)]
    sampled += [(n["token"], n["head"]) for n in planted[:2]]
    gate = ops.sigmoid(q[:, :, 1])
    twin = ops.bind_paged_attention(1, 1, a.Dh)
    away = {"twin": 0.0, "float64": 0.0, "planted": 0.0, "twin_to_float64": 0.0}
    for t, head in sampled:
        lazy = Lazy(state.segments(0), model.kv, head // per_group, a.Dh)
        by_twin = twin(queries[t : t + 1, head : head + 1], lazy, start + t)[0] * gate[t, head]
        by_hand = exact(queries[t, head].astype(np.float64), lazy, start + t) * gate[t, head]
        away["twin"] = max(away["twin"], float(np.abs(found[t, head] - by_twin).max()))
        away["float64"] = max(away["float64"], float(np.abs(found[t, head] - by_hand).max()))
        away["twin_to_float64"] = max(away["twin_to_float64"], float(np.abs(by_twin - by_hand).max()))
    for n in planted:
        expected = n["value"] * gate[n["token"], n["head"]]
        away["planted"] = max(away["planted"], float(np.abs(found[n["token"], n["head"]] - expected).max()))
    # q8: queries and weights in int8, as in tests/kernels/test_native.py; a planted value is kept in the format
    bound = {"f32": 1e-4, "bf16": 2**-6, "q8": 0.1}[model.kv]
    require(f"attention near its twin: {away}", max(away["twin"], away["float64"], away["planted"]) <= bound)
    require(f"the twin near float64: {away}", away["twin_to_float64"] <= 1e-4)
    return {"away": away, "bound": bound, "sampled": len(sampled), "planted": [n["position"] for n in planted]}


def at_depth(log: Log, place: Path, directory: Path, models: Models, context: int, kv_type: str) -> None:
    """Place keys and values, check attention, read READ tokens, decode DECODED, disk and back, other cuts."""
    name = f"placed {context} {kv_type}"
    if f"{name} restored" in log.steps:
        return
    speed.forget_peak()
    model = models.of(context, kv_type)
    rope = model.config.rope
    num = min(context, int(rope.factor * rope.original_context) - READ - DECODED)
    with Timer() as timer:
        state = placed_state(model, num)
    log.add(f"{name} placed", tokens=num, factor=rope.factor, **timer.facts, **memory())
    with Timer() as timer:
        facts = check_attention(model, models, state)
    log.add(f"{name} attention", **facts, **timer.facts)
    ids = speed.random_ids(model.config, READ, seed=9)
    speed.forget_peak()
    with Timer() as timer:
        model.forward(ids[: READ - LAST // 4], state, logits="none")
    log.add(f"{name} read", tokens=READ - LAST // 4, depth=num + (READ - LAST // 4) // 2, **timer.facts, **memory())
    before, last = state.fork(), ids[READ - LAST // 4 :]
    logits = model.forward(last, state)
    for threads, cuts in ((models.threads, (1, 40, 1, 63)), (1, ())):
        other, again = models.of(context, kv_type, threads), before.fork()
        for piece in cut(last, cuts):
            logits_again = other.forward(piece, again)
        same = logits_again.tobytes() == logits.tobytes() and digest(again) == digest(state)
        require(f"the same bits with {threads} threads, cut {cuts}", same)
    with Timer() as timer:
        written, end = decode(model, state.fork(), int(logits.argmax()))
    require("logits that are finite", bool(np.isfinite(end).all()))
    log.add(f"{name} decoded", tokens=DECODED, depth=num + READ + DECODED // 2, **timer.facts, **memory())
    del before, again
    all_ids = np.concatenate((np.zeros(num, np.int64), ids))
    identity, sessions = cache_identity(model.config, directory, kv_type, model.isa), place / f"placed-{context}"
    with Timer() as timer, Store(sessions, 40 * 10**9) as store:
        cache = PrefixCache(identity, model.new_state, 1 << 33, store)
        cache.add("", all_ids, state.snapshot(), "turn")
        require("written within ten minutes", store.flush(600))
        kept = digest(state)
        del cache
    log.add(f"{name} stored", **timer.facts)
    del state
    facts = back_from_disk(model, sessions, identity, all_ids, kept, written, end)
    shutil.rmtree(sessions)
    log.add(f"{name} restored", **facts)


# -- the table


def fitted(steps: dict[str, dict[str, Any]], pair: int) -> tuple[float, float]:
    """(processor seconds of a token at depth 0, of an operation of attention), from the pieces that were read in q8.

    pair: operations of a token with one before it."""
    rows = [s for name, s in steps.items() if _is_piece(name) and s["tokens"] > LAST]
    x = np.array([[1.0, pair * s["depth"]] for s in rows])
    y = np.array([s["cpu_s"] / s["tokens"] for s in rows])
    found = np.linalg.lstsq(x, y, rcond=None)[0] if len(rows) > 1 else np.array([float("nan")] * 2)
    return float(found[0]), float(found[1])


def table(log: Log, config: ModelConfig) -> list[str]:
    """Markdown: what a token costs at each depth beside the formula, and memory beside the sum of its parts."""
    steps, machine = log.steps, log.steps["machine"]
    pair = attention_operations(config, 1)
    base, each = fitted(steps, pair)
    read = max((s["depth"] + s["tokens"] // 2 for name, s in steps.items() if _is_piece(name)), default=0)
    out = [
        "# Long context at the full width",
        "",
        f"`python -m bench.long_context DIR`, {machine['at']}, {machine['threads']} threads, {machine['isa']}; random "
        f"weights of 35b-a3b, {LAYERS} layers, {machine['weights_bytes'] / 1e9:.2f} GB. Positions really read: "
        f"{read:,} of 262,144. Times are of the processor, all threads together.",
        "",
        f"A token takes {1e3 * base:.2f} ms of processor time at depth 0, and {pair * each * 1e6:.3f} µs more for each "
        f"token before it: attention computes {1e-9 / each:.0f} GOP/s a core.",
        "",
        "| step | keys and values | depth | tokens | ms a token | formula | memory | formula |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, s in steps.items():
        what, _, rest = name.partition(" ")
        kv_type = next((kind for kind in kv.KV_TYPES if kind in rest.split()), "")
        if what not in ("read", "placed") or not kv_type or "tokens" not in s or name.endswith(" placed"):
            continue
        if _is_piece(name) and s["tokens"] > LAST and not _is_shown(s["depth"] + s["tokens"] // 2):
            continue
        decoding = name.endswith("decoded")
        end = s["depth"] + s["tokens"] // 2
        expected = 1e3 * (base + each * pair * s["depth"]) if kv_type == "q8" and not decoding else None
        parts = machine["weights_bytes"] + machine["state_bytes"] + end * machine["kv_bytes"][kv_type]
        out.append(
            f"| {'decoded' if decoding else what if what == 'read' else 'read after placed ones'} | {kv_type} | "
            f"{s['depth']:,} | {s['tokens']:,} | {1e3 * s['cpu_s'] / s['tokens']:.1f} | "
            f"{f'{expected:.1f}' if expected else ''} | {s['peak_bytes'] / 1e9:.2f} GB | {parts / 1e9:.2f} GB |"
        )
    out += [
        "",
        "Checked, by step; a wrong result would have ended the run. At each placed depth the last 128 tokens, read in",
        "other pieces and by one thread, also gave the same bits of state and logits.",
        "",
    ]
    for name, s in steps.items():
        if "away" in s:
            away = ", ".join(f"{what} {value:.1e}" for what, value in s["away"].items())
            out.append(f"- {name}: largest differences {away}; planted keys at {s['planted']}")
        elif name.endswith(" again"):
            out.append(f"- {name}: the same bits for pieces of {s['cuts']} tokens and for one thread")
        elif name.endswith(" restored"):
            out.append(
                f"- {name}: {s['kv_bytes'] / 1e9:.2f} GB of keys and values back from disk in {s['s']:.1f} s, every "
                f"byte, {DECODED} decoded tokens and the last logits the same; digest {s['digest']}"
            )
    return out


def _is_piece(name: str) -> bool:
    return name.startswith("read ") and " to " in name


def _is_shown(stop: int) -> bool:
    """Of the pieces that were read, those whose end is a power of two, or a quarter of one more."""
    return stop >= PIECE and (stop & (stop - 1) == 0 or stop % 32_768 == 0)


def describe(log: Log, models: Models) -> None:
    config = models.config
    log.add(
        "machine",
        threads=models.threads,
        isa=models.loaded.kernels.isa,
        cores=os.cpu_count(),
        weights_bytes=models.loaded.total_bytes,
        state_bytes=state_bytes(config),
        kv_bytes={kind: kv_bytes_per_token(config, kind) for kind in kv.KV_TYPES},
        segment_pages=SEGMENT_PAGES,
        at=time.strftime("%Y-%m-%d %H:%M"),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, help="of weights (2.8 GB), sessions and results; made if not there")
    parser.add_argument("--only", choices=("read", "placed"))
    parser.add_argument("--read", type=int, default=262_144)
    parser.add_argument("--placed", default="524288,1010000")
    parser.add_argument("--kv", default="q8,bf16", help="formats for placed depths; positions are read in the first")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--table", action="store_true", help="print what was found so far")
    args = parser.parse_args()
    if args.table:
        config = config_from_dict(shape_config("35b-a3b", LAYERS), "35b-a3b")
        print("\n".join(table(Log(args.directory / "results.jsonl"), config)))
        return
    args.directory.mkdir(parents=True, exist_ok=True)
    log, formats = Log(args.directory / "results.jsonl"), args.kv.split(",")
    directory = random_directory(args.directory, "35b-a3b", PRESET, LAYERS)
    models = Models(directory, args.threads)
    describe(log, models)
    if args.only != "read":
        for context in map(int, args.placed.split(",")):
            for kv_type in formats:
                at_depth(log, args.directory, directory, models, context, kv_type)
    if args.only != "placed":
        read_native(log, args.directory, directory, models, args.read, formats[0])


if __name__ == "__main__":
    sys.exit(main())
