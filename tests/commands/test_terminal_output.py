"""What commands write to a terminal and to stderr, with names, labels, configs and answers that try to control it."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from a3b.cache.disk_store import Store
from a3b.cli import main
from a3b.engine.engine import nano_directory
from a3b.printable import UNFIT_IN_LINES
from tests.support.cached_states import snapshot
from tests.support.paths import ROOT
from tests.support.session_stores import cache_of

pytestmark = pytest.mark.slow  # starts servers or commands, or computes for seconds

HOSTILE = "\x1b]0;evil\x07\x1b[2J\r\x08\x7f\x9b31m\u202egnp.exe\u2066\u2028\x85"
NOWHERE = f"/none/{HOSTILE}"


def clean(text: str) -> bool:
    return not UNFIT_IN_LINES.search(text)


def test_a_listed_conversation_cannot_act_on_the_terminal_nor_forge_a_line(tmp_path, capsys):
    directory = tmp_path / f"s{HOSTILE}"
    with Store(directory) as store:
        cache_of(store).add(
            "own\x1b[31m\ner", [1, 2, 3], snapshot([1, 2, 3]), "end", label=f"hello{HOSTILE}\nabcdef012345  999 forged"
        )
        assert store.flush()
    assert main(["cache", "list", "--dir", str(directory)]) == 0
    out = capsys.readouterr().out
    assert clean(out) and len(out.splitlines()) == 3 and "hello\\u001b]0;evil" in out
    assert main(["cache", "list", "--json", "--dir", str(directory)]) == 0
    out = capsys.readouterr().out
    assert clean(out) and json.loads(out)["sessions"][0]["label"].startswith(f"hello{HOSTILE}\n")
    for action in (["verify"], ["prune", "--max-bytes", "0"], ["forget", "--all"], ["forget", HOSTILE]):
        main(["cache", *action, "--dir", str(directory)])
        assert clean("".join(capsys.readouterr()))


@pytest.mark.parametrize(
    "argv",
    [
        ["info", NOWHERE],
        ["run", NOWHERE, "hi"],
        ["verify", NOWHERE],
        ["render", "--messages", NOWHERE],
        ["pack", NOWHERE, "/none/out"],
        ["plan", HOSTILE],
        ["pull", HOSTILE],
        ["logits", HOSTILE, "--ids", "/dev/null", "--out", "x"],
        [HOSTILE],
        ["info", f"--{HOSTILE}"],
        ["info", "--context", HOSTILE],
        ["eval", "quality", NOWHERE, NOWHERE],
        ["cache", "prune", "--max-bytes", HOSTILE],
        ["pack", str(nano_directory()), "/none/out", "--importance", NOWHERE],
    ],
    ids=lambda argv: argv[0] if argv[0] != HOSTILE else "command",
)
def test_errors_repeat_what_was_given_without_its_control_characters(argv, capsys):
    try:
        assert main(argv) in (1, 2)
    except SystemExit as exit:
        assert exit.code == 2
    out, err = capsys.readouterr()
    assert err.strip() and clean(err) and clean(out)


@pytest.fixture
def model(tmp_path) -> Path:
    """The embedded model under a hostile name, its files to be changed."""
    return Path(shutil.copytree(nano_directory(), tmp_path / f"m{HOSTILE}"))


def changed(path: Path, change) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "generation_config.json"])
def test_strings_in_the_files_of_a_model_do_not_act_on_the_terminal(model, name, capsys):
    if not (model / name).exists():
        (model / name).write_text("{}")
    changed(
        model / name,
        lambda value: value.update({f"x{HOSTILE}": HOSTILE, "model_type": HOSTILE, "eos_token_id": HOSTILE}),
    )
    for argv in (
        ["info", str(model)],
        ["info", "--json", str(model)],
        ["render", str(model), "--messages", str(model / name), "--ids"],
    ):
        main(argv)
        assert clean("".join(capsys.readouterr())), argv


def test_the_name_of_a_model_cannot_forge_lines_of_info(tmp_path, capsys):
    model = shutil.copytree(nano_directory(), tmp_path / "m\nparameters    9")
    assert main(["info", str(model)]) == 0
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("parameters    9")] == []


MESSAGES = [{"role": "user", "content": f"{HOSTILE}."}]


def on_a_terminal(*argv: str) -> str:
    """What a3b writes to stdout when that is a terminal."""
    main_fd, terminal = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-m", "a3b.cli", *argv],
        stdout=terminal,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src"), "PYTHONIOENCODING": "utf-8"},
    )
    os.close(terminal)
    data = b""
    while True:
        try:
            piece = os.read(main_fd, 65536)
        except OSError:
            piece = b""
        if not piece:
            break
        data += piece
    os.close(main_fd)
    assert child.wait() == 0
    return data.decode().replace("\r\n", "\n")


def test_a_rendered_prompt_is_exact_in_a_pipe_and_harmless_on_a_terminal(tmp_path, capfdbinary):
    path = tmp_path / "m.json"
    path.write_text(json.dumps(MESSAGES))
    assert main(["render", "--messages", str(path)]) == 0
    sys.stdout.flush()
    assert HOSTILE.encode() in capfdbinary.readouterr().out
    shown = on_a_terminal("render", "--messages", str(path))
    assert clean(shown) and re.search(r"\\u001b\]0;evil.*\\u202egnp", shown)
