"""The prefix tree: what is reused equals what is computed, bit for bit; what is evicted from memory, why a prompt
missed, and which namespace sees what."""

from __future__ import annotations

import random
from functools import cache

import numpy as np
import pytest

from a3b.cache.disk_store import Store
from a3b.cache.identity import ARITHMETIC_VERSION, cache_identity
from a3b.cache.prefix_cache import PrefixCache
from a3b.engine.engine import nano_directory
from a3b.errors import CheckpointError, UsageError
from a3b.kernels import open_kernels
from a3b.model.config import with_context
from a3b.model.config_reader import read_config
from a3b.model.forward import Model
from a3b.model.loader import load_weights
from tests.support.cached_states import IDENTITY, content, feed, new_state, numbers, reached, snapshot
from tests.support.session_stores import forget

LARGE = 1 << 40
STATE = snapshot([1]).num_bytes
PAGE = sum(a.nbytes for a in (snapshot([1]).segments[0].keys, snapshot([1]).segments[0].values)) // 16


@cache
def nano() -> Model:
    from a3b.formats.checkpoint import Checkpoint

    config = read_config(nano_directory())
    return Model(config, load_weights(Checkpoint.open(nano_directory()), config), open_kernels(None, 1))


@cache
def cold() -> tuple[np.ndarray, np.ndarray]:
    """Tokens across a segment's end, and their logits, read in one piece."""
    ids = np.random.default_rng(1).integers(0, nano().config.vocab_size, 1100)
    return ids, nano().forward(ids, nano().new_state(), logits="all")


def memory(ram_bytes: int = LARGE, store: Store | None = None) -> PrefixCache:
    return PrefixCache(IDENTITY, new_state, ram_bytes, store)


def talk(cache: PrefixCache, ids: list[int], stops: list[int], namespace: str = "n", kinds: str = "turn") -> None:
    """Read `ids` as a scheduler does, with a snapshot at every stop."""
    state = cache.sync(namespace, [*ids, 0]).state
    for stop in stops:
        if stop > state.num_tokens:
            feed(state, ids[state.num_tokens : stop])
            cache.add(namespace, ids[:stop], state.snapshot(), kinds)


BOUNDARIES = [1, 63, 64, 65, 500, 1023, 1024, 1025, 1099]


@pytest.mark.slow
@pytest.mark.parametrize("where", ["ram", "disk"])
def test_logits_after_a_hit_equal_cold_ones_bit_for_bit_at_every_boundary(where, tmp_path):
    ids, expected = cold()
    with Store(tmp_path) as store:
        cache = PrefixCache(IDENTITY, nano().new_state, LARGE, store)
        state = nano().new_state()
        for start, stop in zip([0, *BOUNDARIES], BOUNDARIES, strict=False):
            nano().forward(ids[start:stop], state, logits="none")
            cache.add("n", ids[:stop], state.snapshot(), "turn")
            nano().forward(ids[:3], state.fork(), logits="none")  # a neighbour goes another way
        assert store.flush()
        if where == "ram":
            check_snapshot_points(cache, ids, expected)
    if where == "disk":
        for ram_bytes in (LARGE, 0):
            with Store(tmp_path) as store:
                check_snapshot_points(PrefixCache(IDENTITY, nano().new_state, ram_bytes, store), ids, expected)


def check_snapshot_points(cache: PrefixCache, ids: np.ndarray, expected: np.ndarray) -> None:
    for i, boundary in enumerate(BOUNDARIES):
        stop = min(boundary + 70, len(ids))
        if i + 1 < len(BOUNDARIES):
            stop = min(stop, BOUNDARIES[i + 1])
        match = cache.sync("n", ids[:stop])
        assert (match.reused, match.miss) == (boundary, "none")
        cut = boundary + (stop - boundary) // 2  # another cut than the cold run had
        got = [nano().forward(ids[a:b], match.state) for a, b in ((boundary, cut), (cut, stop)) if b > a]
        np.testing.assert_array_equal(got[-1], expected[stop - 1])
        if len(got) == 2:
            np.testing.assert_array_equal(got[0], expected[cut - 1])


@pytest.mark.parametrize("ram_bytes", [LARGE, 0, 700_000])
def test_interleaved_forks_give_the_logits_of_cold_runs(ram_bytes, tmp_path):
    model, rng = nano(), np.random.default_rng(7)
    system = rng.integers(0, model.config.vocab_size, 90).tolist()
    talks = [list(system) for _ in range(3)]
    with Store(tmp_path) as store:
        cache = PrefixCache(IDENTITY, model.new_state, ram_bytes, store)
        state = model.new_state()
        model.forward(np.array(system), state, logits="none")
        cache.add("n", system, state.snapshot(), "system")
        for turn in range(4):
            for i in rng.permutation(3):
                before = len(talks[i])
                talks[i] += rng.integers(0, model.config.vocab_size, int(rng.integers(1, 80))).tolist()
                store.flush()
                match = cache.sync("n", talks[i])
                assert match.reused == before, (turn, i)
                warm = model.forward(np.array(talks[i][match.reused :]), match.state)
                cache.add("n", talks[i], match.state.snapshot(), "turn")
                np.testing.assert_array_equal(warm, model.forward(np.array(talks[i]), model.new_state()))
        assert store.notices == []


def test_random_conversations_always_get_their_longest_known_prefix():
    rng, cache = random.Random(3), memory()
    known: dict[tuple, str] = {}
    for _ in range(250):
        if known and rng.random() < 0.7:
            base = list(rng.choice(list(known)))
            base = base[: rng.randint(0, len(base))]
        else:
            base = []
        ids = base + [rng.randint(1, 3) for _ in range(rng.randint(1, 5))]
        best = max((k for k in known if len(k) < len(ids) and k == tuple(ids[: len(k)])), key=len, default=())
        match = cache.sync("n", ids)
        assert match.reused == len(best)
        assert content(match.state) == (known[best] if best else content(new_state()))
        longest = max((common(k, ids) for k in known), default=0)
        assert match.position == longest
        if rng.random() < 0.6:
            feed(match.state, ids[match.reused :])
            cache.add("n", ids, match.state.snapshot(), "turn")
            known[tuple(ids)] = content(match.state)
    assert cache.stats().nodes == len(known) and cache.stats().evictions == 0


def common(a, b) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def test_a_state_that_was_handed_out_changes_nothing_that_is_kept():
    cache, ids = memory(), numbers(300)
    talk(cache, ids, [100, 200])
    first = cache.sync("n", ids[:250])
    feed(first.state, numbers(90, seed=8))
    assert content(cache.sync("n", ids[:250]).state) == content(reached(ids[:200]))


def test_one_token_at_least_remains_to_be_computed():
    cache, ids = memory(), numbers(100)
    talk(cache, ids, [60, 100])
    assert [cache.sync("n", ids[:n]).reused for n in (0, 1, 60, 61, 100)] == [0, 0, 0, 60, 60]


def test_a_miss_says_why():
    cache, ids, other = memory(), numbers(300), numbers(300, seed=1)
    match = cache.sync("n", ids)
    assert (match.reused, match.miss, match.position) == (0, "new", 0)
    talk(cache, ids, [100, 200])
    assert cache.sync("n", ids).report.miss == "none"
    assert cache.sync("n", ids[:150]).miss == "none"  # known tokens, but nobody ever stopped there
    match = cache.sync("n", ids[:150] + other)
    assert (match.reused, match.miss, match.position) == (100, "diverged", 150)
    assert match.expected_ids == tuple(ids[150:166]) and match.found_ids == tuple(other[:16])
    match = cache.sync("n", ids[:40] + other)
    assert (match.reused, match.miss, match.position) == (0, "diverged", 40)
    match = cache.sync("n", ids[:5] + other)
    assert (match.miss, match.expected_ids) == ("new", ())
    cache.ram_bytes = 0
    cache.add("n", ids[:200], snapshot(ids[:200]), "turn")
    match = cache.sync("n", ids)
    assert (match.reused, match.miss, match.position) == (0, "evicted", 200)


def test_other_settings_are_named_if_the_store_knows_the_tokens(tmp_path):
    ids = numbers(200)
    with Store(tmp_path) as store:
        talk(memory(store=store), ids, [50, 150])
        store.flush()
        other = PrefixCache(b"another RoPE scaling", new_state, LARGE, store)
        assert other.sync("n", ids).miss == "settings" and other.sync("n", ids).reused == 0
        assert other.sync("n", numbers(200, seed=2)).miss == "new"
        assert other.sync("m", ids).miss == "new"


def test_equal_tokens_are_one_node_whatever_was_between():
    cache, ids = memory(), numbers(300)
    talk(cache, ids, [300])
    late = cache.add("n", ids[:300], snapshot(ids), "turn")
    for stop in (200, 100):
        cache.add("n", ids[:stop], snapshot(ids[:stop]), "turn")
    assert cache.add("n", ids, snapshot(ids), "turn") == late and cache.stats().nodes == 3
    other = memory()
    talk(other, ids, [100, 200, 300])
    assert other.add("n", ids, snapshot(ids), "turn") == late


def test_an_end_gives_up_its_state_to_a_snapshot_just_after_it():
    cache, ids = memory(), numbers(110)
    talk(cache, ids, [100], kinds="end")
    talk(cache, ids, [104])
    assert (cache.stats().nodes, cache.stats().snapshots) == (2, 1)
    assert cache.sync("n", ids).reused == 104
    cache.add("n", ids[:100], snapshot(ids[:100]), "end")
    assert cache.stats().snapshots == 1
    talk(cache, ids, [109], kinds="end")  # five tokens further: both stay
    assert cache.stats().snapshots == 2
    match = cache.sync("n", ids[:102] + [7, 7])
    assert (match.reused, match.miss, match.position) == (0, "diverged", 102)


def test_namespaces_never_meet(tmp_path):
    ids = numbers(200)
    with Store(tmp_path) as store:
        cache = memory(store=store)
        mine = cache.add("mine", ids[:150], snapshot(ids[:150]), "turn")
        theirs = cache.add("theirs", ids[:150], snapshot(ids[:150]), "turn")
        assert mine != theirs
        store.flush()
        assert cache.sync("third", ids).miss == "new"
        store.put_record("mine", b"key", b"secret", mine)
        assert store.get_records("theirs", b"key") == store.records("theirs") == []
        assert forget(tmp_path, mine) == {mine}
        assert cache.sync("mine", ids).miss == "new" and cache.sync("theirs", ids).reused == 150
        assert store.records("mine") == [] and not store.holds(mine) and store.holds(theirs)


def test_shared_pages_count_once():
    cache, ids = memory(), numbers(640)
    state = new_state()
    for stop in range(64, 641, 64):
        feed(state, ids[stop - 64 : stop])
        cache.add("n", ids[:stop], state.snapshot(), "turn")
    assert cache.stats().ram_bytes == 10 * STATE + 10 * PAGE
    cache.clear()
    assert cache.stats().ram_bytes == cache.stats().nodes == 0


def test_memory_stays_within_the_budget_and_long_chains_thin_from_their_middle():
    ids = numbers(900)
    cache = memory(5 * STATE + 15 * PAGE)
    cache.add("n", ids[:64], snapshot(ids[:64]), "system")
    talk(cache, ids, [100, 200, 300, 400, 500, 600, 700, 800])
    assert cache.stats().ram_bytes <= cache.ram_bytes
    kept = [n.num_tokens for n in cache._tree.nodes.values() if n.snapshot]
    assert {64, 700, 800} <= set(kept) and len(kept) == 5
    assert cache.sync("n", ids).reused == 800


def test_two_agents_with_two_sub_agents_each_do_not_evict_each_other():
    system = numbers(128)
    talks = {name: system + numbers(64, seed=10 + name) for name in range(6)}
    # the last two of six and the system prompt: a restored state copies its last pages
    cache = memory(int(14.5 * STATE) + 13 * 8 * PAGE)
    cache.add("n", system, snapshot(system), "system")
    for turn in range(6):
        for name, ids in talks.items():
            match = cache.sync("n", ids)
            assert match.reused == len(ids) - 64, (turn, name)
            feed(match.state, ids[match.reused :])
            cache.add("n", ids, match.state.snapshot(), "turn")
            talks[name] = ids + numbers(64, seed=100 * turn + name)
    assert cache.stats().evictions > 0 and cache.stats().ram_bytes <= cache.ram_bytes


def test_a_short_old_conversation_goes_before_a_long_recent_one():
    cache, long, short = memory(), numbers(600), numbers(70, seed=4)
    talk(cache, short, [70])
    talk(cache, long, [300, 600])
    cache.ram_bytes = cache.stats().ram_bytes - 1
    cache.add("n", long, snapshot(long), "turn")
    assert cache.sync("n", [*short, 1]).miss == "evicted" and cache.sync("n", [*long, 1]).reused == 600
    assert cache.stats().evictions == 1


def test_of_conversations_that_cost_the_same_the_one_used_longest_ago_goes():
    cache, busy, idle = memory(), numbers(200), numbers(200, seed=4)
    talk(cache, busy, [200])
    talk(cache, idle, [200])
    assert cache.sync("n", [*busy, 1]).reused == 200
    cache.ram_bytes = cache.stats().ram_bytes - 1
    cache.add("n", busy, snapshot(busy), "turn")
    assert cache.sync("n", [*busy, 1]).reused == 200 and cache.sync("n", [*idle, 1]).miss == "evicted"


def shrink_by_one_byte(cache: PrefixCache, ids: list[int]) -> None:
    """One snapshot has to go, although nothing new came."""
    cache.ram_bytes = cache.stats().ram_bytes - 1
    cache.add("n", ids, snapshot(ids), "turn")
    assert cache.stats().evictions == 1


def test_of_two_the_one_goes_that_the_disk_has_too(tmp_path):
    older, newer = numbers(200), numbers(200, seed=4)
    with Store(tmp_path) as store:
        cache = memory(store=store)
        cache.add("n", older, snapshot(older), "turn", persist=False)
        cache.add("n", newer, snapshot(newer), "turn")
        assert store.flush()
        shrink_by_one_byte(cache, newer)
        assert cache.sync("n", [*older, 1]).reused == 200


def test_of_two_that_cost_about_the_same_the_one_goes_that_holds_more_alone():
    """Two snapshots of one conversation share its pages, so dropping one of them frees little."""
    cache, two, one = memory(), numbers(1000), numbers(600, seed=4)
    talk(cache, two, [500, 1000])
    talk(cache, one, [600])
    shrink_by_one_byte(cache, one)
    assert cache.sync("n", [*one, 1]).miss == "evicted"
    assert cache.sync("n", [*two[:500], 1]).reused == 500 and cache.sync("n", [*two, 1]).reused == 1000


def test_a_snapshot_costs_only_what_must_be_computed_after_the_one_before_it():
    cache, short, long = memory(), numbers(100, seed=4), numbers(600)
    talk(cache, long, [580, 600])
    talk(cache, short, [100])
    shrink_by_one_byte(cache, short)
    assert cache.sync("n", [*short, 1]).reused == 100 and cache.sync("n", [*long, 1]).reused == 580


def snapshots_of(cache: PrefixCache, namespace: str) -> int:
    return sum(n.space.name == namespace and n.snapshot is not None for n in cache._tree.nodes.values())


def flood(cache: PrefixCache, namespace: str, num: int, seed: int = 1000) -> None:
    for i in range(num):
        talk(cache, numbers(64, seed=seed + i), [64], namespace)


ONE = STATE + PAGE  # a snapshot of 64 tokens


def test_one_key_alone_may_fill_the_memory():
    cache = memory(10 * ONE)
    flood(cache, "a", 30)
    assert snapshots_of(cache, "a") == 10


@pytest.mark.parametrize("first", ["quiet", "flood"])
def test_a_key_that_floods_the_memory_takes_nothing_within_the_share_of_another(first):
    cache, ids = memory(10 * ONE), numbers(64 * 4)
    if first == "flood":
        flood(cache, "flood", 30)
    talk(cache, ids, [64, 128, 192, 256], "quiet")
    kept = snapshots_of(cache, "quiet")
    flood(cache, "flood", 40, seed=2000)
    assert kept == snapshots_of(cache, "quiet") == 4
    assert cache.sync("quiet", [*ids, 1]).reused == 256 and cache.stats().ram_bytes <= cache.ram_bytes
    assert snapshots_of(cache, "flood") >= 5  # what the other leaves


def test_a_key_beyond_its_share_gives_only_what_is_beyond():
    cache = memory(10 * ONE)
    flood(cache, "first", 10)
    flood(cache, "second", 40, seed=2000)
    assert snapshots_of(cache, "first") == snapshots_of(cache, "second") == 5


def test_one_snapshot_as_large_as_the_memory_pushes_nothing_of_others_out():
    cache, small, large = memory(6 * ONE), numbers(64), numbers(64 * 30, seed=3)
    talk(cache, small, [64], "quiet")
    talk(cache, large, [64 * 30], "large")
    assert cache.sync("quiet", [*small, 1]).reused == 64 and cache.sync("large", [*large, 1]).miss == "evicted"


def test_of_a_thousand_keys_the_last_ones_used_keep_their_newest_snapshot():
    cache = memory(10 * ONE)
    for i in range(100):
        flood(cache, f"key {i}", 2, seed=10 * i)
    assert [i for i in range(100) if snapshots_of(cache, f"key {i}")] == list(range(90, 100))
    assert cache.sync("key 99", [*numbers(64, seed=991), 1]).reused == 64


def test_a_key_that_was_not_used_for_an_hour_makes_room_first():
    now = [0.0]
    cache = PrefixCache(IDENTITY, new_state, 10 * ONE, clock=lambda: now[0])
    flood(cache, "idle", 5)
    now[0] = 3599
    flood(cache, "busy", 10, seed=2000)
    assert (snapshots_of(cache, "idle"), snapshots_of(cache, "busy")) == (5, 5)
    now[0] = 3601
    flood(cache, "busy", 10, seed=3000)
    assert (snapshots_of(cache, "idle"), snapshots_of(cache, "busy")) == (0, 10)


def test_evicted_snapshots_come_back_from_disk(tmp_path):
    ids = numbers(500)
    with Store(tmp_path) as store:
        cache = memory(0, store)
        state = new_state()
        for stop in (100, 300, 450):
            feed(state, ids[state.num_tokens : stop])
            cache.add("n", ids[:stop], state.snapshot(), "turn")
        store.flush()
        assert cache.stats().ram_bytes == 0
        match = cache.sync("n", ids)
        assert (match.reused, match.miss) == (450, "none") and content(match.state) == content(reached(ids[:450]))


def test_what_must_not_persist_stays_in_memory(tmp_path):
    ids = numbers(200)
    with Store(tmp_path) as store:
        cache = memory(store=store)
        cache.add("n", ids[:100], snapshot(ids[:100]), "turn", persist=False)
        cache.add("n", ids, snapshot(ids), "turn", persist=False)
        store.flush()
        assert store.num_bytes == 0 and cache.sync("n", [*ids, 1]).reused == 200
    with Store(tmp_path) as store:
        assert memory(store=store).sync("n", ids).miss == "new"


def test_forgetting_a_conversation_keeps_what_others_share(tmp_path):
    system, store = numbers(100), Store(tmp_path)
    cache = memory(store=store)
    cache.add("n", system, snapshot(system), "system")
    first, second = system + numbers(200, seed=1), system + numbers(200, seed=2)
    talk(cache, first, [150, 200, 300])
    talk(cache, second, [150, 300])
    store.flush()
    leaf = cache.add("n", first, snapshot(first), "turn")
    assert len(forget(tmp_path, leaf)) == 3
    assert cache.sync("n", [*first, 1]).reused == 100 and cache.sync("n", [*second, 1]).reused == 300
    store.close()
    with Store(tmp_path) as store:
        cache = memory(store=store)
        assert cache.sync("n", [*first, 1]).reused == 100 and cache.sync("n", [*second, 1]).reused == 300


def test_forgetting_its_only_conversation_keeps_a_system_prompt(tmp_path):
    system = numbers(100)
    ids = system + numbers(100, seed=1)
    with Store(tmp_path) as store:
        cache = memory(store=store)
        cache.add("n", system, snapshot(system), "system")
        leaf = cache.add("n", ids, snapshot(ids), "turn")
        assert store.flush() and forget(tmp_path, leaf) == {leaf}
        assert cache.sync("n", [*ids, 1]).reused == 100


def test_forgetting_one_branch_keeps_the_turn_at_which_the_other_branched_off(tmp_path):
    common = numbers(100)
    first, second = common + numbers(50, seed=1), common + numbers(50, seed=2)
    with Store(tmp_path) as store:
        cache = memory(store=store)
        for ids in (first, second):
            talk(cache, ids, [40, 100, 150])
            assert store.flush()
        assert len(forget(tmp_path, cache.add("n", first, snapshot(first), "turn"))) == 1
        assert cache.sync("n", [*first, 1]).reused == 100
        assert len(forget(tmp_path, cache.add("n", second, snapshot(second), "turn"))) == 3


@pytest.mark.parametrize(
    ("ids", "kind", "message"), [([1, 2], "turn", "3 tokens"), ([], "turn", "at least 1"), ([1, 2, 3], "x", "'x'")]
)
def test_what_cannot_be_added_is_refused(ids, kind, message):
    with pytest.raises(UsageError, match=message):
        memory().add("n", ids, snapshot([1, 2, 3]), kind)


def test_counts_of_known_sequences_are_bounded(monkeypatch):
    monkeypatch.setattr("a3b.cache.prefix_cache.MAX_NODES", 20)
    cache = memory(0)
    for i in range(50):
        cache.add("n", [1, i + 2], snapshot([1, i + 2]), "turn")
    assert cache.stats().nodes <= 20


def test_the_identity_depends_on_everything_a_state_depends_on(tmp_path):
    config = read_config(nano_directory())
    base = cache_identity(config, nano_directory(), "q8", "avx2")
    assert base == cache_identity(config, nano_directory(), "q8", "avx2") and len(base) == 16
    scaled, _ = with_context(config, 2 * config.max_context)
    changed = (
        (scaled, "q8", "avx2"),
        (config, "f32", "avx2"),
        (config, "q8", "avx512"),
        (config, "q8", "avx2", ARITHMETIC_VERSION + 1),
    )
    others = [cache_identity(c, nano_directory(), *rest) for c, *rest in changed]
    weights = bytearray((nano_directory() / "model.safetensors").read_bytes())
    copy = tmp_path / "model.safetensors"
    copy.write_bytes(weights)
    assert cache_identity(config, tmp_path, "q8", "avx2") == base
    weights[-1] ^= 1
    copy.write_bytes(weights)
    others.append(cache_identity(config, tmp_path, "q8", "avx2"))
    assert len({base, *others}) == 6
    copy.unlink()
    with pytest.raises(CheckpointError, match="no weights"):
        cache_identity(config, tmp_path, "q8", "avx2")
