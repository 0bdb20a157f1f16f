"""Memory caches beside cashews and aiocache: rates and ratios, and memory under churn.

Every form is measured in small portions, in turns, so that a slower moment of the machine meets all
of them alike; told are the medians, and the spread between the quarters around them.
"""

from __future__ import annotations

import asyncio
import gc
import statistics
import time
import tracemalloc
from collections.abc import Awaitable, Callable

import aiocache  # type: ignore[import-untyped]  # it ships no types
import cashews

from corekit import App

PORTION = 1_000
ROUNDS = 60
CHURN = 500_000

Form = Callable[[], Awaitable[None]]


async def compute(number: int) -> int:
    """Return *number*: what is cached."""
    return number


async def gets(app: App) -> dict[str, Form]:
    """Return hits of a key that expires, among others that are there."""
    theirs = cashews.Cache()
    theirs.setup("mem://", size=10_000)
    simple = aiocache.SimpleMemoryCache()
    table = {"key": 1}
    for cache in (app.cache, theirs, simple):
        for number in range(1000):
            await cache.set(f"other {number}", number, 3600)
        await cache.set("key", 1, 3600)
    await app.cache.set("lasting", 1)

    async def bare_get(key: str) -> int:
        return table[key]

    async def bare() -> None:
        for _ in range(PORTION):
            await bare_get("key")

    async def corekit_get() -> None:
        for _ in range(PORTION):
            await app.cache.get("key")

    async def corekit_get_lasting() -> None:
        for _ in range(PORTION):
            await app.cache.get("lasting")

    async def cashews_get() -> None:
        for _ in range(PORTION):
            await theirs.get("key")

    async def aiocache_get() -> None:
        for _ in range(PORTION):
            await simple.get("key")

    return {
        "cashews mem:// get": cashews_get,
        "aiocache get": aiocache_get,
        "corekit app.cache.get": corekit_get,
        "corekit get, no expiry": corekit_get_lasting,
        "a coroutine around a dict": bare,
    }


async def hits(app: App) -> dict[str, Form]:
    """Return hits of a cached function, by decorator and by `wrap`."""
    theirs = cashews.Cache()
    theirs.setup("mem://", size=10_000)
    by_cashews = theirs(ttl="1h", key="compute:{number}")(compute)
    by_aiocache = aiocache.cached(ttl=3600, key_builder=lambda _, number: f"compute:{number}")(
        compute
    )
    by_corekit = app.cache.cached("compute:{number}", ttl=3600)(compute)

    async def seven() -> int:
        return 7

    async def cashews_hit() -> None:
        for _ in range(PORTION):
            await by_cashews(7)

    async def aiocache_hit() -> None:
        for _ in range(PORTION):
            await by_aiocache(7)

    async def corekit_hit() -> None:
        for _ in range(PORTION):
            await by_corekit(7)

    async def corekit_hit_by_name() -> None:
        for _ in range(PORTION):
            await by_corekit(number=7)

    async def corekit_wrap() -> None:
        for _ in range(PORTION):
            await app.cache.wrap("seven", seven, 3600)

    return {
        "cashews decorator hit": cashews_hit,
        "aiocache decorator hit": aiocache_hit,
        "corekit app.cache.wrap hit": corekit_wrap,
        "corekit decorator hit": corekit_hit,
        "corekit decorator hit by name": corekit_hit_by_name,
    }


async def writes(app: App) -> dict[str, Form]:
    """Return writes of one key, and loads of a missing one."""
    theirs = cashews.Cache()
    theirs.setup("mem://", size=10_000)
    simple = aiocache.SimpleMemoryCache()

    async def one() -> int:
        return 1

    by_cashews = theirs(ttl="1h", key="compute:{number}", lock=True)(compute)

    async def cashews_miss() -> None:
        for _ in range(PORTION):
            await by_cashews(7)
            await theirs.delete("compute:7")

    async def cashews_set() -> None:
        for _ in range(PORTION):
            await theirs.set("key", 1, 3600)

    async def aiocache_set() -> None:
        for _ in range(PORTION):
            await simple.set("key", 1, 3600)

    async def corekit_set() -> None:
        for _ in range(PORTION):
            await app.cache.set("key", 1, 3600)

    async def corekit_increment() -> None:
        for _ in range(PORTION):
            await app.cache.increment("count", 1, 3600)

    async def corekit_miss() -> None:
        for _ in range(PORTION):
            await app.cache.wrap("missing", one, 3600)
            await app.cache.delete("missing")

    return {
        "cashews set": cashews_set,
        "aiocache set": aiocache_set,
        "corekit app.cache.set": corekit_set,
        "corekit increment": corekit_increment,
        "cashews locked miss + delete": cashews_miss,
        "corekit wrap miss + delete": corekit_miss,
    }


async def measured(form: Form) -> float:
    """Return calls per second."""
    begun = time.perf_counter()
    await form()
    return PORTION / (time.perf_counter() - begun)


async def compared(title: str, forms: dict[str, Form]) -> None:
    """Print the median of each form, and its ratio to the first in the same round."""
    rates: dict[str, list[float]] = {name: [] for name in forms}
    for form in forms.values():
        await form()
    gc.collect()
    for _ in range(ROUNDS):
        for name, form in forms.items():
            rates[name].append(await measured(form))
    base = next(iter(rates.values()))
    print(f"\n{title}\n{'':32}{'per second':>12}{'quarters':>24}{'ratio':>8}{'quarters':>14}")
    for name, found in rates.items():
        low, middle, high = statistics.quantiles(found, n=4)
        ratios = [rate / other for rate, other in zip(found, base, strict=True)]
        worst, ratio, best = statistics.quantiles(ratios, n=4)
        print(
            f"{name:32}{middle:12,.0f}{f'{low:,.0f} - {high:,.0f}':>24}{ratio:8.1f}"
            f"{f'{worst:.1f} - {best:.1f}':>14}"
        )


async def churned(app: App) -> None:
    """Print what many short-lived keys leave behind, in a cache without a limit."""
    cache = await app.cache_manager.create_cache("churn", max=None)

    async def rounds(first: int) -> int:
        for number in range(first, first + CHURN):
            await cache.set(f"key {number}", number, 0.05)
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    after_first = await rounds(0)
    after_second = await rounds(CHURN)
    tracemalloc.stop()
    print(
        f"\n{CHURN:,} keys of 50 ms, then as many again: {after_first / 2**20:.1f} MiB, "
        f"{after_second / 2**20:.1f} MiB"
    )


async def main() -> None:
    """Run everything."""
    async with App("bench") as app:
        await compared("get", await gets(app))
        await compared("hits of cached functions", await hits(app))
        await compared("writes", await writes(app))
        await churned(app)


if __name__ == "__main__":
    asyncio.run(main())
