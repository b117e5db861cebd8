"""The tokens that drafts may guess: a vocabulary of 248,320 makes the output matrix a fifth of what a token reads.

The list was counted by `python -m bench.draft_vocabulary`; docs/draft_vocabulary.md has its sources and what it misses.
A token of the context that is not in it can be guessed too. Enter at `frequent_ids`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

VOCAB_SIZE = 248_320  # of Qwen3.5 and Qwen3.6: the only vocabulary that the list is of
FILE = Path(__file__).with_name("draft_vocabulary.bits")


def frequent_ids(vocab_size: int) -> np.ndarray | None:
    """Ids that are worth guessing, int64 [n], rising; None for all of a vocabulary."""
    if vocab_size != VOCAB_SIZE:
        return None
    bits = np.unpackbits(np.fromfile(FILE, np.uint8), count=VOCAB_SIZE)
    return np.flatnonzero(bits)
