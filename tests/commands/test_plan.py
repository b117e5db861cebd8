"""Sizes and speeds that follow from a config: exact where they are sums, a roofline where they are predictions."""

from __future__ import annotations

import json
import math
import tempfile
from dataclasses import replace
from types import SimpleNamespace

import pytest

from a3b.cli import main
from a3b.commands import plan, sizes
from a3b.commands.benchmarks import speed as bench
from a3b.commands.progress import Progress
from a3b.errors import CheckpointError
from a3b.machine import Machine
from a3b.model.config import ModelConfig
from a3b.model.config_reader import config_from_dict, read_config
from a3b.model.known_shapes import SHAPES, shape
from a3b.model.parameters import count_parameters
from a3b.model.state import SEGMENT_LEN, State
from a3b.model.tensor_names import tensors_of
from a3b.packing.presets import PRESETS
from a3b.packing.random_weights import shape_config
from tests.support.paths import DATA
from tests.support.random_model import SIZES, config_dict

pytestmark = pytest.mark.slow  # starts servers or commands, or computes for seconds

GIB = 1 << 30
MACHINE = Machine(
    num_cpus=2, num_cores=2, cpu_quota=None, memory_bytes=22 * GIB, total_memory_bytes=24 * GIB, memory_limit=None
)
SPEED = plan.Speed(80e9, 1900e9)
OFFICIAL = read_config(DATA / "config-35b-a3b.json")


def test_the_built_in_shape_is_the_official_config():
    built_in = shape("35b-a3b")
    assert replace(OFFICIAL, model_type=built_in.model_type) == built_in
    assert count_parameters(shape("27b")).total == 26_895_998_464
    ratio = count_parameters(shape("3b-dense")).active / count_parameters(built_in).active
    assert 0.98 < ratio < 1.02


def in_floats(config: ModelConfig, monkeypatch) -> tuple[int, int]:
    """Numbers stored and read for a token, from the bytes of a model that no format fits."""
    monkeypatch.setattr(sizes, "format_for", lambda kinds, kind, n: None)
    found = sizes.sizes(config, {})
    return found.total_bytes // 4, found.token_bytes // 4


@pytest.mark.parametrize("name", [*SHAPES, *SIZES])
def test_every_parameter_is_in_exactly_one_tensor(name, monkeypatch):
    config = shape(name) if name in SHAPES else config_from_dict(config_dict(SIZES[name]))
    count = count_parameters(config)
    assert in_floats(config, monkeypatch) == (count.total, count.active)


def test_a_tied_embedding_is_stored_once_and_read_as_the_head(monkeypatch):
    config = config_from_dict({**config_dict(SIZES["one"]), "tie_word_embeddings": True})
    count = count_parameters(config)
    assert in_floats(config, monkeypatch) == (count.total, count.active)


def test_packed_sizes_are_those_of_the_formats():
    """All matrices in 4.5 bits (16-bit scale and minimum for 64 weights), the rest in 32."""
    config = shape("35b-a3b")
    matrices = sum(math.prod(t.shape(config.axes)) for t, _ in tensors_of(config) if t.kind)
    rest = count_parameters(config).total - matrices
    found = sizes.sizes(config, dict.fromkeys(PRESETS["fast"], "w4m64"))
    assert found.total_bytes == matrices * 4.5 / 8 + rest * 4
    assert 1.6e9 < found.token_bytes < 1.8e9  # 1.68 GB and the float32 router


@pytest.mark.parametrize("name", ["35b-a3b", "27b", "122b-a10b", "3b-dense"])
def test_the_module_for_drafts_is_stored_and_in_no_other_number(name):
    config = shape(name)
    found, without = (sizes.sizes(c, PRESETS["balanced"]) for c in (config, replace(config, mtp_layers=0)))
    assert replace(found, stored_bytes=0) == replace(without, stored_bytes=0)
    assert without.stored_bytes == without.total_bytes
    drafts = found.stored_bytes - found.total_bytes
    assert 0.55 * count_parameters(config).mtp <= drafts <= 0.85 * count_parameters(config).mtp
    facts = plan.describe(config, name, 32768, MACHINE, SPEED)
    assert facts["presets"]["balanced"]["stored_bytes"] == found.stored_bytes
    assert ("for drafts beside them" in "\n".join(plan.lines(facts))) == bool(drafts)


def test_presets_order_by_size():
    totals = [sizes.sizes(shape("35b-a3b"), PRESETS[name]) for name in ("fast", "balanced", "faithful")]
    assert [s.total_bytes for s in totals] == sorted(s.total_bytes for s in totals)
    assert [s.token_bytes for s in totals] == sorted(s.token_bytes for s in totals)


def test_state_and_keys_are_what_the_cache_holds():
    config = config_from_dict(config_dict(SIZES["three"]))
    state = State(config, "q8")
    assert sizes.state_bytes(config) == state.delta.nbytes + state.conv.nbytes
    assert sizes.kv_bytes_per_token(config) == sum(math.prod(shape) for shape in state._segment_shapes) / SEGMENT_LEN
    # 10 layers and that of the MTP module; 5 scales: 4 of a key, 1 of a value
    assert sizes.kv_bytes_per_token(OFFICIAL) == 11 * 2 * (2 * 256 + 5 * 4)
    drafting = replace(config, mtp_layers=1)
    pages = State(drafting, "q8", lambda state: None)._segment_shapes
    assert sizes.kv_bytes_per_token(drafting) == sum(map(math.prod, pages)) / SEGMENT_LEN


def test_the_longest_context_is_the_last_that_fits():
    config = shape("27b")
    found = sizes.sizes(config, PRESETS["balanced"])
    longest = sizes.longest_context(config, found, 22 * GIB)
    assert 0 < longest < config.max_context
    assert sizes.memory_bytes(config, found, longest) <= 22 * GIB < sizes.memory_bytes(config, found, longest + 1)
    assert sizes.longest_context(config, found, GIB) == 0
    assert sizes.longest_context(config, found, 1000 * GIB) == config.max_context


def test_decode_is_bound_by_what_a_token_reads():
    config = shape("35b-a3b")
    found = sizes.sizes(config, PRESETS["balanced"])
    at_0, at_16k = (plan.decode_seconds(config, found, depth, SPEED) for depth in (0, 16384))
    assert at_0 == pytest.approx((found.token_bytes + 2 * sizes.state_bytes(config)) / (80e9 * SPEED.read_share))
    assert at_16k - at_0 == pytest.approx(16384 * sizes.kv_bytes_per_token(config) / (80e9 * SPEED.read_share))
    assert plan.decode_seconds(config, found, 0, plan.Speed(40e9)) == pytest.approx(2 * at_0)


def test_prefill_is_bound_by_arithmetic_or_by_reading():
    config = shape("35b-a3b")
    found = sizes.sizes(config, PRESETS["fast"])
    operations = 2 * (count_parameters(config).active - config.vocab_size * config.hidden_size)
    assert plan.prefill_seconds(config, found, 2048, SPEED) == pytest.approx(
        2048 * operations / (1900e9 * SPEED.operations_share)
    )
    one = plan.prefill_seconds(config, found, 1, SPEED)
    assert one == pytest.approx(found.total_bytes / (80e9 * SPEED.read_share))


def test_attention_counts_every_pair_of_a_token_and_one_before_it_or_itself():
    config = shape("35b-a3b")
    pair = 10 * 4 * 16 * 256  # ten layers: a product with a key, one with a value, for each of 16 heads
    assert sizes.attention_operations(config, 1) == pair
    assert sizes.attention_operations(config, 5) == 15 * pair
    assert sizes.attention_operations(config, 3, start=5) == (6 + 7 + 8) * pair
    whole = sizes.attention_operations(config, 1_010_000)
    assert whole == pytest.approx(8.4e16, rel=0.01)


def test_the_share_of_attention_is_that_of_the_products_by_the_operations_and_the_time_of_each():
    config, deep = shape("35b-a3b"), plan.SAMPLE_DEPTH
    products = 100 * sizes.operations(config)
    attention = sizes.attention_operations(config, 100, deep) - sizes.attention_operations(config, 100)
    seconds = attention / products  # at the same rate
    for slower in (1.0, 2.0):
        found = plan.attention_share(config, 100, [1.0], [1.0 + slower * seconds], 0.5, 0.9)
        assert found == pytest.approx(0.5 / slower)
    assert plan.attention_share(config, 100, [1.0], [1.0], 0.5, 0.9) == 0.9  # the times say nothing


def test_reading_a_long_context_is_its_products_and_attention_that_grows_with_the_square():
    config = shape("35b-a3b")
    found = sizes.sizes(config, PRESETS["balanced"])
    short, long = (plan.reading(config, found, context, SPEED) for context in (1 << 18, 1 << 20))
    assert long["products_s"] == pytest.approx(4 * short["products_s"])
    assert long["attention_s"] == pytest.approx(16 * short["attention_s"], rel=1e-4)
    assert long["s"] == long["products_s"] + long["attention_s"]
    rate = 1900e9 * SPEED.attention_share
    assert long["attention_s"] == pytest.approx(sizes.attention_operations(config, 1 << 20) / rate)
    assert 1 / long["last_tokens_per_s"] == pytest.approx(
        plan.prefill_seconds(config, found, 512, SPEED) / 512 + (1 << 20) * 163_840 / rate, rel=1e-3
    )


def test_a_million_tokens_are_said_to_take_days_and_what_yarn_costs_short_prompts_is_quoted(capsys):
    assert main(["plan", "--context", "1M", "--bandwidth", "40", "--operations", "900"]) == 0
    out = capsys.readouterr().out
    assert "1,048,576 tokens are read once, in 3.0 days on" in out and "2.9 days for attention" in out
    assert "YaRN factor 4 beyond the native 262,144 tokens, for short prompts too" in out
    flat = " ".join(out.split())
    assert "11 of 20 facts at 50,000 tokens with factor 2 and 16 without" in flat
    assert "serve without --context" in flat
    assert main(["plan", "--context", "262144", "--bandwidth", "40", "--operations", "900"]) == 0
    assert "YaRN" not in capsys.readouterr().out


def test_a_context_beyond_the_native_one_fits_if_the_memory_has_room_for_it():
    large = replace(MACHINE, memory_bytes=64 * GIB)
    for context, longest in ((32768, 262_144), (1 << 20, 1 << 20)):
        facts = plan.describe(shape("35b-a3b"), "35b-a3b", context, large, SPEED)
        assert facts["presets"]["balanced"]["longest_context"] == longest
        assert facts["context"]["positions"] == ("YaRN factor 4" if longest > 262_144 else "native positions")


def test_the_description_holds_together():
    facts = plan.describe(shape("35b-a3b"), "35b-a3b", 32768, MACHINE, SPEED)
    balanced = facts["presets"]["balanced"]
    assert balanced["fits"] and not facts["presets"]["faithful"]["fits"]
    assert balanced["decode_tokens_per_s"] > balanced["decode_tokens_per_s_at_context"] > 0
    assert facts["presets"]["faithful"]["longest_context"] == 0
    text = "\n".join(plan.lines(facts))
    assert "34.66 B parameters, 2.95 B for each token" in text and "faithful" in text


@pytest.fixture
def quick(monkeypatch, tmp_path):
    """Short looks, a small sample, and temporary files in `tmp_path`."""
    monkeypatch.setattr(plan, "PROBE_S", 0.01)
    monkeypatch.setattr(plan, "BESIDE_S", 0.01)
    moe = {"hidden_size": 256, "num_experts": 16, "moe_intermediate_size": 64, "vocab_size": 512, "eos_token_id": 0}
    dense = {"hidden_size": 256, "intermediate_size": 128, "vocab_size": 512, "eos_token_id": 0}
    monkeypatch.setattr(plan, "SAMPLE", replace(plan.SAMPLE, sizes=moe))
    monkeypatch.setattr(plan, "DENSE_SAMPLE", replace(plan.DENSE_SAMPLE, layers=4, sizes=dense))
    monkeypatch.setattr(plan.probe, "BUFFER_BYTES", 1 << 20)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.mark.parametrize("model", ["35b-a3b", "27b"])
def test_rates_and_the_shares_of_them_are_measured(model, quick, tmp_path, capsys):
    assert main(["plan", model, "--json"]) == 0
    captured = capsys.readouterr()
    facts = json.loads(captured.out)
    assert facts["measured"]["read_bytes"] > 0 and facts["measured"]["int8_operations"] > 0
    assert facts["measured"]["shares_measured"] and captured.err == ""
    assert facts["presets"]["fast"]["decode_tokens_per_s"] > 0
    assert not list(tmp_path.iterdir())


def others(share):
    """Stands in for OtherWork."""
    return lambda: SimpleNamespace(share=lambda: share)


@pytest.mark.parametrize("share", [0.34, bench.NOTICEABLE, bench.NOTICEABLE - 0.001, 0.0, None])
def test_others_that_work_while_it_measures_are_told(share, quick, monkeypatch, capsys):
    monkeypatch.setattr(plan, "OtherWork", others(share))
    for options in ([], ["--operations", "1900"]):
        assert main(["plan", *options]) == 0
        assert ("of the processors meanwhile" in capsys.readouterr().out) == (share is not None and share >= 0.05)
    assert main(["plan", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["measured"]["others_share"] == share


def test_with_both_rates_given_nobody_is_looked_at(monkeypatch, capsys):
    monkeypatch.setattr(plan, "OtherWork", others(0.9))
    assert main(["plan", "--bandwidth", "80", "--operations", "1900"]) == 0
    assert "meanwhile" not in capsys.readouterr().out


def test_shares_are_of_what_is_measured_alongside_the_work(quick, monkeypatch):
    """Decode against reading, prefill against products, each with what a token of the sample takes."""
    made = []

    class Beside(bench.Beside):
        def __init__(self, limit, per_token):
            super().__init__(limit, per_token)
            made.append((self, per_token))

        def add(self, num_tokens, seconds):
            self.told = num_tokens
            super().add(num_tokens, seconds)

        share = property(lambda self: 0.61 if self is made[0][0] else 0.37)

    monkeypatch.setattr(bench, "Beside", Beside)
    kernels = plan.open_kernels(None, 1)
    found = plan.shares(SPEED, plan.SAMPLE, kernels, "q8", 4 * GIB, Progress("", 1))
    expected = replace(SPEED, read_share=0.61, operations_share=0.37, shares_measured=True)
    assert found == replace(expected, attention_share=found.attention_share) and 0 < found.attention_share <= 1
    config = config_from_dict(shape_config("35b-a3b", 4) | plan.SAMPLE.sizes)
    (reading, traffic), (computing, work) = made
    assert reading.told == 8 and computing.told == plan.SAMPLE.prompt
    assert traffic > 2 * sizes.state_bytes(config) and work == sizes.operations(config)


def test_with_a_rate_given_nothing_is_run(monkeypatch, quick, capsys):
    monkeypatch.setattr(plan, "shares", None)
    assert main(["plan", "27b", "--context", "1000", "--bandwidth", "80", "--operations", "1900"]) == 0
    out = capsys.readouterr().out
    assert "1,000 tokens" in out and "26.90 B" in out
    assert "80% (a guess) of 80.0 GB/s" in out and "50% (a guess) of 1,900 GOP/s" in out
    for option in ("--bandwidth", "--operations"):
        assert main(["plan", "--json", option, "80"]) == 0
        measured = json.loads(capsys.readouterr().out)["measured"]
        assert measured["read_share"] == 0.8 and not measured["shares_measured"] and measured["int8_operations"] > 0


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            lambda patch: patch.setattr(plan.Machine, "read", lambda: replace(MACHINE, memory_bytes=1 << 28)),
            "of memory, 0.27 GB are available",
        ),
        (
            lambda patch: patch.setattr(plan.shutil, "disk_usage", lambda _: SimpleNamespace(free=1 << 28)),
            "has 0.27 GB free, it takes",
        ),
        (lambda patch: patch.setattr(plan, "LONGEST_SAMPLE_S", 0.0), "it would take"),
        (lambda patch: patch.setattr(plan, "write", raised(CheckpointError("disk full"))), "disk full"),
        (
            lambda patch: patch.setattr(plan.tempfile, "gettempdir", raised(FileNotFoundError("nowhere to write"))),
            "nowhere to write",
        ),
        (lambda patch: patch.setattr(plan, "write", raised(MemoryError())), "there is no memory for it"),
        (
            lambda patch: patch.setattr(plan, "write", raised(RuntimeError("can't start new thread"))),
            "can't start new thread",
        ),
    ],
)
def test_where_a_sample_cannot_run_the_shares_are_called_a_guess(change, reason, quick, tmp_path, monkeypatch, capsys):
    change(monkeypatch)
    assert main(["plan"]) == 0
    captured = capsys.readouterr()
    assert "80% (a guess) of" in captured.out
    assert "80% and 50% are guessed, because no sample was run: " in captured.err and reason in captured.err
    assert not list(tmp_path.iterdir())


def raised(error: BaseException):
    def fail(*_, **__):
        raise error

    return fail


def test_reading_can_bound_a_prompt_too(quick, capsys):
    assert main(["plan", "--bandwidth", "1", "--operations", "100000"]) == 0
    assert "once for 512 tokens takes longer than their products" in capsys.readouterr().out


def test_without_compiled_kernels_there_are_sizes_only(quick, monkeypatch, capsys):
    monkeypatch.setenv("A3B_ISA", "reference")
    assert main(["plan", "--json"]) == 0
    captured = capsys.readouterr()
    facts = json.loads(captured.out)
    assert facts["measured"] is None and facts["presets"]["fast"]["decode_tokens_per_s"] is None
    assert "cannot be measured" in captured.err
    assert main(["plan", "--json", "--bandwidth", "80"]) == 0
    balanced = json.loads(capsys.readouterr().out)["presets"]["balanced"]
    assert balanced["decode_tokens_per_s"] > 0 and balanced["prefill_tokens_per_s"] is None


def test_a_model_that_is_not_there_is_refused(capsys):
    assert main(["plan", "nowhere"]) == 2
    assert "one of nano, 35b-a3b, 27b, 3b-dense" in capsys.readouterr().err
    for rate in ("-1", "0", "nan", "inf"):
        assert main(["plan", f"--bandwidth={rate}"]) == 2
    assert main(["plan", "--context", "2000000"]) == 2


def test_where_nothing_fits_the_next_step_is_said():
    small = replace(MACHINE, memory_bytes=8 * GIB)
    said = "\n".join(plan.lines(plan.describe(shape("35b-a3b"), "35b-a3b", 32768, small, SPEED)))
    assert "no preset fits with 32,768 tokens: fast needs" in said and "which use 17.18 GB" in said
    assert "no preset" not in "\n".join(plan.lines(plan.describe(shape("35b-a3b"), "35b-a3b", 32768, MACHINE, SPEED)))


def test_drafts_are_planned_for_unless_they_are_switched_off(quick, monkeypatch, capsys):
    monkeypatch.setattr(plan.Machine, "read", lambda: MACHINE)
    found = []
    for value in ("auto", "off"):
        monkeypatch.setenv("A3B_DRAFTS", value)
        assert main(["plan", "--json", "--bandwidth", "80"]) == 0
        found.append(json.loads(capsys.readouterr().out)["presets"]["balanced"])
    ahead, plain = found
    assert plain["drafts_bytes"] == 0 < ahead["drafts_bytes"] and plain["memory_bytes"] < ahead["memory_bytes"]
    assert plain["longest_context"] > ahead["longest_context"] > 0


def test_what_drafts_take_is_said():
    facts = plan.describe(OFFICIAL, "35b-a3b", 32768, MACHINE, SPEED)
    assert facts["presets"]["balanced"]["drafts_bytes"] > 0 and ", drafts 0.09 GB" in "\n".join(plan.lines(facts))
