"""Grammars run in their own processes: one that is too large is refused by name, harms no other request, and ends with
its own."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import numpy as np
import pytest

from a3b.constrain import matchers
from a3b.constrain.constraints import Grammars
from a3b.constrain.grammar import answer_grammar
from a3b.constrain.grammar_constraint import GrammarConstraint
from a3b.constrain.matchers import MAX_AHEAD, compiled, vocabulary_of
from a3b.errors import Interrupted, OverloadedError, UsageError
from a3b.interface.request import Request
from a3b.isolation.deadlines import Work
from a3b.isolation.host import Host, TaskKilled, TaskNotStarted
from a3b.isolation.worker import processor_limit
from a3b.output.dialects import DIALECTS
from tests.support.constraints import END, TOKENIZER, shape, tool

pytestmark = pytest.mark.slow  # starts servers or commands, or computes for seconds

SAFE = Request(tools=[tool("f", shape({"x": {"enum": ["yes", "no"]}}, ["x"]))], tool_choice="required")
LOOK_AHEADS = "^" + "".join(f"(?=.*a.{{{n}}}b)" for n in range(1, 25)) + ".*$"
LARGE = Request(
    tools=[tool("f", shape({"x": {"type": "string", "pattern": LOOK_AHEADS}}, ["x"]))], tool_choice="required"
)


@pytest.fixture(scope="module")
def grammars():
    found = Grammars(TOKENIZER)
    yield found
    found.close()


def test_a_schema_that_refers_to_itself_many_times_is_refused_by_name(grammars):
    schema = shape({"x": {"$ref": "#/$defs/a"}}, ["x"], **{"$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}] * 80}}})
    with pytest.raises(UsageError, match="tools: f: parameter x: .ref that leads back to itself"):
        grammars.of(Request(tools=[tool("f", schema)], tool_choice="required"))


def test_schemas_that_refer_to_each_other_in_a_lattice_are_read_once_each(grammars):
    names = [f"n{i}" for i in range(8)]
    defs = {name: {"anyOf": [{"$ref": f"#/$defs/{below}"}] * 60} for name, below in zip(names, names[1:], strict=False)}
    schema = shape({"x": {"$ref": "#/$defs/n0"}}, ["x"], **{"$defs": {**defs, "n7": {"enum": ["a", "b"]}}})
    assert grammars.of(Request(tools=[tool("f", schema)], tool_choice="required")).mask().any()


def test_a_pattern_beyond_the_limits_is_refused_by_name_and_then_at_once(grammars):
    for _ in range(2):
        with pytest.raises(UsageError, match=r"tools: f: parameter x: takes more than 10 s or 192 MiB"):
            grammars.of(LARGE)
    assert grammars.of(SAFE).mask().any()


def test_answers_of_one_grammar_do_not_disturb_each_other(grammars):
    first, second = grammars.of(SAFE), grammars.of(SAFE)
    first.accept(int(first.mask().argmax()))
    assert (second.mask() == grammars.of(SAFE).mask()).all() and not (second.mask() == first.mask()).all()


def test_a_copy_is_at_the_same_place_and_goes_its_own_way(grammars):
    first = grammars.of(SAFE)
    first.accept(int(first.mask().argmax()))
    second = first.copy()
    before = second.mask().copy()
    assert (first.mask() == before).all()
    first.accept(int(before.argmax()))
    assert (second.mask() == before).all() and (second.copy().mask() == before).all()


NAMED = shape({"description_of_it": {"enum": ["Bertram the elder", "Anna"]}, "n": {"type": "integer"}}, ["n"])
FORCING = Request(tools=[tool("a_tool_with_a_long_name", NAMED)], tool_choice="required")


def walk(grammars, seed: int) -> Iterator[tuple[GrammarConstraint, int]]:
    """A random answer, before each of its tokens."""
    constraint, rng, token = grammars.of(FORCING), random.Random(seed), -1
    for _ in range(150):
        allowed = np.flatnonzero(constraint.mask()).tolist()
        token = END if END in allowed else rng.choice(allowed[:40])
        yield constraint, token
        if token == END:
            break
        constraint.accept(token)
    constraint.close()


@pytest.mark.parametrize("seed", range(4))
def test_masks_are_those_of_a_matcher_that_takes_every_token_when_it_comes(grammars, seed):
    grammar = answer_grammar(None, FORCING.tools, True, DIALECTS[0])
    matcher = compiled(vocabulary_of(TOKENIZER), grammar.text, grammar.fields)
    for constraint, token in walk(grammars, seed):
        bits = np.frombuffer(matcher.compute_bitmask(), np.uint8)
        expected = np.unpackbits(bits, bitorder="little", count=TOKENIZER.num_tokens).view(bool)
        np.testing.assert_array_equal(constraint.mask(), expected)
        assert matcher.consume_token(token)


def all_forced(constraint: GrammarConstraint) -> list[int]:
    """Once the grammar's process has found no more of them for a while."""
    found, before, until = constraint.forced(64), [-1], time.monotonic() + 10
    while found != before and time.monotonic() < until:
        time.sleep(0.1)
        before, found = found, constraint.forced(64)
    return found


@pytest.mark.parametrize("seed", range(4))
def test_tokens_that_are_forced_are_the_only_ones_that_can_follow(grammars, seed):
    told, longest = {}, 0
    for place, (constraint, token) in enumerate(walk(grammars, seed)):
        if place in told:
            assert token == told[place] and np.flatnonzero(constraint.mask()).tolist() == [token]
        waits = longest < 5 and constraint.mask().sum() == 1
        found = all_forced(constraint) if waits else constraint.forced(64)
        assert len(constraint.forced(2)) <= 2 and constraint.forced(0) == []
        told |= dict(enumerate(found, place))
        longest = max(longest, len(found))
    assert longest >= 5 and len(told) > 10


@pytest.mark.parametrize("seed", range(2))
def test_a_copy_in_the_midst_of_forced_tokens_is_at_the_same_place(grammars, seed):
    for constraint, token in walk(grammars, seed):
        constraint.forced(64)
        other = constraint.copy()
        another = other.copy()
        for one in (another, other):
            np.testing.assert_array_equal(one.mask(), constraint.mask())
            if token != END:
                one.accept(token)
        np.testing.assert_array_equal(other.copy().mask(), other.mask())
        for one in (another, other):
            one.close()


def test_a_grammar_that_ends_while_it_is_ahead_fails_where_the_answer_gets_there(grammars, monkeypatch):
    constraint = grammars.of(FORCING)
    constraint.accept(TOKENIZER.control_id("<tool_call>"))  # what follows is certain, up to a parameter's name
    constraint.mask()
    found = all_forced(constraint)
    assert len(found) >= 4
    constraint._task.close()
    for token in found:
        assert np.flatnonzero(constraint.mask()).tolist() == [token]
        constraint.accept(token)
    assert constraint.forced(64) == []
    with pytest.raises(UsageError, match="too much time or memory"):
        for _ in range(MAX_AHEAD):
            constraint.accept(int(constraint.mask().argmax()))


def test_answers_that_begin_together_all_have_a_grammar(grammars):
    def first_tokens(number: int) -> int:
        return int(
            grammars.of(Request(schema={"enum": [f"value {number // 4}"]}, namespace=str(number % 2))).mask().sum()
        )

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(first_tokens, range(80)))


def test_a_process_that_ends_before_it_compiles_is_not_the_fault_of_the_schema():
    grammars = Grammars(TOKENIZER)
    grammars.of(SAFE)
    host = grammars._matchers._host
    running = host._process
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    assert grammars.of(Request(schema={"enum": ["after"]})).mask().any()
    os.kill(host._process.pid, signal.SIGSTOP)
    killer = threading.Timer(0.2, os.kill, (host._process.pid, signal.SIGKILL))
    killer.start()
    with pytest.raises(OverloadedError, match="try again later"):
        grammars.of(Request(schema={"enum": ["during"]}))
    killer.join()
    assert grammars.of(Request(schema={"enum": ["during"]})).mask().any()
    grammars.close()


def test_a_machine_out_of_processes_is_distinguished_from_a_schema_that_is_too_large(monkeypatch):
    def none(*_args, **_kwargs):
        raise BlockingIOError

    grammars = Grammars(TOKENIZER)
    with monkeypatch.context() as patch, pytest.raises(OverloadedError, match="try again later"):
        patch.setattr(subprocess, "Popen", none)
        grammars.of(SAFE)
    assert grammars.of(SAFE).mask().any()
    grammars.close()


def _no_processes(*_args):
    os.fork = _refuse
    return "x"


def _refuse() -> int:
    raise BlockingIOError


def test_a_first_process_that_cannot_fork_refuses_a_task_and_stays():
    host = Host(32 << 20, _no_processes)
    for _ in range(2):
        with pytest.raises(TaskNotStarted):
            host.start(_spin).receive(30)
    assert host._process.poll() is None
    host.close()


def test_an_answer_goes_on_after_its_grammar_has_left_the_cache(monkeypatch):
    monkeypatch.setattr(matchers, "MAX_KEPT", 1)
    grammars = Grammars(TOKENIZER)
    constraint, other = grammars.of(SAFE), grammars.of(Request(schema={}))
    while not constraint.mask()[END]:
        constraint.accept(int(constraint.mask().argmax()))
    assert constraint.mask()[END] and other.mask().any()
    grammars.close()


def test_compiling_ends_when_nobody_waits_any_more():
    grammars, work, ended = Grammars(TOKENIZER), Work("test", 60), []

    def compile_it() -> None:
        with pytest.raises(Interrupted):
            work.run(grammars.of, LARGE)
        ended.append(True)

    thread = threading.Thread(target=compile_it)
    thread.start()
    work.cancel()
    thread.join(30)
    grammars.close()
    assert ended


def _shared(value):
    return value


def _spin(conversation, shared):
    conversation.send((os.getpid(), shared))
    with processor_limit(60):
        while True:
            pass


def _too_long(conversation, shared):
    with processor_limit(0.05):
        while True:
            pass


def _too_large(conversation, shared):
    conversation.send(len(bytearray(64 << 20)))


def is_running(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def ends(pid: int) -> bool:
    until = time.monotonic() + 20
    while is_running(pid) and time.monotonic() < until:
        time.sleep(0.01)
    return not is_running(pid)


@pytest.mark.parametrize("task", [_too_long, _too_large])
def test_a_task_beyond_its_limits_is_killed_and_the_next_one_runs(task):
    host = Host(32 << 20, _shared, "x")
    with pytest.raises(TaskKilled):
        host.start(task).receive(30)
    running = host.start(_spin)
    assert running.receive(30)[1] == "x"
    host.close()


@pytest.mark.parametrize("closes", [lambda host, task: task.close(), lambda host, task: host.close()])
def test_a_busy_task_ends_when_it_or_its_host_is_closed(closes):
    host = Host(32 << 20, _shared, "x")
    task = host.start(_spin)
    pid, _ = task.receive(30)
    closes(host, task)
    assert ends(pid)
    host.close()


def test_tasks_run_in_a_server_with_thousands_of_open_files():
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ExitStack() as stack:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(1200, limits[1]), limits[1]))
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, limits)
        while stack.enter_context(open(os.devnull)).fileno() < 1030:  # beyond what select() takes
            pass
        host = Host(32 << 20, _shared, "x")
        stack.callback(host.close)
        task = host.start(_spin)
        assert task.receive(30)[1] == "x" and not task.is_ready()
