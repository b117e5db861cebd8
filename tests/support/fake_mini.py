"""A stand-in for the package mini-swe-agent: its modules as the driver uses them, with a script for a model."""

from __future__ import annotations

import json
import sys
from pathlib import Path

FILES = {
    "__init__.py": '__version__ = "2.9"\n',
    "exceptions.py": (
        "class Submitted(Exception):\n    def __init__(self, message):\n        self.message = message\n"
        "class ContextWindowExceededError(Exception): pass\n"
    ),
    "config/__init__.py": (
        "def get_config_from_spec(name):\n"
        "    return {'agent': {'instance_template': 'Work in /testbed.', 'system_template': ''},\n"
        "            'model': {'model_kwargs': {'drop_params': True}}, 'environment': {'cwd': '/testbed'}}\n"
    ),
    "models/__init__.py": "def get_model(config):\n    return config\n",
    "agents/__init__.py": "",
    "agents/default.py": (
        "import json, os\n"
        "from minisweagent.exceptions import *\n"
        "class DefaultAgent:\n"
        "    def __init__(self, model, env, **given):\n"
        "        self.model, self.env, self.given = model, env, given\n"
        "    def run(self, task):\n"
        "        messages = [{'role': 'user', 'content': self.given['instance_template'] + task}]\n"
        "        try:\n"
        "            for command in json.load(open(COMMANDS)):\n"
        "                if command == 'full': raise ContextWindowExceededError()\n"
        "                if command == 'breaks': raise RuntimeError('the model is gone')\n"
        "                usage = {'prompt_tokens': 10, 'completion_tokens': 2,\n"
        "                         'prompt_tokens_details': {'cached_tokens': 4}}\n"
        "                messages.append({'role': 'assistant', 'content': command,\n"
        "                                 'extra': {'response': {'usage': usage}}})\n"
        "                found = self.env.execute({'command': command})\n"
        "                messages.append({'role': 'tool', 'content': json.dumps(found), 'tool_call_id': 'x'})\n"
        "        except Submitted as error:\n"
        "            messages.append(error.message)\n"
        "        finally:\n"
        "            self.given['output_path'].write_text(json.dumps({'messages': messages, 'model': self.model}))\n"
        "        last = messages[-1].get('extra', {}) if messages[-1]['role'] == 'exit' else {}\n"
        "        return last or {'exit_status': 'LimitsExceeded', 'submission': ''}\n"
    ),
}


def fake_mini(directory: Path, commands: list[str]) -> Path:
    """A Python that has the stand-in, whose model gives commands one after the other. "full" and "breaks" are ends."""
    for name, text in FILES.items():
        path = directory / "packages" / "minisweagent" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace("COMMANDS", repr(str(directory / "commands.json"))))
    (directory / "commands.json").write_text(json.dumps(commands))
    python = directory / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={directory}/packages exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    return python
