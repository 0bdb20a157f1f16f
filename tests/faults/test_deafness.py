"""After a broker was away, or a link was broken, nobody stays deaf without a word."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack

import pytest

from corekit.testing import free_port

from . import checkers, links
from .processes import SCALE, Broker, Run, nothing_left, scaled

pytestmark = [pytest.mark.faults, pytest.mark.timeout(240 + scaled(120))]

#: How long the broker is away, in seconds.
ABSENCES = [0.1, 3.0, 30.0]

#: What is promised, in seconds from the moment the broker listens, or the link is whole.
RESUMED_WITHIN = 2.0

CLIENTS = [
    *(("consumer", "consumer1"), ("publisher", "publisher1")),
    *(("subscriber", "subscriber1"), ("subscriber", "subscriber2"), ("subscriber", "subscriber3")),
    *(("sender", "sender1"), ("sender", "sender2"), ("reader", "reader1")),
    *(("contender", "contender1"), ("contender", "contender2")),
]

#: Their calls follow each other quickly, none of them fills the machine.
OPTIONS = {"width": 2, "pause": 0.02, "block": 0.0, "uses": 2}


async def finished(run: Run) -> None:
    """End the clients: who speaks first, those that listen when all has come."""
    await asyncio.sleep(1)
    speaking = ("publisher", "sender", "reader", "contender")
    await run.end([name for name in run.clients if name.startswith(speaking)])
    await run.until(nothing_left, 30)
    await run.until(lambda events: not checkers.gaps(events).violations, 10)
    await run.end(list(run.clients))


def judge(run: Run) -> None:
    """Check what holds for every client, whatever was broken."""
    events = run.events()
    run.judge(
        checkers.no_loss(events),
        checkers.gaps(events),
        checkers.resumption(events, RESUMED_WITHIN),
        checkers.no_zombie(events),
        checkers.faults(events),
    )


async def test_all_resume_when_the_broker_is_back(new_run: Callable[[], Run]) -> None:
    """The broker is killed and stays away, shorter and longer: every kind of client goes on."""
    async with new_run() as run:
        broker = run.broker("--strict")
        for kind, name in CLIENTS:
            await run.client(kind, name, broker.url, **OPTIONS)
        for _ in range(scaled(2) if SCALE < 2 else scaled(2) // 4):
            for away in ABSENCES:
                await asyncio.sleep(RESUMED_WITHIN + run.random.random())
                await run.kill_broker(broker, away)
        await asyncio.sleep(RESUMED_WITHIN + 1)
        await finished(run)
        judge(run)


async def test_all_resume_when_their_link_is_back(new_run: Callable[[], Run]) -> None:
    """Each client has its own link, which is cut, resets, holds, drops, delays, or halves.

    What is held or dropped is so both ways, or one way only.
    """
    async with AsyncExitStack() as stack:
        run = await stack.enter_async_context(new_run())
        broker = run.broker(listen=f"tcp://127.0.0.1:{free_port()}")
        paths = {}
        for kind, name in CLIENTS:
            paths[name] = await stack.enter_async_context(links.Link(_port(broker)))
            await run.client(kind, name, f"zmq://{paths[name].address}", **OPTIONS)
        await asyncio.sleep(1)
        for _ in range(scaled(2)):
            for kind in links.KINDS:
                broken = run.random.sample(list(paths), 3)
                # Shorter than a session lives, or longer.
                seconds = run.random.choice([0.3, 3.0])
                await asyncio.gather(*(_suffer(run, paths, one, kind, seconds) for one in broken))
                # The next one comes while they are still at it, or when all must be back.
                calm = run.random.choice([run.random.random(), RESUMED_WITHIN + 0.2])
                await asyncio.sleep(calm)
        await asyncio.sleep(RESUMED_WITHIN + 1)
        await finished(run)
        judge(run)


async def _suffer(
    run: Run, paths: dict[str, links.Link], name: str, kind: str, seconds: float
) -> None:
    async with run.fault(kind, name):
        await paths[name].suffer(kind, seconds)


def _port(broker: Broker) -> int:
    return int(broker.address.rpartition(":")[2])
