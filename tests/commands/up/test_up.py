"""`a3b up`: from a name to a server, over a hub on this machine. Asked once, and refused before anything is fetched."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from a3b.cli import main
from a3b.commands.sizes import Use, memory_bytes, sizes
from a3b.formats.packed import Manifest
from a3b.model.known_shapes import shape
from a3b.packing.presets import PRESETS
from tests.support.fake_clients import fake_server
from tests.support.hub_server import REPO
from tests.support.ups import FILES, GB, only, small_gguf, ups

pytestmark = pytest.mark.slow  # starts servers or commands, or computes for seconds


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
    told = ups(capsys, REPO, "--parallel", "2", "--drafts", "off", "--context", "2k", status=2)
    assert f"to agree, run: a3b up {REPO} --context 2048 --drafts off --parallel 2 --yes" in told
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


def test_too_little_memory_is_refused_with_what_is_missing_before_a_download(home, hub, known, capsys, machine):
    machine.memory = GB // 2
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
    machine.memory = memory_bytes(config, sizes(config, PRESETS["faithful"]), config.max_context, Use(4)) - 1
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
