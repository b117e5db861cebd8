"""Reads what a command printed: the figure of a line of the receipt, and whether it holds what is claimed."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Callable
from typing import Any, NamedTuple

from a3b.evals.intervals import wilson

PASSED = re.compile(r"^(?:=+ )?((?:\d+ \w+(?:, )?)+) in [\d.]+s", re.MULTILINE)


class Finding(NamedTuple):
    """figure: what came out, in words; holds: whether that is what is claimed."""

    figure: str
    holds: bool


Judge = Callable[[str], Finding]  # of stdout; raises ValueError or LookupError if that is not what was expected


def outcome(printed: str) -> Any:
    """The last JSON value of what was printed."""
    start = min((at for at in (printed.find("\n{"), printed.find("\n[")) if at >= 0), default=-1)
    return json.loads(printed if printed[:1] in ("{", "[") else printed[start + 1 :])


def tests_pass(printed: str) -> Finding:
    """pytest's last line. Skipped tests are named, not hidden."""
    found = PASSED.findall(printed)
    if not found:
        raise ValueError("pytest printed no summary")
    return Finding(found[-1], "passed" in found[-1] and "failed" not in found[-1] and "error" not in found[-1])


def largest_difference(bound: float) -> Judge:
    """Of tests that print 'difference 1.2e-05 std'."""

    def judge(printed: str) -> Finding:
        values = [float(text) for text in re.findall(r"difference ([\d.e+-]+) std", printed)]
        if not values:
            raise ValueError("no differences were printed")
        counted = tests_pass(printed)
        return Finding(
            f"{max(values):.1e} std at most of {len(values)} comparisons", counted.holds and max(values) <= bound
        )

    return judge


def divergence(bound: float) -> Judge:
    """Of `a3b eval quality --json`: mean KL of what the assistant writes; that of all positions stands beside it."""

    def judge(printed: str) -> Finding:
        facts = outcome(printed)
        kl, own = facts["mean_kl_all"], facts["mean_kl"]
        figure = (
            f"{own:.4f} nats over {facts['tokens']:,} tokens; {kl:.4f} over all {facts['tokens_all']:,}, with prompts"
        )
        return Finding(figure, own <= bound)

    return judge


def family(name: str, claimed: float, cases: int) -> Judge:
    """Of `nano.evaluate --json`: what is claimed is within the interval of what was found, or below it."""

    def judge(printed: str) -> Finding:
        row = outcome(printed)[name]
        figure = f"{row['right']:.1%} of {cases}"
        if "without_thinking" in row:
            figure += f"; without earlier thinking {row['without_thinking']:.1%}"
        return Finding(
            figure.replace("%", " %"), reaches(row["right"] * cases, cases, claimed) and row["legal"] >= 0.98
        )

    return judge


def repaired(claimed: float, cases: int) -> Judge:
    """Of `nano.fix_agent --rows all --json`."""

    def judge(printed: str) -> Finding:
        row = outcome(printed)["all"]
        ok = round(row["repaired"] * cases)
        return Finding(f"{ok} of {cases}; {row['recomputed']:,} tokens recomputed", reaches(ok, cases, claimed))

    return judge


def reaches(successes: float, cases: int, claimed: float) -> bool:
    """Whether so many successes agree with a claimed share, or are more."""
    return wilson(round(successes), cases)[1] >= claimed


TURNS_COMPUTED = 3105


def turns(computed: int) -> Judge:
    """Of `bench.turns --json` with 20 turns: tokens computed in all of them, the one after kill -9 among them."""

    def judge(printed: str) -> Finding:
        rows = [row for row in outcome(printed)["a3b"] if re.match(r"turn \d+(,|$)", row["what"])]
        warm = [row for row in rows if "cold" not in row["what"]]
        restarted = next(row for row in warm if "restart" in row["what"])
        total, all_of_them = sum(r["computed"] for r in warm), sum(r["prompt_tokens"] for r in warm)
        after = f"after kill -9 {restarted['computed']:,} of {restarted['prompt_tokens']:,}"
        figure = f"{total:,} computed of {all_of_them:,} tokens of {len(warm)} prompts; {after}"
        return Finding(figure, total <= computed * 1.1 and restarted["computed"] < restarted["prompt_tokens"] / 4)

    return judge


def agent_turns(printed: str) -> Finding:
    """Of `bench.agent_turns --json`."""
    facts = outcome(printed)
    again = sum(row["recomputed"] for row in facts["turns"] + facts["forks"])
    first, computed = facts["turns"][0]["prompt"], sum(row["computed"] for row in facts["turns"])
    prompts = sum(row["prompt"] for row in facts["turns"])
    figure = (
        f"{computed:,} computed of {prompts:,} in {len(facts['turns'])} turns, first prompt {first:,}; {again} again"
    )
    return Finding(figure, again == 0)


def kills(printed: str) -> Finding:
    """Of `bench.agent_crashes`: its last lines. How much may be computed again is in its exit status."""
    last = [line for line in printed.splitlines() if line.strip()][-2:]
    return Finding(" ".join(last), "No command ran twice" in last[-1])


def clients(printed: str) -> Finding:
    """Of `bench.clients --json`."""
    rows = outcome(printed)["clients"]
    tried = [row for row in rows if row["works"] is not None]
    good = [row for row in tried if not row["failed"]]
    missing = [row["name"] for row in rows if row["works"] is None]
    figure = f"{len(good)} of {len(tried)} rows good" + (f"; not installed: {', '.join(missing)}" if missing else "")
    return Finding(figure, bool(tried) and len(good) == len(tried))


def instructions(most: int) -> Judge:
    """Of `bench.prompt_size`."""

    def judge(printed: str) -> Finding:
        found = re.search(r"^\| all \| ([\d,]+) \|", printed, re.MULTILINE)
        if not found:
            raise ValueError("no row 'all'")
        return Finding(f"{found[1]} tokens", int(found[1].replace(",", "")) <= most)

    return judge


def speed(of_peak: float, of_memory: float) -> Judge:
    """Of `a3b bench speed --json`: by the shares of what the machine gave beside each measurement, since machines
    differ by more than programs do."""

    def judge(printed: str) -> Finding:
        facts = outcome(printed)
        peak, memory = facts["vnni_peak_fraction"], facts["read_bandwidth_fraction"]
        figure = (
            f"prefill {facts['prefill_tokens_per_s']:.1f}, decode {facts['decode_tokens_per_s']:.1f} tokens/s: "
            f"{100 * peak:.0f} % of the int8 peak, {100 * memory:.0f} % of the memory's rate"
        )
        return Finding(figure, peak >= of_peak and memory >= of_memory)

    return judge


def nano_speed(prefill: float, decode: float) -> Judge:
    """Of `bench.nano_speed --json`. No bound below a third: other work on the machine halves these."""

    def judge(printed: str) -> Finding:
        facts = outcome(printed)
        found = facts["prefill_512_tok_s"], facts["decode_at_1_tok_s"]
        figure = f"prefill {found[0]:,}, decode {found[1]:,} tokens/s"
        return Finding(figure, found[0] >= prefill / 3 and found[1] >= decode / 3)

    return judge


def restored(seconds: float) -> Judge:
    """Of `bench.restore --json`. The command compares every byte itself."""

    def judge(printed: str) -> Finding:
        facts = outcome(printed)
        found = facts["restore_s"]
        return Finding(f"{facts['tokens']:,} tokens in {found:.1f} s, every byte compared", found <= 3 * seconds)

    return judge


def ratios(least: dict[str, float]) -> Judge:
    """Of `bench.peers --json`: a3b to each peer, in prefill and decode, at least `least` of those it names."""

    def judge(printed: str) -> Finding:
        facts = outcome(printed)["ratios"]
        said = {name: ", ".join(f"{kind} {x:.2f}×" for kind, x in kinds.items()) for name, kinds in facts.items()}
        holds = all(len(facts[name]) == 2 and min(facts[name].values()) >= bound for name, bound in least.items())
        return Finding("; ".join(f"{name}: {text}" for name, text in said.items()), holds)

    return judge


def read_sooner(later: float, restarted: float) -> Judge:
    """Of `bench.turns --json` with llama.cpp's server: how many times as long that takes to read a prompt, of the
    later turns by the median, and of the one after kill -9 from the start of the server on: one loads its weights
    before it is ready, the other while it reads."""

    def judge(printed: str) -> Finding:
        facts = outcome(printed)

        def read(engine: str) -> tuple[float, float]:
            rows = {row["what"]: row["start_s"] + row["read_s"] for row in facts[engine]}
            usual = [s for what, s in rows.items() if re.fullmatch(r"turn \d+", what) and what != "turn 1"]
            return statistics.median(usual), next(s for what, s in rows.items() if "restart" in what)

        ours, theirs = read("a3b"), read("llama.cpp")
        counted = turns(TURNS_COMPUTED)(printed)
        figure = (
            f"a later turn in {ours[0]:.1f} s, llama.cpp {theirs[0]:.1f}; from kill -9 on {ours[1]:.1f} and "
            f"{theirs[1]:.1f} s; {counted.figure}"
        )
        sooner = theirs[0] >= later * ours[0] and theirs[1] >= restarted * ours[1]
        return Finding(figure, counted.holds and sooner)

    return judge


def first_prompt(tokens: int, share: float) -> Judge:
    """Of `bench.clients.launched --only claude --json`: tokens of the first prompt in the vocabulary of Qwen3.6, within
    a tenth; the share of it that comes from the store; nothing computed twice."""

    def judge(printed: str) -> Finding:
        (row,) = outcome(printed)["launched"]
        stored = row["cached"] / row["cold"]
        figure = (
            f"{row['name']} {row['version']}: {row['qwen']:,} tokens, {100 * stored:.0f} % from the store, "
            f"{row['again']} computed again in the second turn"
        )
        return Finding(figure, abs(row["qwen"] - tokens) <= 0.1 * tokens and stored >= share and not row["again"])

    return judge


SOURCES = {"lies": "text", "mtp": "module"}  # of drafts, by part


def wrong_drafts(bound: float) -> Judge:
    """Of `bench.drafts --only lies,mtp --json`: what drafts cost that are all wrong, by the steps' measured seconds."""

    def judge(printed: str) -> Finding:
        found = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
        shares = [
            (f"{one['model']}, {SOURCES[one['part']]}, {one['batch']} at a time", one["extra_by_steps"][0])
            for one in found
        ]
        figure = "; ".join(f"{name}: {100 * share:.1f} %" for name, share in shares)
        has_lied = all(one["drafted"] for one in found)
        return Finding(figure, has_lied and max(share for _, share in shares) <= bound)

    return judge


def sparse(least: float) -> Judge:
    """Of `a3b bench sparsity --json`: decode of 35b-a3b beside 31b-dense."""

    def judge(printed: str) -> Finding:
        found = outcome(printed)["decode_to_large"]
        return Finding(f"{found:.1f} times 31b-dense", found >= least)

    return judge


def policies(printed: str) -> Finding:
    """Of `a3b eval thinking secret lookup revise --json`: what earlier thinking gains altogether, in points."""
    found = {}
    for name, result in outcome(printed).items():
        solved = next(effect["solved"] for effect in result["effects"] if effect["name"] == "altogether")
        found[name] = solved["mean"], solved["low"], solved["high"]
    parts = [
        f"{name} {mean * 100:+.1f} ({low * 100:+.1f} – {high * 100:+.1f})" for name, (mean, low, high) in found.items()
    ]
    holds = found["secret"][1] > 0.5 and found["revise"][1] <= 0 <= found["revise"][2]
    return Finding("points by earlier thinking: " + ", ".join(parts), holds)


def last_line(printed: str) -> Finding:
    """Of a command whose exit status says it all."""
    return Finding([line for line in printed.splitlines() if line.strip()][-1][:200], True)
