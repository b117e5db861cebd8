"""What tokens and tasks cost: arithmetic over speeds, and prices that are refused."""

from __future__ import annotations

import json
from argparse import Namespace

import pytest

from a3b.cli import main
from a3b.commands import plan, sizes
from a3b.commands.benchmarks import sparsity
from a3b.commands.cost import TASK, Price, costs, given_price, table
from a3b.errors import UsageError
from a3b.model.known_shapes import shape
from a3b.packing.presets import PRESETS

SPEED = plan.Speed(40e9, 900e9)


def given(hour=None, watts=None, kwh=None, task=None) -> Price | None:
    return given_price(Namespace(price_per_hour=hour, watts=watts, price_per_kwh=kwh, task=task))


def test_a_price_is_one_of_the_machine_or_of_its_electricity():
    assert given() is None
    assert given(hour=0.36) == Price(0.36, "the machine", TASK)
    assert given(watts=500.0, kwh=0.3).per_hour == pytest.approx(0.15)
    assert given(hour=1.0, task=(10, 20)).task == (10, 20)


@pytest.mark.parametrize(
    ("price", "told"),
    [
        ({"hour": 0.0}, "--price-per-hour 0"),
        ({"hour": -1.0}, "--price-per-hour -1"),
        ({"hour": float("nan")}, "--price-per-hour nan"),
        ({"hour": float("inf")}, "--price-per-hour inf"),
        ({"watts": 0.0, "kwh": 1.0}, "--watts 0"),
        ({"watts": 1.0, "kwh": float("nan")}, "--price-per-kwh nan"),
        ({"hour": 1.0, "watts": 5.0}, "one or the other"),
        ({"hour": 1.0, "kwh": 5.0}, "one or the other"),
        ({"watts": 5.0}, "--watts: needs --price-per-kwh too"),
        ({"kwh": 5.0}, "--price-per-kwh: needs --watts too"),
        ({"task": (1, 2)}, "--task: needs a price"),
        ({"hour": 1.0, "task": (1,)}, "--task 1: expected tokens read and written"),
        ({"hour": 1.0, "task": (1, 2, 3)}, "--task 1,2,3"),
        ({"hour": 1.0, "task": (0, 0)}, "--task 0,0"),
    ],
)
def test_half_a_price_and_what_is_no_price_is_refused_by_name(price, told):
    with pytest.raises(UsageError, match=told):
        given(**price)


def test_a_unit_buys_what_is_computed_in_its_share_of_an_hour():
    """At 2 an hour, one unit is half an hour: 1,800 s."""
    found = costs(Price(2.0, ""), read_s=0.01, written_s=0.1, task_s=900)
    assert found["read_per_unit"] == pytest.approx(180_000)
    assert found["written_per_unit"] == pytest.approx(18_000)
    assert (found["task"], found["task_s"]) == (pytest.approx(0.5), 900)


def test_the_table_names_the_price_the_task_and_each_shape():
    price = Price(0.018, "60 W at 0.3 a kWh", (1000, 200))
    lines = table(price, {name: costs(price, 0.01, 0.1, 100) for name in ("35b-a3b", "31b-dense")})
    assert "60 W at 0.3 a kWh: 0.018 an hour" in lines[0] and "reads 1,000 tokens" in lines[0]
    assert [line.split()[0] for line in lines[-2:]] == ["35b-a3b", "31b-dense"]


def test_plan_has_the_cost_of_the_model_and_of_dense_shapes_at_the_speed_of_the_machine():
    config, price = shape("35b-a3b"), Price(3.6, "", (512, 100))
    found = plan.cost(config, "35b-a3b", SPEED, price)["shapes"]
    assert list(found) == ["35b-a3b", "3b-dense", "27b", "31b-dense"]
    size = sizes.sizes(config, PRESETS["balanced"])
    read = plan.prefill_seconds(config, size, 512, SPEED) + plan.attention_seconds(config, 512, 0, SPEED)
    written = 100 * plan.decode_seconds(config, size, 306, SPEED)
    assert found["35b-a3b"]["task_s"] == pytest.approx(read + written)
    assert found["35b-a3b"]["task"] == pytest.approx((read + written) / 1000)
    assert found["31b-dense"]["task"] > 5 * found["35b-a3b"]["task"]


@pytest.mark.slow
def test_plan_refuses_a_cost_without_a_speed(capsys, monkeypatch):
    monkeypatch.setenv("A3B_ISA", "reference")
    assert main(["plan", "--price-per-hour", "1"]) == 2
    assert "give --bandwidth GB/S and --operations GOPS" in capsys.readouterr().err
    rates = ["--bandwidth", "40", "--operations", "900"]
    assert main(["plan", "27b", "--json", "--price-per-hour", "1", *rates]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["cost"]["preset"] == "balanced" and set(facts["cost"]["shapes"]) >= {"27b", "35b-a3b"}


def test_sparsity_has_the_cost_at_measured_speeds_of_the_longest_prompt():
    rows = [
        {
            "shape": name,
            "decode": {"tokens_per_s": 10.0 * speed},
            "prefill": {"64": {"tokens_per_s": 1.0}, "512": {"tokens_per_s": 100.0 * speed}},
        }
        for name, speed in (("35b-a3b", 1.0), ("31b-dense", 0.1))
    ]
    assert sparsity.cost(rows, None) is None
    found = sparsity.cost(rows, Price(3.6, "", (1000, 50)))["shapes"]
    assert found["35b-a3b"]["read_per_unit"] == pytest.approx(100_000)
    assert found["35b-a3b"]["task_s"] == pytest.approx(1000 / 100 + 50 / 10)
    assert found["31b-dense"]["task"] == pytest.approx(10 * found["35b-a3b"]["task"])
