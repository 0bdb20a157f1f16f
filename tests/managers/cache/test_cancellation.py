"""Calls that are cancelled: done or not done, and nothing is stuck afterwards."""

from __future__ import annotations

import asyncio

import pytest

CALLS = {
    "set": lambda cache: cache.set("key", 5),
    "mset": lambda cache: cache.mset({"key": 5}),
    "increment": lambda cache: cache.increment("key", 4),
    "delete": lambda cache: cache.delete("key"),
    "mdel": lambda cache: cache.mdel(["key"]),
    "reset": lambda cache: cache.reset(),
    "get": lambda cache: cache.get("key"),
    "keys": lambda cache: cache.keys(),
    "wrap": lambda cache: cache.wrap("key", lambda: 5),
    "cluster": lambda cache: cache.wrap("key", lambda: 5, coalesce="cluster"),
}


async def cancelled_after(steps, call):
    """Cancel *call* after so many turns of the loop; return whether it had ended by itself."""
    task = asyncio.create_task(call)
    for _ in range(steps):
        await asyncio.sleep(0)
    ended = not task.cancel()
    await asyncio.wait([task])
    return ended


@pytest.mark.parametrize("name", CALLS)
async def test_a_call_that_is_cancelled(shop, name):
    """Wherever a call is cancelled, it was done or was not, and the cache goes on working."""
    async with shop.cache() as cache:
        for steps in range(1000):
            await cache.set("key", 1)
            ended = await cancelled_after(steps, CALLS[name](cache))
            assert await cache.get("key") in {1, 5, None}
            assert await asyncio.wait_for(cache.increment("count"), 5) == 1
            await cache.reset()
            if ended:
                break
        assert ended


async def test_counting_that_is_cancelled_while_others_count(remote):
    """Cancelled counts leave no gap in what the others are told, and keep nobody waiting."""
    async with remote.cache() as cache:
        for steps in range(40):
            counting = [asyncio.create_task(cache.increment("key")) for _ in range(20)]
            for _ in range(steps):
                await asyncio.sleep(0)
            for task in counting[::3]:
                task.cancel()
            done, pending = await asyncio.wait(counting, timeout=5)
            assert not pending
            told = [task.result() for task in done if not task.cancelled()]
            assert len(set(told)) == len(told)
            assert max(told) <= await cache.get("key") <= 20
            await cache.reset()


async def test_a_start_that_is_cancelled(remote):
    """Wherever a start is cancelled, a later one works, and what was opened is closed."""
    for steps in range(1000):
        manager = remote.manager()
        ended = await cancelled_after(steps, manager.open(remote.adapter()))
        if ended:
            await manager.close()
            break
        assert not manager._gate.is_open
        await manager.open(remote.adapter())
        await manager.default.set("key", 1)
        await manager.close()
    assert ended
    assert remote.faults.calls["close"] >= remote.faults.calls["open"]


async def test_a_creation_that_is_cancelled(remote):
    """Wherever the creation of a cache is cancelled, it can be created afterwards."""
    async with remote.running("a") as (manager,):
        for steps in range(1000):
            manager.register_store(f"store {steps}", f"memory://creation-{steps}")
            name = f"cache {steps}"
            ended = await cancelled_after(
                steps, manager.create_cache(name, store=f"store {steps}", ttl=5)
            )
            cache = await manager.create_cache(name, store=f"store {steps}", ttl=5)
            await cache.set("key", 1)
            if ended:
                break
        assert ended


async def fail():
    """Load nothing."""
    await asyncio.sleep(0)
    raise OSError("no")


@pytest.mark.parametrize(
    "begin_load",
    [
        lambda cache, key, load: cache.wrap(key, load, coalesce="cluster"),
        lambda cache, key, load: cache.wrap_with_condition(key, load, is_cacheable=lambda _: False),
        lambda cache, key, load: cache.wrap(key, fail, coalesce="cluster"),
    ],
    ids=["stored", "not stored", "failed"],
)
async def test_a_stop_in_the_middle_of_a_load(remote, begin_load):
    """Wherever in a load an instance stops, others need not wait until its claim ends.

    It loads nothing itself any more.
    """
    calls = 0

    async def load():
        nonlocal calls
        calls += 1
        await asyncio.sleep(0)
        return "value"

    for steps in range(30):
        key = f"key {steps}"
        async with remote.running("a", "b") as (a, b):
            waiting = asyncio.create_task(begin_load(a.default, key, load))
            for _ in range(steps):
                await asyncio.sleep(0)
            stopped = not waiting.done()
            await a.close()
            before = calls
            await asyncio.gather(waiting, return_exceptions=True)
            assert calls == before, steps
            begin = remote.clock.monotonic()
            assert await b.default.wrap(key, load, coalesce="cluster") == "value"
            assert remote.clock.monotonic() - begin < 1, steps
    assert not stopped
