"""The first screen says what a3b would choose."""

from __future__ import annotations

import re

import pytest

from a3b.commands.choice import Room, choose
from a3b.commands.memory_fit import room_to_serve
from a3b.commands.sizes import Use
from a3b.errors import A3BError
from a3b.model.known_shapes import shape
from tests.support.paths import ROOT

PAGE = (ROOT / "README.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| (\d+) GB \| (?:`(\w+)`, ([\d.]+)\s(?:GB)|does not fit) \| ([\d,]*)", re.MULTILINE)
SHOWN, OTHERS = 0.975, 1.5e9  # the share of memory that Linux shows as total, and bytes that other programs take


@pytest.mark.parametrize("row", ROW.findall(PAGE), ids=lambda row: f"{row[0]} GB")
def test_a_row_of_memory_is_what_up_would_choose_there(row):
    memory, preset, stored, context = row
    config, room = shape("35b-a3b"), Room(int(int(memory) * 2**30 * SHOWN - OTHERS), 10**12, use=Use(4))
    if not preset:
        with pytest.raises(A3BError):
            choose(config, "the model", room, None, None)
        return
    found = choose(config, "the model", room, None, None)
    served, _ = room_to_serve(config, found.found, room.memory, room.use)
    assert (found.preset, f"{found.found.stored_bytes / 1e9:.1f}") == (preset, stored)
    told, fits = int(context.replace(",", "")), served or config.max_context
    assert fits * 0.95 < told <= fits


@pytest.mark.parametrize(
    ("words", "use"),
    [
        (r"`--parallel 1` instead, 24 GB have room for ([\d,]+)", Use(1)),
        (r"with four and\s+`--drafts off`, for ([\d,]+)", Use(4, drafts=False)),
    ],
)
def test_what_options_make_of_24_gb_is_what_would_be_served(words, use):
    config, memory = shape("35b-a3b"), int(24 * 2**30 * SHOWN - OTHERS)
    found = choose(config, "the model", Room(memory, 10**12, use=use), None, None)
    fits = room_to_serve(config, found.found, memory, use)[0] or config.max_context
    assert fits * 0.95 < int(re.search(words, PAGE)[1].replace(",", "")) <= fits


def test_the_table_has_rows():
    assert len(ROW.findall(PAGE)) >= 3
