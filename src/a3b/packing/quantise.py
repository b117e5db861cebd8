"""The quantiser: float32 rows to the stored numbers of a format, with the least squared error of a short search.

Per group several ranges are tried. For each the integers are rounded to nearest, then scale (and minimum) are solved
for by least squares, weighted by the importance of the columns; with a minimum, both are repeated against what was
solved for. The best one is stored in half precision and the integers are rounded once more against exactly what is
stored. All sums are over one group, so the result depends on no other row. Knows no files. Enter at `quantise`. Source
of the idea: make_qx_quants and make_qkx2_quants of ggml-quants (ggml-org/ggml)."""

from __future__ import annotations

import numpy as np

from a3b.errors import TensorError
from a3b.formats.tiles import FORMATS, SUPER, Format, Parts

BLOCK = 1 << 17  # weights processed at a time: a few float buffers of this size stay in the L2 cache
SHRINK = (1.0, 0.95, 0.9, 0.83)  # tried shares of a group's range, for formats with a minimum
REPEATS = 3  # of rounding and solving, from each of them
# tried integers for the largest magnitude, without one
REACH = {4: (8.6, 8.2, 7.8, 7.4), 6: (32.4, 31.0), 8: (128.0, 127.0)}
QUANTISABLE = tuple(f.name for f in FORMATS.values() if f.has_minimum or not f.is_super)
Fit = tuple[np.ndarray, ...]  # how much it lowers the squared error, group by group, then the fit itself
CODES = np.float32(255)  # the largest code of a scale or a minimum in a super-block


def quantise(format: Format, matrix: np.ndarray, importance: np.ndarray | None = None) -> Parts:
    """float32 [rows, n] -> Parts of [rows, n], n a multiple of the group.

    importance: float32 [n], weights of the squared errors. Raises TensorError for values that are not finite or too
    large for half-precision scales."""
    rows, n = matrix.shape
    if format.name not in QUANTISABLE:
        raise TensorError(f"{format.name}: is only kept, never made; expected one of {', '.join(QUANTISABLE)}")
    multiple = SUPER if format.is_super else format.group
    if n % multiple:
        raise TensorError(f"{n} columns; expected a multiple of {multiple} for {format.name}")
    groups = n // format.group
    weight = None
    if importance is not None:
        weight = np.ascontiguousarray(importance, np.float32).reshape(groups, format.group)
        weight = weight / np.maximum(weight.mean(-1, keepdims=True), np.float32(1e-30))
    work = _super if format.is_super else _affine if format.has_minimum else _symmetric
    step = max(1, BLOCK // n)
    found = []
    with np.errstate(over="ignore", invalid="ignore"):  # found below
        for start in range(0, rows, step):
            x = np.ascontiguousarray(matrix[start : start + step], np.float32).reshape(-1, groups, format.group)
            found.append(work(x, format, weight).reshape(len(x)))
    parts = Parts.concatenate(found)
    if not all(np.isfinite(halves).all() for halves in parts.halves):
        raise TensorError("a weight is not finite, or too large for a half-precision scale")
    return parts


def _affine(x: np.ndarray, format: Format, weight: np.ndarray | None) -> Parts:
    """float32 [rows, groups, group] -> q uint8 of that shape, scale and minimum float16 [rows, groups]."""
    scale, minimum, buffer = _fitted(x, format, weight, x.min(-1), x.max(-1))
    scale, minimum = scale.astype(np.float16), minimum.astype(np.float16)
    q = _rounded(x, scale.astype(np.float32), minimum.astype(np.float32), _top(format), buffer)
    return Parts(q, scale, minimum)


def _super(x: np.ndarray, format: Format, weight: np.ndarray | None) -> Parts:
    """The same with codes: q, scale and minimum uint8 [rows, groups], super_scale and super_minimum float16 [rows,
    supers].

    Codes are unsigned, so minimums are at most zero and scales at least zero."""
    high = np.maximum(x.max(-1), 0)
    scale, minimum, buffer = _fitted(x, format, weight, np.minimum(x.min(-1), 0), high)
    above = np.nonzero(minimum > 0)
    if len(above[0]):
        scale[above] = _proportional(
            x[above][None], high[above][None], _top(format), None if weight is None else weight[above[1]]
        )
    codes, supers, values = [], [], []
    for part in (np.maximum(scale, 0), np.maximum(-minimum, 0)):
        blocks = part.reshape(len(x), -1, format.groups)
        wanted = blocks.max(-1) / CODES
        unit = wanted.astype(np.float16)
        # so that no code is cut off
        unit = np.where(unit.astype(np.float32) < wanted, np.nextafter(unit, np.float16(np.inf)), unit)
        code = np.clip(np.rint(blocks * _inverse(unit.astype(np.float32))[..., None]), 0, CODES)
        codes.append(np.nan_to_num(code).astype(np.uint8).reshape(part.shape))
        supers.append(unit)
        values.append((code * unit.astype(np.float32)[..., None]).reshape(part.shape))
    q = _rounded(x, values[0], -values[1], _top(format), buffer)
    return Parts(q, codes[0], codes[1], supers[0], -supers[1])


def _fitted(
    x: np.ndarray, format: Format, weight: np.ndarray | None, low: np.ndarray, high: np.ndarray
) -> tuple[np.ndarray, ...]:
    """(scale, minimum) float32 [rows, groups] of groups that range from low to high, and a used buffer like x."""
    top = _top(format)
    unit = (high - low) / top
    inverse = _inverse(unit)
    t = x - low[..., None]
    t *= inverse[..., None]  # the group on 0 .. top
    best: Fit | None = None
    sum_w, sum_t, wt = _sum(weight, format.group), _dot(t, weight), t if weight is None else t * weight
    q = np.empty_like(t)
    for share in SHRINK:
        np.multiply(t, np.float32(1 / share), out=q)
        if share != 1:
            q += np.float32((1 - 1 / share) / 2) * top
        found: Fit = _solved(_to_integers(q, top), wt, weight, sum_w, sum_t)
        for _ in range(REPEATS):
            np.subtract(t, found[2][..., None], out=q)
            q *= _inverse(found[1])[..., None]
            found = _better(found, _solved(_to_integers(q, top), wt, weight, sum_w, sum_t))
        best = found if best is None else _better(best, found)
    if best is None:
        raise TypeError("SHRINK is empty")
    return best[1] * unit, low + best[2] * unit, t


def _proportional(x: np.ndarray, high: np.ndarray, top: np.float32, weight: np.ndarray | None) -> np.ndarray:
    """Scales float32 [1, groups] of groups that would like a minimum above zero; x [1, groups, group]."""
    best: Fit | None = None
    for share in SHRINK:
        q = _to_integers(x * _inverse(high * np.float32(share) / top)[..., None], top)
        wq = q if weight is None else q * weight
        sum_qx, sum_qq = _dot(wq, x), _dot(wq, q)
        scale = sum_qx / np.maximum(sum_qq, np.float32(1e-30))
        found = (scale * sum_qx, scale)
        best = found if best is None else _better(best, found)
    if best is None:
        raise TypeError("SHRINK is empty")
    return best[1]


def _to_integers(q: np.ndarray, top: np.float32) -> np.ndarray:
    """q itself, rounded to 0 .. top."""
    np.rint(q, out=q)
    return np.clip(q, 0, top, out=q)


def _top(format: Format) -> np.float32:
    """The largest q in use. GGUF's Q5_K is stored in a format of 6 bits; what we make there uses all of them."""
    return np.float32((1 << format.bits) - 1)


def _solved(
    q: np.ndarray, wt: np.ndarray, weight: np.ndarray | None, sum_w: np.ndarray | np.float32, sum_t: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Least squares of t on a·q + b: (how much it lowers the squared error, a, b), each [rows, groups]."""
    wq = q if weight is None else q * weight
    sum_q, sum_qq, sum_qt = _dot(wq), _dot(q, wq), _dot(q, wt)
    spread = sum_w * sum_qq - sum_q * sum_q
    a = (sum_w * sum_qt - sum_q * sum_t) / np.maximum(spread, np.float32(1e-20))
    b = (sum_t - a * sum_q) / sum_w
    return a * sum_qt + b * sum_t, a, b


def _symmetric(x: np.ndarray, format: Format, weight: np.ndarray | None) -> Parts:
    """float32 [rows, groups, group] -> q uint8 of that shape, scale float16 [rows, groups] of either sign, None."""
    zero = np.float32(format.zero)
    low, high = x.min(-1), x.max(-1)
    largest = np.where(-low > high, low, high)  # of its sign: the integers reach one further below zero than above it
    inverse = -_inverse(largest)
    t = x * inverse[..., None]  # the group on -1 .. 1, its largest magnitude at -1
    wt = t if weight is None else t * weight
    best: Fit | None = None
    q = np.empty_like(t)
    for reach in REACH[format.bits]:
        np.multiply(t, np.float32(reach), out=q)
        np.rint(q, out=q)
        np.clip(q, -zero, zero - 1, out=q)
        sum_qt, sum_qq = _dot(q, wt), _dot(q, q if weight is None else q * weight)
        slope = sum_qt / np.maximum(sum_qq, np.float32(1e-20))
        found = (slope * sum_qt, slope)
        best = found if best is None else _better(best, found)
    if best is None:
        raise TypeError("REACH is empty")
    scale = (-best[1] * largest).astype(np.float16)
    minimum = -zero * scale.astype(np.float32)
    return Parts(_rounded(x, scale.astype(np.float32), minimum, 2 * zero - 1, t), scale)


def _rounded(x: np.ndarray, scale: np.ndarray, minimum: np.ndarray, top: np.float32, buffer: np.ndarray) -> np.ndarray:
    """The nearest q for what is stored: uint8 like x."""
    np.subtract(x, minimum[..., None], out=buffer)
    buffer *= _inverse(scale)[..., None]
    return _to_integers(buffer, top).astype(np.uint8)


def _better(old: Fit, new: Fit) -> Fit:
    """Group by group, the one with the larger first entry."""
    wins = new[0] > old[0]
    for mine, theirs in zip(old, new, strict=True):
        np.copyto(mine, theirs, where=wins)
    return old


def _inverse(values: np.ndarray) -> np.ndarray:
    """1 / values, 0 where that is 0 or overflows."""
    out = np.zeros_like(values)
    np.divide(np.float32(1), values, out=out, where=np.abs(values) > np.float32(1e-37))
    return out


def _dot(a: np.ndarray, b: np.ndarray | None = None) -> np.ndarray:
    """Sum over the group of a·b, or of a."""
    if b is None:
        return np.asarray(np.einsum("rgk->rg", a))
    return np.asarray(np.einsum("rgk,gk->rg" if b.ndim == 2 else "rgk,rgk->rg", a, b))


def _sum(weight: np.ndarray | None, group: int) -> np.ndarray | np.float32:
    return np.float32(group) if weight is None else np.asarray(weight.sum(-1))
