"""The tokens that drafts may guess: counted in code and documentation of installed packages.

    python -m bench.draft_vocabulary MODEL [--packages NAME,...] [--most-mb 60] [--write]

MODEL: a directory with the tokenizer. Files are taken in the order of a hash of their names until so much text is read;
an eighth of them is held out, and the table says how many of its tokens a list of each size has, beside a list of the
lowest ids, which were merged first. --write: the list of SIZE tokens into src/a3b/model/draft_vocabulary.bits, control
tokens included. The sources go to standard output as a line per package with its version."""

from __future__ import annotations

import argparse
import hashlib
import sys
import sysconfig
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path

import numpy as np

from a3b.model.draft_vocabulary import FILE, VOCAB_SIZE
from a3b.prompt.tokenizer import Tokenizer

SIZE = 32_768
SIZES = (8_192, 16_384, 32_768, 65_536)
KINDS = {
    ".py",
    ".pyi",
    ".md",
    ".rst",
    ".txt",
    ".c",
    ".h",
    ".cc",
    ".cpp",
    ".js",
    ".ts",
    ".json",
    ".toml",
    ".html",
    ".sh",
}
MOST_FILE = 200_000  # bytes: larger ones are tables
HELD_OUT = 8


def files_of(packages: list[str]) -> tuple[dict[Path, str], list[str]]:
    """Files by the package that they belong to, and a line per source."""
    found, lines = {}, [f"Python {sys.version.split()[0]}, standard library"]
    for path in Path(sysconfig.get_path("stdlib")).rglob("*.py"):
        if "site-packages" not in path.parts:
            found[path] = "python"
    for one in sorted(distributions(), key=lambda d: d.name.lower()):
        if packages and one.name.lower() not in packages:
            continue
        paths = [Path(str(one.locate_file(file))) for file in one.files or () if Path(file).suffix in KINDS]
        found.update(dict.fromkeys(paths, one.name))
        if paths:
            lines.append(f"{one.name} {one.version}")
    return found, lines


def texts(paths: dict[Path, str], most_bytes: int) -> Iterator[tuple[bool, str]]:
    """(whether it is held out, text) of files in an order that mixes the packages."""
    done = 0
    for path in sorted(paths, key=lambda p: hashlib.sha256(f"{paths[p]}/{p.name}".encode()).digest()):
        if done >= most_bytes:
            return
        try:
            if path.stat().st_size > MOST_FILE:
                continue
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        done += len(text)
        yield hashlib.sha256(text.encode()).digest()[0] % HELD_OUT == 0, text


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--packages", default="", help="only these; default all that are installed")
    parser.add_argument("--most-mb", type=float, default=60)
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    tokenizer = Tokenizer.read(args.model)
    paths, sources = files_of([name.lower() for name in args.packages.split(",") if name])
    counts = np.zeros((2, VOCAB_SIZE), np.int64)  # counted, held out
    for is_held, text in texts(paths, int(args.most_mb * 1e6)):
        np.add.at(counts[int(is_held)], tokenizer.encode_text(text), 1)
    order = np.argsort(-counts[0], kind="stable")
    total = counts[1].sum()
    print(f"{counts[0].sum():,} tokens counted, {total:,} held out\n\n| tokens | counted | lowest ids |\n|---|---|---|")
    for size in SIZES:
        shares = [100 * counts[1][ids].sum() / total for ids in (order[:size], np.arange(size))]
        print(f"| {size:,} | {shares[0]:.2f} % | {shares[1]:.2f} % |")
    print("\n" + "\n".join(sources))
    if args.write:
        controls = sorted(tokenizer.control_ids)
        bits = np.zeros(VOCAB_SIZE, bool)
        bits[order[: SIZE - len(controls)]] = True
        bits[controls] = True
        np.packbits(bits).tofile(FILE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
