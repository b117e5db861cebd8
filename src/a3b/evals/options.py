"""What a run is asked for: the endpoint, how many cases, seeds, policy. Enter at `EvalOptions`, `case_seed`."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from a3b.errors import UsageError

MOST_CASES, MOST_EPOCHS, MOST_SEED = 100_000, 1_000, 1 << 62
SAMPLING = ("temperature", "top_p", "max_tokens")
POLICIES = "all, current-task, none or budget:TOKENS"


@dataclass(frozen=True)
class EvalOptions:
    """What `Benchmark.make_task` needs.

    base_url: of an OpenAI-compatible server, without /v1; model: the name that it serves; home: A3B_HOME;
    limit: the first N cases, None is all; epochs: how often each case is tried; seed: of the run, from which each case
    and epoch gets its own (`case_seed`); policy: which earlier thinking the server keeps (`thinking_policy` of a3b's
    server), None leaves it to the server; parallel: cases at once; data: a file or directory of the user's; sampling:
    fields of each request that the user set, over the benchmark's own; extra: options of the benchmark by name, as
    texts; streams: whether the server is asked for streams, or for whole answers.
    """

    base_url: str
    model: str
    home: Path
    api_key: str = ""
    limit: int | None = None
    epochs: int = 1
    seed: int = 0
    policy: str | None = None
    parallel: int = 1
    data: Path | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)
    extra: Mapping[str, str] = field(default_factory=dict)
    streams: bool = True

    def number(self, name: str, default: int, least: int = 1, most: int = 1 << 31) -> int:
        """One of the benchmark's own options, as a whole number. Raises UsageError."""
        return whole_number(self.extra, name, default, least, most)

    def fields(self) -> dict[str, Any]:
        """What a request says besides messages and sampling, in the words of a3b's server."""
        return {} if self.policy is None else {"thinking_policy": self.policy}


def whole_number(extra: Mapping[str, str], name: str, default: int, least: int = 1, most: int = 1 << 31) -> int:
    """An option of a benchmark, as a whole number. Raises UsageError."""
    text = extra.get(name)
    if text is None:
        return default
    if not (re.fullmatch(r"\d{1,10}", text) and least <= int(text) <= most):
        raise UsageError(f"--set {name}={text[:40]!r}: expected a whole number from {least:,} to {most:,}")
    return int(text)


def checked_options(asked: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a run as they are kept in its config: limit, epochs, seed, policy, data, sampling, extra, streams.

    Raises UsageError for values that no run can have."""
    found = {name: asked.get(name) for name in ("limit", "epochs", "seed", "policy", "data", "sampling", "extra")}
    found["streams"] = asked.get("streams", True)  # older runs do not say it
    if type(found["streams"]) is not bool:
        raise UsageError(f"streams: {str(found['streams'])[:40]!r} is neither true nor false")
    for name, least, most in (("limit", 1, MOST_CASES), ("epochs", 1, MOST_EPOCHS), ("seed", -MOST_SEED, MOST_SEED)):
        value = found[name]
        if not (name == "limit" and value is None) and (type(value) is not int or not least <= value <= most):
            raise UsageError(f"{name}: {str(value)[:40]!r} is not a whole number from {least:,} to {most:,}")
    for name in ("policy", "data"):
        if not isinstance(found[name], str | None):
            raise UsageError(f"{name}: {str(found[name])[:40]!r} is no text")
    checked_policy(found["policy"])
    for name, kinds in (("sampling", (int, float)), ("extra", (str,))):
        value = found[name]
        if not isinstance(value, dict) or not all(type(v) in kinds for v in value.values()):
            raise UsageError(f"{name}: {str(value)[:40]!r} is no object of {kinds[-1].__name__}")
        if name == "sampling" and (unknown := value.keys() - set(SAMPLING)):
            raise UsageError(f"sampling: {min(unknown)[:40]!r} is none of {', '.join(SAMPLING)}")
    return found


def case_seed(seed: int, case: str | int, epoch: int) -> int:
    """The seed of one try of one case: the same under every policy and model, so that runs can be paired."""
    digest = hashlib.sha256(f"{seed}/{case}/{epoch}".encode()).digest()
    return int.from_bytes(digest[:4]) >> 1  # fits into an int32


def checked_policy(text: str | None) -> str | None:
    """Raises UsageError for what is no policy."""
    if text is None or text in ("all", "current-task", "none") or re.fullmatch(r"budget:\d{1,9}", text):
        return text
    raise UsageError(f"--policy {text[:40]!r}: expected {POLICIES}")
