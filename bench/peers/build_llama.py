"""Builds llama.cpp from the sources inside the Python package llama-cpp-python, for the CPU it runs on.

    python -m bench.peers.build_llama DIRECTORY [--jobs 2]

Needs pip, cmake, a C++ compiler and about 1 GB. Afterwards DIRECTORY/bin holds llama-bench, llama-completion,
llama-perplexity, llama-quantize, and llama-logits of ours (logits.cpp). What is there already is not done again.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

PACKAGE = "llama-cpp-python==0.3.36"
TARGETS = ("llama-bench", "llama-completion", "llama-perplexity", "llama-quantize")
OPTIONS = {
    "CMAKE_BUILD_TYPE": "Release", "BUILD_SHARED_LIBS": "OFF", "GGML_NATIVE": "ON", "LLAMA_BUILD_TESTS": "OFF",
    "LLAMA_BUILD_EXAMPLES": "OFF", "LLAMA_BUILD_SERVER": "OFF", "LLAMA_BUILD_APP": "OFF", "LLAMA_BUILD_TOOLS": "ON",
    "LLAMA_USE_PREBUILT_UI": "OFF", "LLAMA_OPENSSL": "OFF",
}  # fmt: skip
LIBRARIES = ("src/libllama.a", "ggml/src/libggml.a", "ggml/src/libggml-cpu.a", "ggml/src/libggml-base.a")


def run(*command: object) -> None:
    subprocess.run([str(part) for part in command], check=True)


def fetch(directory: Path) -> Path:
    """The source tree of llama.cpp inside `directory`."""
    source = directory / "source"
    if not source.exists():
        run(sys.executable, "-m", "pip", "download", "--no-binary", ":all:", "--no-deps", "-d", directory, PACKAGE)
        archive = next(directory.glob("llama_cpp_python-*.tar.gz"))
        unpacked = directory / "unpacked"
        with tarfile.open(archive) as tar:
            tar.extractall(unpacked, filter="data")
        next(unpacked.glob("*/vendor/llama.cpp")).rename(source)
        shutil.rmtree(unpacked)
    return source


def build(directory: Path, jobs: int) -> Path:
    """Fetch, configure, compile; the directory of the programs."""
    directory.mkdir(parents=True, exist_ok=True)
    source, objects, programs = fetch(directory), directory / "build", directory / "bin"
    run("cmake", "-S", source, "-B", objects, *(f"-D{key}={value}" for key, value in OPTIONS.items()))
    run("cmake", "--build", objects, "-j", jobs, "--target", *TARGETS)
    programs.mkdir(exist_ok=True)
    for name in TARGETS:
        shutil.copy2(objects / "bin" / name, programs)
    includes = [f"-I{source / 'include'}", f"-I{source / 'ggml/include'}"]
    libraries = [objects / name for name in LIBRARIES]
    logits = Path(__file__).with_name("logits.cpp")
    run(os.environ.get("CXX", "c++"), "-std=c++17", "-O2", *includes, logits, "-o", programs / "llama-logits", *libraries,
        "-fopenmp", "-lpthread", "-ldl")  # fmt: skip
    return programs


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    args = parser.parse_args()
    for tool in ("cmake", os.environ.get("CXX", "c++")):
        if shutil.which(tool) is None:
            print(f"{tool} is not installed; it is needed to build llama.cpp", file=sys.stderr)
            return 1
    try:
        programs = build(args.directory.absolute(), args.jobs)
    except subprocess.CalledProcessError as error:
        print(f"failed: {' '.join(error.cmd)}", file=sys.stderr)
        return 1
    print(f"programs in {programs}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
