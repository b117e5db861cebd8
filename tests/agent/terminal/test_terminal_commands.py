"""Lines with a slash at a terminal: each does the real thing through the session."""

from __future__ import annotations

import os
import signal

import pytest

from a3b.agent.events import Compacted, Notice, TaskFinished, TextChunk, ThinkingChunk, TokenUsage, TurnFinished
from a3b.agent.options import SessionNode
from a3b.agent.terminal.commands import COMMANDS, command_of, tree_lines
from tests.support.played_agent import OPENED, PlayedAgent

pytestmark = pytest.mark.slow  # starts commands

USAGE = TokenUsage(1200, 6000, 30, 12, 10.0, 3.0)
FORK = "20261130-080000-f0f0"


@pytest.fixture
def terminal(tmp_path):
    played = PlayedAgent(tmp_path)
    played.told("open", None)
    played.shows("ready")
    yield played
    if not played.has_ended:
        os.kill(played.pid, signal.SIGKILL)
        played.ended()
    played.close()


def test_help_lists_every_command_and_key(terminal):
    terminal.type("/help\r")
    terminal.shows("Tab +complete")
    assert all(command.form in terminal.screen.text for command in COMMANDS.values())


def test_an_unknown_command_names_the_nearest(terminal):
    terminal.type("/udno\r")
    terminal.shows("no command /udno; did you mean '/undo'?")


def test_a_path_at_the_beginning_is_a_task(terminal):
    terminal.type("/etc/hosts is wrong\r")
    terminal.told("run", "/etc/hosts is wrong")


def test_undo_says_which_files_came_back(terminal):
    terminal.type("/undo\r")
    terminal.told("undo", False, False)
    terminal.shows("calc.py is as it was")


def test_undo_may_be_forced_and_may_reach_earlier_sessions(terminal):
    terminal.type("/undo force\r")
    terminal.told("undo", True, False)
    terminal.type("/undo earlier\r")
    terminal.told("undo", False, True)
    terminal.type("/undo all\r")
    terminal.shows("/undo all: expected nothing, force or earlier")


def test_redo_takes_the_undo_back(terminal):
    terminal.type("/redo\r")
    terminal.told("redo", False)
    terminal.shows("calc.py is as it had become")
    terminal.type("/redo all\r")
    terminal.shows("/redo all: expected nothing or force")


def test_undo_and_others_wait_until_the_agent_is_done(terminal):
    terminal.type("work\r")
    terminal.told("run", "work")
    terminal.type("/undo\r")
    terminal.shows("/undo has to wait until the agent is done; Esc stops it")
    terminal.type("/cost\r")
    terminal.shows("context    900 of 8,192 tokens; compacted at 6,000")


def test_fork_closes_this_session_and_opens_the_copy(terminal):
    terminal.type("/fork 2\r")
    terminal.told("fork", 2)
    terminal.told("close", OPENED.session)
    terminal.told("open", FORK)
    terminal.shows(r"> Earlier task\n\n\[1\] \$ make  2 lines\n\nEarlier answer\n")
    terminal.type("on\r")
    terminal.told("run", "on")


def test_a_fork_that_fails_leaves_the_session_open(terminal):
    terminal.type("/fork 99\r")
    terminal.told("fork", 99)
    terminal.shows("turn 99: the session has turns 1 to 3")
    terminal.type("/fork x\r")
    terminal.shows("/fork takes a number, not 'x'")
    terminal.type("on\r")
    terminal.told("run", "on")


def test_tree_draws_forks_below_their_session_and_marks_this_one(terminal):
    terminal.type("/tree\r")
    terminal.shows(
        rf"\* {OPENED.session}, 3 turns, 1.2k tokens, 10 min ago: Fix \\u001b\[31mit\n  \+ {FORK} fork from turn 2"
    )


def test_tree_lists_the_turns_that_fork_takes(terminal):
    terminal.type("/tree\r")
    terminal.shows(
        r"turns of this session, which /fork TURN takes:\n> Earlier task\n +1  bash make\\u001b\[2J\n +2  Earl"
    )


def test_lines_typed_while_it_compacts_come_afterwards(terminal):
    terminal.type("/compact\r")
    terminal.told("compact")
    terminal.type("next task\r")
    terminal.shows(r"> next task \(comes next\)")
    terminal.play(TextChunk("summary"), Compacted(6000, 800, "summary"))
    terminal.shows("compacted: 6,000 tokens became 800")
    terminal.told("run", "next task")


def test_after_a_compaction_the_summary_stands_above_and_nothing_is_said_to_go_on(terminal):
    terminal.type("/compact\r")
    terminal.told("compact")
    terminal.play(ThinkingChunk("hm"), TextChunk("the summary"), Compacted(6000, 800, "the summary"))
    terminal.shows(r"the summary\n\ncompacted: 6,000 tokens became 800.*\n> *\nready\n")


def test_lines_typed_while_it_compacts_come_also_if_there_is_nothing_to_gain(terminal):
    terminal.type("/compact\r")
    terminal.told("compact")
    terminal.type("next task\r")
    terminal.shows(r"> next task \(comes next\)")
    terminal.play(Notice("900 tokens would become 950: there is nothing to gain, and all stays as it is"))
    terminal.shows("there is nothing to gain, and all stays as it is")
    terminal.told("run", "next task")


def test_think_switches_thinking_and_shows_earlier_thoughts(terminal):
    for word, value in (("on", True), ("off", False), ("auto", None)):
        terminal.type(f"/think {word}\r")
        terminal.told("think", value)
    terminal.type("/think budget 2k\r")
    terminal.told("budget", 2048)
    terminal.shows("thinks up to 2.0k")
    terminal.type("/think budget none\r")
    terminal.told("budget", None)
    terminal.type("go\r")
    terminal.told("run", "go")
    terminal.play(ThinkingChunk("A first\nthought"), TurnFinished(1, "stop", USAGE), TaskFinished("done", "", 1, USAGE))
    terminal.shows("done: 1 turn")
    terminal.type("/think show\r")
    terminal.shows(r"\[1\] thought for 1 s, 12 tokens: A first\n/think show NUMBER shows one")
    terminal.type("/think show 1\r")
    terminal.shows(r"\[thinking 1\] thought for 1 s, 12 tokens\nA first\nthought\n")
    terminal.type("/think perhaps\r")
    terminal.shows("/think takes on, off, auto")


def test_resume_lists_sessions_and_a_wrong_id_changes_nothing(terminal):
    terminal.type("/sessions\r")
    terminal.shows("no earlier session here")
    terminal.type("/resume nope\r")
    terminal.shows("session 'nope'")
    terminal.type("on\r")
    terminal.told("run", "on")


def test_new_begins_another_session(terminal):
    terminal.type("/new\r")
    terminal.told("close", OPENED.session)
    terminal.told("open", None)


@pytest.mark.parametrize("word", ["/exit", "/quit", "/bye"])
def test_exit_leaves(terminal, word):
    terminal.type(f"{word}\r")
    assert terminal.ended() == 0


def test_a_line_is_a_command_only_if_its_first_word_is_a_name():
    assert command_of("/think  off ") == ("think", "off")
    assert command_of("/tmp/x.py") is command_of("a /help") is command_of("/ help") is None


def test_a_tree_with_a_circle_ends():
    nodes = [SessionNode(id, "fork", parent, 1, "", 1, 1, 0.0) for id, parent in (("a", "b"), ("b", "a"), ("c", None))]
    assert len(tree_lines(nodes, "c", 0.0)) == 1


def test_words_that_a_command_does_not_take_are_refused(terminal):
    terminal.type("/cost now\r")
    terminal.shows("/cost takes no words; found 'now'")
    terminal.type("/init\r")
    terminal.shows("no command /init; /help lists them")


def test_thinking_that_is_switched_off_is_said_instead_of_its_limit(terminal):
    terminal.type("/think budget 2k\r")
    terminal.shows("\nthinks up to 2.0k")
    terminal.type("/think off\r")
    terminal.shows("does not think \\|")
    assert "thinks up to" not in terminal.screen.text


def test_diff_shows_what_the_session_changed_in_colours(terminal):
    terminal.type("/diff\r")
    terminal.told("diff", "")
    terminal.shows(
        r"3 files changed by this session: \+1 -1 lines; 2 files of them not shown\n"
        r"    --- calc.py\n    \+\+\+ calc.py\n    @@ .*\n    -    return a - b\\u001b\[2J\n    \+    return a \+ b"
    )
    assert terminal.screen.colours >= {"31", "32", "36"}


def test_diff_takes_a_path(terminal):
    terminal.type("/diff src/../other\r")
    terminal.told("diff", "other")
    terminal.shows("other: not changed by this session")


def test_model_says_which_model_and_server_how_full_its_context_and_how_old_the_session(terminal):
    terminal.type("/model\r")
    terminal.shows(
        r"model      nano\nserver     http://127.0.0.1:1 \(a3b, .*\)\n"
        r"context    900 of 8,192 tokens, 11 %\nsession    began 10 min ago; 0 turns in 12 s"
    )


def test_mcp_shows_the_state_the_tools_and_the_trouble_of_each_server(terminal):
    terminal.type("/mcp\r")
    terminal.shows(
        r"git: runs, version 1.2\n    2 tools: git_log, git_show\n"
        r"slow: did not start\n    last trouble: was not ready\\u001b\[2J\nnot used: .mcp.json: server 'x'"
    )


def test_tools_forget_takes_back_one_answer_or_all(terminal):
    terminal.type("/tools forget pypi.org:443\r")
    terminal.told("forget", "pypi.org:443")
    terminal.shows(
        r"no longer allowed without a question: pypi.org:443; hosts that this session has\s+reached stay open"
    )
    terminal.type("/tools forget\r")
    terminal.told("forget", None)
    terminal.shows("no longer allowed without a question: nothing was")
