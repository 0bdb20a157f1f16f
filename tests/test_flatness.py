"""What comes and goes in great numbers leaves nothing behind."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from corekit import App, QueueStats
from corekit.memory import hub as memory_hub
from corekit.testing import VirtualClock

#: Bytes that may be left over, whatever the number of rounds: caches of names, logging, free lists.
SLACK = 300_000


async def stays_flat(
    call: Callable[[int], Awaitable[Any]], *, warm: int, times: int, slack: int = SLACK
) -> None:
    """Check that *times* calls leave at most *slack* bytes, and no task, beyond *warm* calls.

    The memory is looked at for a third of them, since that slows them down.
    """
    tracemalloc.start()
    try:
        await repeat(range(warm), call)
        before, tasks = await _left()
        await repeat(range(times // 3), call)
        after, tasks_after = await _left()
    finally:
        tracemalloc.stop()
    await repeat(range(times // 3, times), call)
    await asyncio.sleep(5)
    assert after - before < slack, f"{after - before:,} bytes are left by {times // 3:,} calls"
    assert tasks_after == tasks


async def _left() -> tuple[int, int]:
    await asyncio.sleep(5)
    gc.collect()
    return tracemalloc.get_traced_memory()[0], len(asyncio.all_tasks())


async def repeat(numbers: range, call: Callable[[int], Awaitable[Any]]) -> None:
    """Await `call(number)` for all *numbers*."""
    for number in numbers:
        await call(number)


async def test_lock_keys_that_are_released(clock: VirtualClock) -> None:
    """100,000 keys, taken and released, leave nothing in the App or the hub."""
    async with App("shop", clock=clock) as app, App("shop", clock=clock) as other:

        async def use(number: int) -> None:
            lease = await app.lock_manager.acquire(f"key-{number}")
            if number % 100 == 0:
                waiter = asyncio.create_task(other.lock_manager.acquire(f"key-{number}"))
                await asyncio.sleep(0)
                await lease.release()
                await (await waiter).release()
            await lease.release()

        await stays_flat(use, warm=100, times=100_000)
        # Each App holds a name all the time, by which the others see it.
        assert "holds 1" in repr(app.lock_manager)
        assert "held=2 waiting=0" in repr(app.lock_manager._session.adapter)  # type: ignore[union-attr]


async def test_lock_keys_that_are_never_released(clock: VirtualClock) -> None:
    """100,000 keys whose leases ended by time are forgotten, without anybody asking for them."""
    async with App("shop", clock=clock) as app:

        async def use(number: int) -> None:
            await app.lock_manager.acquire(f"key-{number}", ttl=0.01)
            if number % 50 == 0:
                await asyncio.sleep(0.02)

        await stays_flat(use, warm=500, times=100_000)
        held = int(repr(app.lock_manager).rpartition("holds ")[2].rstrip(">"))
        assert held <= 200


@pytest.mark.parametrize("copy", [0, 1])
async def test_cache_keys_over_the_maximum(clock: VirtualClock, copy: int) -> None:
    """A cache of 1,000 entries stays one through 100,000 keys; the most recently used are there."""
    async with App("shop", backend=f"memory://?max=1000&copy={copy}", clock=clock) as app:

        async def use(number: int) -> None:
            await app.cache.set(f"key-{number}", number)

        await stays_flat(use, warm=2000, times=100_000)
        assert len(await app.cache.keys()) == 1000
        assert await app.cache.get("key-99999") == 99_999
        assert await app.cache.get("key-98999") is None


async def test_loads_and_counters_that_expire(clock: VirtualClock) -> None:
    """Loads and counters, which have no maximum, are collected when their time is over."""
    async with App("shop", clock=clock) as app:
        counter = await app.cache_manager.create_counter("visits")

        async def use(number: int) -> None:
            await counter.incr(f"key-{number}", ttl=0.01)
            if number % 10 == 0:
                await app.cache.wrap(f"key-{number}", lambda: number, ttl=0.01)
            if number % 50 == 0:
                await asyncio.sleep(2)

        await stays_flat(use, warm=1000, times=40_000)


async def test_subscriptions_that_come_and_go(clock: VirtualClock) -> None:
    """100,000 subscriptions, each on a channel of its own, leave nothing behind."""

    async def handle(message: Any) -> None:
        """Do nothing."""

    async def process(message: Any, context: Any) -> None:
        """Do nothing."""

    async with App("shop", clock=clock) as app, App("shop", clock=clock) as other:

        async def use(number: int) -> None:
            channel = f"channel-{number}"
            await app.pub_sub_manager.subscribe(channel, handle, debounce=0.01)
            if number % 10 == 0:
                await other.pub_sub_manager.publish(channel, number)
                await asyncio.sleep(0)
            await app.pub_sub_manager.unsubscribe(channel, handle)
            if number % 20 == 0:
                app.event_queue.subscribe(channel, process)
                await asyncio.sleep(0)
                app.event_queue.unsubscribe(channel)
                await asyncio.sleep(0)

        # Up to 10,000 names are remembered without a subscriber.
        await stays_flat(use, warm=1000, times=99_000, slack=16_000_000)
        channels = app.pub_sub_manager.channels
        assert len(channels._by_full_name) <= 10_000
        assert "workers=0" in repr(app.event_queue)


async def test_messages_that_pass(clock: VirtualClock) -> None:
    """120,000 messages through queue and pub/sub leave nothing; a channel that is empty is gone."""
    handled = 0

    async def process(message: Any, context: Any) -> None:
        nonlocal handled
        handled += 1

    async def handle(message: Any) -> None:
        nonlocal handled
        handled += 1

    async with App("shop", clock=clock) as app, App("shop", clock=clock) as other:
        app.event_queue.subscribe("jobs", process)
        await app.pub_sub_manager.subscribe("news", handle)

        async def use(number: int) -> None:
            await other.event_queue.publish("jobs", number)
            await other.pub_sub_manager.publish("news", number)
            if number % 100 == 0:
                await asyncio.sleep(0.01)

        await stays_flat(use, warm=101, times=60_003)
        assert await app.event_queue.stats("jobs") == QueueStats(0, 0, 0, 0)
        assert handled == 2 * 60_104


async def test_starts_and_stops(clock: VirtualClock) -> None:
    """1,000 starts and stops of one App, with subscriptions and stores, leave nothing behind."""

    async def handle(message: Any, context: Any = None) -> None:
        """Do nothing."""

    app = App("shop", clock=clock)
    app.event_queue.subscribe("jobs", handle)
    await app.pub_sub_manager.subscribe("news", handle, debounce=1)

    async def use(number: int) -> None:
        async with app:
            await app.cache.set("k", number)
            await app.pub_sub_manager.publish("news", number, skip_self=False)
            await app.event_queue.publish("jobs", number)
            await app.lock_manager.acquire("k")
            await app.cache_manager.create_counter("visits")

    await stays_flat(use, warm=20, times=1000)


async def test_apps_that_come_and_go(clock: VirtualClock) -> None:
    """200 Apps, built, used and dropped, leave nothing, in the hubs neither."""

    async def use(number: int) -> None:
        async with App("shop", clock=clock) as app:
            await app.cache.set("k", number)
            app.event_queue.subscribe("jobs", use_)
            await app.event_queue.publish("jobs", number)
            await app.lock_manager.acquire("k")

    async def use_(message: Any, context: Any) -> None:
        """Do nothing."""

    await stays_flat(use, warm=20, times=200)
    assert len(memory_hub._HUBS) == 4


async def test_gone_waiters(clock: VirtualClock) -> None:
    """10,000 cancelled waiters for one key, and for one load, are forgotten at once."""
    async with App("shop", clock=clock) as app, App("shop", clock=clock) as other:
        held = await app.lock_manager.acquire("k", 100_000)
        never = asyncio.Event()
        load = asyncio.create_task(app.cache.wrap("k", never.wait))
        await asyncio.sleep(0)

        async def use(number: int) -> None:
            tasks = [
                asyncio.create_task(other.lock_manager.acquire("k")),
                asyncio.create_task(app.cache.wrap("k", never.wait)),
            ]
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

        await stays_flat(use, warm=100, times=10_000)
        await held.release()
        assert (await other.lock_manager.try_acquire("k")).held
        never.set()
        assert await load is True
