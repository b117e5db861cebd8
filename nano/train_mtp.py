"""Train the MTP module of a3b-nano beside its frozen trunk; resumable, logs one JSON line every few steps.

    nice -n 10 python -m nano.train_mtp --out DIR --tokens 2.6e6

The trunk is the exported checkpoint, as it is run, and none of its numbers changes. What is learnt is the trunk's own
distribution of each next token, for drafts of several tokens that are fed with the true ones, on the conversations of
nano/data.py where the model writes, and on text. SIGTERM saves and ends; run again with the same --out to go on.
The forward pass sees the module's weights in the form in which they are exported.
"""

from __future__ import annotations

import argparse
import json
import signal
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nano.data import Batches
from nano.export import read_back
from nano.model import Nano, NanoShape
from nano.mtp import Mtp, difference, logits, rows
from nano.optimiser import Optimiser
from nano.quantise import quantised_view
from nano.train import save, schedule

STEP_WEIGHTS = (1.0, 0.5, 0.25)  # of the first, second and third token of a draft
MIXTURE = 0.93  # progress of nano/data.py whose shares and lengths are used: some text, whole conversations
LONGEST = 1536  # tokens; longer conversations are cut
WARM_UP = 12  # steps


def frozen_trunk(directory: Path) -> Nano:
    """The exported checkpoint, with the values that its file holds."""
    trunk = Nano(NanoShape())
    read_back(trunk, directory)
    return trunk.requires_grad_(False)


def drafts_of(weight: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
    """Where drafts begin, [B, M], and which of their tokens the model wrote, bool [B, M, S].

    weight: [B, T+1] of predicting each token; length [B]."""
    T = weight.shape[1] - 1
    written = (weight >= 1) & (torch.arange(T + 1) <= length[:, None])
    written = torch.nn.functional.pad(written, (0, len(STEP_WEIGHTS)))
    begins = written[:, 2 : T + 1]
    most = int(begins.sum(1).max())
    places = torch.arange(T - 1).expand_as(begins).masked_fill(~begins, T)
    at = places.sort(1).values[:, :most]
    at = at.masked_fill(at == T, -1)
    taught = torch.stack([written.gather(1, at.clamp_min(0) + 2 + step) for step in range(len(STEP_WEIGHTS))], -1)
    return at, taught.cumprod(-1).bool() & (at >= 0)[..., None]


def loss_of(mtp: Mtp, trunk: Nano, batch: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, list[tuple]]:
    """Weighted loss, balance loss, and for each token of a draft (nats, share equal to the trunk's best, count)."""
    ids, weight, length = (u[:, : LONGEST + 1] if u.ndim == 2 else u.clamp_max(LONGEST) for u in batch)
    T = ids.shape[1] - 1
    with torch.no_grad():
        hidden, _ = trunk.hidden(ids[:, :-1], torch.arange(T)[None] < length[:, None])
    at, taught = drafts_of(weight, length)
    padded = torch.nn.functional.pad(ids, (0, len(STEP_WEIGHTS)))
    first = bool(torch.rand(()) < 0.5)  # so that it drafts well in engines of either kind
    outs, balance = mtp.drafts(trunk, hidden, padded, at, len(STEP_WEIGHTS), first)
    total, figures = torch.zeros(()), []
    for step, (out, share) in enumerate(zip(outs, STEP_WEIGHTS, strict=True)):
        chosen = taught[..., step]
        if not chosen.any():
            continue
        with torch.no_grad():
            target = logits(trunk, rows(hidden, (at + step + 1).clamp(0, T - 1))[chosen])
        guess = logits(trunk, out[chosen])
        loss = difference(target, guess).mean()
        total = total + share * loss
        equal = (target.argmax(-1) == guess.detach().argmax(-1)).float().mean()
        figures.append((float(loss.detach()), float(equal), int(chosen.sum())))
    return total, balance, figures


def main() -> None:
    args = arguments()
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    trunk = frozen_trunk(args.model)
    mtp = Mtp(trunk.s)
    mtp.start_from(trunk)
    optimiser = Optimiser(mtp, args.muon_lr, args.adam_lr)
    seen, step, pool, path = 0, 0, 0, args.out / "state.pt"
    if path.exists():
        state = torch.load(path, weights_only=True)
        mtp.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        seen, step, pool = state["seen"], state["step"], state["pool"] + 1
    batches = Batches(args.model, args.out / "text.npy", args.fix_share, args.batch, args.seed, pool)
    batches.progress.value = MIXTURE
    stop: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: stop.append(number))
    log, last_save, window = (args.out / "log.jsonl").open("a"), time.time(), []
    for pool, (kind, ids, weight, length) in batches:
        progress, start = seen / args.tokens, time.time()
        if progress >= 1 or stop:
            break
        batch = torch.from_numpy(ids), torch.from_numpy(weight), torch.from_numpy(length)
        with quantised_view(mtp, True):
            loss, balance, figures = loss_of(mtp, trunk, batch)
            if not figures:  # all of it was cut before the first answer
                continue
            (loss + args.balance * balance).backward()
        torch.nn.utils.clip_grad_norm_(mtp.parameters(), 1.0)
        optimiser.step(schedule(progress, step, args.decay, WARM_UP))
        num = int(np.minimum(length, LONGEST).sum())
        seen, step = seen + num, step + 1
        window.append((kind, figures, float(balance.detach()), num, time.time() - start))
        if step % 20 == 0:
            log_line(log, window, step=step, seen=seen)
            window = []
        if time.time() - last_save > args.save_s:
            save(path, model=mtp.state_dict(), optimiser=optimiser.state_dict(), seen=seen, step=step, pool=pool)
            last_save = time.time()
    save(path, model=mtp.state_dict(), optimiser=optimiser.state_dict(), seen=seen, step=step, pool=pool)


def log_line(log, window: list, **fields) -> None:
    """For each kind of batch, nats and share of equal best tokens of the first, second and third token of a draft."""
    for kind in ("text", "fix", "tasks"):
        found = [figures for name, figures, *_ in window if name == kind]
        fields[kind] = None
        if found:
            by_step = [[f[step] for f in found if len(f) > step] for step in range(len(STEP_WEIGHTS))]
            means = [[sum(f[i] * f[2] for f in fs) / sum(f[2] for f in fs) for i in (0, 1)] for fs in by_step if fs]
            fields[kind] = {"nats": [round(m[0], 4) for m in means], "equal": [round(m[1], 4) for m in means]}
    fields["balance"] = round(sum(w[2] for w in window) / len(window), 3)
    fields["tokens_per_s"] = round(sum(w[3] for w in window) / sum(w[4] for w in window))
    log.write(json.dumps(fields) + "\n")
    log.flush()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = Path(__file__).resolve().parent.parent
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", type=Path, default=root / "src/a3b/nano_model", help="exported checkpoint")
    parser.add_argument("--tokens", type=float, default=2.6e6)
    parser.add_argument("--batch", type=int, default=4096, help="tokens per step")
    parser.add_argument("--fix-share", type=float, default=0.5, help="share of *fix* among the conversations")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--muon-lr", type=float, default=0.02)
    parser.add_argument("--adam-lr", type=float, default=4e-3)
    parser.add_argument("--balance", type=float, default=0.01)
    parser.add_argument("--decay", type=float, default=0.5)
    parser.add_argument("--save-s", type=float, default=120)
    return parser.parse_args()


if __name__ == "__main__":
    main()
