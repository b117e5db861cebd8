"""`a3b up`: from a name to a server, over a hub on this machine. Asked once, and refused before anything is fetched."""

from __future__ import annotations

import io
import json
import socket
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import gguf
import pytest

from a3b.cli import main
from a3b.commands import model_sources, up
from a3b.commands.model_home import ModelHome
from a3b.commands.plan import Speed
from a3b.commands.sizes import memory_bytes, sizes
from a3b.engine.engine import nano_directory
from a3b.engine.stored_models import Record
from a3b.formats.packed import Manifest, verify
from a3b.machine import Machine
from a3b.model import known_models
from a3b.model.known_models import KNOWN_MODELS
from a3b.model.known_shapes import SHAPES, shape
from a3b.packing.presets import PRESETS
from tests.support.fake_clients import fake_server
from tests.support.gguf_files import SIZES as GGUF_SIZES
from tests.support.gguf_files import TYPE_OF, write_gguf
from tests.support.hub_fixture import fake_hub
from tests.support.hub_server import REPO
from tests.support.model_places import in_hub_cache, in_ollama
from tests.support.packing_files import write_source
from tests.support.random_model import config_dict

pytestmark = pytest.mark.slow  # starts servers or commands, or computes for seconds

GB = 1_000_000_000
ALL_READABLE = {**TYPE_OF, "attn_v": "Q8_0"}  # so that nothing is left to a preset


def small_model() -> dict[str, bytes]:
    """The files of a random model that is packed in a moment."""
    with tempfile.TemporaryDirectory() as directory:
        write_source(Path(directory) / "m", fp8=True)
        return {path.name: path.read_bytes() for path in (Path(directory) / "m").iterdir()}


FILES = small_model()


@pytest.fixture(scope="module", autouse=True)
def session():
    """One client of huggingface_hub for all tests: making one reads all certificates."""
    yield
    from huggingface_hub.utils import close_session

    close_session()


@pytest.fixture
def machine(monkeypatch):
    """A machine of 24 GB that need not be measured."""

    class Given:
        memory, disk = 24 * GB, 100 * GB

    monkeypatch.setattr(model_sources, "predicted", lambda *_: Speed(40e9, 1000e9))
    plain = Machine.read()
    monkeypatch.setattr(
        Machine, "read", lambda *_: replace(plain, memory_bytes=Given.memory, total_memory_bytes=Given.memory + GB)
    )
    usage = type("Usage", (), {})
    monkeypatch.setattr(model_sources.shutil, "disk_usage", lambda _: setattr(usage, "free", Given.disk) or usage)
    return Given


@pytest.fixture
def home(tmp_path, monkeypatch, machine):
    """A3B_HOME, places of other programs in which nothing lies, and servers that do not start."""
    monkeypatch.delenv("A3B_CACHE", raising=False)
    monkeypatch.setenv("A3B_HOME", str(tmp_path / "home"))
    for name in ("HF_HUB_CACHE", "LLAMA_CACHE", "OLLAMA_MODELS", "HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    home = ModelHome(tmp_path / "home")
    home.served = []
    monkeypatch.setenv("A3B_PORT", "0")
    monkeypatch.setattr(up.serve, "run", lambda args, after: home.served.append((args, after)) or 0)
    return home


@pytest.fixture
def hub(monkeypatch, tmp_path, home):
    """A small model as a repository."""
    yield from fake_hub(monkeypatch, tmp_path, dict(FILES))


@pytest.fixture
def known(monkeypatch):
    """The repository in the table of names, as `tiny`: its weights and its GGUF files."""
    config = json.loads(FILES["config.json"])
    monkeypatch.setitem(SHAPES, "tiny-shape", config.get("text_config", config))
    entry = replace(
        KNOWN_MODELS[0],
        name="tiny",
        title="Tiny-1B",
        shape="tiny-shape",
        weights=REPO,
        gguf=f"{REPO}-GGUF",
        original=None,
        other_names=("tiny-1b",),
    )
    monkeypatch.setattr(known_models, "KNOWN_MODELS", (entry, *KNOWN_MODELS))
    return entry


@pytest.fixture
def typed(monkeypatch):
    """Type an answer at a terminal."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    def type_(text: str) -> None:
        monkeypatch.setattr(sys, "stdin", Terminal(text))
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)

    return type_


def ups(capsys, *argv: str, status: int = 0) -> str:
    """stderr of the command."""
    found = main(["up", *argv])
    err = capsys.readouterr().err
    assert found == status, err
    return err


def only(home: ModelHome):
    (model,) = home.stored()
    assert model.complete and verify(model.folder) == []
    return model


def small_gguf(directory: Path, name: str = "m-Q4_K_M.gguf", **options) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    write_gguf(directory / name, gguf, types=ALL_READABLE, **options)
    return directory / name


# -- from the hub


def test_a_repository_is_fetched_packed_and_served_after_three_lines(home, hub, capsys):
    lines = ups(capsys, REPO, "--yes").splitlines()
    model = only(home)
    assert Manifest.read(model.folder).preset == "faithful"
    assert (model.record.name, model.record.source) == (f"{REPO}:faithful", REPO) and model.record.revision
    ((args, after),) = home.served
    assert args.model == str(model.folder) and "a3b launch claude" in after
    first = next(i for i, line in enumerate(lines) if line.startswith(f"{REPO}, faithful: "))
    assert lines[first].endswith("24.00 GB of memory have room for 1,024 tokens beside it")
    assert lines[first + 1].startswith(f"downloads 0.6 MB from {REPO}, packing meanwhile, into {home.models}")
    assert lines[first + 1].endswith("about 1 s on a line of 100 Mbit/s")
    assert lines[first + 2].startswith("then about ") and "first prompt of 1,024 tokens" in lines[first + 2]


def test_run_again_it_neither_asks_nor_fetches(home, hub, capsys):
    ups(capsys, REPO, "--yes")
    hub.requests.clear()
    hub.tokens.clear()
    for name in (REPO, f"{REPO}:faithful", f"https://huggingface.co/{REPO}", str(only(home).folder)):
        ups(capsys, name)
    assert hub.requests == [] == hub.tokens and len(home.served) == 5


def test_without_a_terminal_and_without_yes_nothing_is_fetched(home, hub, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    told = ups(capsys, REPO, status=2)
    assert f"to agree, run: a3b up {REPO} --yes" in told and "downloads" in told
    assert not any(home.models.glob("*.part")) and home.stored() == [] and home.served == []


@pytest.mark.parametrize(("answer", "status"), [("\n", 0), ("maybe\nY\n", 0), ("n\n", 1), ("", 1)])
def test_at_a_terminal_it_asks_once(home, hub, capsys, typed, answer, status):
    typed(answer)
    told = ups(capsys, REPO, status=status)
    assert told.count("Go ahead? [Y/n]") == 1 + answer.startswith("maybe")
    assert len(home.stored()) == len(home.served) == (status == 0)
    assert ("nothing was fetched or packed" in told) == (status == 1)


def test_a_short_name_finds_its_repository_and_keeps_the_name(home, hub, known, capsys):
    ups(capsys, "Tiny:1b", "--yes")
    assert only(home).record.name == "tiny:faithful" and only(home).record.model == "tiny"
    ups(capsys, "tiny")
    assert len(home.served) == 2
    for name in ("tiny", "tiny:faithful", "TINY-1B"):
        assert main(["info", name]) == 0
        assert str(only(home).folder) in capsys.readouterr().out


def test_a_tag_or_an_option_chooses_the_preset(home, hub, known, capsys):
    ups(capsys, "tiny:fast", "--yes")
    ups(capsys, "tiny", "--preset", "balanced", "--yes")
    ups(capsys, "tiny", "--preset", "fast")
    assert {Manifest.read(model.folder).preset for model in home.stored()} == {"fast", "balanced"}
    assert [Path(args.model).name for args, _ in home.served] == ["tiny-fast", "tiny-balanced", "tiny-fast"]
    assert "names fast already; give one of both" in ups(capsys, "tiny:fast", "--preset", "faithful", status=2)


def test_options_of_serve_are_handed_on(home, hub, capsys):
    ups(capsys, REPO, "--yes", "--port", "0", "--no-think", "--context", "2k")
    ((args, _),) = home.served
    assert (args.port, args.no_think, args.context) == (0, True, 2048)


def test_the_hub_refuses_by_name(home, hub, capsys):
    assert "Owner/None does not exist on" in ups(capsys, "Owner/None", "--yes", status=1)
    hub.close()
    assert "cannot be reached" in ups(capsys, REPO, "--yes", status=1)
    assert list(home.models.glob("*")) == []


def test_a_no_leaves_nothing_on_the_disk(home, hub, capsys, typed):
    typed("n\n")
    ups(capsys, REPO, status=1)
    assert list(home.models.glob("*")) == []


def test_notes_on_a_source_are_said_once_after_the_three_lines(home, hub, capsys, tmp_path):
    (tmp_path / "made").mkdir()
    for name, content in FILES.items():
        (tmp_path / "made" / name).write_bytes(content)
    for source in (REPO, str(tmp_path / "made")):
        lines = ups(capsys, source, "--yes").splitlines()
        third = next(i for i, line in enumerate(lines) if line.startswith("then about "))
        notes = [i for i, line in enumerate(lines) if "has no MTP tensors" in line]
        assert notes == [third + 1], lines


def test_a_port_that_another_a3b_has_is_told_with_what_it_serves(home, hub, capsys):
    with fake_server() as server:
        port = server.url.rpartition(":")[2]
        assert f"m is served at {server.url} already, where a3b launch" in ups(capsys, REPO, "--port", port, status=2)
        server.answers["/v1/models"] = {"data": []}
        assert "cannot listen on 127.0.0.1" in ups(capsys, REPO, "--port", port, status=2)


# -- GGUF files in a repository


@pytest.fixture
def ggufs(hub, tmp_path):
    """A repository of two GGUF models, one of them in a directory and split."""
    content = small_gguf(tmp_path / "made").read_bytes()
    hub.files.clear()
    hub.files |= {"m-UD-Q4_K_M.gguf": content, "m-Q8_0.gguf": content + b"\0" * 64, "mmproj-F16.gguf": b"x" * 2000}
    return hub


@pytest.mark.parametrize(
    ("name", "file"),
    [
        (f"{REPO}:Q4_K_M", "m-UD-Q4_K_M.gguf"),
        (f"hf.co/{REPO}:UD-Q4_K_M", "m-UD-Q4_K_M.gguf"),
        (f"{REPO}/m-Q8_0.gguf", "m-Q8_0.gguf"),
        (f"https://huggingface.co/{REPO}/blob/main/m-Q8_0.gguf", "m-Q8_0.gguf"),
        (REPO, "m-Q8_0.gguf"),  # the best that fits
    ],
)
def test_a_file_of_a_repository_is_chosen_by_tag_by_name_or_by_what_fits(home, ggufs, capsys, name, file):
    ups(capsys, name, "--yes")
    assert {path for method, path, _ in ggufs.requests if method == "GET"} == {file}
    assert Manifest.read(only(home).folder).preset is None
    ups(capsys, name)
    assert len(home.served) == 2


def test_the_only_model_of_a_repository_gives_its_types_to_the_name(home, hub, tmp_path, capsys):
    hub.files.clear()
    hub.files["m-Q4_K_M.gguf"] = small_gguf(tmp_path / "made").read_bytes()
    ups(capsys, REPO, "--yes")
    assert only(home).record.name == f"{REPO}:q4_k_m" and only(home).record.preset == ""


@pytest.mark.parametrize("missing", ["tokenizer.json", "chat template"])
def test_a_repository_that_could_not_answer_is_refused_before_the_download(home, hub, tmp_path, capsys, missing):
    if missing == "tokenizer.json":
        del hub.files[missing]
    else:
        hub.files.clear()
        without = small_gguf(tmp_path / "made", change=lambda kv, tensors: kv.pop("tokenizer.chat_template"))
        hub.files["m-Q4_K_M.gguf"] = without.read_bytes()
    told = ups(capsys, REPO, "--yes", status=1)
    assert f"{REPO}: holds no {missing}, so it could not answer" in told and "--tokenizer DIR" in told
    assert not home.stored()


def test_a_tag_that_no_file_has_is_told_what_there_is(home, ggufs, capsys):
    told = ups(capsys, f"{REPO}:Q6_K", "--yes", status=2)
    assert "holds no file of types 'q6_k'; it holds m-UD-Q4_K_M.gguf, m-Q8_0.gguf" in told and "mmproj" not in told


def test_the_largest_file_that_fits_the_memory_is_taken(home, ggufs, capsys, machine):
    machine.memory = 4 * GB
    model_bytes = len(ggufs.files["m-Q8_0.gguf"])
    ups(capsys, REPO, "--yes")
    assert only(home).record.file == "m-Q8_0.gguf" and model_bytes < GB


# -- what does not fit


def test_too_little_memory_is_refused_with_what_is_missing_before_a_download(home, hub, known, capsys, machine):
    machine.memory = GB
    told = ups(capsys, "tiny", "--yes", status=1)
    assert "Tiny-1B: even fast, the smallest preset, needs " in told and "more memory for " in told
    assert "a3b chat nano, the demonstration model, fits" in told
    assert hub.requests == [] == hub.tokens and home.stored() == []


def test_too_little_disk_is_refused_before_a_download(home, hub, known, capsys, machine):
    machine.disk = GB
    told = ups(capsys, "tiny", "--yes", status=1)
    assert "more disk" in told and "1.00 GB of disk" in told and hub.requests == []


def test_the_first_line_says_why_not_a_better_preset(home, hub, known, capsys, machine):
    config = shape("tiny-shape")
    machine.memory = memory_bytes(config, sizes(config, PRESETS["faithful"]), config.max_context) - 1
    told = ups(capsys, "tiny", "--yes")
    assert "Tiny-1B, balanced: " in told and "beside it; faithful needs 0.0 MB more memory" in told
    assert only(home).record.preset == "balanced"


def test_a_preset_that_does_not_fit_is_told_which_one_does(home, capsys, machine):
    machine.memory = 23 * GB
    told = ups(capsys, "qwen3.6:faithful", "--yes", status=1)
    assert "Qwen3.6-35B-A3B: faithful needs " in told and "more memory for 16,384 tokens; balanced fits" in told


def test_a_machine_that_is_too_small_is_told_which_model_would_fit(home, capsys, machine):
    machine.memory = 19 * GB
    told = ups(capsys, "--yes", status=1)
    assert "Qwen3.6-35B-A3B: even fast" in told and "qwen3.6-27b:fast" in told and "would fit" in told


# -- what is on the disk already


def test_a_snapshot_in_the_hub_cache_is_used_in_place_of_a_download(home, hub, tmp_path, capsys):
    snapshot = in_hub_cache(tmp_path / "HF_HUB_CACHE", REPO, FILES)
    before = sorted((str(p), p.lstat().st_mtime_ns) for p in (tmp_path / "HF_HUB_CACHE").rglob("*"))
    told = ups(capsys, REPO, "--yes")
    assert f"hub cache has {REPO} on this disk: {snapshot}" in told and f"packs {snapshot}, which is only read" in told
    assert hub.requests == [] == hub.tokens and Manifest.read(only(home).folder).preset == "faithful"
    assert sorted((str(p), p.lstat().st_mtime_ns) for p in (tmp_path / "HF_HUB_CACHE").rglob("*")) == before


def test_who_does_not_want_the_file_on_the_disk_is_asked_about_the_download(home, hub, tmp_path, capsys, typed):
    in_hub_cache(tmp_path / "HF_HUB_CACHE", REPO, FILES)
    typed("n\ny\n")
    told = ups(capsys, REPO)
    assert told.index("Use it, without a download? [Y/n]") < told.index("Go ahead? [Y/n]")
    assert only(home).record.source == REPO


def test_a_download_can_be_asked_for_although_the_model_is_here(home, hub, tmp_path, capsys):
    in_hub_cache(tmp_path / "HF_HUB_CACHE", REPO, FILES)
    ups(capsys, REPO, "--yes", "--download")
    assert only(home).record.source == REPO


def test_a_blob_of_ollama_is_used_with_the_template_of_its_repository(home, hub, known, tmp_path, capsys, monkeypatch):
    config = config_dict(GGUF_SIZES)
    monkeypatch.setitem(SHAPES, "tiny-shape", config)

    def plain(kv, tensors):
        del kv["tokenizer.chat_template"]
        kv["general.file_type"] = 15

    content = small_gguf(tmp_path / "made", change=plain).read_bytes()
    blob = in_ollama(tmp_path / "OLLAMA_MODELS", "registry.ollama.ai/library/tiny/1b", content)
    told = ups(capsys, "tiny", "--yes")
    assert f"Ollama has tiny:1b on this disk: {blob}" in told
    assert only(home).record.name == "tiny:q4_k_m"
    assert (only(home).folder / "chat_template.jinja").read_bytes() == FILES["chat_template.jinja"]
    assert blob.read_bytes() == content


def test_without_the_hub_a_blob_without_a_template_says_what_is_missing(home, hub, known, tmp_path, capsys):
    content = small_gguf(tmp_path / "made", change=lambda kv, tensors: kv.pop("tokenizer.chat_template")).read_bytes()
    in_ollama(tmp_path / "OLLAMA_MODELS", "registry.ollama.ai/library/tiny/1b", content)
    hub.close()
    told = ups(capsys, "tiny", "--yes", status=1)
    assert "has no chat template, and that of Owner/Model-1B cannot be fetched" in told


def test_a_file_that_only_has_the_name_is_offered_and_not_taken_unasked(home, hub, known, tmp_path, capsys, typed):
    path = small_gguf(tmp_path / "LLAMA_CACHE", "someone_tiny-1b-Q4_K_M.gguf")
    told = ups(capsys, "tiny", "--yes")
    assert f"{path} is passed over: only its name says that it is Tiny-1B" in told
    assert only(home).record.source == REPO
    assert main(["rm", "tiny", "--yes"]) == 0
    typed("y\n")
    assert "although only its name says so" in ups(capsys, "tiny")
    assert only(home).record.source == str(path)


def test_a_file_on_the_disk_that_cannot_be_used_is_named_with_the_reason(home, hub, tmp_path, capsys):
    snapshot = in_hub_cache(tmp_path / "HF_HUB_CACHE", REPO, {**FILES, "config.json": b'{"model_type": "llama"}'})
    told = ups(capsys, REPO, "--yes")
    assert f"hub cache has {REPO} ({snapshot}), which is of no use: " in told and "llama" in told
    assert only(home).record.source == REPO


# -- files, directories and nano


def test_a_gguf_file_and_a_directory_are_packed_and_served(home, tmp_path, capsys):
    path = small_gguf(tmp_path / "a")
    other = tmp_path / "checkpoint"
    other.mkdir()
    for name, content in FILES.items():
        (other / name).write_bytes(content)
    for place in (path, other):
        ups(capsys, str(place), "--yes")
        ups(capsys, str(place))
    assert len(home.stored()) == 2 and len(home.served) == 4
    assert {model.record.source for model in home.stored()} == {str(path), str(other)}


def test_a_stopped_model_whose_file_is_gone_says_so(home, tmp_path, capsys):
    path = small_gguf(tmp_path / "a", "gone.gguf")
    record = Record("gone:q4_k_m", str(path), model="gone")
    home.remember(home.folder("gone"), record)
    path.unlink()
    assert "there is no such file" in ups(capsys, str(path), "--yes", status=2)
    assert "gone.gguf, which is gone; a3b rm gone:q4_k_m removes what is here" in ups(capsys, "gone:q4_k_m", status=1)


@pytest.mark.parametrize(("said", "tag"), [(15, "q4_k_m"), (7, "q8_0"), (99, "gguf"), ([1, 2], "gguf"), ("x", "gguf")])
def test_a_file_is_called_after_the_types_that_it_says_it_has(home, tmp_path, capsys, said, tag):
    path = small_gguf(tmp_path / "a", "own.gguf", change=lambda kv, tensors: kv.update({"general.file_type": said}))
    ups(capsys, str(path), "--yes")
    assert only(home).record.name == f"own:{tag}"


def test_a_file_without_a_template_is_refused_before_it_is_packed(home, tmp_path, capsys):
    path = small_gguf(tmp_path / "a", change=lambda kv, tensors: kv.pop("tokenizer.chat_template"))
    assert "has no chat template; a3b up with the short name" in ups(capsys, str(path), "--yes", status=1)
    assert home.stored() == []


@pytest.mark.parametrize("option", [["--preset", "fast"], ["--download"]])
def test_an_option_that_can_have_no_effect_is_refused(home, hub, tmp_path, capsys, option):
    packed = tmp_path / "packed"
    assert main(["pack", REPO, str(packed)]) == 0
    for name in ("nano", str(packed)):
        assert "is on this disk, as it is; leave the option out" in ups(capsys, name, *option, "--yes", status=2)


def test_nano_needs_nothing(home, capsys):
    ups(capsys, "nano")
    ((args, _),) = home.served
    assert args.model == str(nano_directory()) and home.stored() == []


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("owen3.6", "did you mean 'qwen3.6'?"),
        ("qwen3.6:q4km", "cannot be read"),
        ("./nothing", "there is no such file or directory"),
        ("nothing.gguf", "there is no such file or directory"),
        ("a b", "expected a short name"),
        ("x" * 9999, "expected a short name"),
        ("\x1b[31m", "expected a short name"),
    ],
)
def test_a_name_of_nothing_is_answered_in_words(home, capsys, name, told):
    err = ups(capsys, name, "--yes", status=2)
    assert told in err and "\x1b" not in err and len(err) < 700


def test_a_home_that_cannot_be_written_is_named(home, capsys, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("A3B_HOME", str(tmp_path / "file"))
    assert "set A3B_HOME to a place that can be written" in ups(capsys, "qwen3.6", "--yes", status=1)


# -- other commands that are given a name


def test_pack_takes_a_short_name_and_a_tag(home, hub, known, capsys):
    assert main(["pack", "tiny:fast", "out"]) == 0
    assert Manifest.read(Path("out")).preset == "fast" and verify(Path("out")) == [] and home.stored() == []


def test_pack_takes_a_file_of_a_repository_by_its_types(home, ggufs, capsys):
    assert main(["pack", f"{REPO}:Q4_K_M", "out"]) == 0
    assert {path for method, path, _ in ggufs.requests if method == "GET"} == {"m-UD-Q4_K_M.gguf"}


def test_a_port_that_is_taken_is_told_before_a_download(home, hub, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        told = ups(capsys, REPO, "--yes", "--port", str(taken.getsockname()[1]), status=2)
    assert "cannot listen on 127.0.0.1" in told and hub.requests == []


def test_serve_gets_a_model_that_is_not_here_if_told_to(home, hub, known, capsys, monkeypatch):
    served = []
    monkeypatch.setattr("a3b.commands.serve.run", lambda args: served.append(args.model) or 0)
    assert main(["serve", "tiny"]) == 2
    assert "'tiny' is known but not here; get it: a3b up tiny" in capsys.readouterr().err
    assert main(["serve", "tiny", "--yes"]) == 0
    assert served == [str(only(home).folder)]


def test_chat_offers_to_get_a_model_at_a_terminal(home, hub, known, capsys, typed, monkeypatch):
    chats = []
    monkeypatch.setattr("a3b.commands.chat.run", lambda args: chats.append(args.model) or 0)
    typed("n\n")
    assert main(["chat", "tiny"]) == 2 and home.stored() == []
    typed("y\n")
    assert main(["chat", "tiny"]) == 0
    assert chats == [str(only(home).folder)] and "Go ahead?" in capsys.readouterr().err


def test_run_says_how_to_get_a_model(home, capsys):
    assert main(["run", "qwen3.6:fast", "Hi"]) == 2
    assert "get it: a3b up qwen3.6:fast" in capsys.readouterr().err
    assert main(["run", "some/where:Q4_K_M", "Hi"]) == 2
    assert "if it is a repository of the hub, get it: a3b up some/where:Q4_K_M" in capsys.readouterr().err


def test_a_model_is_held_while_it_is_served(home, hub, known, capsys, monkeypatch):
    removed = []
    monkeypatch.setattr(up.serve, "run", lambda args, after: removed.append(main(["rm", "tiny", "--yes"])) or 0)
    assert "uses it" in ups(capsys, "tiny", "--yes")
    assert removed == [2] and main(["rm", "tiny", "--yes"]) == 0 and home.stored() == []
