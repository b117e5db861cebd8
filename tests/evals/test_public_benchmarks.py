"""Each benchmark gives a perfect model everything and a wrong one nothing. All items are made for these tests."""

from __future__ import annotations

import csv
import hashlib
import json
import re

import pytest

from a3b.errors import UsageError
from a3b.evals.benchmarks import aime, asking, bfcl, gpqa, humaneval, reasoning_gym
from a3b.evals.roster import benchmark
from tests.support.eval_tasks import options, run, scores

pytestmark = [
    pytest.mark.slow,  # inspect-ai takes seconds to load
    # inspect-ai's own: streams of anyio that the garbage collector closes, deprecated names of its libraries
    pytest.mark.filterwarnings("ignore"),
]


SCORER = "has BFCL's scorer: pip install 'a3b[eval]'"


def with_data(tmp_path, path, **fields):
    extra = {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), **fields.pop("extra", {})}
    return options(tmp_path, data=path, extra=extra, **fields)


def asked(messages):
    return messages[-1].text


# -- GPQA


@pytest.fixture
def sums(tmp_path):
    rows = [
        {
            "Record ID": f"rec{i}",
            "Question": f"How much is {i} + {i}?",
            "Correct Answer": f" {2 * i} ",
            **{f"Incorrect Answer {k}": str(2 * i + k) for k in (1, 2, 3)},
            "High-level domain": "Sums",
            "Canary String": "not for training",
        }
        for i in range(8)
    ]
    with open(tmp_path / "sums.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return with_data(tmp_path, tmp_path / "sums.csv")


def chooses(step):
    """A model that finds the right one of four numbers, and takes the one `step` further."""

    def answer(messages, tools):
        twice = 2 * int(re.search(r"How much is (\d+)", asked(messages))[1])
        letters = re.findall(r"^([A-D])\) (\d+)$", asked(messages), re.MULTILINE)
        right = next(letter for letter, number in letters if int(number) == twice)
        return f"Two of them.\n\nANSWER: {'ABCD'[('ABCD'.index(right) + step) % 4]}"

    return answer


def test_gpqa_gives_the_right_choice_everything_and_others_nothing(sums, tmp_path):
    assert set(scores(gpqa.make_task(sums), chooses(0), tmp_path).values()) == {1.0}
    assert set(scores(gpqa.make_task(sums), chooses(1), tmp_path).values()) == {0.0}


def test_gpqa_puts_the_right_choice_everywhere_and_the_same_way_each_time(sums):
    first, second = (gpqa.samples(gpqa.rows(sums)) for _ in range(2))
    assert [(s.id, s.choices) for s in first] == [(s.id, s.choices) for s in second]
    assert len({s.target for s in first}) > 1


def test_gpqa_carries_the_canary_into_the_transcript(sums):
    assert {s.metadata["canary"] for s in gpqa.samples(gpqa.rows(sums))} == {"not for training"}


# -- AIME


@pytest.fixture
def problems(tmp_path):
    rows = [{"id": i, "problem": f"Which number is {i}?", "answer": f"{i:03}"} for i in (0, 7, 42, 999)]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return with_data(tmp_path, tmp_path / "p.jsonl")


def says(form, step=0):
    return lambda messages, tools: form % (int(re.search(r"is (\d+)\?", asked(messages))[1]) + step)


@pytest.mark.parametrize("form", ["So it is \\boxed{%d}.", "ANSWER: %03d"])
def test_aime_gives_the_right_number_everything_and_others_nothing(form, problems, tmp_path):
    assert set(scores(aime.make_task(problems), says(form), tmp_path).values()) == {1.0}
    assert set(scores(aime.make_task(problems), says(form, 1), tmp_path).values()) == {0.0}


def test_aime_refuses_an_answer_that_is_none(tmp_path):
    (tmp_path / "p.json").write_text(json.dumps([{"problem": "x", "answer": "1000"}]), encoding="utf-8")
    with pytest.raises(UsageError, match="problem 1 is '1000'"):
        aime.make_task(with_data(tmp_path, tmp_path / "p.json"))


# -- HumanEval


PROMPT = 'import math\n\n\ndef root(x: int) -> int:\n    """The whole root of x."""\n'
BODY = "    return math.isqrt(x)\n"


@pytest.fixture
def function(tmp_path):
    row = {
        "task_id": "Made/0",
        "prompt": PROMPT,
        "canonical_solution": BODY,
        "test": "def check(f):\n    assert [f(n) for n in (0, 8, 9)] == [0, 2, 3]\n",
        "entry_point": "root",
    }
    (tmp_path / "f.jsonl").write_text(json.dumps(row), encoding="utf-8")
    return with_data(tmp_path, tmp_path / "f.jsonl")


@pytest.mark.parametrize(
    "answer",
    [
        f"Here:\n\n```python\n{PROMPT}{BODY}```\nThat is all.",
        "```\ndef root(x):\n    return math.isqrt(x)\n```",
        f"```python\nroot(9)\n```\nin\n```py\r\n{PROMPT}{BODY}\r\n```",
        f"```python\n{PROMPT}{BODY}",
        BODY,
    ],
)
def test_humaneval_passes_a_right_function_in_any_form(answer, function, tmp_path):
    assert scores(humaneval.make_task(function), lambda *_: answer, tmp_path) == {"Made/0": 1.0}


@pytest.mark.parametrize(
    "answer", ["", "I do not know.", "```python\ndef root(x):\n    return x\n```", "    exit(0)\n"]
)
def test_humaneval_fails_whatever_does_not_pass_its_tests(answer, function, tmp_path):
    assert scores(humaneval.make_task(function), lambda *_: answer, tmp_path) == {"Made/0": 0.0}


# -- reasoning-gym


class Doubles:
    """A family as the package has it. Answers that are near get a share."""

    def __getitem__(self, index):
        return {"question": f"Twice {index}?", "answer": str(2 * index)}

    def score_answer(self, answer, entry):
        return 1.0 if answer == entry["answer"] else 0.9


def test_a_verifier_must_give_the_whole_point(tmp_path):
    from inspect_ai import Task
    from inspect_ai.dataset import MemoryDataset
    from inspect_ai.solver import generate

    def task():
        judge = asking.right_or_wrong(reasoning_gym.Judge({"doubles": Doubles()}), "verified")
        found = reasoning_gym.samples({"doubles": Doubles()}, 3)
        return Task(dataset=MemoryDataset(found), solver=generate(), scorer=judge)

    def doubled(form, step=0):
        return lambda messages, _: form % (2 * int(re.search(r"Twice (\d)", asked(messages))[1]) + step)

    assert set(scores(task(), doubled("<answer>%d</answer>"), tmp_path).values()) == {1.0}
    assert set(scores(task(), doubled("<answer>%d</answer>", 1), tmp_path).values()) == {0.0}
    assert set(scores(task(), doubled("%d"), tmp_path).values()) == {0.0}


def test_cases_take_turns_between_families():
    found = reasoning_gym.samples({"a": Doubles(), "b": Doubles()}, 2)
    assert [s.id for s in found] == ["a-0", "b-0", "a-1", "b-1"]


def test_every_puzzle_of_the_package_accepts_its_own_answer(tmp_path):
    pytest.importorskip("reasoning_gym", reason="a package of its own")
    task = reasoning_gym.make_task(options(tmp_path, extra={"each": "2"}))
    answers = {s.input: s.target for s in task.dataset}
    found = scores(task, lambda messages, _: f"<answer>{answers[asked(messages)]}</answer>", tmp_path)
    assert len(found) == 2 * len(reasoning_gym.FAMILIES)
    assert set(found.values()) == {1.0}


def test_a_family_that_would_run_the_answer_is_refused():
    with pytest.raises(UsageError, match="evaluate what the model wrote"):
        reasoning_gym.chosen({"families": "countdown"})


# -- BFCL


def function_of(name, **properties):
    fields = {key: {"type": kind, "description": key} for key, kind in properties.items()}
    parameters = {"type": "dict", "properties": fields, "required": list(fields)}
    return {"name": name, "description": f"{name} of something", "parameters": parameters}


@pytest.fixture
def calls(tmp_path):
    """A package with three categories. A case asks for what its answers say."""
    pytest.importorskip("inspect_evals", reason=SCORER)
    data = tmp_path / "bfcl_eval" / "data"
    (data / "possible_answer").mkdir(parents=True)
    tools = [function_of("map.area", width="float", unit="string"), function_of("map.name", place="string")]
    both = [{"map.area": {"width": [2.5], "unit": ["km", "kilometre"]}}, {"map.name": {"place": ["Bern"]}}]
    cases = {"simple_python": (tools[:1], both[:1]), "parallel": (tools, both), "irrelevance": (tools, None)}
    for name, (functions, answers) in cases.items():
        rows = [
            {"id": f"{name}_{i}", "question": [[{"role": "user", "content": f"Do {name}."}]], "function": functions}
            for i in range(2)
        ]
        (data / f"BFCL_v4_{name}.json").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        if answers:
            truth = [{"id": f"{name}_{i}", "ground_truth": answers} for i in range(2)]
            file = data / "possible_answer" / f"BFCL_v4_{name}.json"
            file.write_text("\n".join(map(json.dumps, truth)), encoding="utf-8")
    return options(tmp_path, data=tmp_path / "bfcl_eval", extra={"categories": ",".join(cases)})


RIGHT = [("map_area", {"width": 2.5, "unit": "KM"}), ("map_name", {"place": "Bern"})]


def test_bfcl_gives_the_right_calls_everything(calls, tmp_path):
    said = {
        "Do simple_python.": RIGHT[:1],
        "Do parallel.": RIGHT[::-1],
        "Do irrelevance.": "There is no function for it.",
    }
    found = scores(bfcl.make_task(calls), lambda messages, _: said[asked(messages)], tmp_path)
    assert len(found) == 6
    assert set(found.values()) == {1.0}


@pytest.mark.parametrize(
    "wrong",
    [
        [("map_area", {"width": 2.0, "unit": "km"})],
        [("map_area", {"width": 2.5})],
        [("map_area", {"width": 2.5, "unit": "km", "more": 1})],
        [("area", {"width": 2.5, "unit": "km"})],
        [RIGHT[0], RIGHT[0]],
    ],
)
def test_bfcl_gives_wrong_calls_nothing(wrong, calls, tmp_path):
    assert set(scores(bfcl.make_task(calls), lambda *_: wrong, tmp_path).values()) == {0.0}


def test_bfcl_takes_an_object_whose_fields_are_each_right(calls):
    """The package states such objects with a list of right values in each field, "" for one that may be absent."""
    truth = [{"draw": {"style": [{"width": [1, 2], "colour": ["red", ""]}], "names": [["a", "b"]], "unit": ["", "km"]}}]
    bfcl.spell_out(truth)
    (found,) = (call["draw"] for call in truth)
    assert {"width": 2, "colour": "red"} in found["style"] and {"width": 1} in found["style"]
    assert {"width": 3, "colour": "red"} not in found["style"]
    assert (found["names"], found["unit"]) == ([["a", "b"]], ["", "km"])


def test_bfcl_bounds_what_an_object_stands_for():
    truth = [{"f": {"x": [{str(i): list(range(100)) for i in range(50)}]}}]
    bfcl.spell_out(truth)
    assert len(truth[0]["f"]["x"]) == bfcl.MOST_MEANT


def test_bfcl_says_the_score_of_each_category():
    tries = {"live_parallel_0-0-0": [1.0], "live_parallel_multiple_1-0-0": [0.0], "live_parallel_1-0-0": [0.0]}
    lines = [line.split()[:2] for line in bfcl.BENCHMARK.more(tries)]
    assert lines == [["live_parallel", "50.0%"], ["live_parallel_multiple", "0.0%"]]
    assert bfcl.BENCHMARK.more({"simple_python_1": [1.0]}) == []


def test_bfcl_takes_turns_between_categories(calls):
    names = [s.metadata["category_name"] for s in bfcl.make_task(calls).dataset]
    assert names == ["simple_python", "parallel", "irrelevance"] * 2


@pytest.mark.skipif(not bfcl.is_here(None), reason=f"its own data: {bfcl.INSTALL}")
def test_bfcl_has_as_many_cases_as_are_planned(tmp_path):
    pytest.importorskip("inspect_evals", reason=SCORER)
    for name in (*bfcl.SINGLE_TURN, *bfcl.MULTI_TURN):
        given = {"categories": name}
        assert len(bfcl.make_task(options(tmp_path, extra=given)).dataset) == bfcl.BENCHMARK.cases_with(given)


def test_bfcl_without_its_data_names_the_command(tmp_path):
    pytest.importorskip("inspect_evals", reason=SCORER)
    with pytest.raises(UsageError, match="pip install --no-deps bfcl-eval"):
        bfcl.make_task(options(tmp_path, data=tmp_path))


# -- all of them


def test_what_a_benchmark_asks_for_goes_into_each_request_and_the_user_has_the_last_word(problems, tmp_path):
    given = options(tmp_path, policy="none", sampling={"temperature": 0.2, "max_tokens": 50})
    config = asking.generate_config(given, asking.THINKING, 1000)
    assert (config.temperature, config.top_p, config.max_tokens) == (0.2, 0.95, 50)
    assert config.extra_body == {"top_k": 20, "min_p": 0.0, "thinking_policy": "none"}


@pytest.mark.parametrize("name", ["gpqa", "aime", "bfcl", "tau2", "humaneval", "reasoning-gym"])
def test_each_says_its_rules_and_what_it_needs(name):
    found = benchmark(name)
    assert found.name == name
    assert found.protocol and found.differs and found.needs and found.tokens_per_case


def test_an_error_of_the_server_is_no_wrong_answer(problems, tmp_path):
    def broken(messages, tools):
        raise RuntimeError("the server is gone")

    log = run(aime.make_task(problems), broken, tmp_path, fail_on_error=False)
    assert all(sample.error is not None and not sample.scores for sample in log.samples)
