"""What use leaves behind in memory: as much again is used, and nothing more should stay."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable

import psutil

from ..contracts import Figure, Link, Sample, Stage
from ..settings import Settings

FIGURES = (Figure("growth", "B", "less"), Figure("growth of the server", "B", "less"))


async def direct(stage: Stage) -> Sample:
    """Direct the role `client`, which plays `use_twice`."""
    client = await stage.start("client")
    await client.receive()
    before = stage.server_memory()
    client.send(go=True)
    figures: dict[str, float] = await client.receive()
    after = stage.server_memory()
    if before is not None and after is not None:
        figures["growth of the server"] = after - before
    return Sample(figures)


async def use_twice(
    link: Link,
    settings: Settings,
    count: int,
    use: Callable[[int], Awaitable[object]],
    *,
    rest: float = 0,
) -> None:
    """Call *use* with *count* numbers, and with as many new ones; tell by how much memory grew.

    After each half there are *rest* seconds in which things may expire.
    """

    async def some(numbers: range) -> None:
        for number in numbers:
            await use(number)

    async def half(first: int) -> int:
        step = settings.in_flight
        await asyncio.gather(*(some(range(first + at, first + count, step)) for at in range(step)))
        await asyncio.sleep(rest)
        gc.collect()
        return int(psutil.Process().memory_info().rss)

    before = await half(0)
    link.send(ready=True)
    await link.receive()
    link.send(growth=await half(count) - before)
