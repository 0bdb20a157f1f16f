"""SIGKILL of publishers in the middle of what they publish."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable

import pytest

from . import checkers
from .checkers import Finding
from .history import Event
from .processes import Run, nothing_left, scaled

pytestmark = [pytest.mark.faults, pytest.mark.timeout(240 + scaled(60))]


def no_holes(events: list[Event]) -> Finding:
    """Of each publisher everything arrived up to some message, and nothing after it."""
    arrived: dict[str, set[int]] = defaultdict(set)
    for event in checkers.select(events, "handle", "call"):
        arrived[event["publisher"]].add(event["number"])
    holes = [name for name, numbers in arrived.items() if len(numbers) != max(numbers)]
    finding = Finding({"publishers": len(arrived), "holes": len(holes)})
    if holes:
        finding.violations.append(f"something is missing in between: {holes}")
    return finding


async def test_what_was_confirmed_to_a_publisher_that_died(new_run: Callable[[], Run]) -> None:
    """It is delivered once and in order; of what was not confirmed the beginning may be, too."""
    async with new_run() as run:
        broker = run.broker()
        options = {"channels": ["line"], "concurrency": 1, "work": 0}
        await run.client("consumer", "consumer1", broker.url, **options)
        await run.client("publisher", "witness", broker.url, channel="line", pause=0.02)
        for number in range(1, scaled(12) + 1):
            name = f"publisher{number}"
            await run.client("publisher", name, broker.url, channel="line", width=40)
            await asyncio.sleep(run.random.uniform(0.05, 0.3))
            async with run.fault("kill", name):
                run.clients.pop(name).kill()
        await run.end(["witness"])
        assert await run.until(nothing_left, 120)
        await run.end(["consumer1"])
        events = run.events()
        run.judge(
            checkers.no_loss(events),
            checkers.duplicates(events, 0),
            checkers.order(events, "line"),
            checkers.attempts(events, 0),
            no_holes(events),
            checkers.faults(events),
        )
