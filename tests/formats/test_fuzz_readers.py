"""Damaged files, hundreds for each reader: they are read, or refused with an error of ours; quickly, and without much
memory.

FUZZ_CASES=N in the environment tries N of each; a failure names its number, and FUZZ_FIRST=N begins there.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from a3b.commands.info import describe
from a3b.commands.plan import Speed
from a3b.commands.plan import describe as plan
from a3b.engine.engine import nano_directory
from a3b.errors import A3BError
from a3b.formats.checkpoint import Checkpoint
from a3b.formats.packed import MANIFEST, verify
from a3b.hub.client import Hub, Listing
from a3b.hub.download import Folder
from a3b.kernels import open_kernels
from a3b.machine import Machine
from a3b.model.config_reader import read_config
from a3b.model.forward import Model
from a3b.model.loader import load_weights
from a3b.packing.open_source import open_source
from a3b.packing.plan import make_plan
from a3b.packing.writer import PROGRESS, write
from a3b.prompt.chat_template import ChatTemplate
from a3b.prompt.tokenizer import Tokenizer
from tests.packing.test_pack_gptq import write_source as write_gptq
from tests.support.checkpoint_files import write_checkpoint
from tests.support.gguf_files import SIZES as GGUF_SIZES
from tests.support.gguf_files import write_gguf
from tests.support.mutations import GgufPieces, change_bytes, change_json
from tests.support.packing_files import write_source

pytestmark = pytest.mark.slow  # starts servers or commands, or computes for seconds

NUM_CASES = int(os.environ.get("FUZZ_CASES", "150"))
FIRST = int(os.environ.get("FUZZ_FIRST", "0"))
LONGEST_S, MOST_BYTES, LONGEST_MESSAGE = 2.0, 500_000_000, 3000
MESSAGES = [{"role": role, "content": "hello"} for role in ("system", "user", "assistant", "user")]
Mutate = Callable[[bytes, random.Random], bytes]


def json_or_bytes(content: bytes, rng: random.Random) -> bytes:
    if rng.random() < 0.8:
        return change_json(content, rng, rng.choice((1, 1, 2, 5)))
    return change_bytes(content, rng)


def check(path: Path, mutate: Mutate, read: Callable[[], object], cases: int = NUM_CASES) -> None:
    """Damage the file in many ways, one after the other, and read what depends on it each time; it is whole again
    afterwards."""
    whole, num_read, memory = path.read_bytes(), 0, most_memory()
    escaped: dict[str, str] = {}  # by place in the source: one case each
    for number in range(FIRST, FIRST + cases):
        path.unlink()  # a mapping of the last case keeps its bytes
        path.write_bytes(mutate(whole, random.Random(number)))
        start = time.thread_time()
        try:
            read()
            num_read += 1
        except A3BError as error:
            if not 0 < len(str(error)) < LONGEST_MESSAGE:
                escaped[str(error)[:40]] = (
                    f"case {number}: a message of {len(str(error))} characters: {str(error)[:300]}"
                )
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{last.filename}:{last.lineno}"
            escaped[place] = f"case {number}: {type(error).__name__} in {place}: {str(error)[:200]}"
        if (took := time.thread_time() - start) > LONGEST_S:
            escaped["time"] = f"case {number}: {took:.1f} s"
        if most_memory() - memory > MOST_BYTES:
            escaped.setdefault("memory", f"case {number}: {(most_memory() - memory) / 1e6:.0f} MB")
    path.write_bytes(whole)
    assert not escaped, "\n".join(escaped.values())
    read()  # so that a refusal was the damage's
    assert num_read < cases, "no damage was noticed"


def most_memory() -> int:
    """Bytes that this process has held at most so far."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def run_checkpoint(directory: Path) -> None:
    """Everything between a directory and logits."""
    config = read_config(directory)
    for expand, isa in ((False, "reference"), (True, None)):
        model = Model(config, load_weights(Checkpoint.open(directory), config, expand=expand), open_kernels(isa))
        with np.errstate(all="ignore"):
            model.forward(np.arange(3) % config.vocab_size, model.new_state())


@pytest.mark.parametrize("name", ["one", "dense"])
def test_config(tmp_path, name):
    write_checkpoint(tmp_path, name)
    (tmp_path / "model.safetensors").unlink()

    def read() -> None:
        describe(str(tmp_path), None)
        plan(read_config(tmp_path), name, 1000, Machine.read(), Speed(1e10))

    check(tmp_path / "config.json", json_or_bytes, read)


def test_config_beside_weights(tmp_path):
    write_checkpoint(tmp_path, "two")
    check(tmp_path / "config.json", json_or_bytes, lambda: run_checkpoint(tmp_path))


def test_config_of_the_wrapper_with_fp8(tmp_path):
    write_checkpoint(tmp_path, "dense", dtype="FP8", fused=False, wrapped=True)
    check(tmp_path / "config.json", json_or_bytes, lambda: run_checkpoint(tmp_path))


def test_generation_config(tmp_path):
    write_checkpoint(tmp_path, "one")
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [1, 2], "temperature": 0.7, "bos_token_id": 0}')
    check(tmp_path / "generation_config.json", json_or_bytes, lambda: read_config(tmp_path))


@pytest.fixture
def tokenizer(tmp_path):
    """A whole tokenizer, small enough to be read hundreds of times."""
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(nano_directory() / name, tmp_path / name)
    spec = json.loads((tmp_path / "tokenizer.json").read_text())
    vocabulary = sorted(spec["model"]["vocab"].items(), key=lambda item: item[1])[:300]
    kept = {token for token, _ in vocabulary}
    merges = [
        pair for pair in spec["model"]["merges"] if (pair if isinstance(pair, list) else pair.split(" "))[0] in kept
    ]
    merges = [pair for pair in merges if "".join(pair if isinstance(pair, list) else pair.split(" ")) in kept]
    merges = [pair for pair in merges if (pair if isinstance(pair, list) else pair.split(" "))[1] in kept]
    spec["model"] |= {"vocab": dict(vocabulary), "merges": merges}
    for i, entry in enumerate(spec["added_tokens"]):
        entry["id"] = len(vocabulary) + i
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
    return tmp_path


def read_tokenizer(directory: Path) -> None:
    tokenizer = Tokenizer.read(directory)
    ids = tokenizer.encode_text("Hello, wörld <|im_end|> 123\n\n  x 🎉")
    tokenizer.decode(ids)
    tokenizer.encode(ChatTemplate.read(directory).render(MESSAGES, preserve_thinking=True))


def change_tokenizer(content: bytes, rng: random.Random) -> bytes:
    """The settings as often as the vocabulary, although there are fewer of them."""
    if rng.random() < 0.6:
        value = json.loads(content)
        kept = value["model"].pop("vocab"), value["model"].pop("merges")
        try:
            value = json.loads(change_json(json.dumps(value).encode(), rng, 2))
            value["model"]["vocab"], value["model"]["merges"] = kept
        except (ValueError, KeyError, TypeError, RecursionError):
            return json_or_bytes(content, rng)
        return json.dumps(value).encode()
    return json_or_bytes(content, rng)


def test_tokenizer(tokenizer):
    check(tokenizer / "tokenizer.json", change_tokenizer, lambda: read_tokenizer(tokenizer), NUM_CASES // 2)


def test_tokenizer_config(tokenizer):
    (tokenizer / "chat_template.jinja").unlink()
    path = tokenizer / "tokenizer_config.json"
    template = (nano_directory() / "chat_template.jinja").read_text()
    path.write_text(
        json.dumps({**json.loads(path.read_text()), "chat_template": [{"name": "default", "template": template}]})
    )
    check(path, json_or_bytes, lambda: read_tokenizer(tokenizer), NUM_CASES // 4)


def test_chat_template(tokenizer):
    check(tokenizer / "chat_template.jinja", change_bytes, lambda: read_tokenizer(tokenizer), NUM_CASES // 4)


def change_safetensors(content: bytes, rng: random.Random) -> bytes:
    if rng.random() < 0.7:
        size = int.from_bytes(content[:8], "little")
        header = change_json(content[8 : 8 + size], rng, rng.choice((1, 1, 2)))
        return (
            (len(header) if rng.random() < 0.95 else rng.choice((0, 1 << 63, size))).to_bytes(8, "little")
            + header
            + content[8 + size :]
        )
    return change_bytes(content, rng, most=rng.choice((16, 4000, len(content))))


@pytest.mark.parametrize("dtype", ["BF16", "FP8"])
def test_safetensors(tmp_path, dtype):
    write_checkpoint(tmp_path, "dense", dtype=dtype)
    check(tmp_path / "model.safetensors", change_safetensors, lambda: run_checkpoint(tmp_path))


def test_index(tmp_path):
    write_checkpoint(tmp_path, "dense", num_shards=3)
    check(tmp_path / "model.safetensors.index.json", json_or_bytes, lambda: run_checkpoint(tmp_path))


def pack_again(source: Path, target: Path, **options) -> None:
    shutil.rmtree(target, ignore_errors=True)
    shutil.rmtree(target.with_name(target.name + ".part"), ignore_errors=True)
    opened = open_source(source)
    write(opened, make_plan(opened.config, opened.weights, None if opened.keeps_types else "fast"), target, **options)


def test_gptq(tmp_path):
    write_gptq(tmp_path / "gptq")
    check(
        tmp_path / "gptq" / "config.json",
        json_or_bytes,
        lambda: pack_again(tmp_path / "gptq", tmp_path / "packed"),
        NUM_CASES // 2,
    )


def test_gptq_tensors(tmp_path):
    write_gptq(tmp_path / "gptq")
    path = tmp_path / "gptq" / "model.safetensors"
    check(path, change_safetensors, lambda: pack_again(tmp_path / "gptq", tmp_path / "packed"), NUM_CASES // 2)


def test_gguf(tmp_path):
    gguf = pytest.importorskip("gguf", reason="the format's own library writes the file")
    write_gguf(tmp_path / "x.gguf", gguf, GGUF_SIZES)

    def mutate(content: bytes, rng: random.Random) -> bytes:
        if rng.random() < 0.8:
            return GgufPieces(content).changed(rng, rng.choice((1, 1, 2)))
        return change_bytes(content, rng, most=rng.choice((40, 12_000, len(content))))

    def read() -> None:
        describe(str(tmp_path / "x.gguf"), None)
        opened = open_source(tmp_path / "x.gguf")
        make_plan(opened.config, opened.weights, None if opened.keeps_types else "fast")

    check(tmp_path / "x.gguf", mutate, read)


def change_sealed(content: bytes, rng: random.Random) -> bytes:
    """A manifest changed, with the checksum that an attacker would write."""
    from a3b.formats.packed import _text_checksum

    text = json_or_bytes(content, rng)
    try:
        value = json.loads(text)
        value.pop("checksum", None)
        value["checksum"] = _text_checksum(value)
        return json.dumps(value).encode()
    except (ValueError, AttributeError, TypeError, RecursionError):
        return text


def test_manifest(tmp_path):
    write_source(tmp_path / "source")
    pack_again(tmp_path / "source", tmp_path / "packed")

    def read() -> None:
        verify(tmp_path / "packed")
        describe(str(tmp_path / "packed"), None)
        run_checkpoint(tmp_path / "packed")

    check(tmp_path / "packed" / MANIFEST, change_sealed, read)


def test_journal_of_a_packing(tmp_path):
    """Of a run that was stopped after its last shard."""
    write_source(tmp_path / "source")
    source, target = open_source(tmp_path / "source"), tmp_path / "packed"
    plan, part = make_plan(source.config, source.weights, "fast"), tmp_path / "packed.part"
    write(source, plan, target, shard_bytes=1 << 30)
    part.mkdir()
    shard = next(target.glob("*.safetensors"))
    from a3b.formats.packed import SHARD_BYTES, plan_shards
    from a3b.packing.writer import _identity

    manifest = json.loads((target / MANIFEST).read_text())
    shards = plan_shards((item.tensor for item in plan.items), SHARD_BYTES)
    journal = {
        "identity": _identity(source, plan, shards, None),
        "shards": {shard.name: {name: entry["checksum"] for name, entry in manifest["tensors"].items()}},
    }
    kept = tmp_path / "kept"
    shutil.move(shard, kept)
    (part / PROGRESS).write_text(json.dumps(journal))

    def read() -> None:
        text = (part / PROGRESS).read_bytes()
        shutil.rmtree(target, ignore_errors=True)
        shutil.copy(kept, part / shard.name)
        try:
            write(source, plan, target)
            assert verify(target) == []
        finally:
            part.mkdir(exist_ok=True)
            (part / PROGRESS).write_bytes(text)

    check(part / PROGRESS, json_or_bytes, read, NUM_CASES // 10)


def test_listing_of_a_hub(tmp_path, monkeypatch):
    """What the hub's own library makes of an answer is read too."""
    import httpx
    from huggingface_hub.utils import close_session, set_client_factory

    answer = tmp_path / "answer.json"
    lfs = {"size": 9, "sha256": "2" * 64, "pointerSize": 130}
    files = [
        {"rfilename": "config.json", "size": 5, "blobId": "0" * 40},
        {"rfilename": "model.safetensors", "size": 9, "blobId": "1" * 40, "lfs": lfs},
    ]
    facts = {"id": "a/b", "sha": "0123456789abcdef", "private": False, "tags": [], "downloads": 0, "siblings": files}
    answer.write_text(json.dumps(facts))
    kind = {"Content-Type": "application/json"}
    transport = httpx.MockTransport(lambda request: httpx.Response(200, content=answer.read_bytes(), headers=kind))
    set_client_factory(lambda: httpx.Client(transport=transport))
    try:
        hub = Hub("a/b", endpoint="http://hub.invalid")
        check(answer, json_or_bytes, hub.listing)
    finally:
        close_session()
        from huggingface_hub.utils._http import default_client_factory

        set_client_factory(default_client_factory)


def test_record_of_a_download(tmp_path):
    listing = Listing("a/b", "0123456789abcdef", ())
    file = SimpleNamespace(path="config.json", sum="0" * 40, num_bytes=2, algorithm="git-sha1")
    path = tmp_path / ".a3b-pull" / "record.json"
    path.parent.mkdir()
    path.write_text(
        json.dumps(
            {"repo": "a/b", "commit": "0", "files": {"config.json": {"sum": "0" * 40, "bytes": 2, "mtime_ns": 5}}}
        )
    )

    def read() -> None:
        with Folder.open(tmp_path, listing) as folder:
            folder.missing([file])
            if path.read_bytes() != read.whole and folder.record["files"] == {}:
                raise A3BError("forgotten")  # files are then verified by their content

    read.whole = path.read_bytes()
    check(path, json_or_bytes, read)
