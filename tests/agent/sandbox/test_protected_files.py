"""Files of a workspace that act outside of the sandbox: commands cannot change them, nor make new ones that stay."""

from __future__ import annotations

import asyncio
import os
import subprocess

import pytest

from a3b.agent.approvals import ApprovalRequest, Decision
from tests.support.sandboxes import files_below, opened, ran

pytestmark = pytest.mark.slow
GIT = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "GIT_CONFIG_NOSYSTEM": "1"}
PLANTED = (
    ".github",
    ".gitlab-ci.yml",
    ".vscode",
    ".idea",
    ".mcp.json",
    ".envrc",
    "AGENTS.md",
    ".a3b",
    ".bashrc",
    ".claude",
)


def git(workspace, *words):
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", *words]
    done = subprocess.run(command, cwd=workspace, env=GIT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def repository(sandbox):
    workspace = sandbox.policy.workspace
    git(workspace, "init", "-q")
    (workspace / ".github/workflows").mkdir(parents=True)
    (workspace / ".github/workflows/ci.yml").write_text("good\n")
    (workspace / "AGENTS.md").write_text("good\n")
    git(workspace, "add", ".")
    git(workspace, "commit", "-qm", "first")
    return workspace


def guarded(workspace):
    """What must not change: not objects, index and logs."""
    kept = files_below(workspace)
    return {
        name: found
        for name, found in kept.items()
        if name.startswith((".git/config", ".git/hooks/", ".git/comm", ".github"))
    }


@pytest.mark.parametrize(
    "attempt",
    [
        "echo evil > .git/hooks/pre-commit; chmod +x .git/hooks/pre-commit",
        "git config core.fsmonitor 'touch /tmp/evil'",
        "git config core.hooksPath evil",
        "echo '[core] hooksPath = evil' >> .git/config",
        "cp .git/config c && echo x >> c && mv -f c .git/config",
        "rm -rf .git/hooks; mkdir .git/hooks; echo evil > .git/hooks/pre-commit",
        "mv .git/hooks .git/old; mkdir .git/hooks; echo evil > .git/hooks/post-checkout",
        "mv .git .git2; git init -q; echo evil > .git/hooks/pre-commit",
        "mv .git .git2; mkdir .git; cp -r .git2/* .git; echo evil > .git/hooks/pre-commit",
        "mkdir evil; cp -r .git/* evil; echo ../evil > .git/commondir; echo evil > evil/hooks/pre-commit",
        "git config extensions.worktreeConfig true; echo '[core] fsmonitor = evil' > .git/config.worktree",
        "echo evil > .github/workflows/ci.yml; echo evil > .github/workflows/new.yml",
        "mv .github x; mkdir -p .github/workflows; echo evil > .github/workflows/ci.yml",
        "ln -sfn /tmp .github; rm -rf .github; ln -s /tmp .github",
        "rm -rf .github AGENTS.md .git/hooks .git/config",
    ],
)
def test_settings_of_git_and_ci_stay_as_they_are(sandbox, repository, attempt):
    before = guarded(repository)
    ran(sandbox, attempt)
    assert guarded(repository) == before
    assert git(repository, "log", "--format=%s").startswith("first")


def test_a_commit_works_in_the_sandbox(sandbox, repository):
    text, outcome = ran(
        sandbox,
        "git config --global user.name a; git config --global user.email a@b; echo x > file; git add -A; "
        "git commit -qm second && git branch new && git log --format=%s && git status --short",
    )
    assert (text, outcome.ended_by) == ("second\nfirst\n", "exit")
    assert git(repository, "log", "--format=%s") == "second\nfirst\n"


@pytest.mark.parametrize("name", PLANTED)
def test_what_others_would_run_cannot_be_planted(sandbox, name):
    """A command that makes it is ended, and it is gone."""
    workspace = sandbox.policy.workspace
    _, outcome = ran(sandbox, f"mkdir {name} && echo evil > {name}/settings.json || echo evil > {name}; sleep 30")
    assert outcome.ended_by == "protected"
    assert name in outcome.detail
    assert not os.path.lexists(workspace / name)


DEEP = "packages/one"


@pytest.fixture
def nested(sandbox):
    """A workspace with a package and a repository below its root."""
    workspace = sandbox.policy.workspace
    for name in (".vscode/settings.json", "AGENTS.md", ".envrc", "main.py"):
        file = workspace / DEEP / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("good\n")
    (workspace / "vendor/lib").mkdir(parents=True)
    git(workspace / "vendor/lib", "init", "-q")
    git(workspace / "vendor/lib", "commit", "-qm", "first", "--allow-empty")
    return workspace


def guarded_below(workspace):
    kept = files_below(workspace)
    tops = (f"{DEEP}/.vscode", f"{DEEP}/AGENTS.md", f"{DEEP}/.envrc", "vendor/lib/.git/config", "vendor/lib/.git/hooks")
    return {name: found for name, found in kept.items() if name.startswith(tops)}


@pytest.mark.parametrize(
    "attempt",
    [
        "echo evil > packages/one/AGENTS.md",
        "echo evil > packages/one/.vscode/settings.json; echo evil > packages/one/.vscode/tasks.json",
        "cp packages/one/.envrc c; echo evil >> c; mv -f c packages/one/.envrc",
        "rm -rf packages/one/.vscode packages/one/AGENTS.md; echo evil > packages/one/AGENTS.md",
        "ln -sfn /tmp packages/one/.vscode; ln -sf /tmp/x packages/one/AGENTS.md",
        "git -C vendor/lib config core.fsmonitor 'touch /tmp/evil'",
        "echo evil > vendor/lib/.git/hooks/pre-commit; chmod +x vendor/lib/.git/hooks/pre-commit",
        "mv vendor/lib/.git/hooks vendor/lib/.git/old; mkdir vendor/lib/.git/hooks; touch vendor/lib/.git/hooks/x",
        "mv vendor/lib/.git vendor/lib/x; git init -q vendor/lib; touch vendor/lib/.git/hooks/post-checkout",
    ],
)
def test_settings_below_the_root_stay_as_they_are(sandbox, nested, attempt):
    before = guarded_below(nested)
    ran(sandbox, attempt)
    assert guarded_below(nested) == before
    assert git(nested / "vendor/lib", "log", "--format=%s") == "first\n"


@pytest.mark.parametrize("name", [".envrc", ".vscode", ".idea", "AGENTS.md", "CLAUDE.md", ".mcp.json"])
def test_what_others_would_run_cannot_be_planted_deep(sandbox, name):
    workspace = sandbox.policy.workspace
    command = (
        f"mkdir -p a/b/c a/b/d/{name}; echo evil > a/b/d/{name}/settings.json; echo evil > a/b/c/{name}; echo ok > a/f"
    )
    _, outcome = ran(sandbox, command)
    assert outcome.ended_by == "protected" and f"a/b/c/{name}" in outcome.detail
    assert not any(os.path.lexists(workspace / "a/b" / place / name) for place in "cd")
    assert (workspace / "a/f").read_text() == "ok\n"


def test_files_beside_protected_ones_can_be_worked_on_and_moved_between_directories(sandbox, nested):
    text, outcome = ran(
        sandbox,
        'python3 -c \'import os; os.rename("packages/one/main.py", "vendor/main.py")\'; echo x > packages/one/new; '
        "cd vendor/lib; echo x > file; git add file; git -c user.name=a -c user.email=a@b commit -qm second; "
        "git log --format=%s",
    )
    assert (text, outcome.ended_by) == ("second\nfirst\n", "exit")
    assert (nested / "vendor/main.py").exists() and (nested / "packages/one/new").exists()


def test_nothing_is_left_in_the_workspace_by_the_sandbox_itself(sandbox, repository):
    before = sorted(path for path in files_below(repository) if not path.startswith(".git/"))
    ran(sandbox, "ls -a > /dev/null; ls -a .git > /dev/null")
    assert sorted(path for path in files_below(repository) if not path.startswith(".git/")) == before


def test_a_repository_that_a_command_makes_runs_nothing_outside(sandbox):
    """Neither in the workspace nor below it; what it needs to be a repository stays."""
    workspace, mark = sandbox.policy.workspace, sandbox.policy.workspace / "mark"
    for place in (".", "sub/deep"):
        ran(
            sandbox,
            f"mkdir -p {place}; cd {place}; git init -q; git config core.fsmonitor 'touch {mark}'; "
            f"git config alias.status '!touch {mark}'; git config diff.external 'touch {mark}'; "
            f"git remote add origin https://example.org/x.git; "
            f"printf '#!/bin/sh\\ntouch {mark}\\n' > .git/hooks/pre-commit; chmod +x .git/hooks/*; "
            "echo x > file; git add file",
        )
        mark.unlink(missing_ok=True)  # inside, they may run
        git(workspace / place, "status")
        git(workspace / place, "commit", "-qm", "first")
        assert not mark.exists(), place
        assert git(workspace / place, "remote", "get-url", "origin") == "https://example.org/x.git\n"


def test_a_linked_work_tree_can_be_committed_in(base):
    """Its directory of git lies elsewhere, and names the work tree."""
    main = base / "home" / "main"
    main.mkdir()
    git(main, "init", "-q")
    git(main, "commit", "-qm", "first", "--allow-empty")
    workspace = base / "home" / "src" / "linked"
    git(main, "worktree", "add", "-q", str(workspace))
    from a3b.agent.sandbox.opening import open_sandbox
    from a3b.agent.sandbox.sandbox import SandboxPolicy

    sandbox = open_sandbox(
        SandboxPolicy(workspace), home=base / "state", environment={"HOME": str(base / "home"), "PATH": "/usr/bin:/bin"}
    )
    text, _ = ran(
        sandbox,
        f"git -c user.name=a -c user.email=a@b commit -qm second --allow-empty && git log --format=%s; "
        f"echo evil > {main}/.git/hooks/x; echo evil >> {main}/.git/config; echo evil > {main}/new",
    )
    sandbox.close()
    assert text.startswith("second\nfirst\n")
    assert not (main / ".git/hooks/x").exists() and not (main / "new").exists()
    assert "evil" not in (main / ".git/config").read_text()


class Answering:
    def __init__(self, decision: Decision):
        self.decision, self.asked = decision, list[ApprovalRequest]()

    async def ask(self, request: ApprovalRequest) -> Decision:
        self.asked.append(request)
        return self.decision


@pytest.mark.parametrize(("decision", "content"), [("once", "new\n"), ("no", "good\n")])
def test_a_protected_file_changes_after_the_user_has_agreed(base, decision, content):
    approver = Answering(decision)
    sandbox = opened(base, {}, approver=approver)
    file = sandbox.policy.workspace / "AGENTS.md"
    file.write_text("good\n")
    refusal = asyncio.run(sandbox.ask_to_change("sub/../AGENTS.md"))
    ran(sandbox, "echo new > AGENTS.md")
    sandbox.close()
    assert bool(refusal) == (decision == "no")
    assert [request.subject for request in approver.asked] == ["AGENTS.md"]
    assert file.read_text() == content
    file.unlink()


def test_other_files_are_not_asked_about(base):
    approver = Answering("no")
    sandbox = opened(base, {}, approver=approver)
    assert asyncio.run(sandbox.ask_to_change("src/main.py")) == ""
    sandbox.close()
    assert approver.asked == []
