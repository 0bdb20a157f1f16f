"""Locks: alone, contended between processes, and what used keys leave behind."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable

from ..contracts import MEDIAN, P99, RATE, About, Figure, Link, LockClient, Sample, Stage, Workload
from ..settings import Settings
from . import growth
from .load import ClientWorkload, Operations, now, thinned

#: How many keys are used up for each of `keys`.
_CHURN = 5


async def _turns(lock: LockClient, settings: Settings) -> Operations:
    return _on_free_keys(lock.turns)


async def _sections(lock: LockClient, settings: Settings) -> Operations:
    async def nothing() -> None:
        """Be the work under the lock."""

    async def sections(key: str, count: int) -> None:
        for _ in range(count):
            await lock.section(key, nothing)

    return _on_free_keys(sections)


def _on_free_keys(take: Callable[[str, int], Awaitable[None]]) -> Operations:
    """Let what runs at the same time take different keys, and always the same few."""
    free: list[str] = []
    numbers = itertools.count()

    async def do(count: int) -> None:
        key = free.pop() if free else f"key {next(numbers)}"
        await take(key, count)
        free.append(key)

    return do


class Contended:
    """Many want one key all the time, from two processes or more."""

    about = About(
        "lock.contended",
        "lock",
        "hand-overs of one key among {contenders} contenders in two processes or more",
        (RATE, MEDIAN, P99, Figure("unfairness", "", "less")),
        roles=("contenders",),
        scales={"contenders": (2, 8, 32, 100)},
    )

    async def run(self, stage: Stage) -> Sample:
        count = max(2, stage.settings.processes)
        processes = [await stage.start("contenders") for _ in range(count)]
        shares = [len(range(at, stage.settings.contenders, count)) for at in range(count)]
        for process, share in zip(processes, shares, strict=True):
            process.send(contenders=share)
        answers = [await process.receive() for process in processes]
        turns = [count for answer in answers for count in answer["turns"]]
        taken = max(each["end"] for each in answers) - min(each["begin"] for each in answers)
        # Jain's index is 1 if all have had equally many turns, and 1/n if one has had all.
        fairness = sum(turns) ** 2 / (len(turns) * sum(count**2 for count in turns))
        latencies = sorted(wait for answer in answers for wait in answer["latencies"])
        return Sample({"rate": sum(turns) / taken, "unfairness": 1 - fairness}, latencies)

    async def contenders(self, lock: LockClient, link: Link, settings: Settings) -> None:
        """Play the contenders of one process; tell how often each had the key, and how long for."""
        share = (await link.receive())["contenders"]
        latencies: list[float] = []
        begin = now()

        async def others_turn() -> None:
            # Otherwise, in one process, nobody would ever find the lock taken.
            await asyncio.sleep(0)

        async def contender() -> int:
            count = 0
            while (asked := now()) < begin + settings.duration:
                await lock.section("key", others_turn)
                latencies.append(now() - asked)
                count += 1
            return count

        turns = await asyncio.gather(*(contender() for _ in range(share)))
        link.send(turns=turns, latencies=thinned(latencies), begin=begin, end=now())


class Churn:
    """What keys leave behind that were taken once."""

    about = About(
        "lock.churn",
        "lock",
        f"memory left by {_CHURN} x {{keys}} keys that were locked once, after as many before them",
        growth.FIGURES,
        repeat_at_most=1,
    )

    async def run(self, stage: Stage) -> Sample:
        return await growth.direct(stage)

    async def client(self, lock: LockClient, link: Link, settings: Settings) -> None:
        """Lock all keys, twice."""
        count = _CHURN * settings.keys
        await growth.use_twice(link, settings, count, lambda number: lock.turns(f"key {number}", 1))


WORKLOADS: tuple[Workload, ...] = (
    ClientWorkload(
        About(
            "lock.uncontended",
            "lock",
            "acquire and release, {in_flight} keys at a time",
            (RATE, MEDIAN, P99),
        ),
        _turns,
    ),
    ClientWorkload(
        About("lock.section", "lock", "an empty section under a renewed lock", (RATE, MEDIAN, P99)),
        _sections,
    ),
    Contended(),
    Churn(),
)
