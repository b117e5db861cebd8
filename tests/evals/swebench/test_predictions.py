"""Predictions go out and come in as the official harness has them."""

from __future__ import annotations

import json

import pytest

from a3b.errors import UsageError
from a3b.evals.benchmarks.swebench.predictions import Prediction, predictions_text, read_predictions

MADE = [Prediction("a", "me", "diff --git\n+ü\n"), Prediction("b", "me", "")]


def test_predictions_come_back_as_they_went(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text(predictions_text(MADE), encoding="utf-8")
    assert list(read_predictions(path).values()) == MADE
    assert set(json.loads(path.read_text().split("\n")[0])) == {"instance_id", "model_name_or_path", "model_patch"}


def test_predictions_by_instance_as_other_agents_write_them_are_read(tmp_path):
    row = {"instance_id": "a", "model_name_or_path": "m", "model_patch": None}
    for value in ({"a": row}, [row]):
        (tmp_path / "preds.json").write_text(json.dumps(value))
        assert read_predictions(tmp_path / "preds.json") == {"a": Prediction("a", "m", "")}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "no JSON"),
        ('{"instance_id": "a"}', "prediction 1: expected texts for instance_id, model_name_or_path, model_patch"),
        ('{"instance_id": "a", "model_name_or_path": "m", "model_patch": 7}', "prediction 1"),
        ("7", "prediction 1"),
        (predictions_text([MADE[0], MADE[0]]), "a is there twice"),
    ],
)
def test_what_is_no_prediction_is_refused_with_its_number(tmp_path, text, message):
    (tmp_path / "p.jsonl").write_text(text)
    with pytest.raises(UsageError, match=message):
        read_predictions(tmp_path / "p.jsonl")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"none\.jsonl: No such file"):
        read_predictions(tmp_path / "none.jsonl")
