"""The broker's cache: room, lifetimes, versions."""

from itertools import pairwise

import pytest
from corekit_zeromq.broker.cache import Cache
from corekit_zeromq.protocol import Op
from hypothesis import given
from hypothesis import strategies as st

from corekit.errors import BackendRefused, StorageFull

from .peer import Bench

ENTRY = 500  # a key and a value of 100 bytes, with what an entry costs


def fill(
    cache: Cache, *keys: str, now: float = 0, evict: bool = True, lifetime: float | None = None
):
    """Write entries that need 500 bytes each."""
    for key in keys:
        cache.set(now, "s", key, b"x" * (100 - len(key)), lifetime, evict=evict)


def test_the_least_recently_used_goes_first() -> None:
    """Reading an entry counts as using it."""
    cache = Cache(3 * ENTRY)
    fill(cache, "a", "b", "c")
    cache.get(0, "s", ["a"])
    fill(cache, "d")
    assert sorted(cache.keys(0, "s")) == ["a", "c", "d"]
    assert cache.bytes == 3 * ENTRY


def test_entries_that_may_not_be_evicted_stay() -> None:
    """When only they are left, there is no room; the old value is kept."""
    cache = Cache(3 * ENTRY)
    fill(cache, "a", "b", evict=False)
    fill(cache, "c", "d")
    assert sorted(cache.keys(0, "s")) == ["a", "b", "d"]
    fill(cache, "e", evict=False)
    with pytest.raises(StorageFull):
        fill(cache, "f")
    with pytest.raises(StorageFull):
        cache.set(0, "s", "a", b"x" * 200, None, evict=False)
    assert sorted(cache.keys(0, "s")) == ["a", "b", "e"]
    fill(cache, "a", evict=False)


def test_an_entry_larger_than_the_cache_is_refused() -> None:
    """And drives nothing out."""
    cache = Cache(3 * ENTRY)
    fill(cache, "a")
    with pytest.raises(BackendRefused):
        cache.set(0, "s", "b", b"x" * 3 * ENTRY, None, evict=True)
    assert cache.keys(0, "s") == ["a"]


def test_lifetimes() -> None:
    """Past its lifetime an entry is gone, whether it was collected or not; writing renews it."""
    cache = Cache(3 * ENTRY)
    fill(cache, "a", "b", lifetime=1)
    fill(cache, "a", now=0.5, lifetime=1)
    assert cache.get(1, "s", ["a", "b"])[1] is None
    assert cache.keys(1, "s") == ["a"]
    cache.expire(2, 100)
    assert (cache.count, cache.bytes, len(cache._spaces)) == (0, 0, 0)


def test_what_is_over_is_driven_out_before_what_is_used() -> None:
    """Room is made of dead entries first."""
    cache = Cache(3 * ENTRY)
    fill(cache, "a")
    fill(cache, "b", "c", lifetime=1)
    fill(cache, "d", "e", now=2)
    assert sorted(cache.keys(2, "s")) == ["a", "d", "e"]


def test_swap() -> None:
    """Of several writers with one version exactly one wins."""
    cache = Cache(10 * ENTRY)
    assert cache.swap(0, "s", "k", b"1", None, None, evict=True)
    assert not cache.swap(0, "s", "k", b"2", None, None, evict=True)
    ((_, version),) = cache.get(0, "s", ["k"])
    assert cache.swap(0, "s", "k", b"1", version, None, evict=True)
    assert not cache.swap(0, "s", "k", b"3", version, None, evict=True)


def test_rewriting_for_ever_costs_no_memory() -> None:
    """The list of lifetimes does not grow with replaced entries."""
    cache = Cache(10 * ENTRY)
    for n in range(20_000):
        cache.set(n / 1000, "s", "k", b"", 1000, evict=True)
    assert len(cache._expiring) < 2000


def test_what_was_replaced_or_removed_keeps_no_value() -> None:
    """However long it would have lived: the limit of bytes would mean nothing otherwise."""
    cache = Cache(1 << 30)
    for _ in range(100):
        cache.set(0, "s", "k", bytes(1 << 20), 3600, evict=True)
    cache.set(0, "s", "l", bytes(1 << 20), 3600, evict=True)
    assert cache.delete(0, "s", ["l"]) == [bytes(1 << 20)]
    assert sum(len(entry.value) for _, _, entry in cache._expiring) == 1 << 20


def test_what_was_flushed_is_forgotten() -> None:
    """Its lifetimes are, too, with the next housekeeping."""
    cache = Cache(100_000 * ENTRY)
    fill(cache, *map(str, range(5000)), lifetime=3600)
    cache.flush("s")
    cache.expire(0, 1)
    assert cache._expiring == []


def test_entries_that_are_over_do_not_pile_up() -> None:
    """Each new one drives two of them out, without being read and without housekeeping."""
    cache = Cache(100_000 * ENTRY)
    for n in range(10_000):
        fill(cache, str(n), now=n, lifetime=10)
    assert cache.count <= 11


def test_nobody_has_to_ask_for_what_is_over(bench: Bench) -> None:
    """Entries go at the end of their lifetime, a bounded number in each turn, without a pause."""
    peer = bench.peer()
    entries = {str(n): b"x" for n in range(2000)}
    peer.send([Op.CACHE_SET, 1, "s", True, entries, 1.0])
    bench.now += 0.9
    bench.turn(tick=True)
    assert bench.engine.cache.count == 2000
    assert bench.engine.next_alarm() is None
    bench.now += 0.2
    counts = []
    while bench.engine.cache.count:
        bench.turn(tick=True)
        counts.append(bench.engine.cache.count)
        assert bench.engine.next_alarm() == (bench.now if counts[-1] else None)
    assert all(before - after <= 300 for before, after in pairwise([2000, *counts]))


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["set", "delete", "clear", "flush", "wait"]),
            st.sampled_from(["s", "sa", "t"]),
            st.sampled_from("abcd"),
            st.sampled_from([None, 1.0, 3.0]),
            st.booleans(),
        ),
        max_size=60,
    )
)
def test_against_a_dict(steps: list[tuple[str, str, str, float | None, bool]]) -> None:
    """With room for all: the same entries as in a dict with deadlines; the bytes add up."""
    cache = Cache(1 << 20)
    model: dict[tuple[str, str], tuple[bytes, float]] = {}
    now = 0.0
    for n, (what, space, key, lifetime, evict) in enumerate(steps):
        if what == "set":
            value = b"%d" % n
            cache.set(now, space, key, value, lifetime, evict=evict)
            model[space, key] = value, now + (lifetime or 1e9)
        elif what == "delete":
            gone = model.pop((space, key), None)
            assert cache.delete(now, space, [key]) == [gone and gone[0]]
        elif what == "wait":
            now += 1
            model = {k: one for k, one in model.items() if one[1] > now}
        else:
            getattr(cache, what)(space)
            over = {k for k in model if k[0] == space or (what == "flush" and k[0][:1] == space)}
            model = {k: one for k, one in model.items() if k not in over}
        for name in ("s", "sa", "t"):
            assert sorted(cache.keys(now, name)) == sorted(k[1] for k in model if k[0] == name)
    for (space, key), (value, _) in model.items():
        ((found, _),) = cache.get(now, space, [key])
        assert found == value
    cache.expire(now, 1000)
    assert cache.bytes == sum(
        e.size for entries in cache._spaces.values() for e in entries.values()
    )
    assert cache.count == len(model)
