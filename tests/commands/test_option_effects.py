"""What every option of every command sets: one table, in which a new option must have a row.

A row runs a command with and without an option and looks at the same thing both times: what the command prints, or what
it hands to the part that does the work. `serve` has its own table in `test_serve_options`."""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from a3b import cli
from a3b.cache.disk_store import Store
from a3b.commands import client_server, eval_plot, eval_run, eval_thinking, pack, pull, up
from a3b.commands import code as code_command
from a3b.commands import eval_quality as eval_command
from a3b.commands import launch as launch_command
from a3b.commands import list as list_command
from a3b.commands import plan as plan_command
from a3b.commands import run as run_command
from a3b.commands import warm as warm_command
from a3b.commands.benchmarks import plots, sparsity, speed
from a3b.commands.benchmarks import start as start_command
from a3b.commands.cost import Price
from a3b.commands.model_home import ModelHome
from a3b.commands.server_answers import ServedModel
from a3b.engine.engine import Engine, nano_directory
from a3b.engine.sampler import Sampler
from a3b.engine.scheduler import Scheduler
from a3b.engine.stored_models import Record
from a3b.errors import DownloadError
from a3b.evals.compare import Comparison
from a3b.evals.intervals import share
from a3b.evals.roster import BENCHMARKS, benchmark
from a3b.evals.runs import RunSummary, config_of, new_run
from a3b.hub.client import HubFile, Listing
from a3b.prompt.chat_template import prompt_text
from a3b.prompt.tokenizer import Tokenizer
from tests.support.cached_states import IDENTITY, new_state, snapshot
from tests.support.options import options_of

pytestmark = pytest.mark.slow  # starts servers or commands, or computes for seconds

NANO = str(nano_directory())
DAY = 86_400


class Call(NamedTuple):
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@dataclass
class Seen:
    """What a command did: its status, its output, and the last call of each function that was watched."""

    status: int
    out: str
    err: str
    calls: dict[str, Call]
    prompt: str  # the last one, with its control tokens
    files: frozenset[str]  # conversations that are kept

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def is_json(self) -> bool:
        return self.out.lstrip().startswith("{")

    @property
    def params(self) -> Any:
        return self.calls["Sampler"].args[1]


@pytest.fixture
def watch(monkeypatch):
    """Note the calls of a function; `instead`, if given, does its work."""
    calls: dict[str, Call] = {}

    def watched(owner: Any, name: str, instead: Callable | None = None, called: str = "") -> None:
        work = instead or getattr(owner, name)

        def noted(*args: Any, **kwargs: Any) -> Any:
            calls[called or name] = Call(args, kwargs)
            return work(*args, **kwargs)

        monkeypatch.setattr(owner, name, noted)

    watched.calls = calls
    return watched


@pytest.fixture
def files(tmp_path, monkeypatch):
    """The directory that commands run in, with the files that rows name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("A3B_CACHE", str(tmp_path / "cache"))
    user, developer = {"role": "user", "content": "Hi"}, {"role": "developer", "content": "Be brief."}
    Path("messages.json").write_text(json.dumps([user]))
    Path("others.json").write_text(json.dumps([{**user, "content": "Good evening"}]))
    Path("developer.json").write_text(json.dumps([user, developer]))
    Path("tools.json").write_text(json.dumps([{"type": "function", "function": {"name": "get_time"}}]))
    Path("ids.json").write_text("[1, 2, 3]")
    Path("two.json").write_text("[4, 5]")
    Path("text.txt").write_text("Some text.")
    Path("copied").mkdir()
    for file in nano_directory().iterdir():
        Path("copied", file.name).symlink_to(file)
    return tmp_path


@pytest.fixture
def command(files, watch, monkeypatch, capsys):
    """Run a command in `files`, up to the part that does the work."""

    def start(words: str, stdin: str = "") -> Seen:
        watch.calls.clear()
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        capsys.readouterr()
        try:
            status = cli.main(words.split())
        except SystemExit as exit:
            status = exit.code or 0
        out, err = capsys.readouterr()
        encoded = watch.calls.get("encode")
        prompt = prompt_text(encoded.args[1], encoded.args[0]) if encoded else ""
        chats = frozenset(path.name for path in Path("cache/chats").glob("*.jsonl"))
        return Seen(status, out, err, dict(watch.calls), prompt, chats)

    return start


def check(
    command: Callable[..., Seen], base: str, row: Row, stdin: str = "", known: dict[str, Seen] | None = None
) -> None:
    """known: what the command did without options, if a test before has run it."""
    known = {} if known is None else known
    if base not in known:
        known[base] = command(base, stdin)
    plain = row.seen(known[base])
    assert (row.seen(command(f"{base} {row.options}", stdin)), plain == row.value) == (row.value, False)


class Row(NamedTuple):
    """Options, what of `Seen` shows them, and its value with them; it is another without."""

    options: str
    seen: Callable[[Seen], Any]
    value: Any


def named(rows: list[Row]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("row", rows, ids=[f"{i} {row.options}" for i, row in enumerate(rows)])


# -- chat and run

GENERATION = [
    Row("--preset greedy", lambda s: (s.params.temperature, s.params.presence_penalty), (0.0, 0.0)),
    Row("--temperature 0.25", lambda s: s.params.temperature, 0.25),
    Row("--top-k 7", lambda s: s.params.top_k, 7),
    Row("--top-p 0.5", lambda s: s.params.top_p, 0.5),
    Row("--min-p 0.125", lambda s: s.params.min_p, 0.125),
    Row("--presence-penalty 0.5", lambda s: s.params.presence_penalty, 0.5),
    Row("--frequency-penalty 0.75", lambda s: s.params.frequency_penalty, 0.75),
    Row("--repetition-penalty 1.25", lambda s: s.params.repetition_penalty, 1.25),
    Row("--seed 5", lambda s: s.params.seed, 5),
    Row("--max-tokens 2", lambda s: s.params.max_tokens, 2),
    Row("--stop x --stop y", lambda s: s.params.stop, ("x", "y")),
    Row("--system Brief.", lambda s: s.prompt.startswith("<|im_start|>system\nBrief."), True),
    Row("--no-think", lambda s: s.prompt.endswith("</think>\n\n"), True),
    Row("--context 4", lambda s: (s.status, "context" in s.err), (1, True)),
    Row("--drafts off", lambda s: s.calls["Scheduler"].kwargs["drafter"], None),
]
RUN = [
    *GENERATION,
    Row("--hide-thinking", lambda s: s.err.startswith("a3b run: stopped"), True),
    Row("--json", lambda s: s.is_json, True),
    Row("--json --model copied", lambda s: s.is_json and s.json["model"], "copied"),
    Row("--tools tools.json", lambda s: '"name": "get_time"' in s.prompt, True),
    Row("--stdin-timeout 7", lambda s: s.calls["piped_text"].args, (7.0,)),
]
CHAT = [
    *GENERATION,
    Row("--preserve-thinking off", lambda s: s.prompt.count("<think>"), 1),  # that of the second answer
    Row("--hide-thinking", lambda s: s.err.count("\n") < 6, True),
    Row("--continue", lambda s: "An earlier question" in s.prompt, True),
    Row("--resume EARLIER", lambda s: "An earlier question" in s.prompt, True),
    Row("--no-history", lambda s: len(s.files), 1),
]


@pytest.fixture(scope="module")
def known() -> dict[str, Seen]:
    return {}


class Earlier(NamedTuple):
    name: str
    content: bytes


@pytest.fixture(scope="module")
def earlier(tmp_path_factory) -> Earlier:
    """The file of a conversation that has ended."""
    with pytest.MonkeyPatch.context() as patch:
        directory = tmp_path_factory.mktemp("earlier")
        patch.setenv("A3B_CACHE", str(directory))
        patch.setattr(sys, "stdin", io.StringIO("An earlier question\n"))
        assert cli.main(["chat", "--seed", "1", "--max-tokens", "3"]) == 0
        (file,) = (directory / "chats").glob("*.jsonl")
        return Earlier(file.name, file.read_bytes())


@pytest.fixture(scope="module")
def load() -> Callable[..., Engine]:
    """`Engine.load`, once for the same arguments: reading the weights takes longer than an answer."""
    engines: dict[str, Engine] = {}
    real = Engine.load

    def loaded(*args: Any, **kwargs: Any) -> Engine:
        key = repr((args, kwargs))
        engines[key] = engines.get(key) or real(*args, **kwargs)
        return engines[key]

    return loaded


@pytest.fixture
def talk(command, watch, load, monkeypatch):
    monkeypatch.setattr(Engine, "load", load)
    watch(Sampler, "__init__", called="Sampler")
    watch(Scheduler, "__init__", called="Scheduler")
    watch(Tokenizer, "encode")
    return command


@named(RUN)
def test_an_option_of_run_has_its_effect(row, talk, watch, known):
    watch(run_command, "piped_text", lambda *_: "")
    check(talk, "run Hello --seed 1 --max-tokens 3", row, known=known)


@named(CHAT)
def test_an_option_of_chat_has_its_effect(row, talk, earlier, known):
    chats = Path("cache/chats")

    def chat(words: str, stdin: str) -> Seen:
        shutil.rmtree(chats, ignore_errors=True)
        chats.mkdir(mode=0o700, parents=True)
        (chats / earlier.name).write_bytes(earlier.content)
        return talk(words.replace("EARLIER", earlier.name.removesuffix(".jsonl")), stdin)

    check(chat, "chat --seed 1 --max-tokens 8", row, "Hello\nThanks!\n", known)


# -- models and prompts

INFO = [
    Row("--context 16k", lambda s: "YaRN factor 2" in s.out, True),
    Row("--json", lambda s: s.is_json, True),
]
PLAN = [
    Row("--context 2k", lambda s: s.json["context"]["tokens"], 2048),
    Row("--bandwidth 20", lambda s: s.json["measured"]["read_bytes"], 20e9),
    Row("--operations 200", lambda s: s.json["measured"]["int8_operations"], 200e9),
    Row("--price-per-hour 2", lambda s: s.json["cost"] and s.json["cost"]["per_hour"], 2.0),
    Row("--watts 500 --price-per-kwh 0.5", lambda s: s.json["cost"] and s.json["cost"]["per_hour"], 0.25),
    Row("--task 1k,9 --price-per-hour 2", lambda s: s.json["cost"] and s.json["cost"]["task"], [1024, 9]),
]
RENDER = [
    Row("--messages others.json", lambda s: "Good evening" in s.out, True),
    Row("--tools tools.json", lambda s: '"name": "get_time"' in s.out, True),
    Row('--kwargs {"enable_thinking":false}', lambda s: s.out.endswith("</think>\n\n"), True),
    Row("--no-generation-prompt", lambda s: s.out.endswith("<|im_end|>\n"), True),
    Row("--ids", lambda s: s.out.startswith("["), True),
]
LOGITS = [
    Row("--ids two.json", lambda s: np.load("out.npy").shape[0], 2),
    Row("--out other.npy", lambda s: Path("other.npy").exists(), True),
    Row("--context 2", lambda s: s.status, 1),
]


@named(INFO)
def test_an_option_of_info_has_its_effect(row, command):
    check(command, "info", row)


@named(PLAN)
def test_an_option_of_plan_has_its_effect(row, command):
    check(command, "plan nano --bandwidth 10 --operations 100 --json", row)


def test_plan_prints_a_table_unless_asked_for_json(command):
    check(command, "plan nano --bandwidth 10 --operations 100", Row("--json", lambda s: s.is_json, True))


@named(RENDER)
def test_an_option_of_render_has_its_effect(row, command):
    check(command, "render --messages messages.json", row)


def test_fit_lets_render_take_messages_that_the_template_refuses(command):
    check(command, "render --messages developer.json", Row("--fit", lambda s: s.status, 0))


@named(LOGITS)
def test_an_option_of_logits_has_its_effect(row, command):
    check(command, f"logits {NANO} --ids ids.json --out out.npy", row)


# -- getting and packing a model

PULL = [
    Row("--revision v1", lambda s: s.calls["Hub"].args, ("own/er", "v1")),
    Row("--include *.txt --include b.md", lambda s: [f.path for f in s.calls["total"].args[0]], ["a.txt", "b.md"]),
]
PACK = [
    Row("--preset fast", lambda s: s.calls["write"].args[1].preset, "fast"),
    Row("--importance text.txt", lambda s: s.calls["write"].kwargs["importance"], {"from": "text.txt"}),
    Row("--tokenizer copied", lambda s: s.calls["open_source"].args[1], Path("copied")),
    Row("--no-mtp", lambda s: s.calls["open_source"].args[2], False),
    Row("--add-mtp", lambda s: "adding" in s.calls, True),
]
PACK_FROM_HUB = [
    Row("--revision v1", lambda s: s.calls["prepare"].kwargs["revision"], "v1"),
    Row("--include *Q4*", lambda s: s.calls["prepare"].kwargs["include"], ["*Q4*"]),
    Row("--keep-source kept", lambda s: "pulled" in s.calls and s.calls["pulled"].args[:2], ("own/er", Path("kept"))),
]


@named(PULL)
def test_an_option_of_pull_has_its_effect(row, command, watch):
    paths = ("config.json", "model.safetensors", "a.txt", "b.md")
    listing = Listing("own/er", "0" * 40, tuple(HubFile(path, 1, "0" * 64, "sha256") for path in paths))

    class Hub:
        repo = "own/er"

        def listing(self) -> Listing:
            return listing

    def unwritable(*_: Any) -> None:
        raise DownloadError("no further")

    watch(pull, "Hub", lambda *_: Hub())
    watch(pull, "total")
    watch(pull.Folder, "open", unwritable)
    check(command, "pull own/er", row)


@named(PACK)
def test_an_option_of_pack_has_its_effect(row, command, watch):
    watch(pack, "open_source")
    watch(pack, "_measured", lambda source, path, runtime: {"from": str(path)})
    watch(pack, "write", lambda *_, **__: None)
    watch(pack.add_mtp, "from_disk", lambda args, path: None, "adding")
    check(command, f"pack {NANO} packed", row)


@named(PACK_FROM_HUB)
def test_an_option_of_packing_a_repository_has_its_effect(row, command, watch):
    def unreachable(*_: Any, **__: Any) -> None:
        raise DownloadError("no further")

    watch(pack, "prepare", unreachable)
    watch(pack, "pulled", unreachable)
    check(command, "pack own/er packed", row)


# -- models in A3B_HOME

UP = [
    Row("--preset fast", lambda s: s.calls["obtain"].args[1].preset, "fast"),
    Row("--download", lambda s: s.calls["obtain"].args[1].download, True),
    Row("--yes", lambda s: s.calls["obtain"].args[1].yes, True),
]

LIST = [
    Row("--available", lambda s: "Qwen/Qwen3.6-35B-A3B-FP8" in s.out, True),
    Row("--found", lambda s: "other programs" in s.out, True),
    Row("--json", lambda s: s.is_json, True),
]
RM = [
    Row("--yes", lambda s: (s.status, Path("cache/models/one-fast").exists()), (0, False)),
    Row("--sessions", lambda s: "a3b rm one:fast --sessions --yes" in s.err, True),
]


@named(UP)
def test_an_option_of_up_has_its_effect(row, command, watch, monkeypatch):
    monkeypatch.setenv("A3B_PORT", "0")  # a server of this machine at the usual port is no matter
    watch(up, "obtain", lambda *_: None)
    check(command, "up", row)


def test_what_up_gives_to_serve_is_what_serve_takes():
    found = options_of(cli.build_parser())
    assert found["up"] - {"--preset", "--download"} == found["serve"]


@named(LIST)
def test_an_option_of_list_has_its_effect(row, command, monkeypatch):
    monkeypatch.setattr(list_command, "model_places", dict)
    check(command, "list", row)


@named(RM)
def test_an_option_of_rm_has_its_effect(row, command):
    home = ModelHome("cache")
    folder = home.folder("one:fast")
    home.remember(folder, Record("one:fast", "own/er"))
    folder.mkdir()
    (folder / "a3b.json").touch()
    check(command, "rm one:fast", row)


# -- clients

SERVED = [
    Row("--model copied", lambda s: s.calls["run"].args[0].named, "copied"),
    Row("--context 8k", lambda s: client_server.command(s.calls["run"].args[0])[-1], "8192"),
    Row("--base-url http://box:1", lambda s: client_server.address(s.calls["run"].args[0]), "http://box:1"),
    Row("--port 9", lambda s: client_server.address(s.calls["run"].args[0])[-2:], ":9"),
    Row("--api-key k", lambda s: client_server.first_key(s.calls["run"].args[0]), "k"),
    Row("--api-key-file text.txt", lambda s: client_server.first_key(s.calls["run"].args[0]), "Some text."),
]
LAUNCH = [
    *SERVED,
    Row("--print", lambda s: s.calls["run"].args[0].print, True),
    Row("--yes", lambda s: s.calls["run"].args[0].yes, True),
]
CODE = [
    *SERVED,
    Row("--prompt words", lambda s: s.calls["run"].args[0].prompt, "words"),
    Row("--json", lambda s: s.calls["run"].args[0].json, True),
    Row("--acp", lambda s: s.calls["run"].args[0].acp, True),
    Row("--demo", lambda s: s.calls["run"].args[0].demo, True),
    Row("--continue", lambda s: s.calls["run"].args[0].go_on, True),
    Row("--resume 2026", lambda s: s.calls["run"].args[0].resume, "2026"),
    Row("--from-turn 3", lambda s: s.calls["run"].args[0].from_turn, 3),
    Row("--search words", lambda s: s.calls["run"].args[0].search, "words"),
    Row("--all", lambda s: s.calls["run"].args[0].all, True),
    Row("--forks", lambda s: s.calls["run"].args[0].forks, True),
    Row("--yes", lambda s: s.calls["run"].args[0].yes, True),
    *(
        Row(f"{option} {given}", lambda s, name=name: getattr(agent_options(s), name), value)
        for option, given, name, value in (
            ("--max-turns", "7", "max_turns", 7),
            ("--max-tokens", "8k", "max_tokens", 8192),
            ("--max-time", "90", "max_seconds", 90.0),
            ("--tools", "read,bash", "tools", ("read", "bash")),
            ("--allow-host", "pypi.org", "hosts", ("pypi.org",)),
            ("--allow-path", ".github", "paths", (".github",)),
            ("--mcp-config", "/srv/mcp.json", "mcp_config", Path("/srv/mcp.json")),
            ("--allow-mcp", "git", "mcp_allowed", ("git",)),
            ("--yolo", "", "yolo", True),
            ("--think", "", "think", True),
            ("--no-think", "", "think", False),
            ("--compact-at", "20k", "compact_at", 20480),
            ("--temperature", "0.5", "sampling", {"temperature": 0.5}),
            ("--seed", "3", "sampling", {"seed": 3}),
        )
    ),
]
WARM = [*SERVED, Row("--json", lambda s: s.calls["run"].args[0].json, True)]


@named(LAUNCH)
def test_an_option_of_launch_has_its_effect(row, command, watch):
    """What they then do is in `tests/commands/launch`."""
    watch(launch_command, "run", lambda _: 0)
    check(command, "launch claude", row)


def agent_options(seen):
    return code_command.agent_options(seen.calls["run"].args[0], Path(), Path(), "http://box:1", None)


@named(CODE)
def test_an_option_of_code_has_its_effect(row, command, watch):
    """What they then do is in `tests/agent`."""
    watch(code_command, "run", lambda _: 0)
    check(command, "code", row)


@named(WARM)
def test_an_option_of_warm_has_its_effect(row, command, watch):
    watch(warm_command, "run", lambda _: 0)
    check(command, "warm claude", row)


# -- sessions on disk

CACHE = {
    "list": [
        Row("--json", lambda s: s.is_json and len(s.json["sessions"]), 2),
        Row("--dir elsewhere", lambda s: "elsewhere: no sessions" in s.err, True),
    ],
    "verify": [Row("--dir elsewhere", lambda s: "elsewhere: no sessions" in s.err, True)],
    "prune --max-bytes 1G": [
        Row("--max-bytes 0", lambda s: "2 entries dropped" in s.out, True),
        Row("--older-than 2d", lambda s: "1 entries dropped" in s.out, True),
        Row("--dir elsewhere", lambda s: "elsewhere: no sessions" in s.err, True),
    ],
    "forget": [Row("--all", lambda s: "2 entries forgotten" in s.out, True)],
    "forget --all": [Row("--dir elsewhere", lambda s: "elsewhere: no sessions" in s.err, True)],
}


@pytest.mark.parametrize(
    ("action", "row"),
    [(action, row) for action, rows in CACHE.items() for row in rows],
    ids=lambda value: str(value)[:40],
)
def test_an_option_of_cache_has_its_effect(action, row, command, tmp_path):
    def fresh(words: str, stdin: str) -> Seen:
        shutil.rmtree("cache/sessions", ignore_errors=True)
        for age, ids in ((3 * DAY, [1, 2, 3]), (0, [4, 5, 6])):
            add_session(Path("cache/sessions"), ids, age)
        return command(words, stdin)

    check(fresh, f"cache {action}", row)


def add_session(directory: Path, ids: list[int], age: int) -> None:
    from time import time

    from a3b.cache.prefix_cache import PrefixCache

    with Store(directory, clock=lambda: time() - age) as store:
        PrefixCache(IDENTITY, new_state, 0, store).add("n", ids, snapshot(ids), "end")
        assert store.flush()


# -- measuring

QUALITY = [
    Row("--against copied", lambda s: s.calls["reference"].args[0], "copied"),
    Row("--text text.txt", lambda s: s.calls["compare"].args[2], "read from text.txt"),
    Row("--tokens 99", lambda s: s.calls["compare"].args[3], 99),
    Row("--weights-only", lambda s: s.calls["compare"].args[1].__name__, "InFloats"),
    Row("--json", lambda s: s.is_json, True),
]
MEASURING = [
    Row("--preset fast", lambda s: s.calls["random_directory"].args[2], "fast"),
    Row("--layers 4", lambda s: s.calls["random_directory"].args[3], 4),
    Row("--dir elsewhere", lambda s: s.calls["random_directory"].args[0], Path("elsewhere")),
    Row("--prefill 5,6", lambda s: s.calls["measure"].args[1].prompts, (5, 6)),
    Row("--runs 2", lambda s: s.calls["measure"].args[1].runs, 2),
    Row("--tokens 9", lambda s: s.calls["measure"].args[1].tokens, 9),
    Row("--plot p.png", lambda s: "draw" in s.calls and s.calls["draw"].args[1], Path("p.png")),
    Row("--quick", lambda s: (s.calls["measure"].args[1].runs, s.calls["measure"].args[1].tokens), (1, 8)),
    Row("--json", lambda s: s.is_json, True),
    Row("--threads 3", lambda s: s.calls["open_kernels"].args[1], 3),
]
SPEED = [
    *MEASURING,
    Row("--model copied", lambda s: s.calls["start"].args[0], Path("copied")),
    Row("--shape 27b", lambda s: s.calls["random_directory"].args[1], "27b"),
    Row("--depths 0,1k", lambda s: s.calls["measure"].args[1].depths, (0, 1024)),
]
SPARSITY = [
    *MEASURING,
    Row("--keep", lambda s: s.calls["measure"].args[2], True),
    Row("--price-per-hour 2", lambda s: s.calls["cost"].args[1], Price(2.0, "the machine")),
    Row("--watts 500 --price-per-kwh 0.5", lambda s: s.calls["cost"].args[1], Price(0.25, "500 W at 0.5 a kWh")),
    Row("--task 5,6 --price-per-hour 2", lambda s: s.calls["cost"].args[1], Price(2.0, "the machine", (5, 6))),
]
START = [
    Row("--model copied", lambda s: s.calls["resolve"].args[0], "copied"),
    Row("--threads 3", lambda s: s.calls["open_kernels"].args[1], 3),
]


@named(QUALITY)
def test_an_option_of_eval_quality_has_its_effect(row, command, watch):
    loaded: Iterator[str] = iter(("reference", "model") * 2)

    class Loaded:
        config = Tokenizer  # anything with the same vocabulary for both
        tokenizer = template = None

    def load(*args: Any, **kwargs: Any) -> Any:
        watch.calls[next(loaded)] = Call(args, kwargs)
        return Loaded

    Loaded.config = type("Config", (), {"vocab_size": 1})
    watch(eval_command.Engine, "load", load)
    watch(eval_command, "in_floats", lambda engine, *_: type("InFloats", (Loaded,), {}))
    watch(eval_command, "conversations", lambda *_: "its own answers")
    watch(eval_command, "read_text", lambda path, *_: f"read from {path}")
    watch(eval_command, "compare", lambda *_: {})
    watch(eval_command, "sizes", lambda *_: {})
    watch(eval_command, "lines", lambda _: [])
    check(command, "eval quality", row)


EVAL = [
    Row("--limit 3", lambda s: s.calls["options"].limit, 3),
    Row("--epochs 2", lambda s: s.calls["options"].epochs, 2),
    Row("--seed 7", lambda s: s.calls["options"].seed, 7),
    Row("--policy budget:1k", lambda s: s.calls["options"].policy, "budget:1024"),
    Row("--data here", lambda s: s.calls["options"].data and s.calls["options"].data.name, "here"),
    Row("--set hops=3", lambda s: s.calls["options"].extra, {"hops": "3"}),
    Row("--temperature 0.5", lambda s: s.calls["options"].sampling, {"temperature": 0.5}),
    Row("--top-p 0.5", lambda s: s.calls["options"].sampling, {"top_p": 0.5}),
    Row("--max-tokens 9", lambda s: s.calls["options"].sampling, {"max_tokens": 9}),
    Row("--parallel 3", lambda s: s.calls["options"].parallel, 3),
    Row("--out elsewhere", lambda s: s.calls["lines"].args[1].path, Path("elsewhere")),
    Row("--json", lambda s: s.is_json, True),
    Row("--api-key secret", lambda s: s.calls["options"].api_key, "secret"),
    Row("--api-key-file keys.txt", lambda s: s.calls["options"].api_key, "from-a-file"),
    Row("--model nano", lambda s: s.calls["endpoint"].args[0].named, "nano"),
    Row("--context 4k", lambda s: s.calls["endpoint"].args[0].context, 4096),
    Row("--base-url http://x", lambda s: s.calls["endpoint"].args[0].base_url, "http://x"),
    Row("--port 9", lambda s: s.calls["endpoint"].args[0].port, 9),
    Row("--no-stream", lambda s: s.calls["options"].streams, False),
]


@named(EVAL)
def test_an_option_of_eval_has_its_effect(row, command, watch, monkeypatch):
    monkeypatch.setattr(eval_run, "check_installed", lambda: None)
    Path("keys.txt").write_text("from-a-file\n", encoding="utf-8")

    def make_task(options):
        watch.calls["options"] = options

    monkeypatch.setattr(eval_run, "benchmark", lambda name: replace(benchmark(name), make_task=make_task, data="x"))
    server = eval_run.Answering("http://localhost", "nano", "a3b", 8192, 4)
    watch(eval_run, "endpoint", lambda args: nullcontext(server))
    watch(eval_run, "planned_tries", lambda *_: {})
    watch(eval_run, "run_tries", lambda *_: None)
    watch(eval_run, "lines", lambda *_: ["a line"])
    check(command, "eval lookup", row)


OWN_SERVER = ("--policy", "--out", "--api-key", "--api-key-file", "--port", "--no-stream")
THINKING = [
    *(row for row in EVAL if row.options.split()[0] not in OWN_SERVER),
    Row("--out elsewhere", lambda s: s.calls["new_run"].args[3].parent, Path("elsewhere")),
    Row("--policies none,all", lambda s: s.calls["options"].policy, "all"),  # the last one that ran
    Row("--port 9 --api-key secret", lambda s: s.calls["options"].api_key, "secret"),
    Row("--port 9 --api-key-file keys.txt", lambda s: s.calls["options"].api_key, "from-a-file"),
]


@named(THINKING)
def test_an_option_of_eval_thinking_has_its_effect(row, command, watch, monkeypatch):
    monkeypatch.setattr(eval_thinking, "check_installed", lambda: None)
    Path("keys.txt").write_text("from-a-file\n", encoding="utf-8")

    def make_task(options):
        watch.calls["options"] = options

    monkeypatch.setattr(
        eval_thinking, "benchmark", lambda name: replace(benchmark(name), make_task=make_task, data="x")
    )
    server = eval_run.Answering("http://localhost", "nano", "a3b", 8192, 4)
    watch(eval_thinking, "endpoint", lambda args: nullcontext(server))
    watch(eval_thinking, "planned", lambda args: ServedModel("a3b-nano", 8192))
    watch(eval_thinking, "planned_tries", lambda *_: {})
    watch(eval_thinking, "new_run")
    watch(eval_thinking, "conduct", lambda *_: RunSummary(share([]), 0, 0, 0, 0.0))
    watch(eval_thinking, "compare", lambda *_, **__: Comparison(0, 0, (), {}, {}, ()))
    check(command, "eval thinking lookup", row)


REPORT = [
    Row("--markdown", lambda s: s.out.startswith("| benchmark |"), True),
    Row("--json", lambda s: s.is_json, True),
    Row("--plot p.png", lambda s: "draw_scores" in s.calls and s.calls["draw_scores"].args[1], Path("p.png")),
]
PLANNED = [
    Row("--shape 27b", lambda s: s.calls["find"].args[0], "27b"),
    Row("--preset fast", lambda s: "balanced" in s.out, False),
    Row("--set service=filesystem", lambda s: "30 of the 127 published cases" in s.out, True),
    Row("--rates 9,9", lambda s: "given: 9 read, 9 written" in s.out, True),
    Row("--from nowhere", lambda s: "nowhere: there is no config.json" in s.err, True),
    Row("--policies all,none", lambda s: "a3b eval plan thinking mcpmark plans that" in s.err, True),
    Row("--limit 3", lambda s: s.out.splitlines()[4].split()[1], "12"),
    Row("--epochs 2", lambda s: s.out.splitlines()[4].split()[1], "42"),
    Row("--json", lambda s: s.is_json, True),
]


@named(REPORT)
def test_an_option_of_eval_report_has_its_effect(row, command, watch):
    watch(plots, "pyplot", lambda: None)
    watch(eval_plot, "draw_scores", lambda *_: None)
    if not Path("run").exists():
        new_run(Path(), "lookup", config_of("lookup", {"model": "m"}, {}), Path("run"))
    check(command, "eval report run", row)


@named(PLANNED)
def test_an_option_of_eval_plan_has_its_effect(row, command, watch):
    watch(plan_command, "measure", lambda *_: (plan_command.Speed(20e9, 1e12), ""))
    watch(plan_command, "find")
    check(command, "eval plan mcpmark", row)


@pytest.fixture
def measured(command, watch):
    """Benchmarks whose measuring is left out."""
    for module in (speed, sparsity, start_command):
        watch(module, "open_kernels", lambda isa, threads: type("Kernels", (), {"isa": isa, "num_threads": threads}))
    watch(speed.probe, "runtime_of", lambda _: None)
    watch(speed.probe, "huge_buffer", lambda _: None)
    watch(speed, "random_directory", lambda *_: nano_directory())
    watch(speed, "pyplot", lambda: None)
    for name in ("start", "limits", "load", "forget_peak", "headline"):
        watch(speed, name, lambda *_: {})
    watch(speed, "measure", lambda *_: {})
    watch(speed, "lines", lambda *_: [])
    watch(speed, "draw_roofline", lambda *_: None, called="draw")
    return command


@named(SPEED)
def test_an_option_of_bench_speed_has_its_effect(row, measured):
    check(measured, "bench speed --prefill 4 --depths 0", row)


@named(SPARSITY)
def test_an_option_of_bench_sparsity_has_its_effect(row, measured, watch):
    def compare(kernels, parent, shape, preset, layers, schedule, keep):
        watch.calls["random_directory"] = Call((parent, shape, preset, layers), {})
        watch.calls["measure"] = Call((kernels, schedule, keep), {})

    watch(sparsity, "compare", compare)
    watch(sparsity, "layers_that_fit", lambda *_: 8)
    watch(sparsity, "ratios", lambda _: {})
    watch(sparsity, "lines", lambda _: [])
    watch(sparsity, "cost", lambda *_: None)
    watch(sparsity.plots, "pyplot", lambda: None)
    watch(sparsity.plots, "draw_sparsity", lambda *_: None, called="draw")
    check(measured, "bench sparsity", row)


@named(START)
def test_an_option_of_bench_start_has_its_effect(row, measured, watch):
    watch(start_command, "resolve", lambda _: nano_directory())
    watch(start_command, "Model", lambda *_: type("Model", (), {"new_state": int, "forward": lambda *_: np.zeros(1)})())
    check(measured, "bench start", row)


# -- the table is complete

ROWS = {
    "up": UP,
    "chat": [*CHAT, Row("--yes", len, "in test_up")],
    "run": [*RUN, Row("--preserve-thinking off", len, "one answer has no earlier thinking")],
    "info": INFO,
    "plan": [*PLAN, Row("--json", len, "in a test of its own")],
    "list": LIST,
    "rm": RM,
    "code": CODE,
    "launch": LAUNCH,
    "warm": WARM,
    "pull": PULL,
    "render": [*RENDER, Row("--fit", len, "in a test of its own")],
    "logits": LOGITS,
    "pack": PACK + PACK_FROM_HUB,
    "verify": [],
    "cache list": CACHE["list"],
    "cache verify": CACHE["verify"],
    "cache prune": CACHE["prune --max-bytes 1G"],
    "cache forget": CACHE["forget"] + CACHE["forget --all"],
    "eval quality": QUALITY,
    **{f"eval {name}": [*EVAL, Row("--resume x", len, "in test_eval_run")] for name in BENCHMARKS},
    "eval thinking": [*THINKING, Row("--resume x", len, "in test_eval_thinking")],
    "eval list": [Row("--json", len, "in test_eval_list")],
    "eval report": REPORT,
    "eval compare": [Row("--json", len, "in test_paired_runs")],
    "eval plan": PLANNED,
    "bench speed": SPEED,
    "bench start": START,
    "bench sparsity": SPARSITY,
    "completion": [],
    "help": [],
}


def test_every_option_of_every_command_has_a_row():
    found = options_of(cli.build_parser())
    found["up"] -= found.pop("serve") - {"--yes"}
    rows = {
        name: {word for row in rows for word in row.options.split() if word[:2] == "--"} for name, rows in ROWS.items()
    }
    assert found == {"": {"--version"}, **rows}
