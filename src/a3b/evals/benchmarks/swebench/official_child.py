"""Answers from the sources of swebench: how a repository is installed and tested, and what a log of its tests says.

Runs as `python -I -S official_child.py DIRECTORY` with a question on stdin; standard library only. The packages above
the modules in question are replaced by empty ones, since theirs import docker and modal."""

from __future__ import annotations

import importlib
import json
import resource
import sys
import types
from typing import Any

MEMORY = 2 << 30
EMPTY = ("swebench", "swebench.harness", "swebench.harness.log_parsers", "swebench.harness.test_spec")


def main(directory: str) -> None:
    """Prints the answer as JSON."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))  # the log is of others
    for name in EMPTY:
        module = types.ModuleType(name)
        module.__path__ = [f"{directory}/{name.replace('.', '/')}"]
        sys.modules[name] = module
    stub: Any = types.ModuleType("swebench.harness.test_spec.test_spec")
    stub.TestSpec = object
    sys.modules[stub.__name__] = stub
    question = json.load(sys.stdin)
    repo = question["repo"]
    if "log" in question:
        parsers = importlib.import_module("swebench.harness.log_parsers.python").MAP_REPO_TO_PARSER_PY
        found = parsers[repo](question["log"], None) if repo in parsers else None
    else:
        constants = importlib.import_module("swebench.harness.constants.python")
        specs = constants.MAP_REPO_VERSION_TO_SPECS_PY.get(repo, {})
        found = {
            "spec": specs.get(question["version"]),
            "versions": sorted(specs),
            "requirements": constants.MAP_REPO_TO_REQS_PATHS.get(repo, []),
        }
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1])
