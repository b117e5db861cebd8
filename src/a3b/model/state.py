"""The state of one sequence: keys and values in pages, convolution windows, delta-rule matrices. No arithmetic.

The model advances it; `snapshot`, `restore` and `fork` copy it. Keys and values can be shared because they are only
appended: the owner of the last segment writes after `num_tokens`, and any other state copies that segment before its
first write. Every token overwrites the convolution and delta state, so a snapshot copies them. Enter at `State`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from a3b.errors import UsageError
from a3b.kernels.kv import PAGE_LEN, page_bytes
from a3b.model.config import ModelConfig

SEGMENT_PAGES = 16  # pages allocated together; memory is touched, and so used, page by page
SEGMENT_LEN = SEGMENT_PAGES * PAGE_LEN


@dataclass(frozen=True)
class Segment:
    """Keys and values of SEGMENT_LEN positions of all attention layers, zero where not written."""

    keys: np.ndarray  # uint8 [attention layers, SEGMENT_PAGES, Hkv, bytes], in the layout of a3b.kernels.kv
    values: np.ndarray  # the same, with bytes of their own


@dataclass(frozen=True)
class Snapshot:
    """A State as it was after `num_tokens` tokens. Immutable, and independent of what the state does next."""

    num_tokens: int
    conv: np.ndarray  # float32 [delta layers, conv_len - 1, C], read-only
    delta: np.ndarray  # float32 [delta layers, Hv, Dk, Dv], read-only
    segments: tuple[Segment, ...]  # shared; positions from num_tokens on are undefined
    kv: str  # how keys and values are stored

    @property
    def num_bytes(self) -> int:
        """Bytes that only this snapshot holds; it shares keys and values with the state it was taken from."""
        return self.conv.nbytes + self.delta.nbytes

    @property
    def num_kv_bytes(self) -> int:
        """Bytes of the keys and values of its tokens, shared or not."""
        return sum(s.keys.nbytes + s.values.nbytes for s in self.segments[:1]) * self.num_tokens // SEGMENT_LEN


class State:
    """What the next token needs of all tokens before it: one sequence, one writer at a time."""

    def __init__(self, config: ModelConfig, kv: str):
        """An empty state. kv: how keys and values are stored, one of a3b.kernels.kv.KV_TYPES."""
        num_delta = config.layer_types.count("linear_attention")
        a = config.axes
        self.num_tokens, self.kv = 0, kv
        self.conv = np.zeros((num_delta, a.conv_len - 1, a.C), np.float32)  # latest inputs, oldest first
        self.delta = np.zeros((num_delta, a.Hv, a.Dk, a.Dv), np.float32)
        pages = (config.num_layers - num_delta, SEGMENT_PAGES, a.Hkv)
        self._segment_shapes = tuple((*pages, num) for num in page_bytes(kv, a.Dh))
        self._segments: list[Segment] = []
        self._owns_last = True  # False: the last segment is shared and is copied before it is written
        self._is_torn = False

    def snapshot(self) -> Snapshot:
        """A copy of the state, in time and memory independent of the number of tokens."""
        self._refuse_torn()
        conv, delta = self.conv.copy(), self.delta.copy()
        conv.flags.writeable = delta.flags.writeable = False
        return Snapshot(self.num_tokens, conv, delta, tuple(self._segments), self.kv)

    def restore(self, snapshot: Snapshot) -> None:
        """Return to a snapshot; this also repairs a state whose forward pass was interrupted.

        Raises UsageError if the snapshot belongs to a model of other sizes.
        """
        shapes = [self.conv.shape, self.delta.shape, *(self._segment_shapes for _ in snapshot.segments)]
        found = [
            snapshot.conv.shape,
            snapshot.delta.shape,
            *((s.keys.shape, s.values.shape) for s in snapshot.segments),
        ]
        if shapes != found:
            raise UsageError(f"snapshot: shapes {found}; expected {shapes}; it belongs to a model of other sizes")
        self.conv[...] = snapshot.conv
        self.delta[...] = snapshot.delta
        self._segments = list(snapshot.segments)
        self._owns_last = False
        self.num_tokens = snapshot.num_tokens
        self._is_torn = False

    def fork(self) -> State:
        """An independent state that starts where this one is."""
        self._refuse_torn()
        child = object.__new__(State)
        child.num_tokens, child.kv = self.num_tokens, self.kv
        child.conv, child.delta = self.conv.copy(), self.delta.copy()
        child._segment_shapes, child._segments = self._segment_shapes, list(self._segments)
        child._owns_last, child._is_torn = False, False
        return child

    @property
    def num_bytes(self) -> int:
        """Bytes allocated for arrays; pages that were never written take address space, not memory."""
        return self.conv.nbytes + self.delta.nbytes + sum(s.keys.nbytes + s.values.nbytes for s in self._segments)

    def segments(self, layer: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """(keys, values) of attention layer `layer`, each uint8 [pages, Hkv, bytes], first tokens first.

        The forward pass writes positions from `num_tokens` on, and only inside `advancing`."""
        return [(s.keys[layer], s.values[layer]) for s in self._segments]

    def _reserve(self, num_new: int) -> None:
        """Own the segment that is written next, and allocate those after it."""
        self._refuse_torn()
        used = self.num_tokens % SEGMENT_LEN
        if not self._owns_last:
            if used:
                self._segments[-1] = _copy(self._segments[-1], -(-used // PAGE_LEN))
            self._owns_last = True
        needed = -(-(self.num_tokens + num_new) // SEGMENT_LEN)
        while len(self._segments) < needed:
            self._segments.append(Segment(*(np.zeros(shape, np.uint8) for shape in self._segment_shapes)))

    def _refuse_torn(self) -> None:
        if self._is_torn:
            raise UsageError(f"state: the step at token {self.num_tokens} was interrupted; restore a snapshot first")


@contextmanager
def advancing(steps: Sequence[tuple[State, int]]) -> Iterator[None]:
    """Make room for that many new tokens in each state; `num_tokens` grows when the block ends without an error.

    A block that raises leaves some layers ahead of others, so its states refuse all use until `restore`. Raises
    UsageError, with nothing changed, if a state is in that condition already.
    """
    for state, num_new in steps:
        state._reserve(num_new)
    for state, _ in steps:
        state._is_torn = True
    yield
    for state, num_new in steps:
        state.num_tokens += num_new
        state._is_torn = False


def _copy(segment: Segment, num_pages: int) -> Segment:
    """A new segment with the first pages of another."""
    copies = []
    for source in (segment.keys, segment.values):
        copy = np.zeros(source.shape, np.uint8)
        copy[:, :num_pages] = source[:, :num_pages]
        copies.append(copy)
    return Segment(*copies)
