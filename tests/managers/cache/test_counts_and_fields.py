"""Counts, counters and fields of dicts: changed atomically, within a fixed time."""

from __future__ import annotations

import asyncio
import math

import pytest

from corekit.errors import BackendUnavailable, InvalidArgument, InvalidName, InvalidType


async def test_counting(shop):
    """`increment` adds to the int under the key, 0 if there is none, and returns the sum."""
    async with shop.cache() as cache:
        assert await cache.increment("key") == 1
        assert await cache.increment("key", 5) == 6
        assert await cache.increment("key", -10) == -4
        assert await cache.increment("key", 0) == -4
        assert await cache.get("key") == -4
        await cache.set("key", 2**64)
        assert await cache.increment("key", 2**63 - 1) == 2**64 + 2**63 - 1


async def test_a_fixed_window(shop):
    """The ttl counts from the first call; later ones, zero or others' ttls change nothing."""
    async with shop.running("a") as (manager,):
        counter = await manager.create_counter("hits")
        for increment in (manager.default.increment, counter.incrby):
            assert await increment("key", 1, 10) == 1
            shop.clock.jump(6)
            assert await increment("key", -1, 10) == 0
            assert await increment("key", 1) == 1
            assert await increment("key", 1, 60) == 2
            shop.clock.jump(4.01)
            assert await increment("key", 1, 10) == 1
        await counter.reset("key")
        assert await counter.incr("key", 10) == 1


async def test_a_month_is_a_month(shop):
    """A window of thirty days lasts so long."""
    async with shop.cache() as cache:
        month = 30 * 86400
        await cache.increment("key", 1, month)
        shop.clock.jump(month - 1)
        assert await cache.increment("key", 1, month) == 2


@pytest.mark.parametrize("value", ["1", 1.0, None, True, {"a": 1}])
async def test_counting_what_is_no_number(shop, value):
    """Counting something else than an int is refused, and changes nothing."""
    async with shop.cache() as cache:
        await cache.set("key", value, 60)
        with pytest.raises(InvalidType, match="key 'key' holds no whole number"):
            await cache.increment("key", 1, 5)
        assert await cache.get("key") == value
        assert await cache.ttl("key") == pytest.approx(60)


@pytest.mark.parametrize(
    ("delta", "error"),
    [
        (1.5, InvalidType),
        (1.0, InvalidType),
        (True, InvalidType),
        ("1", InvalidType),
        (None, InvalidType),
        (2**63, InvalidArgument),
        (-(2**63), InvalidArgument),
    ],
)
async def test_bad_deltas(shop, delta, error):
    """What is added must be an int of at most 63 bits."""
    async with shop.running("a") as (manager,):
        counter = await manager.create_counter("hits")
        with pytest.raises(error, match=r"^delta must be"):
            await manager.default.increment("key", delta)
        with pytest.raises(error, match=r"^n must be"):
            await counter.incrby("key", delta)
        assert await manager.default.keys() == []


async def test_concurrent_counting(shop):
    """No count is lost, and none told twice, however many count at once in how many instances."""
    async with shop.running("a", "b") as (one, two):
        told = await asyncio.gather(
            *(manager.default.increment("key") for manager in (one, two) for _ in range(200))
        )
        assert sorted(told) == list(range(1, 401))


async def test_counters_line_up(remote):
    """Those that count at once in one process do not spoil each other's attempts."""
    async with remote.cache() as cache:
        await asyncio.gather(*(cache.increment("key") for _ in range(100)))
        assert remote.faults.calls["swap"] <= 200


async def test_counters(shop):
    """A counter has its own keys, is 0 where nothing was counted, and can be reset."""
    async with shop.running("a", "b") as (one, two):
        counter = await one.create_counter("default")
        assert await counter.get("key") == 0
        assert await counter.incr("key") == 1
        assert await counter.incrby("key", 10) == 11
        assert await one.default.get("key") is None
        twin = await two.create_counter("default")
        assert await twin.get("key") == 11
        await twin.reset("key")
        await twin.reset("key")
        assert await counter.get("key") == 0
        for call in (counter.get, counter.incr, counter.reset):
            with pytest.raises(InvalidName):
                await call("")
        with pytest.raises(InvalidArgument):
            await counter.incr("key", 0)


async def test_counters_are_not_evicted(shop):
    """A counter keeps all its counts, however many there are."""
    async with shop.running("a") as (manager,):
        counter = await manager.create_counter("many")
        for number in range(2500):
            await counter.incr(str(number))
        assert await counter.get("0") == 1


async def test_endless_contention_ends(remote, monkeypatch):
    """An update that never gets through raises BackendUnavailable in the end."""
    async with remote.cache() as cache:

        async def swap(*_):
            return False

        monkeypatch.setattr(cache._keyspace.space, "swap", swap, raising=False)
        with pytest.raises(BackendUnavailable, match="too many others write 'key'"):
            await cache.increment("key")


async def test_fields(shop):
    """Fields of a dict are set, read and removed one by one; the key's ttl is kept."""
    async with shop.cache() as cache:
        assert await cache.get_value_in_object("key", "a", "missing") == "missing"
        await cache.set_value_in_object("key", "a", None)
        assert await cache.get("key") == {"a": None}
        assert await cache.ttl("key") == math.inf
        await cache.set("key", {"a": None}, 60)
        await cache.set_value_in_object("key", 2, "b")
        assert await cache.get("key") == {"a": None, 2: "b"}
        assert await cache.get_value_in_object("key", "a", "missing") is None
        await cache.delete_value_in_object("key", "a")
        await cache.delete_value_in_object("key", "unknown")
        assert await cache.get("key") == {2: "b"}
        assert await cache.ttl("key") == pytest.approx(60)
        await cache.delete_value_in_object("key", 2)
        assert await cache.get("key", "missing") == {}
        await cache.delete_value_in_object("other", "a")
        assert await cache.keys() == ["key"]


async def test_fields_of_an_expired_dict(shop):
    """An expired dict is missing: setting a field makes a new one, with the cache's ttl."""
    async with shop.running("a") as (manager,):
        cache = await manager.create_cache("short", ttl=60)
        await cache.set("key", {"a": 1}, 5)
        shop.clock.jump(5)
        await cache.set_value_in_object("key", "b", 2)
        assert await cache.get("key") == {"b": 2}
        assert await cache.ttl("key") == pytest.approx(60)


async def test_concurrent_fields(shop):
    """No field is lost, however many are set at once in how many instances."""
    async with shop.running("a", "b") as (one, two):
        await asyncio.gather(
            *(
                manager.default.set_value_in_object("key", f"{name}{number}", number)
                for name, manager in (("a", one), ("b", two))
                for number in range(50)
            )
        )
        assert len(await one.default.get("key")) == 100


async def test_readers_keep_what_they_have(local):
    """Setting a field does not change the dict that another has read before."""
    async with local.cache() as cache:
        await cache.set("key", {"a": 1})
        read = await cache.get("key")
        await cache.set_value_in_object("key", "a", 2)
        await cache.delete_value_in_object("key", "a")
        assert read == {"a": 1}


@pytest.mark.parametrize("value", [None, 0, [], "text", [("a", 1)]])
async def test_fields_of_what_is_no_dict(shop, value):
    """A field of something else than a dict is refused, and nothing changes."""
    async with shop.cache() as cache:
        await cache.set("key", value)
        for call in (
            cache.set_value_in_object("key", "a", 1),
            cache.get_value_in_object("key", "a"),
            cache.delete_value_in_object("key", "a"),
        ):
            with pytest.raises(InvalidType, match="key 'key' holds no dict"):
                await call
        assert await cache.get("key") == value


async def test_fields_that_cannot_be(shop):
    """A field must be able to be a dict's key."""
    async with shop.cache() as cache:
        for call in (
            cache.set_value_in_object("key", [], 1),
            cache.get_value_in_object("key", []),
            cache.delete_value_in_object("key", {}),
        ):
            with pytest.raises(InvalidType, match="field must be hashable"):
                await call
        assert await cache.keys() == []
