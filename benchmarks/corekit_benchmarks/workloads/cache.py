"""Caches: hits, misses, writes, a mix of both, cached functions, stampedes, and churn."""

from __future__ import annotations

import asyncio
import itertools
import random

from ..contracts import MEDIAN, P99, RATE, About, CacheClient, Figure, Link, Sample, Stage, Workload
from ..settings import Settings
from . import growth
from .load import ClientWorkload, Operations, now

_HOUR = 3600

#: The lifetime of the keys that churn, in seconds, and how many there are for each of `keys`.
_SHORT = 1
_CHURN = 20


async def _get(cache: CacheClient, settings: Settings) -> Operations:
    get = cache.get
    # Among others, as in life.
    for number in range(settings.keys):
        await cache.set(f"other {number}", bytes(settings.payload), _HOUR)
    await cache.set("key", bytes(settings.payload), _HOUR)

    async def do(count: int) -> None:
        for _ in range(count):
            await get("key")

    return do


async def _miss(cache: CacheClient, settings: Settings) -> Operations:
    get = cache.get

    async def do(count: int) -> None:
        for _ in range(count):
            await get("missing")

    return do


async def _set(cache: CacheClient, settings: Settings) -> Operations:
    write, value = cache.set, bytes(settings.payload)

    async def do(count: int) -> None:
        for _ in range(count):
            await write("key", value, _HOUR)

    return do


async def _mixed(cache: CacheClient, settings: Settings) -> Operations:
    get, write, value = cache.get, cache.set, bytes(settings.payload)
    # Drawn before: drawing would cost as much as the fastest read.
    dice = random.Random(0)
    plan = [
        (f"key {dice.randrange(settings.keys)}", dice.random() < settings.read_share)
        for _ in range(10_000)
    ]
    at = 0

    async def do(count: int) -> None:
        nonlocal at
        at = (at + count) % (len(plan) - count)
        for key, reads in plan[at : at + count]:
            if reads:
                await get(key)
            else:
                await write(key, value, _HOUR)

    return do


async def _wrap_hit(cache: CacheClient, settings: Settings) -> Operations:
    async def load(number: int) -> bytes:
        return bytes(settings.payload)

    function = cache.cached(load, once=False)
    # What is in flight at a time asks for different values: some libraries join equal calls.
    turns = itertools.cycle(range(settings.in_flight))
    for number in range(settings.in_flight):
        await function(number)

    async def do(count: int) -> None:
        number = next(turns)
        for _ in range(count):
            await function(number)

    return do


async def _wrap_miss(cache: CacheClient, settings: Settings) -> Operations:
    async def load(number: int) -> bytes:
        return bytes(settings.payload)

    function = cache.cached(load, once=False)
    number = 0

    async def do(count: int) -> None:
        nonlocal number
        for _ in range(count):
            number += 1
            await function(number)

    return do


class Stampede:
    """Many callers of one missing value at once."""

    about = About(
        "cache.stampede",
        "cache",
        "{callers} callers at once of a missing value that takes 10 ms to load",
        (Figure("until all are served", "s", "less"), Figure("loads", "", "less")),
    )

    async def run(self, stage: Stage) -> Sample:
        client = await stage.start("client")
        return Sample(await client.receive())

    async def client(self, cache: CacheClient, link: Link, settings: Settings) -> None:
        """Play all callers."""
        loads = 0

        async def load(number: int) -> bytes:
            nonlocal loads
            loads += 1
            await asyncio.sleep(0.01)
            return bytes(settings.payload)

        function = cache.cached(load, once=True)
        begin, rounds, taken = now(), 0, 0.0
        while taken < settings.duration / 2:
            rounds += 1
            await asyncio.gather(*(function(rounds) for _ in range(settings.callers)))
            taken = now() - begin
        link.send(**{"until all are served": taken / rounds, "loads": loads / rounds})


class Churn:
    """What short-lived keys leave behind."""

    about = About(
        "cache.churn",
        "cache",
        f"memory left by {_CHURN} x {{keys}} keys that lived {_SHORT} s, after as many before them",
        growth.FIGURES,
        repeat_at_most=1,
    )

    async def run(self, stage: Stage) -> Sample:
        return await growth.direct(stage)

    async def client(self, cache: CacheClient, link: Link, settings: Settings) -> None:
        """Set all keys, twice."""
        value = bytes(settings.payload)
        await growth.use_twice(
            link,
            settings,
            _CHURN * settings.keys,
            lambda number: cache.set(f"key {number}", value, _SHORT),
            rest=2 * _SHORT,
        )


_FLIGHT = "{payload} B, {in_flight} in flight"

WORKLOADS: tuple[Workload, ...] = (
    ClientWorkload(
        About("cache.get", "cache", f"get of a key that is there, {_FLIGHT}", (RATE, MEDIAN, P99)),
        _get,
    ),
    ClientWorkload(
        About(
            "cache.miss",
            "cache",
            "get of a key that is not there, {in_flight} in flight",
            (RATE, MEDIAN, P99),
        ),
        _miss,
    ),
    ClientWorkload(
        About(
            "cache.set",
            "cache",
            f"set of a key that expires, {_FLIGHT}",
            (RATE, MEDIAN, P99),
            scales={"payload": (64, 1024, 16_384, 65_536)},
        ),
        _set,
    ),
    ClientWorkload(
        About(
            "cache.mixed",
            "cache",
            f"a share of {{read_share}} reads, {{keys}} keys, {_FLIGHT}, processes: {{processes}}",
            (RATE, MEDIAN, P99),
            scales={"in_flight": (1, 4, 16, 64, 256)},
        ),
        _mixed,
    ),
    ClientWorkload(
        About(
            "cache.wrap_hit",
            "cache",
            f"call of a cached function, hit, {_FLIGHT}",
            (RATE, MEDIAN, P99),
        ),
        _wrap_hit,
    ),
    ClientWorkload(
        About(
            "cache.wrap_miss",
            "cache",
            f"call of a cached function, miss, {_FLIGHT}",
            (RATE, MEDIAN, P99),
        ),
        _wrap_miss,
    ),
    Stampede(),
    Churn(),
)
