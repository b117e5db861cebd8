"""The state of one sequence: keys and values in pages, convolution windows, delta-rule matrices. No arithmetic.

The model advances it; `snapshot`, `restore` and `fork` copy it. Keys and values can be shared because they are only
appended: the owner of the last segment writes after `num_tokens`, and any other state copies that segment before its
first write. Every token overwrites the convolution and delta state, so a snapshot copies them.

A step may read drafted tokens behind its own. Their keys and values lie after `num_tokens`, where the next step writes
over them; of convolution and delta rule the state holds what the layers were fed for them. `keep` makes the first of
them a part of the sequence, and the next step takes that in.

Where the model has an MTP module, the state also holds what that needs: keys and values of one more layer, and the
hidden state of the last token; the latest tokens are on its trail until the module takes them in. Enter at `State`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from a3b.errors import UsageError
from a3b.kernels.kv import PAGE_LEN, page_bytes
from a3b.model.config import ModelConfig
from a3b.model.trail import Trail

SEGMENT_PAGES = 16  # pages allocated together; memory is touched, and so used, page by page
SEGMENT_LEN = SEGMENT_PAGES * PAGE_LEN


@dataclass(frozen=True)
class Segment:
    """Keys and values of SEGMENT_LEN positions of all attention layers, zero where not written."""

    # uint8 [attention layers, that of an MTP module last, SEGMENT_PAGES, Hkv, bytes], in the layout of a3b.kernels.kv
    keys: np.ndarray
    values: np.ndarray  # the same, with bytes of their own


@dataclass(frozen=True)
class Snapshot:
    """A State as it was after `num_tokens` tokens. Immutable, and independent of what the state does next."""

    num_tokens: int
    conv: np.ndarray  # float32 [delta layers, conv_len - 1, C], read-only
    delta: np.ndarray  # float32 [delta layers, Hv, Dk, Dv], read-only
    hidden: np.ndarray  # float32 [D] of the last token for the MTP module, read-only; [0] without one
    segments: tuple[Segment, ...]  # shared; positions from num_tokens on are undefined
    kv: str  # how keys and values are stored

    @property
    def num_bytes(self) -> int:
        """Bytes that only this snapshot holds; it shares keys and values with the state it was taken from."""
        return self.conv.nbytes + self.delta.nbytes + self.hidden.nbytes

    @property
    def num_kv_bytes(self) -> int:
        """Bytes of the keys and values of its tokens, shared or not."""
        return sum(s.keys.nbytes + s.values.nbytes for s in self.segments[:1]) * self.num_tokens // SEGMENT_LEN


class State:
    """What the next token needs of all tokens before it: one sequence, one writer at a time."""

    def __init__(self, config: ModelConfig, kv: str, take_in: Callable[[State], None] | None = None):
        """An empty state. kv: how keys and values are stored, one of a3b.kernels.kv.KV_TYPES. take_in: what the MTP
        module does with the trail, where there is one."""
        num_delta = config.layer_types.count("linear_attention")
        a = config.axes
        self.num_tokens, self.kv = 0, kv
        self.conv = np.zeros((num_delta, a.conv_len - 1, a.C), np.float32)  # latest inputs, oldest first
        self.delta = np.zeros((num_delta, a.Hv, a.Dk, a.Dv), np.float32)
        pages = (config.num_layers - num_delta + (take_in is not None), SEGMENT_PAGES, a.Hkv)
        self._segment_shapes = tuple((*pages, num) for num in page_bytes(kv, a.Dh))
        self._fed = np.empty((num_delta, 0, a.C + 2 * a.Hv), np.float32)  # of drafted tokens, as for DeltaOp's `taken`
        self._num_taken = self._num_drafted = 0  # of these: kept, and to be taken in; not kept so far
        self._take_in = take_in
        self.trail = None if take_in is None else Trail(config.hidden_size)
        self._segments: list[Segment] = []
        self._owns_last = True  # False: the last segment is shared and is copied before it is written
        self._is_torn = False

    def snapshot(self) -> Snapshot:
        """A copy of the state, in time and memory independent of the number of tokens.

        Raises UsageError if drafted tokens were kept since the last step; `Model.settle` takes them in."""
        self._refuse_unsettled()
        self._end_trail()
        conv, delta, hidden = self.conv.copy(), self.delta.copy(), self.hidden.copy()
        conv.flags.writeable = delta.flags.writeable = hidden.flags.writeable = False
        return Snapshot(self.num_tokens, conv, delta, hidden, tuple(self._segments), self.kv)

    def restore(self, snapshot: Snapshot) -> None:
        """Return to a snapshot; this also repairs a state whose forward pass was interrupted.

        Raises UsageError if the snapshot belongs to a model of other sizes.
        """
        own = [self.conv.shape, self.delta.shape, self.hidden.shape]
        shapes = [*own, *(self._segment_shapes for _ in snapshot.segments)]
        found = [
            snapshot.conv.shape,
            snapshot.delta.shape,
            snapshot.hidden.shape,
            *((s.keys.shape, s.values.shape) for s in snapshot.segments),
        ]
        if shapes != found:
            raise UsageError(f"snapshot: shapes {found}; expected {shapes}; it belongs to a model of other sizes")
        self.conv[...] = snapshot.conv
        self.delta[...] = snapshot.delta
        self._segments = list(snapshot.segments)
        self._owns_last = False
        self.num_tokens = snapshot.num_tokens
        self.set_hidden(snapshot.hidden)
        self._num_taken = self._num_drafted = 0
        self._is_torn = False

    def fork(self) -> State:
        """An independent state that starts where this one is. Raises UsageError as `snapshot` does."""
        self._refuse_unsettled()
        self._end_trail()
        child = object.__new__(State)
        child.num_tokens, child.kv = self.num_tokens, self.kv
        child.conv, child.delta = self.conv.copy(), self.delta.copy()
        child._take_in, child.trail = self._take_in, None if self.trail is None else Trail(len(self.hidden))
        child.set_hidden(self.hidden)
        child._fed, child._num_taken, child._num_drafted = self._fed[:, :0].copy(), 0, 0
        child._segment_shapes, child._segments = self._segment_shapes, list(self._segments)
        child._owns_last, child._is_torn = False, False
        return child

    @property
    def num_bytes(self) -> int:
        """Bytes allocated for arrays; pages that were never written take address space, not memory."""
        own = self.conv.nbytes + self.delta.nbytes + self._fed.nbytes + (self.trail.num_bytes if self.trail else 0)
        return own + sum(s.keys.nbytes + s.values.nbytes for s in self._segments)

    def segments(self, layer: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """(keys, values) of attention layer `layer`, each uint8 [pages, Hkv, bytes], first tokens first.

        The forward pass writes positions from `num_tokens` on, and only inside `advancing`."""
        return [(s.keys[layer], s.values[layer]) for s in self._segments]

    def keep(self, num: int) -> None:
        """Make the next `num` tokens that the last step read as drafts a part of the sequence.

        May be called again for those that follow; what is not kept before the next step is gone. Raises UsageError for
        more than there are."""
        self._refuse_torn()
        if not 0 <= num <= self._num_drafted:
            raise UsageError(f"keep: {num} drafted tokens; expected 0 to {self._num_drafted}")
        self.num_tokens += num
        self._num_taken += num
        self._num_drafted -= num

    @property
    def hidden(self) -> np.ndarray:
        """What the MTP module needs of the last token: float32 [D], zeros before the first; [0] without one."""
        return np.empty(0, np.float32) if self.trail is None else self.trail.hidden(self.num_tokens)

    def set_hidden(self, hidden: np.ndarray) -> None:
        """Note that of the last token, the MTP module having taken in all."""
        if self.trail is not None:
            self.trail.restart(self.num_tokens, hidden)

    def _end_trail(self) -> None:
        if self._take_in is not None:
            self._take_in(self)

    def reserve_ahead(self, num: int) -> None:
        """Make room for keys and values of so many positions behind the sequence, which the next step writes over."""
        self._reserve(num, 0)

    @property
    def is_settled(self) -> bool:
        """Whether convolution and delta rule have taken in every token of the sequence."""
        return not self._num_taken

    def taken(self, layer: int) -> np.ndarray | None:
        """What the next step has to take in first in a delta layer: float32 [n, q k v | b a], None for nothing."""
        return self._fed[layer, : self._num_taken] if self._num_taken else None

    def set_fed(self, layer: int, qkv: np.ndarray, ba: np.ndarray) -> None:
        """Note what a delta layer was fed for the drafted tokens, after `taken` of that layer was used."""
        self._fed[layer, : len(qkv), : qkv.shape[1]] = qkv
        self._fed[layer, : len(ba), qkv.shape[1] :] = ba

    def _reserve(self, num_new: int, num_drafted: int) -> None:
        """Own the segment that is written next, and allocate those after it, and what drafted tokens need."""
        self._refuse_torn()
        if num_drafted > self._fed.shape[1]:
            grown = np.empty((len(self._fed), num_drafted, self._fed.shape[2]), np.float32)
            grown[:, : self._num_taken] = self._fed[:, : self._num_taken]
            self._fed = grown
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

    def _refuse_unsettled(self) -> None:
        self._refuse_torn()
        if self._num_taken:
            raise UsageError(f"state: {self._num_taken} drafted tokens are kept, but not taken in; settle it first")


@contextmanager
def advancing(steps: Sequence[tuple[State, int]], drafted: Sequence[int] = ()) -> Iterator[None]:
    """Make room for that many new tokens in each state; `num_tokens` grows when the block ends without an error.

    drafted: how many of the tokens of each step, the last ones, are drafts; they count only after `State.keep`. The
    block takes in what was kept before.

    A block that raises leaves some layers ahead of others, so its states refuse all use until `restore`. Raises
    UsageError, with nothing changed, if a state is in that condition already.
    """
    drafts = drafted or [0] * len(steps)
    for (state, num_new), num_drafted in zip(steps, drafts, strict=True):
        state._reserve(num_new, num_drafted)
    for state, _ in steps:
        state._is_torn = True
    yield
    for (state, num_new), num_drafted in zip(steps, drafts, strict=True):
        state.num_tokens += num_new - num_drafted
        state._num_taken, state._num_drafted = 0, num_drafted
        state._is_torn = False


def _copy(segment: Segment, num_pages: int) -> Segment:
    """A new segment with the first pages of another."""
    copies = []
    for source in (segment.keys, segment.values):
        copy = np.zeros(source.shape, np.uint8)
        copy[:, :num_pages] = source[:, :num_pages]
        copies.append(copy)
    return Segment(*copies)
