"""Which preset suits a machine, and what is said about it: at the edges of memory and disk."""

from __future__ import annotations

import pytest

from a3b import cli
from a3b.commands import up
from a3b.commands.choice import (
    LEAST_CONTEXT,
    SPARE_SHARE,
    USEFUL_CONTEXT,
    PackingWork,
    Room,
    check_own_types,
    choose,
    promise,
)
from a3b.commands.plan import Speed
from a3b.commands.sizes import Sizes, Use, memory_bytes, sizes
from a3b.errors import A3BError
from a3b.model.known_shapes import shape
from a3b.packing.presets import PRESETS

CONFIG = shape("35b-a3b")
FOUND = {name: sizes(CONFIG, kinds) for name, kinds in PRESETS.items()}
PLENTY = 1 << 40


def chosen(memory: int, disk: int = PLENTY, preset: str | None = None, context: int | None = None):
    return choose(CONFIG, "Model", Room(memory, disk), preset, context)


def test_the_best_preset_that_leaves_room_for_a_useful_context_is_taken():
    enough = memory_bytes(CONFIG, FOUND["balanced"], USEFUL_CONTEXT)
    assert chosen(enough).preset == "balanced" and chosen(enough).context >= USEFUL_CONTEXT
    assert chosen(enough - 1).preset == "fast"
    assert "balanced needs " in chosen(enough - 1).why and "more memory" in chosen(enough - 1).why


def test_a_larger_preset_is_taken_where_other_programs_keep_their_share_of_the_memory():
    needed = memory_bytes(CONFIG, FOUND["faithful"], USEFUL_CONTEXT)
    assert chosen(int(needed / (1 - SPARE_SHARE)) + 1).preset == "faithful"
    assert chosen(needed).preset == "balanced"
    assert chosen(needed).why == "faithful would leave little memory to other programs"
    assert chosen(needed, preset="faithful").preset == "faithful"


def test_a_small_machine_gets_a_shorter_context_before_it_is_refused():
    least = memory_bytes(CONFIG, FOUND["fast"], LEAST_CONTEXT)
    assert (chosen(least).preset, chosen(least).context) == ("fast", LEAST_CONTEXT)
    with pytest.raises(A3BError, match="even fast, the smallest preset, needs 0.0 MB more memory for 16,384 tokens"):
        chosen(least - 1)


def test_the_disk_decides_too():
    disk = FOUND["balanced"].stored_bytes + 64_000_000
    assert chosen(PLENTY, disk).preset == "balanced" and "more disk" in chosen(PLENTY, disk).why
    assert choose(CONFIG, "Model", Room(PLENTY, disk, spill=1), None, None).preset == "fast"
    with pytest.raises(A3BError, match="needs .* more disk"):
        chosen(PLENTY, 1 << 30)


def test_a_preset_and_a_context_that_were_asked_for_are_not_changed():
    assert chosen(PLENTY, preset="fast").preset == "fast" and chosen(PLENTY, preset="fast").why == ""
    both = memory_bytes(CONFIG, FOUND["fast"], CONFIG.max_context)
    assert chosen(both, context=CONFIG.max_context).preset == "fast"
    with pytest.raises(A3BError, match="faithful needs .* more memory for 16,384 tokens; balanced fits"):
        chosen(memory_bytes(CONFIG, FOUND["balanced"], LEAST_CONTEXT), preset="faithful")


def test_a_source_with_types_of_its_own_fits_or_is_refused_with_what_would():
    found = Sizes(20 << 30, 2 << 30, 20 << 30)
    assert check_own_types(CONFIG, "Model", found, Room(PLENTY, PLENTY), None).preset is None
    with pytest.raises(A3BError, match=r"needs .* more memory .* qwen3.6-27b:fast would fit|qwen3.6-27b:fast"):
        check_own_types(CONFIG, "Model", found, Room(19 << 30, PLENTY), None)


def test_the_three_lines_say_what_where_how_long_and_how_fast():
    room, choice = Room(24 * 10**9, 61 * 10**9), chosen(24 * 10**9)
    work = PackingWork("Qwen3.6-35B-A3B", "Qwen/X", 37 * 10**9, 0, "/home/u/.cache/a3b/models", 8)
    first, second, third = promise(work, choice, CONFIG, room, Speed(80e9, 1900e9))
    assert (
        first.startswith("Qwen3.6-35B-A3B, balanced: 21.23 GB, and 24.00 GB of memory have room for 154,147 tokens")
        and "faithful needs " in first
    )
    assert second.startswith(
        "downloads 37.00 GB from Qwen/X, packing meanwhile, into /home/u/.cache/a3b/models (61.00 GB"
    )
    assert second.endswith("about 49 min on a line of 100 Mbit/s")
    assert third.startswith("then about 2")
    assert third.endswith("; Claude Code's first prompt of 9,100 tokens is read in about 47 s, once")


def test_what_takes_longer_is_the_time_that_is_said():
    room, choice = Room(24 * 10**9, 61 * 10**9), chosen(24 * 10**9)
    work = PackingWork("M", "/m.gguf", 0, 0, "/p", 1)
    assert promise(work, choice, CONFIG, room, None)[1].endswith("about 36 min")
    assert (
        promise(work, choice, CONFIG, room, None)[2]
        == "then as fast as this machine allows, which could not be measured"
    )


def test_a_context_beyond_the_native_one_is_what_there_is_room_for_if_it_was_asked_for():
    assert chosen(PLENTY).context == CONFIG.max_context
    assert chosen(PLENTY, context=1 << 20).context == 1 << 20
    assert check_own_types(CONFIG, "Model", FOUND["balanced"], Room(PLENTY, PLENTY), 1 << 20).context == 1 << 20


def test_what_the_model_is_used_for_decides_too():
    needed = memory_bytes(CONFIG, FOUND["balanced"], USEFUL_CONTEXT)
    for use, preset in ((Use(), "balanced"), (Use(2), "fast"), (Use(2, drafts=False), "balanced")):
        found = choose(CONFIG, "Model", Room(needed, PLENTY, use=use), None, None)
        assert found.preset == preset
        assert memory_bytes(CONFIG, found.found, found.context, use) <= needed


@pytest.mark.parametrize(
    ("words", "use"),
    [
        (["up", "qwen3.6"], Use(4)),
        (["up", "qwen3.6", "--parallel", "2", "--drafts", "off"], Use(2, drafts=False)),
        (["serve", "qwen3.6", "--yes", "--parallel", "3"], Use(3)),
        (["chat", "qwen3.6", "--yes", "--drafts", "off"], Use(1, drafts=False)),
    ],
)
def test_a_model_is_chosen_for_what_the_command_that_gets_it_will_do(words, use, monkeypatch, tmp_path, capsys):
    def obtain(name, wish, runtime):
        raise A3BError(f"for {wish.use}")

    monkeypatch.setattr(up, "obtain", obtain)
    monkeypatch.setattr(up, "check_port", lambda host, port: None)
    monkeypatch.setenv("A3B_HOME", str(tmp_path))
    assert cli.main(words) == 1
    assert f"for {use}" in capsys.readouterr().err
