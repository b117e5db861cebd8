"""The tools where they belong: in the sandbox of this machine."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager

import pytest

from a3b.agent.approvals import DenyingApprover
from a3b.agent.sandbox.opening import open_sandbox
from a3b.agent.sandbox.sandbox import SandboxPolicy
from a3b.agent.tools.built_in import BuiltInTools
from a3b.agent.tools.files import readable_paths
from a3b.agent.tools.kept_output import KeptOutput
from a3b.agent.tools.tool import ToolCallContext, ToolError

pytestmark = pytest.mark.slow


@pytest.fixture
def workspace(tmp_path):
    (tmp_path / "workspace").mkdir()
    return tmp_path / "workspace"


@contextmanager
def sandboxed_tools(workspace, approver=None, permitted=()):
    kept = KeptOutput()
    policy = SandboxPolicy(workspace, readable=(*readable_paths(), kept.directory), permitted=permitted)
    sandbox = open_sandbox(policy, approver=approver)
    try:
        yield BuiltInTools(sandbox, kept)
    finally:
        sandbox.close()
        kept.close()


def results(workspace, *calls, **options):
    """The texts of calls (tool, arguments), one after another; errors begin with "Error: "."""

    async def go():
        with sandboxed_tools(workspace, **options) as tools:
            by_name = {tool.name: tool for tool in tools.all}
            texts = []
            for name, arguments in calls:
                try:
                    texts.append((await by_name[name].run(arguments, ToolCallContext("c"))).text)
                except ToolError as error:
                    texts.append(f"Error: {error}")
            await tools.close()
            return texts

    return asyncio.run(go())


def test_a_bug_is_read_repaired_and_tested(workspace):
    (workspace / "calc.py").write_text("def add(a, b):\n    return a - b\n")
    (workspace / "test_calc.py").write_text("from calc import add\nassert add(1, 2) == 3\n")
    assert results(
        workspace,
        ("bash", {"command": "python3 test_calc.py 2>&1 | tail -1"}),
        ("read", {"path": "calc.py"}),
        ("edit", {"path": "calc.py", "old": "a - b", "new": "a + b"}),
        ("bash", {"command": "python3 test_calc.py"}),
    ) == [
        "AssertionError",
        "def add(a, b):\n    return a - b",
        "Edited calc.py, line 2. Syntax is fine.\nNow run the tests: python3 test_calc.py 2>&1 | tail -1",
        "[no output]",
    ]


def test_the_rest_of_a_long_output_can_be_read(workspace):
    (cut,) = results(workspace, ("bash", {"command": "seq 1000"}))
    path = cut.partition("all of it is in ")[2].partition("]")[0]
    assert path.endswith("/1.txt")
    _, read = results(
        workspace, ("bash", {"command": "seq 1000"}), ("bash", {"command": "sed -n 500p /tmp/a3b-output-*/1.txt"})
    )
    assert read == "500"


def test_files_outside_the_workspace_cannot_be_changed(workspace):
    outside = workspace.parent / "outside.txt"
    outside.write_text("mine\n")
    (workspace / "link").symlink_to(outside)
    results(
        workspace,
        ("write", {"path": "../outside.txt", "content": "x"}),
        ("write", {"path": "link", "content": "x"}),
        ("edit", {"path": str(outside), "old": "mine", "new": "x"}),
        ("bash", {"command": "echo x > ../outside.txt"}),
    )
    assert outside.read_text() == "mine\n"


def test_a_place_that_may_not_be_written_is_said(workspace):
    (text,) = results(workspace, ("write", {"path": "/etc/new", "content": "x"}))
    assert text.startswith("Error: /etc/new: may not be written here; the workspace may")


def test_a_file_that_the_sandbox_hides_is_said_to_be_hidden(workspace):
    assert results(workspace, ("read", {"path": "/etc/shadow"})) == ["Error: /etc/shadow is hidden by the sandbox."]


CI = ("write", {"path": ".github/ci.yml", "content": "new\n"})


def test_the_option_that_allows_a_protected_change_is_named(workspace):
    denying = DenyingApprover()
    (text,) = results(workspace, CI, approver=denying)
    assert "--allow-path .github allows it" in text
    assert denying.report() == ["Not allowed: The agent changes .github; --allow-path .github would allow it"]
    assert not (workspace / ".github").exists()


class Seeing:
    def __init__(self, *answers):
        self.answers, self.seen = list(answers), []

    async def ask(self, request):
        self.seen.append(request)
        return self.answers.pop(0)


def test_a_question_shows_the_change_and_its_answer_is_for_this_one(workspace):
    seeing = Seeing("once", "no")
    edit = ("edit", {"path": ".github/ci.yml", "old": "new", "new": "newer"})
    written, edited = results(workspace, CI, edit, approver=seeing)
    assert written == "Wrote .github/ci.yml, 1 line." and "has not allowed a change" in edited
    assert [request.diff.splitlines()[2:] for request in seeing.seen] == [
        ["@@ -0,0 +1 @@", "+new"],
        ["@@ -1 +1 @@", "-new", "+newer"],
    ]
    assert "which you see only afterwards" in seeing.seen[0].always
    assert (workspace / ".github/ci.yml").read_text() == "new\n"


def test_a_protected_change_that_cannot_be_made_is_no_question(workspace):
    seeing = Seeing()
    (text,) = results(workspace, ("edit", {"path": "AGENTS.md", "old": "a", "new": "b"}), approver=seeing)
    assert text.startswith("Error: ") and seeing.seen == []


def test_an_allowed_path_changes_without_a_question(workspace):
    denying = DenyingApprover()
    assert results(workspace, CI, approver=denying, permitted=(".github",)) == ["Wrote .github/ci.yml, 1 line."]
    assert denying.refused == []


def test_ripgrep_is_found_in_the_sandbox(workspace):
    (workspace / "a.py").write_text("x = 1\n")
    assert results(workspace, ("search", {"pattern": "(?<=x) = 1"})) == ["a.py:1: x = 1\n[1 match]"]


def test_a_directory_only_the_sandbox_has_lasts_as_well(workspace):
    assert results(
        workspace,
        ("bash", {"command": "mkdir -p /tmp/only-here && cd /tmp/only-here"}),
        ("bash", {"command": "pwd"}),
    ) == ["[no output]", "/tmp/only-here"]


def test_what_a_command_leaves_behind_ends_with_it_and_is_said(workspace):
    (text,) = results(workspace, ("bash", {"command": "sleep 1000 & echo started"}))
    assert text == (
        "started\n[what it left in the background has ended with it; background true keeps a command running]"
    )


def test_a_command_that_takes_too_long_or_too_much_is_ended_and_said(workspace):
    time, output = results(
        workspace,
        ("bash", {"command": "echo begun; sleep 1000", "timeout": 1}),
        ("bash", {"command": "yes"}),
    )
    assert time == "begun\n[stopped: it took longer than 1 s; a longer timeout or background lets it go on]"
    assert output.endswith("]") and "[killed: " in output.rpartition("\n")[2]


def test_background_jobs_run_beside_other_calls_and_end_with_the_session(workspace):
    async def go():
        with sandboxed_tools(workspace) as tools:
            call = ToolCallContext("c")
            for name in "go", "never":
                waiting = f"until [ -e {name} ]; do sleep 0.05; done; echo gone"
                await tools.bash.run({"command": waiting, "background": True}, call)
            await tools.bash.run({"command": "touch go"}, call)
            waited = await tools.bash.run({"command": "wait %1"}, call)
            await tools.close()
            return waited.text, tools.drain_reports(), [job.state() for job in tools.bash.jobs]

    text, reports, states = asyncio.run(go())
    assert text.split("\n")[1] == "gone"
    assert (reports, states) == ([], ["exit status 0", "stopped"])
