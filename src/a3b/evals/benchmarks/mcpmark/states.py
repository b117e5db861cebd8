"""What a try begins from, made by the official scripts and data, and thrown away after it: a database in a PostgreSQL
of its own, or a copy of a directory. Enter at `open_workplace`."""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from a3b.errors import A3BError
from a3b.evals.benchmarks.mcpmark.cluster import ClusterMaker
from a3b.evals.benchmarks.mcpmark.jail import Jail, JailOutcome, open_jail
from a3b.evals.benchmarks.mcpmark.kit import BenchmarkKit, Tell, kit_directory
from a3b.evals.benchmarks.mcpmark.tasks import McpMarkTask

SCRIPT_SECONDS = 300  # of prepare_environment.py and verify.py, as MCPMark has it
CALL_MS = 60_000  # of an MCP call, likewise
PREFIX, LOCK = "a3b-mcpmark-", "lock"
MAX_SAME = 1_000  # tries of one task at once
DATABASES, DIRECTORIES = "postgres_state", "test_environments"  # of a clone: where MCPMark keeps its data
DUMPS = (".backup", ".sql")
OWN_SERVER = Path(__file__).with_name("postgres_server.py")


class StateFailed(A3BError):
    """The state of a task cannot be made: an error of the run, not a wrong answer."""


@dataclass(frozen=True)
class McpMarkState:
    """One try. workspace: the agent's directory; servers: entries of mcpServers; variables: of the verifier; places:
    what it may read."""

    workspace: Path
    servers: Mapping[str, Any]
    variables: Mapping[str, str]
    places: tuple[Path, ...]


def dump_of(clone: Path, task: McpMarkTask) -> Path | None:
    """The dump that a task's database begins as."""
    paths = (clone / DATABASES / f"{task.category}{suffix}" for suffix in DUMPS)
    return next((path for path in paths if path.is_file()), None)


def missing_state(clone: Path, task: McpMarkTask) -> str:
    """ "" if what a task begins from is here, else what has to be put where."""
    where = f"; MCPMark names {task.origin}" if task.origin else ""
    if task.service == "postgres":
        if task.preparation is not None or dump_of(clone, task) is not None:
            return ""
        return f"{clone / DATABASES / task.category}.backup or .sql is missing{where}"
    if (clone / DIRECTORIES / task.category).is_dir():
        return ""
    return f"the directory {clone / DIRECTORIES / task.category} is missing{where}"


class Workplace:
    """Where one try is made. servers: what `--set mcp` names, with ${DATABASE_URI}, ${DIRECTORY} and ${SOCKET} for what
    differs between tries; None for those of the kit."""

    def __init__(
        self,
        clone: Path,
        kit: BenchmarkKit,
        jail: Jail,
        clusters: ClusterMaker | None,
        directory: Path,
        servers: Mapping[str, Any] | None,
    ):
        self._clone, self._kit, self._jail, self._clusters = clone, kit, jail, clusters
        self._servers, self._directory = servers, directory
        self.agent_home = directory / "home"  # of the agent's session, which the try keeps to itself

    @asynccontextmanager
    async def state(self, task: McpMarkTask) -> AsyncIterator[McpMarkState]:
        """What a task begins from. Raises A3BError if it cannot be made."""
        directory = self._directory / "try"
        directory.mkdir(mode=0o700)
        is_database = task.service == "postgres"
        async with self._database(task, directory) if is_database else self._files(task, directory) as state:
            yield state

    @asynccontextmanager
    async def _files(self, task: McpMarkTask, directory: Path) -> AsyncIterator[McpMarkState]:
        workspace = directory / "files"
        source = self._clone / DIRECTORIES / task.category
        await asyncio.to_thread(shutil.copytree, source, workspace, symlinks=True)
        servers = self._servers
        if servers is None:
            assert self._kit.filesystem is not None, "the kit has no server of files"
            command, place = self._kit.filesystem
            servers = {
                "filesystem": {"command": command[0], "args": [*command[1:], "${DIRECTORY}"], "readable": [str(place)]}
            }
        values = {"DIRECTORY": str(workspace)}
        yield McpMarkState(workspace, filled(servers, values), {"FILESYSTEM_TEST_DIR": str(workspace)}, (workspace,))

    @asynccontextmanager
    async def _database(self, task: McpMarkTask, directory: Path) -> AsyncIterator[McpMarkState]:
        assert self._clusters is not None, "the kit has no PostgreSQL"
        dump = dump_of(self._clone, task)
        dumps = {task.category: dump} if dump is not None else {}
        name = f"mcpmark_{task.category}_{task.name}"[:63]
        workspace = directory / "empty"
        workspace.mkdir()
        async with self._clusters.cluster(dumps, directory) as cluster:
            template = f' TEMPLATE "{task.category}"' if dump is not None else ""
            await cluster.sql(f'CREATE DATABASE "{name}"{template}')
            variables, places = cluster.variables(name), (cluster.socket,)
            if dump is None and task.preparation is not None:
                await self._prepare(task, task.preparation, variables, places)
            servers = self._servers
            if servers is None:
                readable = [*map(str, self._kit.readable), "${SOCKET}", str(OWN_SERVER.parent)]
                words = ["-I", str(OWN_SERVER), "${DATABASE_URI}"]
                servers = {"postgres": {"command": str(self._kit.python), "args": words, "readable": readable}}
            values = {"DATABASE_URI": cluster.uri(name), "SOCKET": str(cluster.socket)}
            yield McpMarkState(workspace, filled(servers, values), variables, places)

    async def _prepare(
        self, task: McpMarkTask, script: Path, variables: Mapping[str, str], places: tuple[Path, ...]
    ) -> None:
        done = await self.run_script(task, [str(script)], variables, places)
        if done.status or done.why:
            raise StateFailed(f"{script}: {done.why or done.output.strip()[-800:]}")

    async def run_script(
        self, task: McpMarkTask, words: list[str], variables: Mapping[str, str], places: tuple[Path, ...]
    ) -> JailOutcome:
        """Runs one of MCPMark's scripts, which sees the task's category and `places`, and changes neither."""
        return await self._jail.run(
            [str(self._kit.python), "-B", *words],
            cwd=task.directory,
            seconds=SCRIPT_SECONDS,
            readable=(*self._kit.readable, task.directory.parent, *places),
            variables=variables,
        )


@asynccontextmanager
async def open_workplace(
    name: str,
    clone: Path,
    home: Path,
    kit: BenchmarkKit,
    making: asyncio.Lock,
    tell: Tell,
    servers: Mapping[str, Any] | None,
) -> AsyncIterator[Workplace]:
    """The place of one try, which `name` names. home: A3B_HOME; making: of the whole run, so that a cluster to copy is
    made once. All lies in the directory for temporary files, and goes with the block."""
    with temporary_directory(name) as directory:
        async with open_jail(directory) as jail:
            clusters = None
            if kit.postgres is not None:
                kept = kit_directory(home) / "clusters"
                clusters = ClusterMaker(kit.postgres, kept, jail, directory, making, tell)
            yield Workplace(clone, kit, jail, clusters, directory, servers)


def filled(servers: Mapping[str, Any], values: Mapping[str, str]) -> dict[str, Any]:
    """Entries of mcpServers with ${NAME} replaced in all texts, and the time that MCPMark gives a call."""

    def fill(value: Any) -> Any:
        if isinstance(value, str):
            for name, text in values.items():
                value = value.replace(f"${{{name}}}", text)
            return value
        if isinstance(value, Mapping):
            return {key: fill(item) for key, item in value.items()}
        return [fill(item) for item in value] if isinstance(value, list) else value

    return {name: {"timeout": CALL_MS, **fill(entry)} for name, entry in servers.items()}


@contextmanager
def temporary_directory(name: str) -> Iterator[Path]:
    """A directory of this process; the agent is told its path, so it is the same in each run unless another has it now.
    Those of processes that were killed are removed first."""
    parent = Path(tempfile.gettempdir()).resolve()
    for left in parent.glob(f"{PREFIX}*"):
        _remove_if_left(left)
    path, lock = _own_directory(parent, f"{PREFIX}{sha256(name.encode()).hexdigest()[:8]}")
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(lock)


def _own_directory(parent: Path, name: str) -> tuple[Path, int]:
    """A new directory, and its lock, which others see held from the beginning."""
    new = Path(tempfile.mkdtemp(prefix=".a3b-mcpmark-", dir=parent))
    lock = os.open(new / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    for number in range(1, MAX_SAME):
        path = parent / (name if number == 1 else f"{name}-{number}")
        try:
            new.rename(path)  # fails if something is there, since what is there has a lock in it
            return path, lock
        except OSError:
            continue
    raise StateFailed(f"{parent / name}: {MAX_SAME} of this name are there; remove those that nothing uses")


def _remove_if_left(path: Path) -> None:
    with suppress(OSError):
        if path.is_symlink() or path.stat().st_uid != os.geteuid():
            return
        lock = os.open(path / LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)
        finally:
            os.close(lock)
