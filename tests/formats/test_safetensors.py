"""The safetensors reader: what was written comes back, and no file, whatever its bytes, does more than raise one of our
errors."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from a3b.errors import CheckpointError, FileFormatError, TensorError
from a3b.formats.quant import bf16_to_f32, e4m3_to_f32, f32_to_bf16, f32_to_e4m3
from a3b.formats.safetensors import SafetensorsFile, write_safetensors

pytestmark = pytest.mark.slow  # starts servers or commands, or computes for seconds

ENTRIES = {
    "a": ("F32", np.arange(6, dtype=np.float32).reshape(2, 3)),
    "empty": ("F16", np.zeros((0, 4), np.float16)),
    "b": ("BF16", np.arange(5, dtype=np.uint16)),
    "scalar": ("I64", np.array(-3)),
}


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("st") / "x.safetensors"
    write_safetensors(path, ENTRIES)
    return path.read_bytes()


def with_header(header, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def read(path, content: bytes) -> SafetensorsFile:
    path.write_bytes(content)
    return SafetensorsFile(path)


def test_what_is_written_is_read_back(tmp_path, original):
    file = read(tmp_path / "x.safetensors", original)
    for name, (dtype, array) in ENTRIES.items():
        assert file.tensors[name].dtype == dtype
        assert np.array_equal(file.array(name), array) and not file.array(name).flags.writeable


def test_a_failed_write_leaves_nothing_behind(tmp_path):
    with pytest.raises(TensorError):
        write_safetensors(tmp_path / "x.safetensors", {"a": ("F32", np.zeros(2))})
    assert list(tmp_path.iterdir()) == []


ONE = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
LIES = {
    "negative size": {"a": {**ONE, "shape": [-2]}},
    "huge product": {"a": {**ONE, "shape": [2**40, 2**40]}},
    "true as a size": {"a": {**ONE, "shape": [True, 2]}},
    "a fraction": {"a": {**ONE, "shape": [2.0]}},
    "many axes": {"a": {**ONE, "shape": [1] * 200 + [2]}},
    "offsets turned round": {"a": {**ONE, "data_offsets": [8, 0]}},
    "offsets behind the end": {"a": {**ONE, "data_offsets": [2**50, 2**50 + 8]}},
    "a gap": {"a": ONE, "b": {**ONE, "data_offsets": [12, 20]}},
    "an overlap": {"a": ONE, "b": {**ONE, "data_offsets": [4, 12]}},
    "unknown dtype": {"a": {**ONE, "dtype": "F7"}},
    "a list as dtype": {"a": {**ONE, "dtype": ["F32"]}},
    "an extra key": {"a": {**ONE, "more": 1}},
    "no object": {"a": [1, 2]},
    "a list": [ONE],
    "metadata no strings": {"__metadata__": {"a": 1}, "a": ONE},
    "data nobody owns": {},
}


@pytest.mark.parametrize("lie", LIES)
def test_a_header_that_lies_is_refused(tmp_path, lie):
    with pytest.raises((FileFormatError, TensorError), match=r"x\.safetensors"):
        read(tmp_path / "x.safetensors", with_header(LIES[lie], b"\0" * 8))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"1234567",
        b"\xff" * 8,
        struct.pack("<Q", 2**63),
        with_header(b"{" * 20000),
        with_header(b"\xff\xfe{}"),
        with_header(b'{"a":1' + b"0" * 9000 + b"}"),
        with_header(b'{"a":NaN}'),
        with_header(b"null"),
    ],
)
def test_files_that_are_none_are_refused(tmp_path, content):
    with pytest.raises(FileFormatError):
        read(tmp_path / "x.safetensors", content)


def test_a_name_that_occurs_twice_is_refused(tmp_path):
    one = json.dumps(ONE)
    with pytest.raises(TensorError, match="'a' occurs twice"):
        read(tmp_path / "x.safetensors", with_header(f'{{"a":{one},"a":{one}}}'.encode(), b"\0" * 8))


@pytest.mark.parametrize("cut", range(1, 40, 3))
def test_a_truncated_file_is_refused(tmp_path, original, cut):
    with pytest.raises(FileFormatError):
        read(tmp_path / "x.safetensors", original[:-cut])


def survives(path, content: bytes) -> None:
    """Either one of our errors, or tensors that are inside the file."""
    try:
        file = read(path, content)
    except CheckpointError:
        return
    for name, info in file.tensors.items():
        assert 8 <= info.start <= info.stop <= len(content)
        assert file.array(name).nbytes == info.num_bytes


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_flipped_bytes_never_escape_the_reader(tmp_path_factory, original, data):
    content = bytearray(original)
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    stop = data.draw(st.integers(0, len(content)))
    survives(tmp_path_factory.getbasetemp() / "flipped", bytes(content[: stop or None]))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_any_value_in_any_place_of_the_header_is_taken_or_refused(tmp_path_factory, original, data):
    length = struct.unpack("<Q", original[:8])[0]
    header = json.loads(original[8 : 8 + length])
    name = data.draw(st.sampled_from(list(header)))
    if data.draw(st.booleans()):
        header[name] = data.draw(JSON)
    else:
        header[name][data.draw(st.sampled_from(["dtype", "shape", "data_offsets"]))] = data.draw(JSON)
    survives(tmp_path_factory.getbasetemp() / "value", with_header(header, original[8 + length :]))


def test_bf16_rounds_to_nearest_even_and_keeps_nan_and_infinity():
    values = np.array([1.0, 1 + 2**-8, 1 + 3 * 2**-8, -np.inf, np.nan, 3.4e38], np.float32)
    back = bf16_to_f32(f32_to_bf16(values))
    assert back[:4].tolist() == [1.0, 1.0, 1 + 2**-6, -np.inf] and np.isnan(back[4]) and back[5] == np.inf


def test_every_fp8_byte_survives_a_round_trip():
    codes = np.arange(256, dtype=np.uint8)
    values = e4m3_to_f32(codes)
    finite = ~np.isnan(values)
    assert finite.sum() == 254 and np.nanmax(values) == 448.0
    assert np.array_equal(f32_to_e4m3(values)[finite], codes[finite])
    assert f32_to_e4m3(np.array([1e9, -1e9, 1.0625], np.float32)).tolist() == [0x7E, 0xFE, 0x38]
