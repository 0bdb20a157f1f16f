"""SIGKILL of the broker while several processes publish and consume."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable

import pytest

from . import checkers
from .processes import Run, nothing_left, scaled

pytestmark = [pytest.mark.faults, pytest.mark.timeout(240 + scaled(60))]

#: What a consumer may have begun or hold ready.
IN_FLIGHT = 256 + 10


async def test_nothing_confirmed_is_lost(new_run: Callable[[], Run]) -> None:
    """At random moments the broker is killed under load, and started again at once.

    Everything confirmed is handled; twice only what was in flight; the one consumer of a channel
    sees each publisher's messages in their order; what was handled stays so over later restarts.
    """
    async with new_run() as run:
        broker = run.broker("--strict")
        publishers = ["publisher1", "publisher2", "publisher3"]
        consumers = ["consumer1", "consumer2", "consumer3"]
        for name in consumers[:2]:
            await run.client("consumer", name, broker.url, channels=["work"])
        await run.client("consumer", "consumer3", broker.url, channels=["line"], concurrency=1)
        for name in publishers[:2]:
            await run.client("publisher", name, broker.url, channel="work", width=20, pause=0.02)
        await run.client("publisher", "publisher3", broker.url, channel="line", pause=0.02)
        for _ in range(scaled(20)):
            await asyncio.sleep(run.random.uniform(0.25, 0.9))
            await run.kill_broker(broker)
        await run.end(publishers)
        await run.until(nothing_left, 60)
        busy = run.events()
        # Nobody works any more: what comes now comes back from the dead.
        await asyncio.sleep(checkers.PREFETCH_WINDOW + checkers.ACK_WINDOW)
        await run.kill_broker(broker, 0.1)
        await asyncio.sleep(3)
        await run.end(consumers)
        events = run.events()
        run.judge(
            checkers.no_loss(events),
            checkers.duplicates(busy, len(consumers) * IN_FLIGHT),
            checkers.no_zombie(events),
            checkers.order(events, "line"),
            checkers.attempts(events, 3),
            checkers.faults(busy),
        )


async def test_a_broker_that_forgets_is_caught(new_run: Callable[[], Run]) -> None:
    """The same with the journal thrown away at each kill: the checkers must see the loss."""
    async with new_run() as run:
        broker = run.broker()
        await run.client("consumer", "consumer1", broker.url, work=0.05, concurrency=2)
        await run.client("publisher", "publisher1", broker.url, pause=0.002)
        for _ in range(3):
            await asyncio.sleep(0.5)
            broker.kill()
            shutil.rmtree(broker.data)
            await asyncio.to_thread(broker.start)
        await run.end(["publisher1"])
        await asyncio.sleep(3)
        finding = checkers.no_loss(run.events())
        assert finding.figures["lost"] > 10
        assert any(text.startswith("confirmed and lost") for text in finding.violations)
