"""Shows that the wheels in dist, and the sdist, work where nothing is installed: `make wheel-check` runs this.

    python packaging/check_wheels.py [DIST] [--kernel-tests FILE ...] [--no-sdist]

Each wheel goes into an empty environment of each interpreter that it is for and that is here, with no compiler on PATH,
and answers with a3b-nano. Wheels and sdist compute the same bits on every instruction set of this machine.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from make_wheels import BUILD, PLATFORM, ROOT, candidates, environment, facts, run

VERSIONS = "3.11", "3.12", "3.13", "3.14"
WORK = BUILD.parent / "wheel-check"
PASSED_ON = "PIP_", "SSL_CERT_", "HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy"
NETWORK = {name: value for name, value in os.environ.items() if name.startswith(PASSED_ON)}  # how to reach an index
IDS = [(7 * i * i + 11) % 4001 for i in range(300)]  # any prompt, longer than one piece of work
INSTRUCTION_SETS = "from a3b.kernels import _native; print(*_native.isas())"
QUESTION = "What is recursion?"


def start(command: list[str | Path], path: str, **variables: str) -> str:
    """Runs in an environment with nothing but PATH and what names the index; returns stdout, ends on failure."""
    env = {**NETWORK, "PATH": path, "HOME": str(WORK / "home"), **variables}
    done = subprocess.run(
        [str(part) for part in command], text=True, capture_output=True, check=False, cwd=WORK, env=env
    )
    if done.returncode:
        sys.exit(f"{done.stdout}{done.stderr}wheel-check: {' '.join(map(str, command))[:200]} failed")
    return done.stdout


def size_mb(directory: Path) -> float:
    return sum(path.lstat().st_size for path in directory.rglob("*") if path.is_file()) / 1e6


class Installed:
    """An environment with one distribution, and what it does there."""

    def __init__(self, name: str, python: str, distribution: Path, compiler_path: str = ""):
        self.name, self.bin = name, WORK / name / "bin"
        self.path = f"{self.bin}:{compiler_path}" if compiler_path else str(self.bin)
        shutil.rmtree(WORK / name, ignore_errors=True)
        files = WORK / f"{name}-files"
        shutil.rmtree(files, ignore_errors=True)
        begin = time.monotonic()
        subprocess.run([python, "-m", "venv", WORK / name], check=True)
        if sources := [] if compiler_path else ["--no-index", f"--find-links={files}"]:
            wheels_only = "--quiet", "--only-binary=:all:", "-d", files
            start([self.bin / "pip", "download", *wheels_only, distribution], self.path)
        start([self.bin / "pip", "install", "--quiet", *sources, distribution], self.path)
        self.install_s = time.monotonic() - begin
        self.downloaded_mb, self.installed_mb = size_mb(files), size_mb(WORK / name)

    def answer(self) -> str:
        begin = time.monotonic()
        text = start([self.bin / "a3b", "run", "--temperature", "0", QUESTION], self.path)
        self.answer_s = time.monotonic() - begin
        return text.strip()

    def digests(self) -> dict[str, str]:
        """A hash of the logits of IDS, by instruction set."""
        ids, out = WORK / "ids.json", WORK / f"{self.name}.npy"
        ids.write_text(json.dumps(IDS), encoding="utf-8")
        found = {}
        for isa in start([self.bin / "python", "-c", INSTRUCTION_SETS], self.path).split():
            command = [self.bin / "a3b", "logits", "nano", "--ids", ids, "--out", out]
            start(command, self.path, A3B_ISA=isa)
            found[isa] = hashlib.sha256(out.read_bytes()).hexdigest()[:16]
        return found

    def test_kernels(self, files: list[str]) -> str:
        """The tests of the kernels, with this environment's module: pytest's last line."""
        tests = WORK / f"{self.name}-tests"  # a copy, so that no source lies beside it
        shutil.rmtree(tests, ignore_errors=True)
        shutil.copytree(ROOT / "tests", tests / "tests", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", tests)
        start([self.bin / "pip", "install", "--quiet", "pytest>=8"], self.path)
        command = [self.bin / "python", "-m", "pytest", "--rootdir", tests, *(tests / name for name in files)]
        return start(command, self.path).strip().splitlines()[-1]


def find_interpreters() -> dict[str, str]:
    """Interpreters with a GIL and venv that are here, by version."""
    found = {}
    for version in VERSIONS:
        paths = [path for path in candidates(version) if facts(path).startswith(f"cpython {version} with GIL")]
        has_venv = [subprocess.run([path, "-c", "import ensurepip"], stderr=subprocess.DEVNULL) for path in paths]
        usable = [path for path, done in zip(paths, has_venv, strict=True) if done.returncode == 0]
        found |= {version: usable[0]} if usable else {}
    return found


def wheels_of(dist: Path) -> dict[str, Path]:
    """The wheel for each version; ends if one is missing or there are two."""
    found = {}
    for version in VERSIONS:
        tag = "cp311-cp311" if version == "3.11" else "cp312-abi3"
        wheels = list(dist.glob(f"a3b-*-{tag}-{PLATFORM}.whl"))
        if len(wheels) != 1:
            sys.exit(f"wheel-check: expected one {tag} wheel in {dist}, found {len(wheels)}; make wheel makes it")
        found[version] = wheels[0]
    return found


def make_sdist(dist: Path) -> Path:
    tools = environment("sdist", sys.executable, "build")
    run(tools / "python", "-m", "build", "--sdist", "--outdir", dist, ROOT)
    return max(dist.glob("a3b-*.tar.gz"), key=lambda path: path.stat().st_mtime)


def check(installed: Installed, kernel_tests: list[str]) -> tuple[str, dict[str, str]]:
    """Answer and digests of an environment, after a line about them."""
    answer, digests = installed.answer(), installed.digests()
    print(
        f"{installed.name}: {installed.install_s:.1f} s to install, {installed.answer_s:.1f} s to the first answer,"
        f" {installed.downloaded_mb:.0f} MB of wheels, {installed.installed_mb:.0f} MB installed;"
        f" {', '.join(f'{isa} {digest}' for isa, digest in digests.items())}",
        flush=True,
    )
    if kernel_tests:
        print(f"{installed.name}: {installed.test_kernels(kernel_tests)}", flush=True)
    return answer, digests


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dist", nargs="?", type=Path, default=ROOT / "dist")
    parser.add_argument("--kernel-tests", nargs="*", default=[], metavar="FILE")
    parser.add_argument("--no-sdist", action="store_true")
    args = parser.parse_args()
    dist = args.dist.resolve()
    WORK.mkdir(parents=True, exist_ok=True)
    wheels, interpreters = wheels_of(dist), find_interpreters()
    print("not here, so not checked: " + (", ".join(sorted(set(VERSIONS) - set(interpreters))) or "none"), flush=True)
    results = {}
    for version, python in interpreters.items():
        name = f"wheel-{version}"
        results[name] = check(Installed(name, python, wheels[version]), args.kernel_tests)
    if not args.no_sdist:
        sdist = Installed("sdist", sys.executable, make_sdist(dist), os.environ["PATH"])
        results["sdist"] = check(sdist, [])
    if len({json.dumps(result, sort_keys=True) for result in results.values()}) > 1:
        sys.exit(f"wheel-check: builds differ: {json.dumps(results, indent=1)}")
    print(f"{len(results)} builds answer alike: {next(iter(results.values()))[0][:70]!r}")


if __name__ == "__main__":
    main()
