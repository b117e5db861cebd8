"""What a server takes of the memory: weights that are mapped and not read yet are not free."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import replace
from types import SimpleNamespace

import pytest

from a3b import cli
from a3b.commands import memory_fit, serve
from a3b.commands.choice import LEAST_CONTEXT, USEFUL_CONTEXT
from a3b.commands.draft_sizes import draft_sizes
from a3b.commands.memory_fit import fit_to_memory, room_to_serve
from a3b.commands.sizes import Use, as_packed, kv_bytes_per_token, memory_bytes, sizes, state_bytes
from a3b.engine.local import MAX_CACHE, MIN_CACHE, cache_bytes
from a3b.machine import Machine
from a3b.model.known_shapes import shape
from a3b.packing.presets import PRESETS
from a3b.settings import RuntimeConfig

CONFIG = shape("35b-a3b")
BALANCED = sizes(CONFIG, PRESETS["balanced"])
GB = 10**9
FOUR = Use(4)  # what a server writes at once, unless told otherwise


def given(monkeypatch, memory):
    plain = Machine.read()
    monkeypatch.setattr(Machine, "read", lambda *_: replace(plain, memory_bytes=memory))


def test_a_server_leaves_memory_for_sessions_and_no_more_context_than_fits():
    assert room_to_serve(CONFIG, BALANCED, 64 * GB, FOUR) == (None, 4 << 30)
    memory = memory_bytes(CONFIG, BALANCED, USEFUL_CONTEXT, FOUR) + (256 << 20)
    context, sessions = room_to_serve(CONFIG, BALANCED, memory, FOUR)
    assert context % 1024 == 0 and LEAST_CONTEXT < context <= USEFUL_CONTEXT and sessions >= 256 << 20
    assert room_to_serve(CONFIG, BALANCED, BALANCED.stored_bytes, FOUR)[0] == LEAST_CONTEXT


@pytest.mark.parametrize("memory", [24, 25, 26, 28, 32, 48])
def test_weights_context_and_sessions_fit_into_the_memory_together(memory):
    context, sessions = room_to_serve(CONFIG, BALANCED, memory * GB, FOUR)
    assert memory_bytes(CONFIG, BALANCED, context or CONFIG.max_context, FOUR) + sessions <= memory * GB


def test_weights_that_are_mapped_and_not_yet_read_are_not_free_for_snapshots(monkeypatch):
    given(monkeypatch, 24 * GB)
    engine = SimpleNamespace(huge_pages=SimpleNamespace(total_bytes=21 * GB))
    assert cache_bytes(engine) == 3 * GB // 4
    assert cache_bytes(SimpleNamespace(huge_pages=SimpleNamespace(total_bytes=30 * GB))) == MIN_CACHE
    assert cache_bytes(SimpleNamespace(huge_pages=None)) == MAX_CACHE


@pytest.fixture
def packed(monkeypatch, tmp_path):
    """A directory that says it is the packed 35B model."""
    drafts, head = BALANCED.stored_bytes - BALANCED.total_bytes, BALANCED.head_row_bytes * CONFIG.vocab_size
    parts = {"weights": BALANCED.total_bytes - head, "lm_head.weight": head, "mtp.norm.weight": drafts}
    tensors = {name: SimpleNamespace(name=name, num_bytes=size) for name, size in parts.items()}
    monkeypatch.setattr(memory_fit, "read_config", lambda _: CONFIG)
    monkeypatch.setattr(memory_fit.Manifest, "read", lambda _: SimpleNamespace(tensors=tensors))
    (tmp_path / memory_fit.MANIFEST).touch()
    return tmp_path


def fitted(directory, **options):
    runtime = RuntimeConfig(kv=options.pop("kv", "q8"))
    usual = {"context": None, "cache_ram": None, "drafts": None, "parallel": 4}
    args = Namespace(**(usual | options), runtime=runtime)
    fit_to_memory(args, directory)
    return args


def test_a_server_takes_the_context_that_fits_and_says_so(monkeypatch, packed, capsys):
    given(monkeypatch, 24 * GB)
    args = fitted(packed)
    assert (args.context, args.cache_ram) == room_to_serve(CONFIG, BALANCED, 24 * GB, FOUR)
    said = capsys.readouterr().err
    assert said == f"context {args.context:,} of 262,144 tokens, as 24.0 GB of memory are available\n"


@pytest.mark.parametrize("options", [{"context": 262_144}, {"cache_ram": 4 << 30}, {"context": 1_010_000}])
def test_options_that_exceed_the_memory_are_kept_and_warned_of(monkeypatch, packed, capsys, options):
    given(monkeypatch, 24 * GB)
    args = fitted(packed, **options)
    assert vars(args) | options == vars(args)
    assert (
        "warning: weights, " in (said := capsys.readouterr().err)
        and "--context, --cache-ram or --parallel, or --drafts off" in said
    )
    given(monkeypatch, 64 * GB)
    fitted(packed, **options)
    assert "warning" not in capsys.readouterr().err


def test_a_model_without_an_mtp_module_needs_no_memory_for_one(monkeypatch, packed):
    given(monkeypatch, 24 * GB)
    context = fitted(packed).context
    weights = {"weights": SimpleNamespace(name="weights", num_bytes=BALANCED.total_bytes)}
    monkeypatch.setattr(memory_fit.Manifest, "read", lambda _: SimpleNamespace(tensors=weights))
    assert fitted(packed).context > context * 11 // 10


def test_each_answer_at_once_takes_memory_from_the_context(monkeypatch, packed, capsys):
    given(monkeypatch, 24 * GB)
    one, four = fitted(packed, parallel=1).context, fitted(packed).context
    each = state_bytes(CONFIG) + draft_sizes(CONFIG, BALANCED.head_row_bytes).answer
    assert one - four == pytest.approx(0.75 * 3 * each / kv_bytes_per_token(CONFIG), abs=2048)  # sessions get a quarter
    fitted(packed, parallel=40)
    assert " tokens in all, 40 answers at once and " in capsys.readouterr().err


def test_what_a_packed_directory_takes_is_what_its_preset_does(packed):
    tensors = memory_fit.Manifest.read(packed).tensors.values()
    assert as_packed(CONFIG, tensors) == (CONFIG, replace(BALANCED, token_bytes=0))


def test_without_drafts_the_mtp_module_takes_no_memory(monkeypatch, packed):
    given(monkeypatch, 24 * GB)
    assert fitted(packed, drafts="off").context > fitted(packed).context * 11 // 10


def test_keys_and_values_count_in_the_format_that_they_are_kept_in(monkeypatch, packed, capsys):
    given(monkeypatch, 26 * GB)
    assert fitted(packed, kv="bf16").context < (fitted(packed).context or CONFIG.max_context)
    given(monkeypatch, 40 * GB)
    capsys.readouterr()
    fitted(packed, context=1_010_000)
    assert capsys.readouterr().err == ""
    fitted(packed, context=1_010_000, kv="bf16")
    assert "warning: weights, 1,010,000 tokens" in capsys.readouterr().err


def test_the_smallest_context_is_warned_of_where_the_weights_alone_fill_the_memory(monkeypatch, packed, capsys):
    given(monkeypatch, 20 * GB)
    assert fitted(packed).context == LEAST_CONTEXT
    assert "pack a smaller preset" in capsys.readouterr().err


def test_serve_fits_its_options_before_it_loads(monkeypatch, tmp_path):
    def fit(args, directory):
        raise RuntimeError(f"fitted {directory.name}")

    monkeypatch.setattr(serve, "fit_to_memory", fit)
    monkeypatch.setattr(serve, "load", lambda *_: pytest.fail("loaded first"))
    monkeypatch.setenv("A3B_HOME", str(tmp_path))
    with pytest.raises(RuntimeError, match="fitted nano_model"):
        cli.main(["serve", "--port", "0"])
