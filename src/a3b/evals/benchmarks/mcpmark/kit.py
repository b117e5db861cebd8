"""What the benchmark needs besides a3b, in environments of its own below A3B_HOME: psycopg2 and NumPy for MCPMark's
scripts, a PostgreSQL, MCP servers. Nothing of it touches a3b's environment. Enter at `install`."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from a3b.errors import A3BError, UsageError
from a3b.files import private_directory
from a3b.settings import process_environment

Tell = Callable[[str], None]
PYTHON_PACKAGES = ("psycopg2-binary==2.9.13", "numpy==2.4.6", "mcp==2.3.0")
# PostgreSQL 16.2 with pgvector 0.6.2; only its programs are used, so its wheel for one Python serves all
PGSERVER = "pgserver==0.1.4"
PGSERVER_SHA256 = "1a5d07c61d51f2abfef4ef61e2ef5cd014b994f7e09de8d3c140d2cf370e84a8"
PGSERVER_WHEEL = ("--python-version", "3.12", "--platform", "manylinux2014_x86_64", "--only-binary", ":all:")
PGSERVER_BIN = Path("pgserver/pginstall/bin")
FILESYSTEM_SERVER = "@modelcontextprotocol/server-filesystem"
FILESYSTEM_VERSION = "2026.8.31"
DONE = "complete"
INSTALL_S = 1_800
POSTGRES_PROGRAMS = ("initdb", "postgres", "psql", "pg_restore")


class InstallFailed(A3BError):
    """A package of the benchmark cannot be installed; the text has the installer's last words."""


@dataclass(frozen=True)
class PostgresPrograms:
    """bin: the directory of initdb and postgres; root: what they need to run; name: tells versions apart."""

    bin: Path
    root: Path
    name: str


@dataclass(frozen=True)
class BenchmarkKit:
    """python: an interpreter with MCPMark's packages; readable: directories that it needs; postgres: None where no task
    of PostgreSQL runs; filesystem: command of the filesystem's MCP server, and the directory it is in."""

    python: Path
    readable: tuple[Path, ...]
    postgres: PostgresPrograms | None = None
    filesystem: tuple[tuple[str, ...], Path] | None = None


def kit_directory(home: Path) -> Path:
    """Where everything of the benchmark is kept. home: A3B_HOME."""
    return home / "evals" / "mcpmark"


def install(
    home: Path, services: Collection[str], tell: Tell, postgres: Path | None = None, has_servers: bool = False
) -> BenchmarkKit:
    """What tasks of some services need; installed if it is not there yet, which takes a minute. home: A3B_HOME;
    postgres: bin of a PostgreSQL to use instead of the wheel's; has_servers: whether the user brings MCP servers.

    Raises InstallFailed, UsageError for what has to be there before."""
    root = kit_directory(home)
    private_directory(root)
    with _locked(root):
        environment = _environment(root, tell)
        python = environment / "bin" / "python"
        programs, server = None, None
        if "postgres" in services:
            programs = _given_postgres(postgres) if postgres is not None else _wheel(root, python, tell)
        if "filesystem" in services and not has_servers:
            server = _filesystem_server(root, tell)
    readable = (environment, Path(os.path.realpath(sys.base_prefix)))
    return BenchmarkKit(python, readable, programs, server)


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    """One process installs at a time; others wait for it."""
    with open(root / "lock", "a", encoding="ascii") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _place(root: Path, kind: str, *parts: str) -> Path:
    return root / f"{kind}-{sha256(repr(parts).encode()).hexdigest()[:12]}"


@contextmanager
def _installing(place: Path, what: str, tell: Tell) -> Iterator[None]:
    """An empty directory to install into; it counts once the block has ended well."""
    tell(f"installing {what} for MCPMark into {place}, once")
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(mode=0o700)
    yield
    (place / DONE).touch()


def _environment(root: Path, tell: Tell) -> Path:
    place = _place(root, "python", sys.version, *PYTHON_PACKAGES)
    if not (place / DONE).exists():
        with _installing(place, ", ".join(PYTHON_PACKAGES), tell):
            _run([sys.executable, "-m", "venv", str(place)], "python -m venv", "install Python's venv module")
            _pip(place / "bin" / "python", PYTHON_PACKAGES)
    return place


def _wheel(root: Path, python: Path, tell: Tell) -> PostgresPrograms:
    if os.uname().machine != "x86_64":
        raise UsageError(
            f"{PGSERVER} has no PostgreSQL for {os.uname().machine}: install PostgreSQL with pgvector, and say "
            "--set postgres=DIR with the directory of its initdb"
        )
    place = _place(root, "postgres", PGSERVER, PGSERVER_SHA256)
    if not (place / DONE).exists():
        with _installing(place, f"PostgreSQL 16 of {PGSERVER}", tell):
            wanted = place / "requirements.txt"
            wanted.write_text(f"{PGSERVER} --hash=sha256:{PGSERVER_SHA256}\n", encoding="ascii")
            target = ["--target", str(place / "wheel"), "--no-deps", "--require-hashes"]
            _pip(python, [*target, *PGSERVER_WHEEL, "-r", str(wanted)])
    return PostgresPrograms(place / "wheel" / PGSERVER_BIN, place / "wheel", place.name)


def _given_postgres(directory: Path) -> PostgresPrograms:
    found = Path(os.path.realpath(directory))
    for name in POSTGRES_PROGRAMS:
        if not os.access(found / name, os.X_OK):
            raise UsageError(f"--set postgres={directory}: there is no {name}; expected PostgreSQL's bin directory")
    done = subprocess.run([found / "postgres", "--version"], capture_output=True, text=True, timeout=30, check=False)
    return PostgresPrograms(found, found.parent, f"{found}: {done.stdout.strip()}")


def _filesystem_server(root: Path, tell: Tell) -> tuple[tuple[str, ...], Path]:
    path = process_environment().get("PATH", os.defpath)
    node, npm = shutil.which("node", path=path), shutil.which("npm", path=path)
    if node is None or npm is None:
        raise UsageError(
            f"tasks of the filesystem use {FILESYSTEM_SERVER}, which needs Node.js 18 or later with npm; install it, "
            "or name another server with --set mcp=FILE"
        )
    place = _place(root, "node", FILESYSTEM_SERVER, FILESYSTEM_VERSION)
    if not (place / DONE).exists():
        package = f"{FILESYSTEM_SERVER}@{FILESYSTEM_VERSION}"
        with _installing(place, package, tell):
            flags = ["--ignore-scripts", "--no-audit", "--no-fund"]
            _run([npm, "install", "--prefix", str(place), *flags, package], "npm install", "look at npm's settings")
    script = place / "node_modules" / FILESYSTEM_SERVER / "dist" / "index.js"
    return (node, str(script)), place


def _pip(python: Path, words: Sequence[str]) -> None:
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input", *words]
    _run(command, "pip install", "look at the network, and at pip's settings")


def _run(command: Sequence[str], name: str, hint: str) -> None:
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=INSTALL_S,
            check=False,
            stdin=subprocess.DEVNULL,
            env=process_environment(),
        )
    except subprocess.TimeoutExpired:
        raise InstallFailed(f"{name} did not end within {INSTALL_S} s; {hint}") from None
    except OSError as error:
        raise InstallFailed(f"{name}: {error.strerror or error}; {hint}") from None
    if done.returncode:
        raise InstallFailed(f"{name} failed: {(done.stderr or done.stdout).strip()[-800:]}; {hint}")
