"""Train a3b-nano on the CPU; resumable, logs one JSON line every few steps.

    nice -n 10 python -m nano.train --out DIR --tokens 40e6

Schedule: warm-up, constant, then linear to zero over the last `--decay` share of the tokens. SIGTERM saves and ends;
run again with the same --out to go on (raise --tokens to train longer). `--fp8-from` is the progress at which the
forward pass starts to see the weights as block-scaled FP8, the form in which they are exported. `--init` starts from an
exported checkpoint and a fresh optimiser, `--start` at a later progress of the schedule:

    python -m nano.train --out DIR --init src/a3b/nano_model --start 0.55 --tokens 10e6 --fp8-from 0
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import time
from pathlib import Path

import torch

from nano.data import FIX_SHARE, Batches
from nano.export import read_back
from nano.model import Nano, NanoShape
from nano.optimiser import Optimiser
from nano.quantise import quantised_view


def schedule(progress: float, step: int, decay: float, warm_up: int = 60) -> float:
    return min(1.0, (step + 1) / warm_up) * min(1.0, max(0.0, (1 - progress) / decay))


def save(path: Path, **state) -> None:
    torch.save(state, path.with_suffix(".part"))
    os.replace(path.with_suffix(".part"), path)


def main() -> None:
    args = arguments()
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    model = Nano(NanoShape())
    optimiser = Optimiser(model, args.muon_lr, args.adam_lr)
    seen, step, pool, path = int(args.start * args.tokens), 0, 0, args.out / "state.pt"
    if path.exists():
        state = torch.load(path, weights_only=True)
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        seen, step, pool = state["seen"], state["step"], state["pool"] + 1
    elif args.init:
        read_back(model, args.init)
    batches = Batches(args.model, args.out / "text.npy", args.fix_share, args.batch, args.seed, pool)
    batches.progress.value = seen / args.tokens
    stop: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: stop.append(number))
    log, last_save, window = (args.out / "log.jsonl").open("a"), time.time(), []
    for pool, (kind, ids, weight, length) in batches:
        progress, start = seen / args.tokens, time.time()
        if progress >= 1 or stop:
            break
        batches.progress.value = progress
        ids, weight, length = (torch.from_numpy(u) for u in (ids, weight, length))
        with quantised_view(model, progress >= args.fp8_from):
            loss, balance = model.loss(ids, weight, length)
            (loss + args.balance * balance).backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step(schedule(progress, step, args.decay))
        num = int(length.sum())
        seen, step = seen + num, step + 1
        window.append((kind, float(loss.detach()), float(balance.detach()), num, time.time() - start))
        if step % 20 == 0:
            log_line(log, window, step=step, seen=seen, norm=round(float(norm), 3))
            window = []
        if time.time() - last_save > args.save_s:
            save(path, model=model.state_dict(), optimiser=optimiser.state_dict(), seen=seen, step=step, pool=pool)
            last_save = time.time()
    save(path, model=model.state_dict(), optimiser=optimiser.state_dict(), seen=seen, step=step, pool=pool)


def log_line(log, window: list, **fields) -> None:
    for name in ("text", "fix", "tasks"):
        losses = [loss for kind, loss, *_ in window if kind == name]
        fields[name] = round(sum(losses) / len(losses), 4) if losses else None
    fields["balance"] = round(sum(w[2] for w in window) / len(window), 3)
    fields["tokens_per_s"] = round(sum(w[3] for w in window) / sum(w[4] for w in window))
    log.write(json.dumps(fields) + "\n")
    log.flush()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = Path(__file__).resolve().parent.parent
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", type=Path, default=root / "src/a3b/nano_model", help="tokenizer and template")
    parser.add_argument("--init", type=Path, help="exported checkpoint to start from")
    parser.add_argument("--start", type=float, default=0.0, help="progress at which a fresh run starts")
    parser.add_argument("--tokens", type=float, default=40e6)
    parser.add_argument("--batch", type=int, default=8192, help="tokens per step")
    parser.add_argument("--fix-share", type=float, default=FIX_SHARE, help="share of *fix* among the conversations")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--muon-lr", type=float, default=0.02)
    parser.add_argument("--adam-lr", type=float, default=4e-3)
    parser.add_argument("--balance", type=float, default=0.01)
    parser.add_argument("--decay", type=float, default=0.35)
    parser.add_argument("--fp8-from", type=float, default=0.8)
    parser.add_argument("--save-s", type=float, default=240)
    return parser.parse_args()


if __name__ == "__main__":
    main()
