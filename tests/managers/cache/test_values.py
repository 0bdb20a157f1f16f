"""Values of one cache: what is written is read, for as long as it should be."""

from __future__ import annotations

import math
from datetime import timedelta

import pytest

from corekit.errors import (
    InvalidArgument,
    InvalidName,
    InvalidType,
    SerializationError,
)
from corekit.serialization import Serializer

BAD_KEYS = [
    ("", InvalidName),
    ("a\nb", InvalidName),
    ("x" * 513, InvalidName),
    ("\ud800", InvalidName),
    (5, InvalidType),
    (None, InvalidType),
    (b"a", InvalidType),
    (["a"], InvalidType),
    ({}, InvalidType),
]
BAD_TTLS = [
    (0, InvalidArgument),
    (-1, InvalidArgument),
    (-0.0, InvalidArgument),
    (math.nan, InvalidArgument),
    (-math.inf, InvalidArgument),
    (10**400, InvalidArgument),
    (timedelta(0), InvalidArgument),
    (timedelta.max, InvalidArgument),
    (True, InvalidType),
    ("10", InvalidType),
]
#: What others might have written; the last three look like entries, but for one field.
JUNK = [
    b"",
    b"junk",
    b"\x93\x01\x02",
    5,
    None,
    "x",
    Serializer().seal(("soon", 0.0, None, 0.0), 1),
    Serializer().seal((math.inf, 0.0, 5, 0.0), 1),
    Serializer().seal((math.inf, None, None, 0.0), 1),
]


@pytest.mark.parametrize("value", [None, 0, False, "", b"", {}, [], (), 1.5, {"a": [1, {2}]}])
async def test_any_value_is_a_hit(shop, value):
    """None and every falsy value are values; only a missing key gives the default."""
    async with shop.cache() as cache:
        await cache.set("key", value)
        found = await cache.get("key", "default")
        assert found == value
        assert type(found) is type(value)
        assert await cache.get("other", "default") == "default"
        assert await cache.get("other") is None


async def test_objects_are_kept_by_reference(local):
    """A store inside the process gives back the very object, serialisable or not."""
    async with local.cache() as cache:
        value = object()
        await cache.set("key", value)
        assert await cache.get("key") is value
        assert await cache.mget(["key"]) == [value]


async def test_objects_are_copied(shared):
    """A shared store gives back a copy: the state when it was written."""
    async with shared.cache() as cache:
        value = {"a": [1]}
        await cache.set("key", value)
        value["a"].append(2)
        assert await cache.get("key") == {"a": [1]}


async def test_what_cannot_be_written(shared):
    """A value that a shared store cannot keep is refused, and what was there stays."""
    async with shared.cache() as cache:
        await cache.set("key", 1)
        for write in (
            cache.set("key", object()),
            cache.mset({"key": 2, "other": object()}),
            cache.add("new", object()),
            cache.wrap("new", object),
            cache.set_value_in_object("new", "field", object()),
        ):
            with pytest.raises(SerializationError):
                await write
        assert await cache.mget(["key", "other", "new"]) == [1, None, None]


async def test_a_ttl_ends_exactly(shop):
    """A value is there until its ttl has passed, and not a moment longer; below a second too."""
    async with shop.cache() as cache:
        for ttl in (0.001, 0.3, 5, timedelta(hours=2)):
            await cache.set("key", 1, ttl)
            length = ttl.total_seconds() if isinstance(ttl, timedelta) else ttl
            shop.clock.jump(length * 0.99)
            assert await cache.get("key") == 1
            shop.clock.jump(length * 0.0101)
            assert await cache.get("key", "gone") == "gone"
            assert await cache.mget(["key"]) == [None]
            assert await cache.keys() == []
            assert await cache.ttl("key") is None
            assert await cache.delete("key") is False


async def test_the_wall_clock_does_not_matter_in_one_process(local):
    """Setting the machine's clock ends nothing early in a store by reference."""
    async with local.cache() as cache:
        await cache.set("key", 1, 60)
        local.clock.jump_wall(3600)
        assert await cache.ttl("key") == 60


async def test_a_write_begins_a_new_ttl(shop):
    """Each set has its own ttl: the default one, a longer one, or none."""
    async with shop.cache() as cache:
        await cache.set("key", 1, 1)
        assert await cache.ttl("key") == pytest.approx(1)
        await cache.set("key", 2)
        assert await cache.ttl("key") == math.inf
        shop.clock.jump(10 * 365 * 86400)
        assert await cache.get("key") == 2
        await cache.set("key", 3, math.inf)
        assert await cache.ttl("key") == math.inf


async def test_the_default_ttl(shop):
    """A cache's ttl holds where a call gives none; `math.inf` means no end."""
    async with shop.running("a") as (manager,):
        cache = await manager.create_cache("short", ttl=timedelta(seconds=5))
        await cache.set("default", 1)
        await cache.set("own", 1, 60)
        await cache.set("none", 1, math.inf)
        await cache.mset({"many": 1})
        await cache.add("add", 1)
        await cache.increment("count")
        await cache.wrap("wrap", lambda: 1)
        await cache.set_value_in_object("object", "field", 1)
        for key in ("default", "many", "add", "count", "wrap", "object"):
            assert await cache.ttl(key) == pytest.approx(5)
        assert await cache.ttl("own") == pytest.approx(60)
        assert await cache.ttl("none") == math.inf


@pytest.mark.parametrize(("ttl", "error"), BAD_TTLS)
async def test_bad_ttls(shop, ttl, error):
    """A ttl that is no duration above zero is refused, hit or miss, and nothing is written."""
    async with shop.cache() as cache:
        await cache.set("hit", 1)
        for call in (
            lambda: cache.set("key", 1, ttl),
            lambda: cache.add("key", 1, ttl),
            lambda: cache.mset({"key": 1}, ttl),
            lambda: cache.increment("key", 1, ttl),
            lambda: cache.wrap("key", lambda: 1, ttl),
            lambda: cache.wrap("hit", lambda: 1, ttl),
            lambda: cache.wrap("hit", lambda: 1, stale=ttl),
            lambda: cache.wrap_with_condition("key", lambda: 1, ttl=ttl),
            lambda: cache.set("key", 1, ttl, transaction=shop.Transaction()),
        ):
            with pytest.raises(error, match=r"^(ttl|stale) must be"):
                await call()
        with pytest.raises(error, match=r"^ttl must be"):
            cache.cached("key", ttl)
        assert await cache.keys() == ["hit"]


@pytest.mark.parametrize(("key", "error"), BAD_KEYS)
async def test_bad_keys(shop, key, error):
    """A key that is no name is refused by every call, and nothing is written or loaded."""

    def load():
        raise AssertionError

    async with shop.cache() as cache:
        for call in (
            lambda: cache.get(key),
            lambda: cache.set(key, 1),
            lambda: cache.set(key, 1, transaction=shop.Transaction()),
            lambda: cache.add(key, 1),
            lambda: cache.delete(key),
            lambda: cache.delete(key, transaction=shop.Transaction()),
            lambda: cache.mget(["a", key]),
            lambda: cache.mdel(["a", key]),
            lambda: cache.wrap(key, load),
            lambda: cache.wrap_with_condition(key, load),
            lambda: cache.wrap_with_condition(key, load, use_cache=False),
            lambda: cache.ttl(key),
            lambda: cache.increment(key),
            lambda: cache.set_value_in_object(key, "field", 1),
            lambda: cache.get_value_in_object(key, "field"),
            lambda: cache.delete_value_in_object(key, "field"),
        ):
            with pytest.raises(error, match=r"^key must"):
                await call()
        if getattr(key, "__hash__", None):
            with pytest.raises(error, match=r"^key must"):
                await cache.mset({"a": 1, key: 2})
        assert await cache.keys() == []


async def test_add_writes_only_what_is_missing(shop):
    """`add` writes if there is no value, also where one has expired, and says whether it did."""
    async with shop.cache() as cache:
        assert await cache.add("key", None, 5) is True
        assert await cache.add("key", 2) is False
        assert await cache.get("key", "missing") is None
        shop.clock.jump(5)
        assert await cache.add("key", 3) is True
        assert await cache.get("key") == 3


async def test_delete_tells_what_it_did(shop):
    """`delete` tells whether there was a value."""
    async with shop.cache() as cache:
        await cache.set("key", None)
        assert await cache.delete("key") is True
        assert await cache.delete("key") is False
        assert await cache.get("key", "missing") == "missing"


async def test_many_at_once(shop):
    """`mset`, `mget` and `mdel` do for many keys what the others do for one."""
    async with shop.cache() as cache:
        await cache.mset({"a": None, "b": 2}, 5)
        assert await cache.mget(["b", "missing", "a", "b"], "default") == [2, "default", None, 2]
        assert await cache.mget(key for key in "ab") == [None, 2]
        assert await cache.ttl("a") == pytest.approx(5)
        assert await cache.mdel(["a", "missing", "b", "b"]) == 2
        assert await cache.mget([]) == []
        assert await cache.mdel([]) == 0
        await cache.mset({})
        assert await cache.keys() == []


@pytest.mark.parametrize("keys", ["ab", b"ab", None, 5])
async def test_keys_that_are_no_list(shop, keys):
    """A str is not a list of keys."""
    async with shop.cache() as cache:
        for call in (cache.mget, cache.mdel):
            with pytest.raises(InvalidType, match="keys must be a list of keys"):
                await call(keys)
        with pytest.raises(InvalidType, match="mapping must map keys"):
            await cache.mset([("a", 1)])


async def test_very_many_at_once(remote):
    """Thousands of keys travel in several calls of bounded size."""
    async with remote.running("a") as (manager,):
        cache = await manager.create_cache("large", max=10_000)
        values = {f"key {number}": number for number in range(2500)}
        await cache.mset(values)
        assert remote.faults.calls["set_many"] == 3
        assert await cache.mget(values) == list(values.values())
        assert remote.faults.calls["get_many"] == 3
        assert await cache.mdel(values) == 2500
        assert remote.faults.calls["delete"] == 3
        await cache.mset({str(number): bytes(1024 * 1024) for number in range(10)})
        assert remote.faults.calls["set_many"] == 3 + 3


async def test_keys_by_pattern(shop):
    """Only the star is special in a pattern, and stands for any text, also none."""
    async with shop.cache() as cache:
        await cache.mset(dict.fromkeys(["user:1", "user:2", "users", "a?c", "abc", "[a]", "*"], 0))
        assert len(await cache.keys()) == 7
        assert sorted(await cache.keys("user:*")) == ["user:1", "user:2"]
        assert sorted(await cache.keys("user*")) == ["user:1", "user:2", "users"]
        assert await cache.keys("users") == ["users"]
        assert await cache.keys("a?c") == ["a?c"]
        assert await cache.keys("[a]") == ["[a]"]
        assert await cache.keys("*:*2") == ["user:2"]
        assert await cache.keys("nothing*") == []
        for pattern, error in (("", InvalidName), (5, InvalidType)):
            with pytest.raises(error, match=r"^pattern must"):
                await cache.keys(pattern)


async def test_reset_removes_everything(shop):
    """`reset` empties the cache, and no other."""
    async with shop.running("a") as (manager,):
        user, user2 = [await manager.create_cache(name) for name in ("user", "user2")]
        odd = await manager.create_cache("user/x")
        for cache in (user, user2, odd):
            await cache.set("x", cache.name)
        await user.reset()
        assert await user.keys() == []
        assert await user2.get("x") == "user2"
        assert await odd.get("x") == "user/x"


async def test_unreadable_entries_are_missing(shop, caplog):
    """What others wrote under a key counts as missing: one log line, and it can be overwritten."""
    async with shop.cache() as cache:
        for junk in JUNK:
            for key in ("get", "add", "count", "wrap", "field"):
                await shop.space().set(key, junk, None)
            assert await cache.get("get", "missing") == "missing"
            assert await cache.ttl("get") is None
            assert await cache.keys() == []
            assert await cache.delete("get") is False
            assert await cache.add("add", 1) is True
            assert await cache.increment("count") == 1
            assert await cache.wrap("wrap", lambda: 7) == 7
            await cache.set_value_in_object("field", "a", 1)
            assert sorted(await cache.keys()) == ["add", "count", "field", "wrap"]
            await cache.reset()
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 1
    assert "cache 'default'" in lines[0]
    assert "'get'" in lines[0]


async def test_its_state_shows(local):
    """The repr of a cache shows its name, whether it is open, and its ttl."""
    async with local.cache() as cache:
        assert repr(cache) == "<Cache 'default' open ttl=inf loads=0>"
    assert repr(cache) == "<Cache 'default' closed ttl=inf loads=0>"
