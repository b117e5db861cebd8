"""GGUF: files of the format's own writer are read, blocks decode to exactly the numbers of its own library, false
headers are refused."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from a3b.errors import CheckpointError, FileFormatError, TensorError
from a3b.formats.ggml_blocks import BLOCKS, FORMAT_OF, decode, unpack
from a3b.formats.gguf import GgufFile
from a3b.formats.tiles import Tiles, pack

pytestmark = pytest.mark.slow  # starts servers or commands, or computes for seconds

gguf = pytest.importorskip("gguf", reason="the reference reader and writer come from the package gguf")
QUANTISED = list(FORMAT_OF)


def random_rows(dtype: str, num_rows: int, num_blocks: int, seed: int = 0) -> np.ndarray:
    """uint8 [rows, bytes] of random blocks; half-precision scales are finite, of either sign, some of them
    subnormal."""
    rng, block = np.random.default_rng(seed), BLOCKS[dtype]
    blocks = rng.integers(0, 256, (num_rows * num_blocks, block.num_bytes), np.uint8)
    if dtype in QUANTISED:
        at = 208 if dtype == "Q6_K" else 0
        num_halves = 2 if dtype in ("Q4_1", "Q4_K", "Q5_K") else 1
        halves = rng.standard_normal((len(blocks), num_halves)) * 10.0 ** rng.integers(-7, 3, (len(blocks), 1))
        blocks[:, at : at + 2 * num_halves] = halves.astype("<f2").view(np.uint8)
    return blocks.reshape(num_rows, -1)


@pytest.mark.parametrize("dtype", QUANTISED)
@pytest.mark.parametrize(("num_rows", "num_blocks"), [(1, 1), (3, 5), (40, 2)])
def test_blocks_decode_to_the_numbers_of_the_format_s_library(dtype, num_rows, num_blocks):
    rows = random_rows(dtype, num_rows, num_blocks)
    expected = gguf.quants.dequantize(rows, gguf.GGMLQuantizationType[dtype])
    assert np.array_equal(decode(dtype, rows), expected)


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_plain_numbers_decode_exactly(dtype):
    values = np.array([[0.5, -2.0, 1.375, 448.0]], np.float32)
    stored = {
        "F32": values,
        "F16": values.astype(np.float16),
        "BF16": (values.view(np.uint32) >> 16).astype(np.uint16),
    }[dtype]
    assert np.array_equal(decode(dtype, stored.view(np.uint8)), values)


@pytest.mark.parametrize("dtype", QUANTISED)
def test_blocks_packed_into_tiles_keep_every_value(dtype):
    rows = random_rows(dtype, 37, 256 // BLOCKS[dtype].num_values)
    parts = unpack(dtype, rows)
    tiles = Tiles("w", FORMAT_OF[dtype], parts.q.shape, pack(FORMAT_OF[dtype], parts).ravel())
    assert np.array_equal(tiles.f32_rows(0, 37), gguf.quants.dequantize(rows, gguf.GGMLQuantizationType[dtype]))


@pytest.mark.parametrize("dtype", QUANTISED)
@pytest.mark.parametrize("bits", [0x7C00, 0xFC00, 0x7E00])
def test_scales_that_are_not_finite_are_refused(dtype, bits):
    rows = random_rows(dtype, 3, 2)
    at = 208 if dtype == "Q6_K" else 2 if dtype in ("Q4_1", "Q4_K", "Q5_K") else 0
    rows[1, at : at + 2] = np.array([bits], "<u2").view(np.uint8)
    with pytest.raises(TensorError, match=f"{dtype}: a block has a scale that is not finite"):
        unpack(dtype, rows)


def test_a_format_without_groups_is_refused():
    with pytest.raises(TensorError, match="Q3_K"):
        unpack("Q3_K", np.zeros((1, 110), np.uint8))


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("gguf") / "x.gguf"
    writer = gguf.GGUFWriter(path, "qwen35moe")
    writer.add_uint32("qwen35moe.block_count", 2)
    writer.add_array("tokenizer.ggml.tokens", ["a", "b", "Ġc"])
    writer.add_array("numbers", [1, -2, 3])
    writer.add_float32("eps", 0.25)
    writer.add_bool("flag", True)
    writer.add_tensor("norm", np.arange(5, dtype=np.float32))
    for dtype in ("Q4_K", "Q8_0"):
        writer.add_tensor(dtype, random_rows(dtype, 6, 2), raw_dtype=gguf.GGMLQuantizationType[dtype])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


def read(path, content: bytes) -> GgufFile:
    path.write_bytes(content)
    return GgufFile(path)


def test_a_file_of_the_format_s_writer_is_read(tmp_path, original):
    file = read(tmp_path / "x.gguf", original)
    assert file.metadata["general.architecture"] == "qwen35moe" and file.metadata["qwen35moe.block_count"] == 2
    assert file.metadata["tokenizer.ggml.tokens"] == ["a", "b", "Ġc"] and file.metadata["numbers"] == [1, -2, 3]
    assert file.metadata["eps"] == 0.25 and file.metadata["flag"] is True
    assert file.tensors["Q4_K"].shape == (6, 512) and file.tensors["norm"].shape == (5,)
    for dtype in ("Q4_K", "Q8_0"):
        assert np.array_equal(file.array(dtype), random_rows(dtype, 6, 2))
    assert decode("F32", file.array("norm"))[0].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("cut", [9, 100, 1000, 2500])
def test_a_truncated_file_is_refused(tmp_path, original, cut):
    with pytest.raises(FileFormatError, match="truncated"):
        read(tmp_path / "x.gguf", original[:-cut])


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def tensor(
    name: bytes = b"t", shape: tuple = (4,), code: int = 0, offset: int = 0, num_dims: int | None = None
) -> bytes:
    sizes = b"".join(struct.pack("<Q", n) for n in shape)
    return (
        text(name)
        + struct.pack("<I", len(shape) if num_dims is None else num_dims)
        + sizes
        + struct.pack("<IQ", code, offset)
    )


def made(
    tensors: list[bytes] = (),
    pairs: list[bytes] = (),
    version: int = 3,
    data: bytes = b"\0" * 64,
    counts: tuple[int, int] | None = None,
) -> bytes:
    header = (
        b"GGUF"
        + struct.pack("<IQQ", version, *(counts or (len(tensors), len(pairs))))
        + b"".join(pairs)
        + b"".join(tensors)
    )
    return header + b"\0" * (-len(header) % 32) + data


LIES = {
    "another magic": b"GGML" + bytes(40),
    "version 1": made(version=1),
    "more tensors than bytes": made(counts=(1000, 0)),
    "absurd counts": made(counts=(2**63, 2**63)),
    "a key twice": made(pairs=[text(b"k") + struct.pack("<IB", 7, 1)] * 2),
    "an unknown value type": made(pairs=[text(b"k") + struct.pack("<I", 99)]),
    "arrays in arrays in arrays": made(pairs=[text(b"k") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 50]),
    "an endless array": made(pairs=[text(b"k") + struct.pack("<IIQ", 9, 0, 2**62)]),
    "an endless text": made(pairs=[struct.pack("<Q", 2**62)]),
    "no UTF-8": made(pairs=[text(b"\xff\xfe") + struct.pack("<IB", 7, 1)]),
    "alignment of three": made([tensor()], [text(b"general.alignment") + struct.pack("<II", 4, 3)]),
    "a tensor twice": made([tensor(), tensor(offset=32)]),
    "an unknown type": made([tensor(code=7)]),
    "half a block": made([tensor(code=12, shape=(100,))]),
    "behind the end": made([tensor(shape=(2**20, 2**20, 2**20, 2**20))]),
    "an offset behind the end": made([tensor(offset=2**63)]),
    "an overlap": made([tensor(), tensor(b"u", offset=0)]),
    "an odd offset": made([tensor(offset=4)]),
    "too many axes": made([tensor(num_dims=2**31)]),
    "no axis": made([tensor(shape=())]),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_file_that_lies_is_refused(tmp_path, lie):
    with pytest.raises((FileFormatError, TensorError), match=r"x\.gguf"):
        read(tmp_path / "x.gguf", LIES[lie])


def test_the_writer_of_these_lies_can_tell_the_truth(tmp_path):
    assert read(tmp_path / "x.gguf", made([tensor(), tensor(b"u", offset=32)])).tensors.keys() == {"t", "u"}


@settings(max_examples=500, deadline=None)
@given(data=st.data())
def test_flipped_bytes_never_escape_the_reader(tmp_path_factory, original, data):
    content = bytearray(original)
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, min(len(content), 700) - 1))] = data.draw(st.integers(0, 255))
    try:
        file = read(
            tmp_path_factory.getbasetemp() / "flipped.gguf",
            bytes(content[: data.draw(st.integers(0, len(content))) or None]),
        )
    except CheckpointError:
        return
    for name, info in file.tensors.items():
        assert 0 < info.start <= info.stop <= file.num_bytes
        assert file.array(name).nbytes == info.num_bytes
