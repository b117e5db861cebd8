"""`a3b eval quality`: the comparator itself, which tokens it judges, and the presets' limits on nano."""

from __future__ import annotations

import json

import numpy as np
import pytest

from a3b.cli import main
from a3b.commands.calibration_text import conversation, read_text
from a3b.commands.eval_quality import log_softmax
from a3b.engine.engine import Engine, nano_directory
from a3b.errors import UsageError
from nano.quality_text import conversations

pytestmark = pytest.mark.slow  # starts servers or commands, or computes for seconds

LIMITS = {"fast": 0.05, "balanced": 0.02, "faithful": 0.005}  # nats per token


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("quality") / "text.json"
    path.write_text(json.dumps(conversations(12)))
    return path


def quality(capsys, *argv: str) -> dict:
    assert main(["eval", "quality", *argv, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("preset", LIMITS)
def test_a_preset_keeps_its_limit_on_nano(tmp_path, capsys, text, preset):
    target = tmp_path / "packed"
    assert main(["pack", str(nano_directory()), str(target), "--preset", preset]) == 0
    capsys.readouterr()
    found = quality(capsys, str(target), "--text", str(text), "--tokens", "1500")
    assert 0 < found["mean_kl"] <= LIMITS[preset]
    assert found["preset"] == preset and found["top1_agreement"] > 0.95
    assert 0 < found["bytes_per_token"] < found["bytes"]


def test_a_model_against_itself_loses_nothing(capsys, text):
    found = quality(capsys, "--text", str(text), "--tokens", "400", "--weights-only")
    assert (
        found["mean_kl"] < 1e-9
        and found["top1_agreement"] == 1
        and found["loss"] == pytest.approx(found["loss_of_reference"])
    )
    assert found["bytes_per_token"] is None


def test_its_own_answers_are_the_text_if_none_is_given(capsys):
    assert quality(capsys, "--tokens", "300", "--weights-only")["tokens"] > 50


def test_log_softmax_is_normalised_and_stable():
    logits = np.array([[1e4, 1e4, -1e4], [0, np.log(2), np.log(5)]], np.float32)
    found = log_softmax(logits)
    assert found[0, :2] == pytest.approx(np.log([0.5, 0.5]))
    assert np.exp(found[1]) == pytest.approx([1 / 8, 2 / 8, 5 / 8])


def test_what_the_assistant_writes_is_judged():
    engine = Engine.load(isa="reference")
    messages = [
        {"role": "user", "content": "two words"},
        {"role": "assistant", "content": "Fine.", "reasoning_content": "think a bit"},
        {"role": "user", "content": "more"},
    ]
    piece = conversation(messages, None, engine.tokenizer, engine.template)
    judged = [i for i, chosen in zip(piece.ids, piece.judged, strict=True) if chosen]
    assert engine.tokenizer.decode(judged) == "<think>\nthink a bit\n</think>\n\nFine.<|im_end|>"


def test_texts_that_cannot_be_read_are_refused(tmp_path):
    engine = Engine.load(isa="reference")
    for name, content in (("a.json", "[1]"), ("b.json", "{"), ("c.txt", None)):
        path = tmp_path / name
        if content is not None:
            path.write_text(content)
        with pytest.raises(UsageError, match=name):
            read_text(path, engine.tokenizer, engine.template)
