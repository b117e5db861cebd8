"""Write tests/data/parity/*.npz: what transformers computes for the models of tests/support/random_model.py. Needs
torch and transformers 5.24 or newer: older ones ignore the argument `cache`, and would continue without the past.

    python -m tests.support.make_goldens [--mtp] [NAME ...]

Per model: logits float32 [T, V] for each T ("logits_T"), and a greedy continuation of PROMPT_LEN ids: the ids
("greedy"), the reference's gap between its best two logits at each step ("gap") and their spread ("std").
float32 on the CPU, eager experts (the fused ones need aligned sizes), by the versions in "versions".

--mtp: instead, NAME-mtp.npz of the same models with an MTP module (`nano.mtp_reference`), for the first T of T + 3 ids:
logits of the first draft behind each ("first_T", [T, V]) and of the two after the last one, fed with the next ids
("later_T", [2, V]). A pair of the first token and no hidden state precedes the others.
"""

from __future__ import annotations

import sys

import numpy as np
import torch
import transformers
from transformers import Qwen3_5ForCausalLM, Qwen3_5MoeForCausalLM, Qwen3_5MoeTextConfig, Qwen3_5TextConfig

from a3b.model.tensor_names import is_mtp
from nano.mtp_reference import MtpReference
from tests.support.paths import DATA
from tests.support.random_model import SEEDS, SIZES, YARN, config_dict, random_ids, random_tensors

LENGTHS, MTP_LENGTHS, MTP_STEPS = (1, 63, 64, 65, 200), (1, 65), 3
PROMPT_LEN, NUM_GREEDY = 7, 200
DIRECTORY = DATA / "parity"


def reference(name: str) -> Qwen3_5MoeForCausalLM | Qwen3_5ForCausalLM:
    values = config_dict(SIZES[name], YARN.get(name))
    if SIZES[name]["E"]:
        config = Qwen3_5MoeTextConfig(**values)
        config._experts_implementation = "eager"
        model = Qwen3_5MoeForCausalLM(config).float().eval()
    else:
        model = Qwen3_5ForCausalLM(Qwen3_5TextConfig(**values)).float().eval()
    tensors = {key: torch.from_numpy(value) for key, value in random_tensors(SIZES[name], SEEDS[name]).items()}
    model.load_state_dict(tensors, strict=True)
    return model


def greedy(model, prompt: np.ndarray) -> dict[str, np.ndarray]:
    """Continue with the reference's own cache."""
    ids, gaps, stds, past = [], [], [], None
    piece = torch.from_numpy(prompt)[None]
    for _ in range(NUM_GREEDY):
        out = model(piece, cache=past, use_cache=True)
        past, logits = out.past_key_values, out.logits[0, -1]
        best = logits.topk(2).values
        ids.append(int(logits.argmax()))
        gaps.append(float(best[0] - best[1]))
        stds.append(float(logits.std()))
        piece = torch.tensor([[ids[-1]]])
    return {"greedy": np.array(ids, np.int16), "gap": np.array(gaps, np.float32), "std": np.array(stds, np.float32)}


def drafts(name: str) -> dict[str, np.ndarray]:
    tensors = random_tensors(SIZES[name], SEEDS[name], mtp=True)
    module = MtpReference(reference(name), {key: torch.from_numpy(v) for key, v in tensors.items() if is_mtp(key)})
    out = {}
    for T in MTP_LENGTHS:
        ids = torch.from_numpy(random_ids(name, T + MTP_STEPS, seed=T))
        out[f"first_{T}"], out[f"later_{T}"] = (v.numpy() for v in module.logits(ids, MTP_STEPS, first=True))
    return out


@torch.no_grad()
def main() -> None:
    torch.set_num_threads(1)
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    versions = f"transformers {transformers.__version__}, torch {torch.__version__}"
    mtp = "--mtp" in sys.argv
    for name in [name for name in sys.argv[1:] if name != "--mtp"] or SIZES:
        if mtp:
            np.savez(DIRECTORY / f"{name}-mtp.npz", versions=np.array(versions), **drafts(name))
            continue
        model = reference(name)
        out = {"versions": np.array(versions)}
        for T in LENGTHS:
            out[f"logits_{T}"] = model(torch.from_numpy(random_ids(name, T, seed=T))[None]).logits[0].numpy()
        out |= greedy(model, random_ids(name, PROMPT_LEN))
        np.savez(DIRECTORY / f"{name}.npz", **out)
        print(name, {key: value.shape for key, value in out.items()}, len(set(out["greedy"].tolist())), "ids in greedy")


if __name__ == "__main__":
    main()
