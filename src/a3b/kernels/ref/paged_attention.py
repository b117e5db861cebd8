"""Twin of paged_attention: partial softmax per 64-key page, partials combined from the first page to the last."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

TILE = 64  # queries handled at once; bounds the score buffer, changes no number's definition
HIDDEN = np.float32(-1e30)  # score of a key the query must not see; finite, so that a hidden page has weight 0, not NaN


class PagedAttention:
    """The attention of `ops.bind_paged_attention`."""

    def __init__(self, Hq: int, Hkv: int, Dh: int, page_len: int):
        self.Hq, self.Hkv, self.Dh, self.page_len = Hq, Hkv, Dh, page_len
        self.scale = np.float32(Dh**-0.5)

    def __call__(self, q: np.ndarray, segments: Sequence[tuple[np.ndarray, np.ndarray]], start: int) -> np.ndarray:
        out = np.empty((len(q), self.Hq * self.Dh), np.float32)
        for a in range(0, len(q), TILE):
            out[a : a + TILE] = self._tile(q[a : a + TILE], segments, start + a)
        return out

    def _tile(self, q: np.ndarray, segments: Sequence[tuple[np.ndarray, np.ndarray]], start: int) -> np.ndarray:
        """Queries at positions start .. start + T: q [T, Hq, Dh] -> [T, Hq·Dh]."""
        T, Hkv, G, Dh, page_len = len(q), self.Hkv, self.Hq // self.Hkv, self.Dh, self.page_len
        rows = (q.reshape(T, Hkv, G, Dh) * self.scale).transpose(1, 2, 0, 3).reshape(Hkv, G * T, Dh)
        # running maximum, sum of weights, weighted sum of values
        top: np.ndarray | None = None
        norm = mixed = np.empty(0, np.float32)
        first_page = 0
        for keys, values in segments:
            num_pages = min(len(keys), (start + T - 1) // page_len + 1 - first_page)
            if num_pages <= 0:
                break
            scores = np.matmul(rows, keys[:num_pages].swapaxes(-1, -2))  # [pages, Hkv, G·T, page_len]
            self._hide_future(scores, start, T, first_page)
            page_top = scores.max(-1, keepdims=True)
            scores -= page_top
            np.exp(scores, out=scores)
            new_top = page_top.max(0) if top is None else np.maximum(top, page_top.max(0))  # [Hkv, G·T, 1]
            weight = np.exp(page_top - new_top)
            segment_norm = np.add.reduce(scores.sum(-1, keepdims=True) * weight, axis=0)
            segment_mixed = np.add.reduce(np.matmul(scores, values[:num_pages]) * weight, axis=0)
            if top is None:
                norm, mixed = segment_norm, segment_mixed
            else:
                rescale = np.exp(top - new_top)
                norm = norm * rescale + segment_norm
                mixed = mixed * rescale + segment_mixed
            top = new_top
            first_page += len(keys)
        mixed /= norm
        out: np.ndarray = mixed.reshape(Hkv, G, T, Dh).transpose(2, 0, 1, 3).reshape(T, self.Hq * Dh)
        return out

    def _hide_future(self, scores: np.ndarray, start: int, T: int, first_page: int) -> None:
        """Overwrite the scores of keys after their query; pages wholly in the past are not touched."""
        num_pages, Hkv, rows, page_len = scores.shape
        past = max(0, (start + 1) // page_len - first_page)  # pages every query of the tile sees whole
        if past >= num_pages:
            return
        if T == 1:
            scores[past, :, :, (start + 1) % page_len :] = HIDDEN  # one query: only its own page reaches past it
            return
        positions = np.arange((first_page + past) * page_len, (first_page + num_pages) * page_len)
        future = positions.reshape(-1, 1, page_len) > np.arange(start, start + T)[:, None]  # [pages, T, page_len]
        view = scores.reshape(num_pages, Hkv, rows // T, T, page_len)[past:]
        np.copyto(view, HIDDEN, where=future[:, None, None])
