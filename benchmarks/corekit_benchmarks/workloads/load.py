"""Calls as fast as they go, by one or several client processes."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable
from typing import Any

from ..contracts import RATE, About, Link, Sample, Stage
from ..settings import Settings

#: One scale for all processes of the machine.
now = time.monotonic

#: Does as many operations as it is told, one after another.
Operations = Callable[[int], Awaitable[None]]

#: Operations between two looks at the clock: few enough for slow servers, and enough that looking
#: costs nothing beside the fastest operation.
_BATCH = 20

#: The share of the duration in which nothing is counted yet.
_WARM_UP = 0.1

#: The share in which single operations are timed, with nothing beside them.
_TIMED = 0.25

#: The most latencies that one role tells.
_MOST_LATENCIES = 20_000


class ClientWorkload:
    """Clients that do nothing but what *prepare*, given the subject's client, returns.

    First `processes` of them at once, with `in_flight` operations at a time each: the rate. Then
    one of them, one operation at a time: the latencies.
    """

    def __init__(
        self, about: About, prepare: Callable[[Any, Settings], Awaitable[Operations]]
    ) -> None:
        self.about = about
        self._prepare = prepare

    def __repr__(self) -> str:
        return f"<ClientWorkload {self.about.name}>"

    async def run(self, stage: Stage) -> Sample:
        processes = stage.settings.processes if stage.shared else 1
        clients = [await stage.start("client") for _ in range(processes)]
        for client in clients:
            await client.receive()
        for client in clients:
            client.send(go=True)
        loads = [await client.receive() for client in clients]
        taken = max(load["end"] for load in loads) - min(load["begin"] for load in loads)
        clients[0].send(go=True)
        latencies = sorted((await clients[0].receive())["latencies"])
        return Sample({RATE.name: sum(load["count"] for load in loads) / taken}, latencies)

    async def client(self, client: Any, link: Link, settings: Settings) -> None:
        """Play one client."""
        do = await self._prepare(client, settings)
        # All at once: some open a connection for each call that is under way.
        warm = now() + _WARM_UP * settings.duration
        await asyncio.gather(*(_repeat(do, warm) for _ in range(settings.in_flight)))
        # The collector shall not walk, while it counts, through all that was imported.
        gc.collect()
        gc.freeze()
        link.send(ready=True)
        await link.receive()
        begin = now()
        deadline = begin + settings.duration * (1 - _WARM_UP - _TIMED)
        counts = await asyncio.gather(*(_repeat(do, deadline) for _ in range(settings.in_flight)))
        link.send(count=sum(counts) * _BATCH, begin=begin, end=now())
        await link.receive()
        link.send(latencies=await _latencies(do, now() + settings.duration * _TIMED))


def thinned(latencies: list[float]) -> list[float]:
    """Return *latencies*, or evenly picked ones of them if they are very many."""
    return latencies[:: len(latencies) // _MOST_LATENCIES + 1]


async def _repeat(do: Operations, deadline: float) -> int:
    batches = 0
    while True:
        await do(_BATCH)
        batches += 1
        if now() >= deadline:
            return batches


async def _latencies(do: Operations, deadline: float) -> list[float]:
    latencies = []
    clock = time.perf_counter
    while now() < deadline:
        begin = clock()
        await do(1)
        latencies.append(clock() - begin)
    return thinned(latencies)
