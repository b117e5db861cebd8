"""The image of an instance: its checkout with the project installed, and a virtual environment of its own.

As with an image of Docker, each try begins with a fresh copy. All tries of an instance work in the same directory,
since the installation names it; they take turns. Enter at `Images.opened`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from a3b.evals.benchmarks.swebench.box import open_box
from a3b.evals.benchmarks.swebench.checkout import Clone, git
from a3b.evals.benchmarks.swebench.environments import (
    FORM,
    READY,
    Environments,
    PythonEnvironment,
    copy_environment,
    read_record,
    registry_hosts,
    run_step,
    write_record,
)
from a3b.evals.benchmarks.swebench.instances import SweInstance
from a3b.evals.benchmarks.swebench.official import OfficialTable, SweSpec
from a3b.evals.benchmarks.swebench.places import SweEnvironmentError, SwePlaces, holding, remove_tree
from a3b.evals.benchmarks.swebench.programs import run_program

# changes of the installation are no changes of the solver: they are committed, as in the official images
COMMIT = (
    "git config user.name SWE-bench && git config user.email setup@swebench.config && "
    'if [ -n "$(git status --porcelain --untracked-files=no)" ]; then git commit --quiet --all --message SWE-bench; fi'
)
COPY_S = 600


@dataclass(frozen=True)
class SweImage:
    """directory: with `image` and `venv`, and `testbed` while something is tried; head: the commit that a solver
    begins with; environment: that the project was installed into; seconds: that it took to install."""

    instance: SweInstance
    spec: SweSpec
    directory: Path
    head: str
    environment: PythonEnvironment
    seconds: float

    @property
    def testbed(self) -> Path:
        return self.directory / "testbed"

    @property
    def venv(self) -> Path:
        return self.directory / "venv"

    @property
    def patches(self) -> Path:
        """Where patches lie while they are applied."""
        return self.directory / "patches"

    async def begin_anew(self) -> None:
        """Makes the testbed as it was after the installation. Raises SweEnvironmentError."""
        await asyncio.to_thread(self._copy)

    def _copy(self) -> None:
        remove_tree(self.testbed)
        command = ["cp", "-a", "--reflink=auto", str(self.directory / "image"), str(self.testbed)]
        done = run_program(command, COPY_S)
        if done.returncode:
            raise SweEnvironmentError(f"{self.testbed} cannot be made: {done.stderr[-500:]}")


class Images:
    """The images in a work directory. keep: whether they stay after use."""

    def __init__(self, places: SwePlaces, home: Path, table: OfficialTable, environments: Environments, keep: bool):
        self._places, self._home, self._table = places, home, table
        self._environments, self._keep = environments, keep

    @asynccontextmanager
    async def opened(self, instance: SweInstance) -> AsyncIterator[SweImage]:
        """The image of an instance, for one at a time. Raises SweEnvironmentError if it cannot be made."""
        directory = self._places.instances / instance.id
        async with holding(directory.with_name(directory.name + ".lock")):
            image = await self._image(instance, directory)
            try:
                yield image
            finally:
                await asyncio.to_thread(remove_tree, image.testbed if self._keep else directory)

    async def _image(self, instance: SweInstance, directory: Path) -> SweImage:
        spec = await asyncio.to_thread(self._table.spec, instance)
        if spec.needs_conda:
            raise SweEnvironmentError(
                f"{instance.repo} {instance.version} is installed from an environment.yml by conda, which is not "
                "supported here; the official harness judges patches for it, where Docker is: --set verdict=official "
                "--set predictions=FILE"
            )
        clone = await asyncio.to_thread(Clone.of, instance.repo, self._places)
        environment = await self._environments.of(instance, spec, clone)
        plan = [FORM, instance.commit, str(environment.directory), list(spec.pre_install), spec.install]
        record = read_record(directory / READY)
        if record is not None and record.get("plan") == plan and (directory / "venv/bin/python").exists():
            return SweImage(instance, spec, directory, str(record["head"]), environment, float(str(record["seconds"])))
        began = time.monotonic()
        await asyncio.to_thread(remove_tree, directory)
        await asyncio.to_thread(clone.check_out, instance.commit, directory / "testbed")
        await asyncio.to_thread(copy_environment, environment.venv, directory / "venv")
        await self._install(spec, directory, environment)
        head = await asyncio.to_thread(git, ["rev-parse", "HEAD"], directory / "testbed")
        (directory / "testbed").rename(directory / "image")
        (directory / "patches").mkdir()
        image = SweImage(instance, spec, directory, head.strip(), environment, time.monotonic() - began)
        write_record(directory / READY, {"plan": plan, "head": image.head, "seconds": image.seconds})
        return image

    async def _install(self, spec: SweSpec, directory: Path, environment: PythonEnvironment) -> None:
        testbed, venv = directory / "testbed", directory / "venv"
        given = [*spec.pre_install, *([spec.install] if spec.install else [])]
        path = f"export PATH={quote(str(venv / 'bin'))}:$PATH VIRTUAL_ENV={quote(str(venv))}"
        lines = [f"{path} PIP_NO_INPUT=1 PIP_PROGRESS_BAR=off; set -euxo pipefail", *given, COMMIT]
        command = ["bash", "--noprofile", "--norc", "-c", "\n".join(lines)]
        async with open_box(
            directory, self._home, readable=[environment.prefix], hosts=registry_hosts() if given else []
        ) as box:
            await run_step(box, command, directory / "install.log", testbed, shown="; ".join(given))
