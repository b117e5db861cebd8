"""Predictions in the official form: JSON lines of instance_id, model_name_or_path, model_patch.

Enter at `read_predictions`, `predictions_text`, `write_predictions`."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from a3b.errors import UsageError
from a3b.evals.runs import RunDirectory
from a3b.files import read_text

MAX_FILE = 256 << 20


@dataclass(frozen=True)
class Prediction:
    """What a solver answered to one instance."""

    instance: str
    model: str
    patch: str


def predictions_text(predictions: Iterable[Prediction]) -> str:
    """JSON lines, as `python -m swebench.harness.run_evaluation --predictions_path` reads them."""
    rows = ({"instance_id": p.instance, "model_name_or_path": p.model, "model_patch": p.patch} for p in predictions)
    return "".join(json.dumps(row) + "\n" for row in rows)


def write_predictions(found: RunDirectory, logs: Iterable[Path]) -> list[Path]:
    """Files in the directory of a run with the patches of its tries, one for each epoch: predictions.jsonl, or
    predictions-1.jsonl and so on. logs: of inspect-ai, oldest first; a try that was repeated counts as it was last."""
    from inspect_ai.log import read_eval_log_samples

    by_epoch: dict[int, dict[str, Prediction]] = {}
    records = found.records()
    for log in logs:
        with suppress(Exception):  # a killed run leaves a log without an end; what it lacks is repeated by --resume
            for sample in read_eval_log_samples(str(log), all_samples_required=False):
                name, _, number = str(sample.id).partition(" #")
                epoch = int(number or 1)
                record = records.get((name, epoch))
                if record is not None and sample.error is None and not record.error:
                    model = str(record.facts.get("predicted_by") or found.config["model"])
                    by_epoch.setdefault(epoch, {})[name] = Prediction(name, model, sample.output.completion)
    written = []
    for epoch, predictions in sorted(by_epoch.items()):
        path = found.path / ("predictions.jsonl" if list(by_epoch) == [1] else f"predictions-{epoch}.jsonl")
        partial = path.with_name(path.name + ".partial")
        partial.write_text(predictions_text(predictions.values()), encoding="utf-8")
        os.replace(partial, path)
        written.append(path)
    return written


def read_predictions(path: Path) -> dict[str, Prediction]:
    """By instance, from JSON lines, or JSON with a list or an object by instance. Raises UsageError."""
    try:
        text = read_text(path, MAX_FILE)
        if path.suffix == ".jsonl":
            rows = [json.loads(line) for line in text.split("\n") if line.strip()]
        else:
            loaded = json.loads(text)
            rows = list(loaded.values()) if isinstance(loaded, dict) else loaded
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}; expected predictions") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: no JSON: {str(error)[:200]}; expected predictions, one on each line") from None
    found: dict[str, Prediction] = {}
    for number, row in enumerate(rows if isinstance(rows, list) else [rows], 1):
        names = ("instance_id", "model_name_or_path", "model_patch")
        values = [row.get(name) if isinstance(row, dict) else None for name in names]
        values[2] = values[2] if values[2] is not None else ""  # the official form of no answer
        if not all(isinstance(value, str) for value in values):
            raise UsageError(f"{path}, prediction {number}: expected texts for {', '.join(names)}")
        if values[0] in found:
            raise UsageError(f"{path}, prediction {number}: {values[0]} is there twice")
        found[str(values[0])] = Prediction(str(values[0]), str(values[1]), str(values[2]))
    return found
