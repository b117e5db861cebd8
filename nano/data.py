"""Training batches for a3b-nano: text of the Python library and generated conversations, packed by length.

A batch is (ids [B, T+1] int64, weight [B, T+1] float32 of predicting each token, length [B]); T is a multiple of 32.
Conversations are weighted on the assistant's tokens only, text everywhere. Enter at `Batches`, which fills a queue
from its own process; batch i depends only on (seed, i) and on the progress it was asked for.
"""

from __future__ import annotations

import multiprocessing as mp
import random
import re
import sysconfig
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from nano.render import Renderer
from nano.tasks import FAMILIES, mixed

MULTIPLE = 32
SHORT = 768  # longest conversation of the families without files, in the first runs the longest of all
MAX_TOKENS = 4096  # longest conversation in training
SHARES = {"secret": 0.18, "lookup": 0.24, "calc": 0.12, "needle": 0.13, "chat": 0.10, "mixed": 0.11, "revise": 0.16}
FIX_SHARE = 0.7  # of the tokens of conversations
BARE_UNTIL = 0.88  # progress
ONLY_ANSWERS_FROM = 0.94  # progress; before, text and, a little, the code that tools show are taught too


def library_text(limit_bytes: int = 24_000_000) -> list[str]:
    """Sources of the running Python's standard library, largest packages capped, in a fixed order."""
    root = Path(sysconfig.get_paths()["stdlib"])
    skip = re.compile(r"site-packages|/test/|/tests/|idlelib|lib2to3|encodings|pydoc_data|__pycache__|turtledemo")
    texts, total = [], 0
    for path in sorted(root.rglob("*.py")):
        if skip.search(str(path)) or total > limit_bytes:
            continue
        text = path.read_text(encoding="utf-8", errors="ignore")
        texts.append(text)
        total += len(text)
    return texts


def text_tokens(model_dir: Path, cache: Path) -> np.ndarray:
    """All text as one uint16 array, files separated by <|endoftext|>; cached in `cache`."""
    if not cache.exists():
        tokenizer = Tokenizer.from_file(str(model_dir / "tokenizer.json"))
        end = tokenizer.token_to_id("<|endoftext|>")
        parts = [tokenizer.encode(t, add_special_tokens=False).ids + [end] for t in library_text()]
        random.Random(0).shuffle(parts)
        np.save(cache, np.concatenate([np.array(p, np.uint16) for p in parts]))
    return np.load(cache, mmap_mode="r")


def lengths_at(progress: float) -> tuple[int, int]:
    """(text crop, needle length) in tokens: short first."""
    return (128 if progress < 0.15 else 256 if progress < 0.5 else 512), int(96 + 540 * min(1.0, progress / 0.5))


def longest_at(progress: float) -> int:
    return 384 if progress < 0.25 else 576 if progress < 0.4 else SHORT


def text_share(progress: float) -> float:
    return 0.45 if progress < 0.12 else 0.25 if progress < 0.4 else 0.04 if progress < ONLY_ANSWERS_FROM else 0.0


class Source:
    """Draws single examples: (ids, weights)."""

    def __init__(self, model_dir: Path, cache: Path, fix_share: float = FIX_SHARE):
        self.render, self.fix_share = Renderer(model_dir), fix_share
        self.text = text_tokens(model_dir, cache)

    def repair(self, rng: random.Random, progress: float) -> tuple[list[int], list[float]]:
        """A conversation of *fix*, one to four repairs; early on half of them come without the agent's instructions,
        which are as long as a repair and the same every time."""
        while True:
            example = FAMILIES["fix"].example(rng)
            if progress < BARE_UNTIL and rng.random() < 0.5:
                example.messages, example.tools = example.messages[1:], None
            if progress >= ONLY_ANSWERS_FROM:
                example.context_weight = 0.0
            ids, weights = self.render.supervised(example, preserve=rng.random() > 0.04)
            if len(ids) <= MAX_TOKENS + 1:
                return ids, weights

    def conversation(self, rng: random.Random, progress: float) -> tuple[list[int], list[float]]:
        """A conversation of another family."""
        name = rng.choices(list(SHARES), list(SHARES.values()))[0]
        if name == "mixed":
            example = mixed(rng)
        elif name == "needle":
            example = FAMILIES[name].example(rng, rng.randint(32, lengths_at(progress)[1]))
        else:
            example = FAMILIES[name].example(rng)
        # what only dropped thinking knew is not to be taught
        drop = name not in ("secret", "mixed") and rng.random() < 0.1
        return self.render.supervised(example, preserve=not drop)

    def crop(self, rng: random.Random, progress: float) -> tuple[list[int], list[float]]:
        size = lengths_at(progress)[0]
        start = rng.randrange(len(self.text) - size - 1)
        return self.text[start : start + size + 1].tolist(), [1.0] * (size + 1)

    def batches(self, rng: random.Random, progress: float, tokens: int):
        """A handful of batches of about `tokens` tokens: a pool is drawn, sorted by length and cut."""
        text, rest = text_share(progress), 1 - text_share(progress)
        shares = {"text": text, "fix": rest * self.fix_share, "tasks": rest * (1 - self.fix_share)}
        for (kind, share), draw in zip(shares.items(), (self.crop, self.repair, self.conversation), strict=True):
            pool, total = [], 0
            while total < share * tokens * 16:
                ids, weight = draw(rng, progress)
                if kind == "fix" or len(ids) <= longest_at(progress) + 1:
                    pool.append((ids, weight))
                    total += len(ids)
            pool.sort(key=lambda e: len(e[0]))
            while pool:
                size = padded(len(pool[-1][0]) - 1)
                count = max(1, tokens // size)
                yield kind, *collate(pool[-count:], size)
                del pool[-count:]


def padded(num_tokens: int) -> int:
    return -(-num_tokens // MULTIPLE) * MULTIPLE


def collate(examples: list, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    ids = np.zeros((len(examples), size + 1), np.int64)
    weight = np.zeros((len(examples), size + 1), np.float32)
    for row, (tokens, weights) in enumerate(examples):
        ids[row, : len(tokens)], weight[row, : len(tokens)] = tokens, weights
    return ids, weight, np.array([len(tokens) - 1 for tokens, _ in examples])


def _produce(queue, progress, source: tuple, tokens: int, seed: int, start: int) -> None:
    source, pool_index = Source(*source), start
    while True:
        rng = random.Random(f"train/{seed}/{pool_index}")
        batches = list(source.batches(rng, progress.value, tokens))
        rng.shuffle(batches)
        for batch in batches:
            queue.put((pool_index, batch))
        pool_index += 1


class Batches:
    """Iterator over (pool index, (kind, *batch)) from a background process; `progress.value` in [0, 1] sets lengths and
    shares."""

    def __init__(self, model_dir: Path, cache: Path, fix_share: float, tokens: int, seed: int, start: int):
        text_tokens(model_dir, cache)
        context = mp.get_context("spawn")
        self.progress = context.Value("d", 0.0)
        self.queue = context.Queue(maxsize=24)
        args = (self.queue, self.progress, (model_dir, cache, fix_share), tokens, seed, start)
        context.Process(target=_produce, args=args, daemon=True).start()

    def __iter__(self):
        while True:
            yield self.queue.get()
