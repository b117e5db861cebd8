"""Models that other programs keep on this disk: the hub's own cache, llama.cpp, LM Studio, Ollama, and `a3b pull`.

Everything is read only. Names and lists in these places are foreign: sizes and numbers are bounded, a path is made of
plain names only, and what is incomplete is left out. Whether a file can be used is for others to say. Enter at
`found_models`."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from a3b.files import read_text
from a3b.hub.download import INNER

MAX_ENTRIES = 20_000  # looked at in one place
MAX_DEPTH = 5
MAX_MANIFEST_BYTES = 4 << 20
MAX_INDEX_BYTES = 64 << 20  # an index that lists every expert has 3 MB
SPLIT = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf", re.ASCII)
DIGEST = re.compile(r"sha256[:-]([0-9a-f]{64})")
MODEL_LAYER = "application/vnd.ollama.image.model"
HUB_FOLDER = "models--"
LISTS = "manifest="  # begins the names of llama.cpp's lists


@dataclass(frozen=True)
class FoundModel:
    """A model that need not be downloaded. name: OWNER/NAME or NAME:TAG, as its program calls it."""

    program: str
    name: str
    path: Path  # a directory of safetensors, or a GGUF file, the first if it is split
    num_bytes: int


def found_models(places: Mapping[str, Sequence[str]], here: Path | None = None) -> Iterator[FoundModel]:
    """Every model in these places, each once. places: directories by program. here: where pulled models are looked for,
    among its subdirectories. What cannot be read is left out."""
    readers = {"hub cache": _hub_cache, "llama.cpp": _llama_cache, "LM Studio": _lm_studio, "Ollama": _ollama}
    seen = set()
    for program, directories in places.items():
        for directory in directories:
            try:
                root = Path(directory).expanduser()
            except RuntimeError:  # no home
                continue
            for found in readers[program](root):
                key = os.path.realpath(found.path)
                if key not in seen:
                    seen.add(key)
                    yield found
    if here is not None:
        yield from _pulled(here)


class _Walk:
    """Lists directories, until too many entries were seen."""

    def __init__(self) -> None:
        self.left = MAX_ENTRIES

    def entries(self, directory: Path) -> list[Path]:
        found: list[Path] = []
        try:
            with os.scandir(directory) as listed:
                for entry in listed:
                    if self.left <= 0:
                        break
                    self.left -= 1
                    if not entry.name.startswith("."):
                        found.append(Path(entry.path))
        except OSError:
            return []
        return sorted(found)

    def files(self, directory: Path, depth: int = MAX_DEPTH) -> Iterator[Path]:
        for path in self.entries(directory):
            if _is_dir(path):
                if depth > 1:
                    yield from self.files(path, depth - 1)
            else:
                yield path


def _hub_cache(root: Path) -> Iterator[FoundModel]:
    """models--OWNER--NAME/snapshots/COMMIT; the files are links to blobs that are complete."""
    walk = _Walk()
    for folder in walk.entries(root):
        owner, _, name = folder.name.removeprefix(HUB_FOLDER).partition("--")
        if not folder.name.startswith(HUB_FOLDER) or not name:
            continue
        for snapshot in walk.entries(folder / "snapshots"):
            repo = f"{owner}/{name}"
            if (num_bytes := _checkpoint_bytes(snapshot)) is not None:
                yield FoundModel("hub cache", repo, snapshot, num_bytes)
            for path in _whole_models(walk.files(snapshot, 2)):
                yield FoundModel("hub cache", repo, path, _model_bytes(path))


def _llama_cache(root: Path) -> Iterator[FoundModel]:
    """Older versions: OWNER_NAME_FILE.gguf, and manifest=OWNER=NAME=TAG.json, which tells where OWNER ends."""
    files = [path for path in _Walk().entries(root) if not _is_dir(path)]
    lists = [path.name.removesuffix(".json").split("=") for path in files if path.name.startswith(LISTS)]
    repos = {f"{owner}_{name}_": f"{owner}/{name}" for _, owner, name, *_ in (row for row in lists if len(row) >= 3)}
    for path in _whole_models(files):
        begins = max((key for key in repos if path.name.startswith(key)), key=len, default="")
        yield FoundModel("llama.cpp", repos.get(begins, path.name.removesuffix(".gguf")), path, _model_bytes(path))


def _lm_studio(root: Path) -> Iterator[FoundModel]:
    """OWNER/NAME/FILE.gguf."""
    walk = _Walk()
    for owner in walk.entries(root):
        for folder in walk.entries(owner):
            for path in _whole_models(walk.files(folder, 2)):
                yield FoundModel("LM Studio", f"{owner.name}/{folder.name}", path, _model_bytes(path))


def _ollama(root: Path) -> Iterator[FoundModel]:
    """manifests/HOST/OWNER/NAME/TAG names a blob by its checksum."""
    top = root / "manifests"
    for path in _Walk().files(top):
        parts = path.relative_to(top).parts
        if len(parts) != 4 or (blob := _blob_of(path)) is None:
            continue
        host, owner, name, tag = parts
        blob = root / "blobs" / blob
        library = (host, owner) == ("registry.ollama.ai", "library")
        if _is_file(blob):
            yield FoundModel("Ollama", f"{name if library else f'{owner}/{name}'}:{tag}", blob, _size(blob))


def _blob_of(manifest: Path) -> Path | None:
    value = _json(manifest, MAX_MANIFEST_BYTES)
    layers = value.get("layers") if isinstance(value, dict) else None
    for layer in layers if isinstance(layers, list) else ():
        if isinstance(layer, dict) and layer.get("mediaType") == MODEL_LAYER:
            found = DIGEST.fullmatch(layer["digest"]) if isinstance(layer.get("digest"), str) else None
            return Path(f"sha256-{found[1]}") if found else None
    return None


def _pulled(here: Path) -> Iterator[FoundModel]:
    """Directories that `a3b pull` filled: by its own record, complete."""
    walk = _Walk()
    for folder in walk.entries(here):
        record = _json(folder / INNER / "record.json", MAX_INDEX_BYTES) if _is_dir(folder / INNER) else None
        repo = record.get("repo") if isinstance(record, dict) else None
        if not isinstance(repo, str) or len(repo) > 200:
            continue
        if (num_bytes := _checkpoint_bytes(folder)) is not None:
            yield FoundModel("a3b pull", repo, folder, num_bytes)
        for path in _whole_models(walk.files(folder, 2)):
            yield FoundModel("a3b pull", repo, path, _model_bytes(path))


def _checkpoint_bytes(directory: Path) -> int | None:
    """Bytes of the safetensors of a directory; None if it has no config or not all of them."""
    if not _is_file(directory / "config.json"):
        return None
    names = ["model.safetensors"]
    if _is_file(index := directory / "model.safetensors.index.json"):
        value = _json(index, MAX_INDEX_BYTES)
        shards = value.get("weight_map") if isinstance(value, dict) else None
        found = set(shards.values()) if isinstance(shards, dict) and _are_texts(shards.values()) else set()
        if not found or not all(name == os.path.basename(name) for name in found):
            return None
        names = sorted(found)
    paths = [directory / name for name in names]
    return sum(map(_size, paths)) if all(map(_is_file, paths)) else None


def _whole_models(files: Iterator[Path] | list[Path]) -> Iterator[Path]:
    """GGUF files by their names: a split model by its first file, if all are there."""
    for path in files:
        if not path.name.endswith(".gguf") or not _is_file(path):
            continue
        split = SPLIT.fullmatch(path.name)
        if not split or (int(split[2]) == 1 and all(map(_is_file, _parts(path)))):
            yield path


def _parts(path: Path) -> list[Path]:
    split = SPLIT.fullmatch(path.name)
    if not split or int(split[3]) > 1000:
        return [path]
    return [path.with_name(f"{split[1]}-{i:05}-of-{split[3]}.gguf") for i in range(1, int(split[3]) + 1)]


def _model_bytes(path: Path) -> int:
    return sum(map(_size, _parts(path)))


def _json(path: Path, most: int) -> Any:
    try:
        return json.loads(read_text(path, most))
    except (OSError, ValueError, RecursionError):
        return None


def _are_texts(values: Any) -> bool:
    return all(isinstance(value, str) for value in values)


def _is_dir(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        return False


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        return False


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
