"""Tiles: every stored number comes back and is where the layout says, and sizes are as claimed."""

from __future__ import annotations

import numpy as np
import pytest

from a3b.errors import TensorError
from a3b.formats.tiles import FORMATS, TILE_ROWS, Tiles, pack, unpack
from tests.support.random_tiles import random_parts

ALL = list(FORMATS.values())


@pytest.mark.parametrize("rows", [1, 16, 37])
@pytest.mark.parametrize("format", ALL, ids=lambda f: f.name)
def test_what_is_packed_comes_back(format, rows: int):
    for n in (format.unit, 3 * format.unit, 3 * format.unit + (0 if format.is_super else format.group % format.unit)):
        parts = random_parts(format, rows, n, seed=n)
        back = unpack(format, pack(format, parts), rows, n)
        for name in ("q", "scale", "minimum", "super_scale", "super_minimum"):
            np.testing.assert_array_equal(getattr(back, name), getattr(parts, name), err_msg=name)


@pytest.mark.parametrize("format", ALL, ids=lambda f: f.name)
def test_a_byte_is_where_the_layout_says(format):
    parts = random_parts(format, 32, 2 * format.unit)
    unit = pack(format, parts)[1, 1]  # rows 16 ..., the second unit
    row, column = 5, 22
    value = int(parts.q[16 + row, format.unit + column])
    steps = {4: 2, 6: 4, 8: 1}[format.bits]
    block, step = divmod(column // 4, steps)
    vectors = unit[format.header_bytes :].reshape(-1, {4: 1, 6: 3, 8: 1}[format.bits], 64)[
        block, :, 4 * row + column % 4
    ]
    low = int(vectors[step // 2]) >> 4 * (step % 2) & 15
    if format.bits == 8:
        assert vectors[0] == value
    elif format.bits == 4:
        assert low == value
    else:
        assert low | (int(vectors[2]) >> 2 * step & 3) << 4 == value
    if not format.is_super:
        last = unit[: 2 * format.groups * TILE_ROWS].view("<f2").reshape(format.groups, TILE_ROWS)[-1, row]
        assert last == parts.scale[16 + row, 2 * format.groups - 1]


@pytest.mark.parametrize(
    ("name", "bits"),
    [
        ("w4s32", 4.5),
        ("w4m32", 5),
        ("w4m64", 4.5),
        ("w4k32", 4.625),
        ("w6s32", 6.5),
        ("w6k16", 6.625),
        ("w6k32", 6.625),
        ("w8s32", 8.5),
    ],
)
def test_sizes_are_as_stated_and_whole_cache_lines(name: str, bits: float):
    format = FORMATS[name]
    assert format.bits_per_weight == bits
    assert format.unit_bytes % 64 == 0 and format.header_bytes % 64 == 0
    assert pack(format, random_parts(format, 48, 512)).nbytes == format.num_bytes(48, 512)


@pytest.mark.parametrize("format", ALL, ids=lambda f: f.name)
def test_rows_and_experts_are_decoded_alone(format):
    n = 2 * format.unit
    experts = [random_parts(format, 20, n, seed=e) for e in range(3)]
    data = np.concatenate([pack(format, p).ravel() for p in experts])
    tiles = Tiles("experts", format, (3, 20, n), data)
    np.testing.assert_array_equal(tiles.f32_expert(2), experts[2].f32(format))
    np.testing.assert_array_equal(tiles.expert(1).f32_rows(15, 18), experts[1].f32(format)[15:18])


@pytest.mark.parametrize("ids", [[3], [36, 0, 15, 16, 3, 3], list(range(37))[::-1]], ids=len)
@pytest.mark.parametrize("format", ALL, ids=lambda f: f.name)
def test_chosen_rows_keep_their_numbers(format, ids: list[int]):
    n = 2 * format.unit
    parts = random_parts(format, 37, n)
    chosen = Tiles("w", format, (37, n), pack(format, parts).reshape(-1)).rows(np.array(ids))
    assert chosen.shape == (len(ids), n)
    np.testing.assert_array_equal(chosen.f32_rows(0, len(ids)), parts.f32(format)[ids])
    np.testing.assert_array_equal(chosen.parts(0, len(ids)).q, parts.q[ids])


def test_tiles_of_the_wrong_size_are_refused():
    with pytest.raises(TensorError, match=r"w: found uint8 \[10\]; expected uint8 \[1152\] for \[17, 64\] as w4m64"):
        Tiles("w", FORMATS["w4m64"], (17, 64), np.zeros(10, np.uint8))
