"""The chart of turns is that of its numbers, and a run of bench.turns gives such numbers."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET

import pytest

from bench import turns_chart


def run(num_turns: int = 4) -> dict[str, list[dict[str, object]]]:
    """As bench.turns prints it: turn N is read in N seconds, by llama.cpp in ten times N."""
    restarted = num_turns // 2 + 1
    names = [f"turn {n}" + (", after kill -9 and restart" if n == restarted else "") for n in range(1, num_turns + 1)]
    ours = [{"what": name, "read_s": n, "prompt_tokens": 1000 * n} for n, name in enumerate(names, 1)]
    ours.append({"what": f"diverging in turn {num_turns // 2}", "read_s": 50, "prompt_tokens": 9000})
    theirs = [{**row, "read_s": row["read_s"] * 10} for row in ours]  # type: ignore[operator]
    return {"a3b": [*ours, {"what": "turn 1, cold", "read_s": 99, "prompt_tokens": 1}], "llama.cpp": theirs}


def test_the_chart_in_the_docs_is_drawn_from_the_numbers_beside_it():
    data = json.loads((turns_chart.DOCS / "turns.json").read_text(encoding="utf-8"))
    found = (turns_chart.DOCS / "turns.svg").read_text(encoding="utf-8")
    assert found == turns_chart.draw(data), "run python -m bench.turns_chart"
    assert len(found) < 100_000 and ET.fromstring(found).tag.endswith("svg")


def test_the_table_of_the_docs_has_the_same_numbers():
    data = json.loads((turns_chart.DOCS / "turns.json").read_text(encoding="utf-8"))
    page = (turns_chart.DOCS / "thinking.md").read_text(encoding="utf-8")
    cells = re.findall(r", ([\d.]+) s,", page[page.index("## What it costs") :])
    for row in data["rows"][1:]:
        assert {f"{row[engine][0]:g}" for engine in turns_chart.ENGINES} <= set(cells), row["what"]


def test_a_run_becomes_the_rows_of_the_chart():
    first, later, restarted, edited = turns_chart.rows_of(run())
    assert first == {"what": "turn 1", "tokens": "1,000 tokens", "a3b": [1], "llama.cpp": [10]}
    assert later["what"] == "turns 2 to 4" and later["tokens"] == "2,000 to 4,000 tokens, 2 turns"
    assert later["a3b"] == [3, 2, 4] and later["llama.cpp"] == [30, 20, 40]
    assert restarted["what"] == "turn 3, after kill -9" and restarted["a3b"] == [3]
    assert edited["what"] == "turn 2 edited after 4" and edited["llama.cpp"] == [500]


def test_a_run_without_the_other_engine_is_refused():
    with pytest.raises((ValueError, KeyError)):
        turns_chart.rows_of({"a3b": run()["a3b"]})


def test_the_faster_engine_is_named_on_the_left_whichever_it_is():
    row = {"what": "w", "tokens": "t", "a3b": [30], "llama.cpp": [10]}
    drawn = turns_chart.draw({"title": "t", "machine": "m; r", "rows": [row]})
    assert re.search(r'class="other end">10 s<', drawn) and re.search(r'class="own">30 s<', drawn)
