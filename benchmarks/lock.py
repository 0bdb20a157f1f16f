"""Memory locks beside `asyncio.Lock`: rates, ratios, and what 100,000 keys leave behind.

Every form is measured in small portions, in turns, so that a slower moment of the machine meets
all of them alike; the best portion counts.
"""

from __future__ import annotations

import asyncio
import gc
import time
import tracemalloc
from collections.abc import Awaitable, Callable

from corekit.clock import SYSTEM_CLOCK
from corekit.managers.context import ManagerContext
from corekit.managers.lock import LockManager
from corekit.memory.lock import LockHub, MemoryLock
from corekit.serialization import Serializer
from corekit.testing.contexts import make_context
from corekit.transactions import AfterCommit

PORTION = 5_000
ROUNDS = 40
KEYS = 100_000


async def open_manager(hub: LockHub) -> LockManager:
    """Return a manager that is open, as one instance of an application."""
    manager = LockManager(ManagerContext("bench", "a", SYSTEM_CLOCK, Serializer(), AfterCommit()))
    await manager.open(MemoryLock(hub, make_context()))
    return manager


def forms(manager: LockManager, lock: asyncio.Lock) -> dict[str, Callable[[], Awaitable[None]]]:
    """Return what is measured: each call takes and releases a lock PORTION times."""

    async def bare_calls() -> None:
        for _ in range(PORTION):
            await lock.acquire()
            lock.release()

    async def bare_with() -> None:
        for _ in range(PORTION):
            async with lock:
                pass

    async def calls() -> None:
        for _ in range(PORTION):
            lease = await manager.acquire("key")
            await lease.release()

    async def with_lease() -> None:
        for _ in range(PORTION):
            async with await manager.acquire("key"):
                pass

    async def section() -> None:
        for _ in range(PORTION):
            async with manager.lock("key"):
                pass

    async def run_exclusive() -> None:
        def work() -> None:
            pass

        for _ in range(PORTION):
            await manager.run_exclusive("key", work)

    return {
        "asyncio.Lock: acquire(), release()": bare_calls,
        "asyncio.Lock: async with": bare_with,
        "acquire(), release()": calls,
        "async with await acquire()": with_lease,
        "async with lock(), renewing": section,
        "run_exclusive(), renewing": run_exclusive,
    }


async def rates() -> None:
    """Measure every form, in turns."""
    manager = await open_manager(LockHub())
    measured = forms(manager, asyncio.Lock())
    best = dict.fromkeys(measured, 1e9)
    for _ in range(ROUNDS):
        for name, form in measured.items():
            start = time.perf_counter()
            await form()
            best[name] = min(best[name], (time.perf_counter() - start) / PORTION)
    await manager.close()
    names = list(measured)
    calls, with_ = (best[name] for name in names[:2])
    print(f"{'':36}{'a second':>12}{'us':>8}{'x calls':>9}{'x async with':>14}")
    for name in names:
        own = best[name]
        print(f"{name:36}{1 / own:12,.0f}{own * 1e6:8.2f}{calls / own:9.3f}{with_ / own:14.3f}")


async def hand_over() -> None:
    """Pass one key round among 100 waiters of two instances."""
    hub = LockHub()
    managers = [await open_manager(hub), await open_manager(hub)]

    async def use(manager: LockManager) -> None:
        for _ in range(100):
            async with await manager.acquire("key"):
                pass

    start = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        for number in range(100):
            tasks.create_task(use(managers[number % 2]))
    taken = time.perf_counter() - start
    for manager in managers:
        await manager.close()
    print(f"{'hand-over among 100 waiters':36}{10_000 / taken:12,.0f}{taken * 100:8.2f}")


async def memory() -> None:
    """Take and release KEYS different keys; then abandon as many."""
    hub = LockHub()
    manager = await open_manager(hub)
    for number in range(1000):
        async with await manager.acquire(f"warm-{number}"):
            pass
    gc.collect()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for number in range(KEYS):
        async with manager.lock(f"key-{number}"):
            pass
    gc.collect()
    after, _ = tracemalloc.get_traced_memory()
    print(f"\n{KEYS:,} keys taken and released: {after - before:+,} bytes")
    for number in range(KEYS):
        await manager.acquire(f"key-{number}", 0.005)
    gc.collect()
    after, _ = tracemalloc.get_traced_memory()
    print(f"{KEYS:,} keys taken for 5 ms and abandoned: {after - before:+,} bytes, {hub!r}")
    tracemalloc.stop()
    await manager.close()


if __name__ == "__main__":
    asyncio.run(rates())
    asyncio.run(hand_over())
    asyncio.run(memory())
