"""`a3b code` at a terminal: what is typed reaches the session, what that tells is shown, neither disturbs the other."""

from __future__ import annotations

import os
import signal

import pytest

from a3b.agent.approvals import ApprovalRequest
from a3b.agent.events import (
    Compacted,
    Notice,
    PromptProgress,
    Steered,
    TaskFinished,
    TextChunk,
    ThinkingChunk,
    TokenUsage,
    ToolFinished,
    ToolOutput,
    ToolStarted,
    TurnFinished,
    TurnStarted,
)
from a3b.errors import A3BError
from tests.support.played_agent import OPENED, PlayedAgent

pytestmark = pytest.mark.slow  # starts commands

USAGE = TokenUsage(1200, 6000, 30, 12, 10.0, 3.0)
DONE = TaskFinished("done", "", 1, USAGE)
STOPPED = TaskFinished("stopped", "", 1, USAGE)
DIFF = "--- a/calc.py\n+++ b/calc.py\n@@ -1 +1 @@\n-    return a - b\n+    return a + b\n"
REQUEST = {"request": ApprovalRequest("network", "example.org:443", "curl https://example.org", "the network", "/w")}
PASTE = "\x1b[200~{}\x1b[201~"


@pytest.fixture
def agent(tmp_path):
    """Starts a terminal; the played session is open."""
    started = []

    def start(**more) -> PlayedAgent:
        terminal = PlayedAgent(tmp_path, **more)
        started.append(terminal)
        terminal.told("open", None)
        terminal.shows("ready")
        return terminal

    yield start
    for terminal in started:
        if not terminal.has_ended:
            os.kill(terminal.pid, signal.SIGKILL)
            terminal.ended()
        terminal.close()


@pytest.fixture
def working(agent):
    """A terminal whose agent runs a command."""
    terminal = agent()
    terminal.type("fix it\r")
    terminal.told("run", "fix it")
    terminal.play(TurnStarted(1), ToolStarted("c1", "bash", {}, "bash make"), ToolOutput("c1", "cc -c a.c\n"))
    terminal.shows("cc -c a.c")
    return terminal


def test_a_task_is_shown_with_its_figures_and_the_session_to_go_on_with(agent):
    terminal = agent()
    terminal.type("fix it\r")
    terminal.told("run", "fix it")
    terminal.play(TurnStarted(1), PromptProgress(2048, 8000, 2000))
    terminal.shows(r"reading 2,048 of 8,000 tokens \(2,000 cached\)")
    terminal.play(ThinkingChunk("Hm.\n"), TextChunk("I fixed\n\nthe [red]sign"), TurnFinished(1, "stop", USAGE), DONE)
    terminal.shows(r"context 7.2k/8.2k 88% \| turn 1.2k read 6.0k cached\nsession 1.2k read 6.0k cached \| read 120/s")
    terminal.shows(r"write 10/s \| bubblewrap \| 2 jobs")
    assert (
        "> fix it\n\nthought for 1 s, about 1 token (Ctrl-T shows it)\n\nI fixed\n\nthe [red]sign\n"
        in terminal.screen.text
    )
    assert terminal.leave() == 0
    terminal.told("close", OPENED.session)
    assert f"a3b code --resume {OPENED.session} goes on" in terminal.screen.text


def test_enter_steers_and_the_message_is_shown_when_it_joins(working):
    working.type("also the docs\r")
    working.told("steer", "also the docs")
    working.shows(r"> also the docs \(joins after the running tools\)")
    working.play(ToolFinished("c1", "bash", "ok", False), Steered("also the docs"))
    working.shows(r"\[1\] bash make\n    ok\n\n> also the docs\n")
    assert "(joins" not in working.screen.text


def test_what_was_said_too_late_to_join_becomes_the_next_task(working):
    working.type("and then this\r")
    working.told("steer", "and then this")
    working.play(DONE)
    working.told("run", "and then this")


@pytest.mark.parametrize("key", ["\x1b", "\x03"], ids=["Esc", "Ctrl-C"])
def test_a_key_stops_the_agent_and_unsent_words_return_to_the_line(working, key):
    working.type("too late\r")
    working.told("steer", "too late")
    working.type(key)
    working.told("stop")
    working.shows("stopping: bash make")
    working.play(STOPPED)
    working.shows("stopped: 1 turn")
    working.shows("> too late\nready")


def test_ctrl_c_twice_leaves_while_the_agent_works(working):
    working.type("\x03")
    working.told("stop")
    working.type("\x03")
    working.play(STOPPED)
    assert working.ended() == 0


def test_ctrl_c_twice_leaves_when_nothing_runs_and_once_empties_the_line(agent):
    terminal = agent()
    terminal.type("half a wor")
    terminal.shows("half a wor")
    terminal.type("\x03")
    terminal.shows(">\nready")
    terminal.type("\x03")
    terminal.shows("Ctrl-C again leaves")
    terminal.type("\x03")
    assert terminal.ended() == 0


def test_thinking_unfolds_in_the_middle_and_folds_again(agent):
    terminal = agent()
    terminal.type("go\r")
    terminal.told("run", "go")
    terminal.play(*(ThinkingChunk(f"thought {i}\n") for i in range(30)))
    terminal.shows("thought 29")
    assert "thought 5\n" not in terminal.screen.text
    terminal.type("\x14")
    terminal.shows("thought 0\nthought 1\n")
    terminal.play(ThinkingChunk("thought 30\n"))
    terminal.shows("thought 29\nthought 30\n")
    terminal.type("\x14")
    terminal.shows("thinking is folded")


def test_a_long_output_is_folded_to_its_end_and_shown_whole_on_demand(working):
    text = "".join(f"row {i}\n" for i in range(1, 41))
    working.play(ToolFinished("c1", "bash", text, True, DIFF, 12.0), DONE)
    working.shows(r"\[1\] bash make  12 s\n    ... 35 more lines, /show 1 has all\n    row 36\n")
    assert "row 7\n" not in working.screen.text
    working.type("\x0f")
    working.shows("row 7\n    row 8\n")
    working.type("/show 2\r")
    working.shows("no tool call 2")


def test_a_diff_is_coloured_unless_colours_are_not_wanted(agent):
    for env, codes in (({"NO_COLOR": "1"}, set()), ({"NO_COLOR": ""}, {"31", "32", "36"})):
        terminal = agent(env=env)
        terminal.type("go\r")
        terminal.told("run", "go")
        terminal.play(ToolStarted("c", "edit", {}, "edit calc.py"), ToolFinished("c", "edit", "Edited.", False, DIFF))
        terminal.shows(r"-    return a - b\n    \+    return a \+ b")
        assert terminal.screen.colours & {"31", "32", "36"} == codes
        terminal.play(DONE)


@pytest.mark.parametrize(
    ("typed", "decision"), [("o\r", "once"), ("ALWAYS\r", "always"), ("\r", "no"), ("\x1b", "no"), ("n\r", "no")]
)
def test_a_question_takes_a_typed_answer_and_nothing_is_no(working, typed, decision):
    working.play(REQUEST)
    working.shows(
        r"Allow: curl https://example.org\nwhy: the network\nwhere: /w\n"
        r"always would allow: network example.org:443; /tools forget takes it back\n"
    )
    working.type(typed)
    working.told("decision", decision)
    working.shows(f"answered: {decision}")


def test_what_was_typed_before_a_question_is_no_answer_and_is_not_lost(working):
    working.type("a")
    working.play(REQUEST)
    working.shows(r"where: /w\nalways would allow: network example.org:443; /tools forget takes it back\n")
    working.type("what?\r")
    working.shows("'what.' is none of once, always and no")
    working.type("o\r")
    working.told("decision", "once")
    working.shows("> a\n")


def test_a_question_is_not_answered_by_pasted_text_or_by_several_lines(working):
    working.play(REQUEST)
    working.shows(r"where: /w\nalways would allow: network example.org:443; /tools forget takes it back\n")
    working.type(PASTE.format("always\r"))
    working.shows("pasted text does not answer")
    working.type("a\ra\r")
    working.shows("several lines at once do not answer")
    working.type("\r")
    working.told("decision", "no")


def test_lines_are_joined_by_alt_enter_ctrl_j_and_pasting(agent):
    terminal = agent()
    terminal.type("one\x1b\rtwo\n" + PASTE.format("three\r\nfour"))
    terminal.shows("four")
    terminal.type("\r")
    terminal.told("run", "one\ntwo\nthree\nfour")


def test_a_paste_that_is_too_long_is_refused_with_the_way_out(agent):
    terminal = agent()
    terminal.type(PASTE.format("x" * 100_001))
    terminal.shows(r"100,001 characters were pasted, at most 100,000 fit: put them into a file")


def test_tab_completes_commands_and_paths(agent, tmp_path):
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "calc.py").touch()
    (tmp_path / "source" / "evil\x1b]0;x\x07").touch()
    terminal = agent()
    terminal.type("read @so\t")
    terminal.shows("read @source/")
    terminal.type("\t")
    terminal.shows("read @source/calc.py")
    terminal.type("\x15/t\t")
    terminal.shows("/think  /tools  /tree")


def test_a_resized_terminal_keeps_figures_and_line(agent):
    terminal = agent()
    terminal.type("words")
    terminal.shows("> words")
    for rows, columns in ((24, 40), (10, 120), (30, 80)):
        terminal.resize(rows, columns)
        terminal.type("x")
        terminal.shows(r"words\w+\nready\ncontext 900/8.2k 11%")


def test_a_session_that_fails_is_reported_and_the_next_task_runs(working):
    working.play(A3BError("the server at 127.0.0.1 does not answer"))
    working.shows("the server at 127.0.0.1 does not answer")
    working.type("again\r")
    working.told("run", "again")


def test_a_terminal_that_goes_away_stops_the_agent_and_closes_the_session(working):
    os.close(working.fd)
    working.has_ended = True
    working.told("stop")
    working.play(STOPPED)
    working.told("close", OPENED.session)
    # Python's own status is 120 if its last flush finds no terminal
    assert os.waitstatus_to_exitcode(os.waitpid(working.pid, 0)[1]) in (0, 120)


def test_a_dumb_terminal_gets_lines_and_no_control_sequence(agent, tmp_path):
    terminal = PlayedAgent(tmp_path, env={"TERM": "dumb"})
    terminal.told("open", None)
    terminal.shows(r"\[context 900/8.2k 11% [^]]*\]\n>")
    terminal.type("fix it\n")
    terminal.told("run", "fix it")
    terminal.play(TurnStarted(1), TextChunk("Done \x1b[31m\n"), REQUEST)
    terminal.shows(r"Allow: curl https://example.org")
    terminal.shows(r"or \[N\]o\?")
    terminal.type("once\n")
    terminal.told("decision", "once")
    terminal.type("more\n")
    terminal.told("steer", "more")
    terminal.type("\x03")
    terminal.told("stop")
    terminal.play(STOPPED)
    terminal.shows("not sent: more")
    assert terminal.leave() == 0
    terminal.close()
    assert b"\x1b" not in terminal.raw


def test_a_first_message_is_shown_and_worked_on_as_if_it_had_been_typed(tmp_path):
    terminal = PlayedAgent(tmp_path, first_task="fix it")
    terminal.told("open", None)
    terminal.told("run", "fix it")
    terminal.play(TextChunk("Done."), DONE)
    terminal.shows(r"> fix it\n\nDone.\n")
    assert terminal.leave() == 0
    terminal.close()


def test_a_command_of_the_user_is_shown_as_the_agent_s_are_and_is_no_task(agent):
    terminal = agent()
    terminal.type("!make test\r")
    terminal.told("command", "make test")
    terminal.play(ToolStarted("u", "bash", {}, "bash make test"), ToolOutput("u", "cc -c a.c\n"))
    terminal.shows(r"cc -c a.c")
    terminal.type("later\r")
    terminal.shows(r"> later \(comes next\)")
    terminal.type("!ls\r")
    terminal.shows("a command has to wait until the agent is done")
    terminal.play(ToolFinished("u", "bash", "all well", False))
    terminal.shows(r"> !make test\n\na command has to wait until .*\n\[1\] bash make test\n    all well\n")
    terminal.told("run", "later")


def test_the_session_begins_with_model_server_and_sandbox_and_what_is_to_be_known(agent):
    terminal = agent()
    terminal.shows(r"nano at http://127.0.0.1:1, context 8,192; sandbox: bubblewrap\nnothing is stored\n/help lists")


HOSTILE = (
    "\x1b]0;title\x07\x1b]52;c;ZXZpbA==\x07\x1b]8;;http://evil\x1b\\link\x1b[2J\x1b[?1049h\x1bc\x9b31m\x90q\x08\r\x7f"
    "\u202egnp.exe\u2066\u2028[red]markup[/red] :smile: <b>html</b>"
)


def test_no_text_of_models_tools_servers_or_files_acts_on_the_terminal(agent):
    terminal = agent()
    terminal.type(PASTE.format(HOSTILE.replace("\x1b[", "")) + "\r")
    terminal.seen = ""
    terminal.play(
        TurnStarted(1),
        ThinkingChunk(HOSTILE),
        TextChunk(f"```\n{HOSTILE}\n```\n# {HOSTILE}\n{HOSTILE}"),
        Steered(HOSTILE),
        ToolStarted(HOSTILE, HOSTILE, {HOSTILE: HOSTILE}, HOSTILE),
        ToolOutput(HOSTILE, HOSTILE),
        ToolOutput("never started", HOSTILE),
    )
    terminal.shows(r"\[1\] .*evil")
    terminal.play(
        ToolFinished(HOSTILE, HOSTILE, HOSTILE, True, f"+{HOSTILE}"),
        Notice(HOSTILE, HOSTILE),
        Compacted(1, 2, HOSTILE),
        {"request": ApprovalRequest(HOSTILE, HOSTILE, f"what {HOSTILE}", HOSTILE, HOSTILE, HOSTILE)},
    )
    terminal.shows("Allow: what")
    terminal.type(HOSTILE.replace("\x1b", "").replace("\x7f", "").replace("\r", "") + "\r")
    terminal.shows(r"is none of\sonce")
    terminal.type("\r")
    terminal.shows("answered: no")
    terminal.play(TextChunk("x" * 20_000), TurnFinished(1, HOSTILE, USAGE), TaskFinished(HOSTILE, HOSTILE, 1, USAGE))
    terminal.shows("1,200 tokens read")
    terminal.type("\x14/show 1\r/think show\r/think show 1\r/tools\r/tree\r")
    terminal.shows(r"git_log")
    terminal.shows(r"writes: /project\\u001b\[2J")
    terminal.shows(r"\* 20261130")
    shown = "".join(terminal.screen.text.split())
    for text in (r"\u001b]52;c;", r"\u202egnp.exe\u2066", "[red]markup[/red]:smile:<b>html</b>"):
        assert text in shown  # and the screen fails on any sequence that is not its own
    assert terminal.leave() == 0


def test_a_question_shows_the_change_and_what_always_means_and_no_time_passes(working):
    diff = "--- AGENTS.md\n+++ AGENTS.md\n@@ -1 +1 @@\n-old\n+new\x1b[2J"
    request = ApprovalRequest("protected_path", "AGENTS.md", "The agent changes AGENTS.md", diff=diff, always="all")
    working.play({"request": request})
    working.shows(r"always would allow: all; /tools forget takes it back\n +--- AGENTS.md[^?]*-old\n +\+new\\u001b\[2J")
    working.shows(r"waits for your answer \| Esc says no, Ctrl-C stops")
    working.type("n\r")
    working.told("decision", "no")
    working.shows("Esc stops")
