"""Caches by name, stores beside the App's own, starting and stopping."""

from __future__ import annotations

import asyncio
import math

import pytest

from corekit.errors import (
    BackendUnavailable,
    CacheNotFound,
    ConfigurationError,
    InvalidArgument,
    InvalidName,
    InvalidType,
    NotOpenError,
    WrongLoop,
)
from corekit.testing import VirtualClock


async def test_the_default_cache(shop):
    """The default cache is there from the start, under the name "default"."""
    manager = shop.manager()
    cache = manager.default
    await manager.open(shop.adapter())
    assert manager.get_cache("default") is cache
    assert await manager.create_cache("default") is cache
    await manager.close()


async def test_a_name_is_one_cache(shop):
    """One name with the same options is the same object; with others it is refused."""
    async with shop.running("a") as (manager,):
        cache = await manager.create_cache("users", ttl=60, max=10)
        assert await manager.create_cache("users", max=10, ttl=60.0) is cache
        assert manager.get_cache("users") is cache
        manager.register_store("other", "memory://other")
        for options in (
            {},
            {"ttl": 60},
            {"ttl": 61, "max": 10},
            {"ttl": 60, "max": 11},
            {"ttl": 60, "max": 10, "prefix": "u"},
            {"ttl": 60, "max": 10, "store": "other"},
        ):
            with pytest.raises(ConfigurationError, match="cache 'users' exists already"):
                await manager.create_cache("users", **options)
        with pytest.raises(ConfigurationError, match="cache 'default' exists already"):
            await manager.create_cache("default", ttl=5)


async def test_created_at_once(remote):
    """Tasks that create one cache at once get the same object; the store opens once."""
    async with remote.running("a") as (manager,):
        manager.register_store("other", "memory://other")
        caches = await asyncio.gather(
            *(manager.create_cache(name, store="other") for name in "aabb")
        )
        assert caches[0] is caches[1]
        assert caches[2] is caches[3]
        assert remote.faults.calls["open"] == 2


async def test_an_unknown_cache(shop):
    """A name that was not created raises CacheNotFound, a KeyError that names those that were."""
    async with shop.running("a") as (manager,):
        await manager.create_cache("users")
        with pytest.raises(CacheNotFound, match=r"'usres'.*'default', 'users'") as caught:
            manager.get_cache("usres")
        assert isinstance(caught.value, KeyError)
        with pytest.raises(InvalidType):
            manager.get_cache(5)


async def test_caches_are_separate(shop):
    """No cache sees another's keys, whatever they and their prefixes are called."""
    async with shop.running("a") as (manager,):
        caches = [
            await manager.create_cache("a", prefix="aa"),
            await manager.create_cache("b", prefix="a"),
            await manager.create_cache("c", prefix="a/b"),
            await manager.create_cache("a%2Fb"),
            await manager.create_cache("default/x"),
        ]
        for cache in caches:
            for key in ("b", "ab", "b/b", "/b"):
                await cache.set(key, cache.name + key)
        for cache in caches:
            assert sorted(await cache.keys()) == ["/b", "ab", "b", "b/b"]
            assert await cache.get("b/b") == cache.name + "b/b"
        assert await manager.default.keys() == []


async def test_a_prefix_replaces_the_name(shop):
    """The keys of a cache with a prefix begin with that, not with its name."""
    async with shop.running("a", "b") as (one, two):
        old = await one.create_cache("old")
        new = await two.create_cache("new", prefix="old")
        await old.set("key", 1)
        assert await new.get("key") == 1


async def test_two_caches_with_the_same_keys(shop):
    """A prefix that another cache has, or is called, is refused."""
    async with shop.running("a") as (manager,):
        await manager.create_cache("users")
        await manager.create_cache("x", prefix="y")
        for name, prefix in (("other", "users"), ("other", "y"), ("y", None), ("z", "default")):
            with pytest.raises(ConfigurationError, match="would have the same keys as cache"):
                await manager.create_cache(name, prefix=prefix)


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"name": ""}, InvalidName, "^name must"),
        ({"name": 5}, InvalidType, "^name must"),
        ({"prefix": ""}, InvalidName, "^prefix must"),
        ({"prefix": 5}, InvalidType, "^prefix must"),
        ({"store": "unknown"}, ConfigurationError, "no store 'unknown' is registered.*'default'"),
        ({"store": ""}, InvalidName, "^store must"),
        ({"store": 5}, InvalidType, "^store must"),
        ({"ttl": 0}, InvalidArgument, "^ttl must"),
        ({"max": 0}, InvalidArgument, "^max must"),
        ({"max": 1.5}, InvalidType, "^max must"),
        ({"size": 5}, ConfigurationError, "no option 'size'"),
    ],
)
async def test_bad_definitions(shop, arguments, error, match):
    """A cache that cannot be is refused, and the name stays free."""
    async with shop.running("a") as (manager,):
        with pytest.raises(error, match=match):
            await manager.create_cache(**{"name": "cache", **arguments})
        await manager.create_cache("cache")


async def test_max_of_a_cache(shop):
    """`max` is how many entries a cache keeps."""
    async with shop.running("a") as (manager,):
        cache = await manager.create_cache("small", max=3)
        for number in range(10):
            await cache.set(str(number), number)
        assert sorted(await cache.keys()) == ["7", "8", "9"]


async def test_another_store(shop):
    """Caches in a registered store are there, with its defaults unless they have their own."""
    manager = shop.manager()
    manager.register_store("small", "memory://small", max=2, ttl=60)
    await manager.open(shop.adapter())
    cache = await manager.create_cache("a", store="small")
    own = await manager.create_cache("b", store="small", max=5, ttl=math.inf)
    for number in range(10):
        await cache.set(str(number), number)
        await own.set(str(number), number)
    assert len(await cache.keys()) == 2
    assert len(await own.keys()) == 5
    assert await cache.ttl("9") == pytest.approx(60)
    assert await own.ttl("9") == math.inf
    counter = await manager.create_counter("c", store="small")
    for number in range(10):
        await counter.incr(str(number))
    assert await counter.get("0") == 1
    await manager.close()


async def test_registering_stores(shop):
    """The same store may be registered again; another under its name, or a bad one, may not."""
    manager = shop.manager()
    manager.register_store("a", "memory://a", max=2, ttl=60)
    manager.register_store("a", "memory://a", ttl=60.0, max=2)
    for name, url, defaults in (
        ("a", "memory://b", {"max": 2, "ttl": 60}),
        ("a", "memory://a", {}),
        ("default", "memory://a", {}),
        ("b", "unknown://", {}),
        ("b", "memory://b", {"prefix": "x"}),
        ("b", "memory://b", {"store": "x"}),
    ):
        with pytest.raises(ConfigurationError):
            manager.register_store(name, url, **defaults)
    with pytest.raises(InvalidName):
        manager.register_store("", "memory://a")
    with pytest.raises(InvalidArgument):
        manager.register_store("b", "memory://a", ttl=-1)


async def test_a_name_on_two_stores(shop):
    """A name, of a cache or a counter, cannot be on two stores."""
    async with shop.running("a") as (manager,):
        manager.register_store("other", "memory://other")
        await manager.create_cache("users", store="other")
        await manager.create_counter("hits")
        with pytest.raises(ConfigurationError):
            await manager.create_cache("users")
        with pytest.raises(ConfigurationError):
            await manager.create_counter("hits", store="other")
        assert await manager.create_counter("hits") is await manager.create_counter("hits")


async def test_flushing_everything(shop):
    """`flush_all` empties every cache of the application, in every store, and nothing else."""
    async with shop.running("a", "b") as (one, two):
        for manager in (one, two):
            manager.register_store("other", "memory://flushed")
        mine = await one.create_cache("mine")
        theirs = await two.create_cache("theirs")
        elsewhere = await two.create_cache("elsewhere", store="other")
        counter = await one.create_counter("hits")
        neighbour = shop.manager(app="shop2")
        await neighbour.open(shop.adapter())
        for cache in (one.default, mine, theirs, elsewhere, neighbour.default):
            await cache.set("key", 1)
        await counter.incr("key")
        await one.flush_all()
        for cache in (one.default, mine, theirs, elsewhere):
            assert await cache.keys() == []
        assert await neighbour.default.get("key") == 1
        assert await counter.get("key") == 1
        await neighbour.close()


async def check_closed(manager, cache, counter, error):
    """Check that every call is refused."""
    for call in (
        lambda: cache.get("key"),
        lambda: cache.set("key", 1),
        lambda: cache.add("key", 1),
        lambda: cache.delete("key"),
        lambda: cache.reset(),
        lambda: cache.mset({"key": 1}),
        lambda: cache.mget(["key"]),
        lambda: cache.mdel(["key"]),
        lambda: cache.wrap("key", lambda: 1),
        lambda: cache.wrap_with_condition("key", lambda: 1),
        lambda: cache.wrap_with_condition("key", lambda: 1, use_cache=False),
        lambda: cache.cached("key")(lambda: 1)(),
        lambda: cache.keys(),
        lambda: cache.ttl("key"),
        lambda: cache.increment("key"),
        lambda: cache.set_value_in_object("key", "a", 1),
        lambda: cache.get_value_in_object("key", "a"),
        lambda: cache.delete_value_in_object("key", "a"),
        lambda: manager.create_cache("new"),
        lambda: manager.create_counter("new"),
        lambda: manager.flush_all(),
    ):
        with pytest.raises(error):
            await call()
    with pytest.raises(error):
        manager.get_cache("default")
    if counter is not None:
        for call in (counter.get, counter.incr, counter.reset):
            with pytest.raises(error):
                await call("key")


async def test_before_and_after(shop):
    """Everything raises NotOpenError before the start and after the stop, and works in between."""
    manager = shop.manager()
    with pytest.raises(NotOpenError, match="app 'shop' is not started"):
        await manager.default.get("key")
    await check_closed(manager, manager.default, None, NotOpenError)
    await manager.open(shop.adapter())
    counter = await manager.create_counter("hits")
    await manager.close()
    await manager.close()
    with pytest.raises(NotOpenError, match="app 'shop' is stopped"):
        await manager.default.get("key")
    await check_closed(manager, manager.default, counter, NotOpenError)


def test_another_loop(shop):
    """A call from another event loop than the one of the start raises WrongLoop."""

    async def opened():
        await manager.open(shop.adapter())
        return await manager.create_counter("hits")

    manager = shop.manager()
    counter = shop.clock.run(opened())
    VirtualClock().run(check_closed(manager, manager.default, counter, WrongLoop))


def test_starting_again(shop):
    """After a stop and a start, in another loop too, the same caches and counters go on."""
    manager = shop.manager()
    manager.register_store("other", "memory://again")
    made = {}

    async def several(name):
        # So many at once that they wait for each other.
        manager.register_store(name, f"memory://{name}")
        await asyncio.gather(*(manager.create_cache(name, store=name) for _ in range(5)))

    async def first():
        await manager.open(shop.adapter())
        await several("early")
        made["other"] = await manager.create_cache("other", store="other", ttl=60)
        made["counter"] = await manager.create_counter("hits")
        made["cached"] = manager.default.cached("f:{x}")(lambda x: x + 1)
        for cache in (manager.default, made["other"]):
            await cache.set("key", cache.name)
        assert await made["counter"].incr("key") == 1
        assert await made["cached"](1) == 2
        await manager.close()

    async def second():
        await manager.open(shop.adapter())
        await several("late")
        assert await manager.create_cache("other", store="other", ttl=60) is made["other"]
        assert manager.get_cache("other") is made["other"]
        assert await manager.default.get("key") == "default"
        assert await made["other"].get("key") == "other"
        assert await made["counter"].incr("key") == 2
        assert await made["cached"](1) == 2
        values = await asyncio.gather(
            *(manager.default.wrap("new", lambda: asyncio.sleep(1, 5)) for _ in range(5))
        )
        assert values == [5] * 5
        await manager.close()

    shop.clock.run(first())
    shop.clock.run(second())


async def test_a_start_that_fails(remote):
    """If a store cannot be opened, all are closed again, and a later start works."""
    manager = remote.manager()
    manager.register_store("other", "memory://failing")
    await manager.open(remote.adapter())
    await manager.create_cache("a", store="other")
    await manager.close()
    closed = remote.faults.calls["close"]
    build = manager._stores._build

    def fail(url):
        remote.faults.failures["open"] = BackendUnavailable("away")
        return build(url)

    manager._stores._build = fail
    with pytest.raises(BackendUnavailable):
        await manager.open(remote.adapter())
    assert remote.faults.calls["close"] == closed + 2
    with pytest.raises(NotOpenError):
        await manager.default.get("key")
    remote.faults.failures.clear()
    manager._stores._build = build
    await manager.open(remote.adapter())
    assert await manager.get_cache("a").get("key") is None
    await manager.close()


async def test_a_store_that_cannot_be_opened(remote):
    """A cache whose store is away is not created, and the next try may succeed."""
    async with remote.running("a") as (manager,):
        manager.register_store("other", "memory://away")
        remote.faults.failures["open"] = BackendUnavailable("away")
        with pytest.raises(BackendUnavailable):
            await manager.create_cache("a", store="other")
        with pytest.raises(CacheNotFound):
            manager.get_cache("a")
        remote.faults.failures.clear()
        await (await manager.create_cache("a", store="other")).set("key", 1)


async def test_instances_share(shop):
    """Instances of one application share the caches of one name; other applications do not."""
    async with shop.running("a", "b") as (one, two):
        await one.default.set("key", 1)
        assert await two.default.get("key") == 1
        other = shop.manager(app="shop/cache")
        await other.open(shop.adapter())
        assert await other.default.get("key") is None
        await other.close()


async def test_states_show(local):
    """The repr of the manager shows whether it is open, and what was created."""
    manager = local.manager()
    assert repr(manager) == "<CacheManager 'shop' closed cache 'default'>"
    await manager.open(local.adapter())
    await manager.create_counter("hits")
    assert repr(manager) == "<CacheManager 'shop' open cache 'default', counter 'hits'>"
    await manager.close()
