"""What llama.cpp computes: float32 logits of every position, through the program that build_llama.py makes of
logits.cpp.

    python -m bench.peers.logits GGUF --llama DIR --ids FILE --out F [--chunk 512] [--exact]

FILE holds a JSON list of token ids or, as .npy, an integer array. F becomes .npy, float32 [positions, V], as `a3b
logits` writes it. Enter at `llama_logits`."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np


def llama_logits(
    model: Path, ids: np.ndarray, llama: Path, *, chunk: int = 512, exact: bool = False, threads: int = 1
) -> np.ndarray:
    """float32 [len(ids), V]. llama: the directory of build_llama.py. chunk: positions read at once.

    exact: keys and values in float32 and attention without its fast path, which rounds to half precision; otherwise the
    defaults."""
    with tempfile.TemporaryDirectory(prefix="a3b-logits-") as scratch:
        source, target = Path(scratch, "ids"), Path(scratch, "logits")
        ids.astype(np.int32).tofile(source)
        options = ["--chunk", chunk, "--exact", "yes" if exact else "no", "--threads", threads]
        command = [program(llama, "llama-logits"), model, source, target, *options]
        subprocess.run([str(part) for part in command], check=True)
        return np.fromfile(target, np.float32).reshape(len(ids), -1)


def program(llama: Path, name: str) -> Path:
    """A program that build_llama.py made, or one inside a build directory of llama.cpp's own."""
    for place in (llama / "bin" / name, llama / name, llama / "build" / "bin" / name):
        if place.is_file():
            return place
    raise SystemExit(f"{llama}: no {name} in it; build it with: python -m bench.peers.build_llama {llama}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--llama", type=Path, required=True)
    parser.add_argument("--ids", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--chunk", type=int, default=512)
    parser.add_argument("--exact", action="store_true", help="attention in float32, without rounding to half precision")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    ids = np.load(args.ids) if args.ids.suffix == ".npy" else np.array(json.loads(args.ids.read_text(encoding="utf-8")))
    np.save(
        args.out, llama_logits(args.model, ids, args.llama, chunk=args.chunk, exact=args.exact, threads=args.threads)
    )


if __name__ == "__main__":
    sys.exit(main())
