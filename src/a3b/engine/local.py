"""A service whose backend is this process: for the terminal and the Python API.

Enter at `local_service`."""

from __future__ import annotations

import logging
from collections.abc import Callable

from a3b.cache.disk_store import Store
from a3b.cache.prefix_cache import PrefixCache
from a3b.engine.draft_prices import StepCosts
from a3b.engine.draft_sources import drafters
from a3b.engine.engine import Engine
from a3b.engine.request_renderer import ServiceSettings
from a3b.engine.scheduler import Scheduler
from a3b.engine.service import Service
from a3b.machine import Machine
from a3b.thinking.turn_memory import TurnMemory

logging.getLogger("a3b").addHandler(logging.NullHandler())  # a caller gets the error itself; `a3b serve` logs

MAX_CACHE, MIN_CACHE = 4 << 30, 256 << 20  # bytes of memory for snapshots, unless told otherwise
MAX_WAITING = 1 << 12  # requests: callers of this process wait for a place and are not refused

# what `a3b chat` and `a3b run` do: nothing but the sampling parameters and the budgets chooses tokens
TERMINAL = ServiceSettings(exact_dates=True, guards_output=False)


def cache_bytes(engine: Engine) -> int:
    """Memory for snapshots on this machine: a quarter of what the weights will leave free, within limits."""
    mapped = engine.huge_pages.total_bytes if engine.huge_pages else 0  # counts as free until it is read
    return min(MAX_CACHE, max(MIN_CACHE, (Machine.read().memory_bytes - mapped) // 4))


def local_service(
    engine: Engine,
    settings: ServiceSettings | None = None,
    *,
    max_active: int = 1,
    store: Store | None = None,
    identity: bytes = b"local",
    drafts: bool = True,
    call_id: Callable[[int], str] = "call_{}".format,
) -> Service:
    """A service for callers in this process. store: where sessions outlive it, which stays the caller's to close;
    identity is then that of the weights. drafts: read tokens ahead where that is measured to pay."""
    cache = PrefixCache(identity, engine.model.new_state, cache_bytes(engine), store)
    costs = StepCosts()
    drafter = drafters(engine.model.mtp, costs) if drafts else None
    scheduler = Scheduler(
        engine.model, cache, max_active=max_active, max_waiting=MAX_WAITING, drafter=drafter, costs=costs
    )
    return Service(engine, scheduler, TurnMemory(store), settings, call_id=call_id)
