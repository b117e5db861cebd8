"""The engines of a comparison: how each is called for one measurement, with which settings it may be tried, what it
answers.

Knows no schedule; `__main__` decides what runs when. Every measurement is a fresh process that loads the file itself,
on a machine that has come to rest. Enter at `llama_cpp`, `ik_llama`, `a3b`, `Engine.measure` and `rest`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROMPT, GENERATED = 512, 64  # tokens
HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
PREFILL, DECODE = "prefill", "decode"
# share of the processors that may still be busy; how long that is waited for
AT_REST, LONGEST_REST_S, WATCHED_S = 0.03, 300.0, 2.0
Rates = dict[str, list[float]]  # prefill, decode: tokens/s of every run


class EngineError(Exception):
    """An engine did not run, or did not say what it should."""


@dataclass(frozen=True)
class Setting:
    """One way to run an engine: its own options and environment variables."""

    name: str
    options: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Measurement:
    rates: Rates
    peak_rss_bytes: int


@dataclass(frozen=True)
class Engine:
    """`command(model, what, runs)` is the call without the options of a setting; `read` finds the rates in what it
    prints.

    `packed`: what it runs instead of the model's file, if it does."""

    name: str
    command: Callable[[Path, tuple[str, ...], int], list[str]]
    read: Callable[[str], Rates]
    settings: tuple[Setting, ...]
    packed: Path | None = None

    def measure(
        self, model: Path, setting: Setting, what: tuple[str, ...] = (PREFILL, DECODE), runs: int = 1
    ) -> Measurement:
        """Run once, for the rates in `what`. Raises EngineError with the last lines of its errors if anything is
        amiss."""
        command = [*self.command(model, what, runs), *setting.options]
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
            try:
                process = subprocess.Popen(
                    command, stdout=out, stderr=errors, env=os.environ | dict(setting.environment)
                )
            except OSError as error:
                raise EngineError(f"{self.name}: {command[0]}: {error.strerror}") from None
            try:
                _, status, usage = os.wait4(process.pid, 0)
            except BaseException:
                process.kill()
                raise
            process.returncode = os.waitstatus_to_exitcode(status)
            printed, complaint = (_text(file) for file in (out, errors))
        if process.returncode:
            last = " / ".join((complaint or printed).strip().splitlines()[-3:])
            raise EngineError(f"{self.name}, {setting.name}: exit status {process.returncode}: {last[-500:]}")
        try:
            rates = self.read(printed)
            rates = {key: rates[key] for key in what}
        except (ValueError, KeyError, TypeError) as error:
            raise EngineError(f"{self.name}, {setting.name}: cannot be read ({error!r}): {printed[:200]!r}") from None
        return Measurement(rates, usage.ru_maxrss * 1024)


def rest(files: list[Path], say: Callable[[str], None] = lambda _: None) -> None:
    """Give back the memory that holds `files`, or the files in them if they are directories, then wait until the
    processors have nothing to do.

    After an engine that filled the memory, the system tidies it for minutes, and the next engine would pay for
    that."""
    for path in files:
        for file in path.iterdir() if path.is_dir() else [path]:
            with file.open("rb") as opened:
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    start = time.monotonic()
    while (busy := _busy(WATCHED_S)) > AT_REST:
        if time.monotonic() - start > LONGEST_REST_S:
            say(f"the machine does not come to rest: {100 * busy:.0f} % of the processors are busy with something else")
            return


def _busy(seconds: float) -> float:
    """Share of all processors' time, during `seconds`, that was neither idle nor waiting for a disk."""
    before = _processor_times()
    time.sleep(seconds)
    spent = [now - then for now, then in zip(_processor_times(), before, strict=True)]
    return 1 - sum(spent[3:5]) / max(1, sum(spent))


def _processor_times() -> list[int]:
    """user, nice, system, idle, iowait, irq, softirq, steal."""
    return [int(ticks) for ticks in Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:9]]


def _text(file) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


def llama_cpp(program: Path, threads: list[int]) -> Engine:
    """llama.cpp: mapped or in huge pages, weights repacked at load or not, flash attention or not, for each number of
    threads."""
    ways = {
        "mmap, repack": ("mmap", "1", "on"),
        "mmap": ("mmap", "0", "on"),
        "huge pages, repack": ("none", "1", "on"),
        "huge pages": ("none", "0", "on"),
        "huge pages, no FA": ("none", "0", "off"),
    }
    settings = []
    for number in threads:
        for name, (load, repack, flash) in ways.items():
            options = ("-lm", load, "--repack", repack, "-fa", flash, "-t", str(number))
            settings.append(Setting(f"{name}, -t {number}", options, _pages(load == "none")))
    return Engine("llama.cpp", _llama_bench(program), read_llama_bench, tuple(settings))


def ik_llama(program: Path, threads: list[int]) -> Engine:
    """ik_llama.cpp, fused experts and flash attention always on: mapped, in huge pages, repacked at load, up and gate
    merged too."""
    ways = {
        "mmap": ("1",),
        "huge pages": ("0",),
        "huge pages, repack": ("0", "-rtr", "1"),
        "huge pages, repack, merged": ("0", "-rtr", "1", "-muge", "1"),
    }
    settings = []
    for number in threads:
        for name, (mapped, *more) in ways.items():
            options = ("-mmp", mapped, *more, "-fmoe", "1", "-fa", "1", "-t", str(number))
            settings.append(Setting(f"{name}, -t {number}", options, _pages(mapped == "0")))
    return Engine("ik_llama.cpp", _llama_bench(program), read_llama_bench, tuple(settings))


def a3b(program: str, packed: Path) -> Engine:
    """This project on the packed form of the file, with settings it chooses itself: `a3b bench speed --model DIR
    --json`.

    It always measures both kinds, after its weights have moved to where they stay."""

    def command(model: Path, what: tuple[str, ...], runs: int) -> list[str]:
        sizes = ["--prefill", str(PROMPT), "--depths", "0", "--tokens", str(GENERATED), "--runs", str(runs)]
        return [program, "bench", "speed", "--model", str(packed), *sizes, "--json"]

    return Engine("a3b", command, read_a3b, (Setting("its own"),), packed)


def a3b_program() -> str:
    """The command of this environment, or the one on the path."""
    return shutil.which("a3b", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}") or "a3b"


def pack(program: str, model: Path, packed: Path | None) -> Path:
    """The packed form of a GGUF file, every stored integer kept: made next to it, or at `packed`, if it is not there
    yet.

    Raises EngineError if it cannot be made."""
    packed = packed or model.with_name(model.stem + "-packed")
    if not packed.exists():
        try:
            subprocess.run([program, "pack", str(model), str(packed)], check=True, stdout=sys.stderr)
        except (OSError, subprocess.CalledProcessError) as error:
            raise EngineError(f"a3b: packing {model} failed: {error}") from None
    return packed


def _pages(huge: bool) -> tuple[tuple[str, str], ...]:
    return tuple(HUGE_PAGES.items()) if huge else ()


def _llama_bench(program: Path) -> Callable[[Path, tuple[str, ...], int], list[str]]:
    def command(model: Path, what: tuple[str, ...], runs: int) -> list[str]:
        prompt, generated = (PROMPT if PREFILL in what else 0), (GENERATED if DECODE in what else 0)
        return [str(program), "-m", str(model), "-p", str(prompt), "-n", str(generated), "-r", str(runs), "-o", "json"]

    return command


def read_llama_bench(printed: str) -> Rates:
    """The JSON of llama-bench, after whatever precedes it."""
    start = 0 if printed.startswith("[") else printed.index("\n[") + 1
    rates: Rates = {}
    for test in json.loads(printed[start:]):
        rates[PREFILL if test["n_prompt"] else DECODE] = [float(rate) for rate in test["samples_ts"]]
    return rates


def read_a3b(printed: str) -> Rates:
    """The JSON of `a3b bench speed`: every run, by the length of the prompt and by the depth."""
    result: dict[str, Any] = json.loads(printed)
    return {
        PREFILL: list(map(float, result["prefill"][str(PROMPT)]["runs"])),
        DECODE: list(map(float, result["decode"]["0"]["runs"])),
    }
