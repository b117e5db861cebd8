"""Importance of columns: what is measured is what a matrix meets, the model is read as it is, and the text makes
packing better."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from a3b.cli import main
from a3b.commands.calibration_text import conversation
from a3b.engine.engine import nano_directory
from a3b.formats.checkpoint import Checkpoint
from a3b.kernels import open_kernels
from a3b.kernels.ref import ops
from a3b.model.forward import Model
from a3b.model.loader import load_weights
from a3b.packing.importance import FLOOR, Inputs, Watching, measure
from a3b.packing.open_source import open_source
from a3b.packing.plan import make_plan, tensor_values
from a3b.packing.quantise import quantise
from a3b.prompt.chat_template import ChatTemplate
from a3b.prompt.tokenizer import Tokenizer
from nano.quality_text import conversations
from tests.support.gguf_files import TYPE_OF, write_gguf
from tests.support.packing_files import SIZES, write_source
from tests.support.random_model import SIZES as OTHER_SIZES

pytestmark = pytest.mark.slow  # starts servers or commands, or computes for seconds

gguf = pytest.importorskip("gguf", reason="the format's own library writes the files")
DENSE = OTHER_SIZES["dense"]


def pieces(V: int, *lengths: int, seed: int = 1) -> list[np.ndarray]:
    rng = np.random.Generator(np.random.PCG64(seed))
    return [rng.integers(0, V, length) for length in lengths]


def hidden_of(source, kernels, texts) -> np.ndarray:
    model = Model(source.config, source.weights, kernels, "f32")
    return model.hidden([(ids, model.new_state()) for ids in texts])


class Directly:
    """Replaces a pool of threads."""

    map = staticmethod(map)


@pytest.mark.parametrize(("sizes", "fp8"), [(SIZES, False), (SIZES, True), (DENSE, False)])
def test_the_model_that_is_watched_is_the_model(tmp_path, sizes, fp8):
    write_source(tmp_path / "source", sizes, fp8)
    source, texts = open_source(tmp_path / "source"), pieces(sizes["V"], 40, 7, 100)
    watching = Watching(open_kernels(), Directly(), source.release, lambda layers: None)
    found, expected = hidden_of(source, watching, texts), hidden_of(source, open_kernels("reference"), texts)
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-4 * np.abs(expected).max())
    assert watching.num_layers == sizes["layers"]


def test_a_gguf_of_floats_is_watched_too_and_its_integers_need_no_text(tmp_path, capsys):
    for name, types in (("floats", dict.fromkeys(TYPE_OF, "BF16")), ("integers", {**TYPE_OF, "attn_v": "Q8_0"})):
        write_gguf(tmp_path / f"{name}.gguf", gguf, types=types)
    source = open_source(tmp_path / "floats.gguf")
    texts = pieces(source.config.vocab_size, 40, 7)
    watching = Watching(open_kernels(), Directly(), source.release, lambda layers: None)
    found, expected = hidden_of(source, watching, texts), hidden_of(source, open_kernels("reference"), texts)
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-4 * np.abs(expected).max())
    assert len(measure(source, texts, open_kernels(), 2)) > 20
    assert main(["pack", str(tmp_path / "integers.gguf"), str(tmp_path / "packed"), "--importance", "text.txt"]) == 2
    assert "leave it out" in capsys.readouterr().err


def test_inputs_of_the_first_and_the_last_matrix_are_their_mean_squares(tmp_path):
    write_source(tmp_path / "source")
    source, texts = open_source(tmp_path / "source"), pieces(SIZES["V"], 40, 7)
    found = measure(source, texts, open_kernels(), 2)
    c, w = source.config, source.weights
    first = ops.bind_rms_norm(w.layers[0].input_norm, c.norm_eps)(w.embed.f32()[np.concatenate(texts)])
    last = ops.bind_rms_norm(w.norm, c.norm_eps)(hidden_of(source, open_kernels("reference"), texts))
    for name, x in (("model.layers.0.linear_attn.in_proj_z.weight", first), ("lm_head.weight", last)):
        squares = np.square(x.astype(np.float64)).mean(0)
        np.testing.assert_allclose(found[name], squares[None] + FLOOR * squares.mean(), rtol=1e-3)


@pytest.mark.parametrize("sizes", [SIZES, DENSE])
def test_every_matrix_that_is_quantised_has_one_row_an_expert_and_one_number_a_column(tmp_path, sizes):
    write_source(tmp_path / "source", sizes)
    source = open_source(tmp_path / "source")
    found = measure(source, pieces(sizes["V"], 5), open_kernels(), 1)
    shapes = {
        tensor.full_name(layer): value.shape
        for tensor, layer, value in tensor_values(source.config, source.weights)
        if tensor.kind not in (None, "embed")
    }
    assert {name: (s[0] if len(s) == 3 else 1, s[-1]) for name, s in shapes.items()} == {
        n: v.shape for n, v in found.items()
    }
    assert all(np.isfinite(values).all() and (values > 0).all() for values in found.values())


def test_threads_and_kernels_of_the_mixers_change_no_bit_and_little(tmp_path):
    write_source(tmp_path / "source")
    source, texts = open_source(tmp_path / "source"), pieces(SIZES["V"], 300)
    one, two, twin = (
        measure(source, texts, open_kernels(isa), n) for isa, n in ((None, 1), (None, 3), ("reference", 1))
    )
    for name, values in one.items():
        np.testing.assert_array_equal(values, two[name])
        np.testing.assert_allclose(values, twin[name], rtol=1e-3)


def test_an_expert_that_met_nothing_has_the_mean_of_its_layer_and_no_column_counts_nothing():
    inputs = Inputs(3, 4)
    inputs.add(0, np.array([[1, 2, 0, 0]] * 1000, np.float32))
    inputs.add(1, np.array([[3, 2, 0, 0]] * 1000, np.float32))
    found = inputs.importance()
    floor = FLOOR * (5 + 4) / 4
    np.testing.assert_allclose(found[2], np.array([5, 4, 0, 0]) + floor, rtol=1e-6)
    np.testing.assert_allclose(found[:2, 0], [1 + floor, 9 + floor], rtol=0.1)
    assert (Inputs(2, 4).importance() > 0).all()


def test_on_another_text_the_errors_that_count_are_smaller():
    """Matrix by matrix on nano: the expected squared error of a product, which is the error of weights times mean
    squares of inputs."""
    directory = nano_directory()
    source, tokenizer, template = open_source(directory), Tokenizer.read(directory), ChatTemplate.read(directory)
    texts = [np.array(conversation(c["messages"], c["tools"], tokenizer, template).ids) for c in conversations(48)]
    seen, unseen = (measure(source, half, open_kernels(), 2) for half in (texts[::2], texts[1::2]))
    ratios = {}
    for item in make_plan(source.config, source.weights, "fast").items:
        name, shape = item.tensor.name, item.tensor.shape
        for e in range(0, len(seen[name]), 16) if item.format and name in seen else ():
            matrix = (item.value.expert(e) if len(shape) == 3 else item.value).f32_rows(0, shape[-2])
            errors = [
                np.square(quantise(item.format, matrix, w).f32(item.format) - matrix).dot(unseen[name][e]).sum()
                for w in (seen[name][e], None)
            ]
            ratios.setdefault(item.kind, []).append(errors[0] / errors[1])
    assert np.mean(np.concatenate(list(ratios.values())) < 1) > 0.9
    assert np.median(ratios["down"]) < 0.9 and np.median(ratios["delta_out"]) < 0.9  # whose inputs differ most


def test_the_command_packs_with_it_and_reports_what_it_cannot_use(tmp_path, capsys):
    text, empty, target = tmp_path / "text.json", tmp_path / "empty.txt", tmp_path / "packed"
    text.write_text(json.dumps(conversations(40)))
    empty.write_text("")
    assert main(["pack", str(nano_directory()), str(target), "--importance", str(text)]) == 0
    assert main(["pack", str(nano_directory()), str(tmp_path / "plain")]) == 0
    assert main(["verify", str(target)]) == 0
    weights = [
        load_weights(Checkpoint.open(d), open_source(nano_directory()).config) for d in (target, tmp_path / "plain")
    ]
    assert any((a.mlp.down.data != b.mlp.down.data).any() for a, b in zip(*(w.layers for w in weights), strict=True))
    capsys.readouterr()
    assert main(["pack", str(nano_directory()), str(target), "--importance", str(tmp_path / "missing.txt")]) == 2
    assert "exists" in capsys.readouterr().err  # said before the text is looked for
    for path in (empty, tmp_path / "missing.txt"):
        assert main(["pack", str(nano_directory()), str(tmp_path / "none"), "--importance", str(path)]) == 2
        assert path.name in capsys.readouterr().err
    write_source(tmp_path / "source")
    (tmp_path / "source" / "tokenizer.json").unlink()
    assert main(["pack", str(tmp_path / "source"), str(tmp_path / "none"), "--importance", str(text)]) == 2
    assert "--tokenizer DIR" in capsys.readouterr().err
    assert not (tmp_path / "none").exists() and not (tmp_path / "none.part").exists()


def test_what_stands_in_the_way_is_said_before_the_text_is_read(tmp_path, capsys, monkeypatch):
    text = tmp_path / "text.txt"
    text.write_text("some text")
    monkeypatch.setattr("a3b.commands.pack.measure", lambda *args: pytest.fail("the text was read"))
    write_source(tmp_path / "source")
    for name in ("chat_template.jinja", "chat_template.json"):
        (tmp_path / "source" / name).unlink(missing_ok=True)
    shutil.copy(nano_directory() / "tokenizer.json", tmp_path / "source")
    assert main(["pack", str(tmp_path / "source"), str(tmp_path / "none"), "--importance", str(text)]) == 2
    said = capsys.readouterr().err
    assert f"--importance: {tmp_path / 'source'}: " in said and "template" in said and "--tokenizer DIR" in said
    assert "/tmp" not in said.replace(str(tmp_path), "")  # no temporary directory of ours
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 1000))
    assert main(["pack", str(nano_directory()), str(tmp_path / "new" / "none"), "--importance", str(text)]) != 0
    assert "GB free; packing writes" in capsys.readouterr().err
