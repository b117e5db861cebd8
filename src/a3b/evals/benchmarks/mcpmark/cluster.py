"""A PostgreSQL of one try: a copy of a cluster that was made once, in a jail, reached by a socket in a directory.

Roles belong to a whole cluster, so that tries which create some cannot share one. Enter at `ClusterMaker`."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from a3b.errors import A3BError, UsageError
from a3b.evals.benchmarks.mcpmark.jail import Jail
from a3b.evals.benchmarks.mcpmark.kit import PostgresPrograms, Tell

SUPERUSER, PASSWORD, PORT = "postgres", "password", "5432"
START_SECONDS, SQL_SECONDS, RESTORE_SECONDS = 60, 60, 900
SOCKET_PATH = 107 - len("/.s.PGSQL.5432")  # what the kernel allows
CHUNK = 1 << 20
SETTINGS = """
listen_addresses = ''
max_connections = 50
shared_buffers = 64MB
dynamic_shared_memory_type = posix
fsync = off
synchronous_commit = off
full_page_writes = off
max_wal_size = 256MB
temp_file_limit = 1GB
timezone = 'UTC'
log_timezone = 'UTC'
"""


class ClusterFailed(A3BError):
    """PostgreSQL does not start, or refuses what makes the state of a task."""


@dataclass(frozen=True)
class Cluster:
    """One that runs. socket: the directory of its socket."""

    socket: Path
    _programs: PostgresPrograms
    _jail: Jail

    def variables(self, database: str) -> dict[str, str]:
        """What MCPMark's scripts read."""
        return {
            "POSTGRES_HOST": str(self.socket),
            "POSTGRES_PORT": PORT,
            "POSTGRES_USERNAME": SUPERUSER,
            "POSTGRES_PASSWORD": PASSWORD,
            "POSTGRES_DATABASE": database,
            "DATABASE_URL": self.uri(database),
        }

    def uri(self, database: str) -> str:
        """For clients of libpq."""
        return f"postgresql://{SUPERUSER}:{PASSWORD}@/{database}?host={self.socket}&port={PORT}"

    async def sql(self, text: str, database: str = "postgres") -> None:
        """Runs statements as the superuser. Raises ClusterFailed."""
        await self._psql(["-c", text], database, SQL_SECONDS, ())

    async def restore(self, dump: Path, database: str) -> str:
        """Fills a database from a dump in SQL or of pg_dump's own form. "", or what pg_restore could not do: MCPMark
        goes on then too. Raises ClusterFailed."""
        if dump.suffix == ".sql":
            await self._psql(["-f", str(dump)], database, RESTORE_SECONDS, (dump,))
            return ""
        words = [str(self._programs.bin / "pg_restore"), *self._where(database), "--no-owner", str(dump)]
        try:
            await self._run(words, RESTORE_SECONDS, (dump,))
        except ClusterFailed as error:
            if "errors ignored on restore" in str(error):
                return str(error)
            hint = "; --set postgres=DIR takes a newer PostgreSQL" if "unsupported version" in str(error) else ""
            raise ClusterFailed(f"{dump}: {error}{hint}") from None
        return ""

    async def _psql(self, words: list[str], database: str, seconds: float, readable: tuple[Path, ...]) -> None:
        program = [str(self._programs.bin / "psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1"]
        await self._run([*program, *self._where(database), *words], seconds, readable)

    def _where(self, database: str) -> list[str]:
        return ["-h", str(self.socket), "-p", PORT, "-U", SUPERUSER, "-d", database]

    async def _run(self, words: list[str], seconds: float, readable: tuple[Path, ...]) -> None:
        done = await self._jail.run(
            words, cwd=Path("/tmp"), seconds=seconds, readable=(self._programs.root, self.socket, *readable)
        )
        if done.status or done.why:
            raise ClusterFailed(f"{Path(words[0]).name}: {done.why or done.output.strip()[-500:]}")


class ClusterMaker:
    """kept: where clusters to copy are kept; directory: for new ones; making: held while one is made, by all makers of
    a run; tell: gets sentences for the user."""

    def __init__(
        self, programs: PostgresPrograms, kept: Path, jail: Jail, directory: Path, making: asyncio.Lock, tell: Tell
    ):
        self._programs, self._kept, self._jail, self._directory = programs, kept, jail, directory
        self._making, self._tell = making, tell

    @asynccontextmanager
    async def cluster(self, dumps: Mapping[str, Path], directory: Path) -> AsyncIterator[Cluster]:
        """A new cluster in `directory`, with a database for each dump, by name; it ends with the block. Raises
        ClusterFailed."""
        original = await self._original(dumps)
        data = directory / "data"
        await asyncio.to_thread(shutil.copytree, original, data, symlinks=True)
        async with self._running(data, directory) as cluster:
            yield cluster

    async def _original(self, dumps: Mapping[str, Path]) -> Path:
        async with self._making:
            digests = {name: await asyncio.to_thread(file_digest, dump) for name, dump in sorted(dumps.items())}
            key = sha256(repr((self._programs.name, SETTINGS, sorted(digests.items()))).encode()).hexdigest()[:16]
            found = self._kept / key / "data"
            if found.is_dir():
                return found
            what = f" with {', '.join(dumps)}" if dumps else ""
            self._tell(f"making a PostgreSQL cluster{what}, once")
            new = self._directory / f"new-{secrets.token_hex(4)}"
            new.mkdir(mode=0o700)
            await self._make(new, dumps)
            self._kept.mkdir(mode=0o700, parents=True, exist_ok=True)
            with suppress(OSError):  # another process may have been faster
                await asyncio.to_thread(move_directory, new, found.parent)
            return found

    async def _make(self, new: Path, dumps: Mapping[str, Path]) -> None:
        data = new / "data"
        data.mkdir(mode=0o700)
        words = [str(self._programs.bin / "initdb"), "-D", str(data), "-U", SUPERUSER]
        words += ["--encoding=UTF8", "--locale=C.UTF-8", "--auth=trust", "--no-sync", "--no-instructions"]
        done = await self._jail.run(
            words, cwd=data, seconds=START_SECONDS, readable=(self._programs.root,), writable=(data,)
        )
        if done.status or done.why:
            raise ClusterFailed(f"initdb: {done.why or done.output.strip()[-500:]}")
        with open(data / "postgresql.conf", "a", encoding="utf-8") as file:
            file.write(SETTINGS)
        async with self._running(data, new) as cluster:
            for name, dump in dumps.items():
                await cluster.sql(f'CREATE DATABASE "{name}"')
                if said := await cluster.restore(dump, name):
                    self._tell(f"{name}: {said}")
            await cluster.sql("CHECKPOINT")
        shutil.rmtree(new / "socket")

    @asynccontextmanager
    async def _running(self, data: Path, directory: Path) -> AsyncIterator[Cluster]:
        socket = directory / "socket"
        socket.mkdir(mode=0o700)
        if len(os.fsencode(socket)) > SOCKET_PATH:
            raise UsageError(f"{socket}: too long for a socket; set TMPDIR to a shorter directory, such as /tmp")
        words = [str(self._programs.bin / "postgres"), "-D", str(data), "-k", str(socket), "-p", PORT]
        process = await self._jail.start(
            words, cwd=data, readable=(self._programs.root,), writable=(data, socket), output=None
        )
        last: list[str] = []
        ready = asyncio.Event()
        reading = asyncio.create_task(_follow(process.stdout, last, ready))
        try:
            await _until_ready(ready, reading, last)
            yield Cluster(socket, self._programs, self._jail)
        finally:
            await process.stop()
            await asyncio.wait({reading})


async def _follow(stream: asyncio.StreamReader, last: list[str], ready: asyncio.Event) -> None:
    """Reads what the server logs, so that it never waits for us; the last lines are kept."""
    kept = b""
    while piece := await stream.read(CHUNK):
        kept = (kept + piece)[-4000:]
        last[:] = kept.decode("utf-8", "replace").splitlines()[-5:]
        if b"ready to accept connections" in kept:
            ready.set()


async def _until_ready(ready: asyncio.Event, reading: asyncio.Task[None], last: list[str]) -> None:
    waiting = asyncio.create_task(ready.wait())
    done, _ = await asyncio.wait({waiting, reading}, timeout=START_SECONDS, return_when=asyncio.FIRST_COMPLETED)
    if waiting not in done:
        waiting.cancel()
        how = "ended" if reading in done else f"was not ready within {START_SECONDS} s"
        raise ClusterFailed(f"PostgreSQL {how}: {' / '.join(last)[-500:]}")


def file_digest(path: Path) -> str:
    """SHA-256 of a file. Raises OSError."""
    digest = sha256()
    with open(path, "rb") as file:
        while piece := file.read(CHUNK):
            digest.update(piece)
    return digest.hexdigest()


def move_directory(source: Path, target: Path) -> None:
    """Moves a directory so that it appears whole under its name, across file systems too. Raises OSError if the name
    is taken."""
    near = target.parent / f".new-{secrets.token_hex(4)}"
    try:
        shutil.copytree(source, near, symlinks=True)
        near.rename(target)
    except BaseException:
        shutil.rmtree(near, ignore_errors=True)
        raise
    finally:
        shutil.rmtree(source, ignore_errors=True)
