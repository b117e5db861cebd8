"""Seeded damage to files: bytes, JSON values, and the pieces of a GGUF header. The same number gives the same
damage."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Iterator
from typing import Any

DEEP = json.loads("[" * 400 + "]" * 400)
RAW = {  # JSON that `json.dumps` does not write, put in place of a marker
    "@digits": "9" * 5000,
    "@huge": "1e999",
    "@small": "-1e-999",
    "@nan": "NaN",
    "@inf": "-Infinity",
    "@half": '"\\ud800"',
    "@deep": "[" * 5000,
    "@twice": '{"a": 1, "a": 2}',
    "@nul": '"\\u0000"',
}
VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    2,
    3,
    7,
    65,
    1 << 31,
    (1 << 63) - 1,
    1 << 64,
    -(1 << 70),
    0.5,
    -0.0,
    1e308,
    1e-320,
    "",
    "a",
    "0",
    "1" * 5000,
    "x" * 3000,
    "\u202e\x1b[31m",
    "../x.safetensors",
    "/etc/passwd",
    "NaN",
    [],
    [None],
    [[]],
    [0] * 70,
    ["full_attention"],
    {},
    {"": {}},
    {"a": [1]},
    DEEP,
    "@edge",
    *RAW,
)


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key) of everything inside a JSON value."""
    for key, inner in list(
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    ):
        yield value, key
        yield from places(inner)


def change_json(content: bytes, rng: random.Random, num: int = 1) -> bytes:
    """Some values replaced, removed, doubled, moved or renamed."""
    value = json.loads(content)
    for _ in range(num):
        found = list(places(value))
        if not found:
            break
        container, key = rng.choice(found)
        what = rng.random()
        if what < 0.6:
            container[key] = json.loads(json.dumps(rng.choice(VALUES)))  # a copy: the next change may be inside
        elif what < 0.7:
            del container[key]
        elif what < 0.8:
            other, other_key = rng.choice(found)
            container[key] = json.loads(json.dumps(other[other_key])) if _holds(other, other_key) else None
        elif what < 0.9 and isinstance(container, dict):
            container[rng.choice(("", "x", "\x00", "weight", str(key) + "x", "a" * 70_000))] = container.pop(key)
        elif isinstance(container, list):
            container.extend([container[key]] * rng.choice((1, 50)))
        else:
            container[str(key) + "2"] = container[key]
    text = json.dumps(value)
    for marker, raw in RAW.items():
        text = text.replace(f'"{marker}"', raw)
    if '"@edge"' in text:  # as deep as the reader may just take
        depth = rng.randrange(800, 1000)
        text = text.replace('"@edge"', "[" * depth + "]" * depth)
    return text.encode()


def _holds(container: Any, key: Any) -> bool:
    return key in container if isinstance(container, dict) else key < len(container)


def change_bytes(content: bytes, rng: random.Random, num: int = 3, most: int | None = None) -> bytes:
    """Bytes flipped, cut out, put in, doubled or cut off, among the first `most`."""
    data = bytearray(content)
    for _ in range(num):
        at = rng.randrange(min(len(data), most or len(data)) or 1)
        size = rng.choice((1, 1, 2, 4, 8, 40, 300))
        what = rng.randrange(6)
        if what == 0 and data:
            data[at] ^= 1 << rng.randrange(8)
        elif what == 1:
            data[at : at + size] = rng.randbytes(size)
        elif what == 2:
            del data[at : at + size]
        elif what == 3:
            data[at:at] = data[at : at + size]
        elif what == 4:
            sizes = (0, 1, 1 << 31, 1 << 32, 1 << 60, (1 << 64) - 1, len(data), max(len(data) - 1, 0))
            data[at : at + 8] = struct.pack("<Q", rng.choice(sizes))
        elif rng.random() < 0.3:
            del data[at:]
    return bytes(data)


SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}

NEW_KEYS = (
    b"",
    b"\xff",
    b"x" * 70_000,
    b"general.alignment",
    b"split.count",
    b"qwen35moe.attention.recurrent_layers",
    b"qwen35moe.rope.scaling.type",
    b"qwen35moe.nextn_predict_layers",
    b"tokenizer.ggml.eot_token_id",
)


def gguf_text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def gguf_value(rng: random.Random) -> bytes:
    """A value of any type with its type before it: hostile, but well-formed now and then."""
    what = rng.randrange(10)
    if what < 4:
        kind = rng.choice(list(SCALARS))
        size = struct.calcsize(SCALARS[kind])
        ones = rng.choice((bytes(size), b"\xff" * size, b"\x01" + bytes(size - 1), rng.randbytes(size)))
        if kind in (6, 12) and rng.random() < 0.6:
            ones = struct.pack(SCALARS[kind], rng.choice((float("nan"), float("inf"), -1.0, 1e-30, 3e38)))
        return struct.pack("<I", kind) + ones
    if what < 7:
        text = rng.choice((b"", b"x", b"1" * 5000, b"\xff\xfe", b"\x1b[2J", b"{{ x" * 100, b"a" * 100_000))
        return struct.pack("<I", 8) + gguf_text(text)
    if what < 9:
        kind, count = rng.choice(list(SCALARS)), rng.choice((0, 1, 3, 4, 5000))
        return struct.pack("<IIQ", 9, kind, count) + rng.randbytes(struct.calcsize(SCALARS[kind]) * count)
    return struct.pack(
        "<IIQ", rng.choice((9, 13, 1 << 31)), rng.randrange(15), rng.choice((1, 1 << 24, 1 << 60))
    ) + bytes(24)


class GgufPieces:
    """A GGUF file taken apart: values with their types by key, infos of tensors, data."""

    def __init__(self, content: bytes):
        self.content, self.at = content, 4
        _, num_tensors, num_pairs = self._numbers("<IQQ")
        self.pairs = [(self._text(), self._value()) for _ in range(num_pairs)]
        self.tensors = [self._info() for _ in range(num_tensors)]
        self.data = content[-(-self.at // 32) * 32 :]

    def joined(self) -> bytes:
        header = b"GGUF" + struct.pack("<IQQ", 3, len(self.tensors), len(self.pairs))
        header += b"".join(gguf_text(key) + value for key, value in self.pairs)
        for name, shape, kind, offset in self.tensors:
            header += gguf_text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)
        return header + bytes(-len(header) % 32) + self.data

    def changed(self, rng: random.Random, num: int = 1) -> bytes:
        for _ in range(num):
            i, j = rng.randrange(len(self.pairs)), rng.randrange(len(self.tensors))
            name, shape, kind, offset = self.tensors[j]
            what = rng.randrange(10)
            if what < 5:
                self.pairs[i] = self.pairs[i][0], gguf_value(rng)
            elif what == 5:
                del self.pairs[i]
            elif what == 6:
                self.pairs.append((rng.choice(NEW_KEYS), gguf_value(rng)))
            elif what == 7:
                sizes = [
                    rng.choice((0, 1, size + 1, 2 * size, 1 << 32, 1 << 63)) if rng.random() < 0.4 else size
                    for size in shape
                ]
                self.tensors[j] = name, rng.choice((sizes, sizes[::-1], [*sizes, 1], sizes[1:])), kind, offset
            elif what == 8:
                kind = rng.choice((0, 1, 2, 8, 12, 30, 31, 1 << 31))
                self.tensors[j] = name, shape, kind, rng.choice((offset, 0, 1, offset + 32, 1 << 63))
            else:
                new = rng.choice(
                    (
                        b"",
                        b"blk.0",
                        b"blk." + b"9" * 5000 + b".x",
                        "blk.\u0663.x".encode(),
                        b"blk.-1.x",
                        self.tensors[0][0],
                    )
                )
                self.tensors[j] = new, shape, kind, offset
        return self.joined()

    def _numbers(self, code: str) -> tuple:
        self.at += struct.calcsize(code)
        return struct.unpack_from(code, self.content, self.at - struct.calcsize(code))

    def _text(self) -> bytes:
        (size,) = self._numbers("<Q")
        self.at += size
        return self.content[self.at - size : self.at]

    def _value(self) -> bytes:
        start = self.at
        (kind,) = self._numbers("<I")
        if kind == 8:
            self._text()
        elif kind == 9:
            item, count = self._numbers("<IQ")
            for _ in range(count):
                self._text() if item == 8 else self._numbers(SCALARS[item])
        else:
            self._numbers(SCALARS[kind])
        return self.content[start : self.at]

    def _info(self) -> tuple[bytes, list[int], int, int]:
        name = self._text()
        (num_dims,) = self._numbers("<I")
        shape = list(self._numbers(f"<{num_dims}Q"))
        return name, shape, *self._numbers("<IQ")
