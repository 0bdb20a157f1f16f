"""Holders of a lock, paused beyond their lease, killed, or cut off, with five contenders."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from corekit.testing import free_port

from . import checkers
from .contention import LONG_WORK, SHORT_WORK, Contention, Guarded, going_on, handed_on, told
from .links import Link
from .processes import Run, scaled

pytestmark = [pytest.mark.faults, pytest.mark.timeout(240 + scaled(120))]

CONTENDERS = 5

#: A lease of the broker ends when its time is over. One of etcd has whole seconds and up to one
#: more than was asked for, and etcd looks for those that are over twice a second. The rest is for
#: a machine with other work.
BROKER_LATE, ETCD_LATE = 1.0, 1.0 + 0.5 + 0.5


async def fight(contention: Contention, pauses: int, kills: int) -> None:
    """Pause or kill whoever holds the lock, in a random order."""
    await contention.start()
    kinds = ["pause"] * pauses + ["kill"] * kills
    for kind in contention.run.random.sample(kinds, len(kinds)):
        await contention.hit(kind, contention.pause if kind == "pause" else contention.kill)
        dead = [name for name, one in contention.run.clients.items() if not one.runs]
        if dead:
            await contention.start(dead)
    await contention.end()


async def contended(
    new_run: Callable[[], Run], start: Callable[[Run], str], *, ttl: float, late: float, pauses: int
) -> None:
    """Run a fight and judge it; *late* is how much longer than *ttl* a lease may live."""
    async with new_run() as run:
        url = await asyncio.to_thread(start, run)
        async with Guarded(run.directory, run.record) as resource:
            contention = Contention(run, resource, [url] * CONTENDERS, ttl, SHORT_WORK)
            await fight(contention, scaled(pauses), scaled(pauses / 2))
        events = run.events()
        run.judge(
            checkers.fencing(events, pauses=True),
            checkers.lost_leases(events),
            handed_on(events, ttl + late),
            checkers.faults(events),
        )


async def test_paused_and_killed_holders_on_a_broker(new_run: Callable[[], Run]) -> None:
    """The guarded resource refuses the paused holder, which is told; the next one gets in."""
    await contended(new_run, lambda run: run.broker().url, ttl=1.0, late=BROKER_LATE, pauses=7)


async def test_paused_and_killed_holders_on_etcd(new_run: Callable[[], Run], etcd: Any) -> None:
    """The same on etcd, whose leases have at least two seconds."""
    await contended(new_run, lambda run: etcd.url, ttl=2.0, late=ETCD_LATE, pauses=5)


#: A network that is away and comes back with everything; one that forgot it; a wall; and one that
#: is away in one direction only.
CUTS = ["hold", "drop", "cut", "hold answers", "hold requests"]


@asynccontextmanager
async def linked(port: int) -> AsyncIterator[list[Link]]:
    """Yield a link to *port* for each contender."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(Link(port)) for _ in range(CONTENDERS)]


async def cut_off(
    new_run: Callable[[], Run],
    start: Callable[[Run], tuple[str, int]],
    *,
    ttl: float,
    late: float,
) -> None:
    """Cut holders off from their backend, and judge it. Nobody is paused: nobody overlaps."""
    async with new_run() as run:
        scheme, port = await asyncio.to_thread(start, run)
        async with Guarded(run.directory, run.record) as resource, linked(port) as links:
            urls = [f"{scheme}://{link.address}" for link in links]
            contention = Contention(run, resource, urls, ttl, LONG_WORK)
            await contention.start()
            for kind in CUTS * scaled(1):

                async def cut(target: str, kind: str = kind) -> None:
                    link = links[int(target.removeprefix("contender")) - 1]
                    await link.suffer(kind, contention.beyond_the_lease())
                    await resource.handed_on(target)

                await contention.hit(kind, cut)
            await contention.end()
        events = run.events()
        run.judge(
            checkers.fencing(events, pauses=False),
            checkers.exclusion(events),
            told(events, ttl),
            handed_on(events, ttl + late),
            checkers.faults(events),
        )


async def test_holders_cut_off_from_a_broker(new_run: Callable[[], Run]) -> None:
    """They are told before their lease is over, and only then the next one gets in."""

    def start(run: Run) -> tuple[str, int]:
        port = free_port()
        run.broker(listen=f"tcp://127.0.0.1:{port}")
        return "zmq", port

    await cut_off(new_run, start, ttl=1.0, late=BROKER_LATE)


async def test_holders_cut_off_from_etcd(new_run: Callable[[], Run], etcd: Any) -> None:
    """The same on etcd."""
    port = etcd.nodes[0].port
    await cut_off(new_run, lambda run: ("etcd", port), ttl=2.0, late=ETCD_LATE)


async def test_etcd_is_paused_beyond_the_lease(new_run: Callable[[], Run], etcd: Any) -> None:
    """The holder is told before its lease is over; when etcd is back the work goes on."""
    ttl = 2.0
    async with new_run() as run:
        async with Guarded(run.directory, run.record) as resource:
            contention = Contention(run, resource, [etcd.url] * CONTENDERS, ttl, LONG_WORK)
            await contention.start()
            for _ in range(scaled(3)):

                async def suffer(target: str) -> None:
                    etcd.nodes[0].pause()
                    try:
                        await asyncio.sleep(contention.beyond_the_lease())
                    finally:
                        etcd.nodes[0].resume()
                    await resource.used()

                await contention.hit("pause_etcd", suffer)
            await contention.end()
        events = run.events()
        run.judge(
            checkers.fencing(events, pauses=False),
            checkers.exclusion(events),
            told(events, ttl),
            # The longest pause, and then no whole lease more: etcd finds a request to refresh it,
            # but also one to release it.
            going_on(events, ttl + 1.5 + ETCD_LATE),
            checkers.faults(events),
        )


async def test_holders_without_faults_never_overlap(new_run: Callable[[], Run]) -> None:
    """Without faults nobody works beside another, and no token is ever stale."""
    async with new_run() as run:
        broker = run.broker()
        async with Guarded(run.directory, run.record) as resource:
            options = {"resource": resource.address, "block": 0.001, "work": 0.001}
            names = [f"contender{number}" for number in range(1, 6)]
            for name in names:
                await run.client("contender", name, broker.url, **options)
            await asyncio.sleep(5)
            await run.end(names)
        events = run.events()
        fencing = checkers.fencing(events, pauses=False)
        run.judge(fencing, checkers.exclusion(events))
        assert fencing.figures["stale_attempts"] == 0
        assert fencing.figures["acquired"] > 100
        assert len({event.process for event in checkers.select(events, "leave")}) == 5


async def test_a_resource_that_does_not_look_at_tokens_is_caught(
    new_run: Callable[[], Run],
) -> None:
    """With a resource that takes every token the checker must see a stale one taken."""
    async with new_run() as run:
        broker = run.broker()
        async with Guarded(run.directory, run.record, checks=False) as resource:
            await fight(Contention(run, resource, [broker.url] * CONTENDERS, 1.0, SHORT_WORK), 4, 0)
        finding = checkers.fencing(run.events(), pauses=True)
        assert finding.figures["stale_accepted"] > 0
        assert any("taken after" in text for text in finding.violations)
