"""The timer for the earliest of many moments."""

from __future__ import annotations

import asyncio

from corekit.testing import VirtualClock
from corekit.timers import EarliestTimer


async def test_the_earliest_moment_counts(clock: VirtualClock) -> None:
    """It calls once, at the earliest moment that it was set to, and can then be set again."""
    called: list[float] = []
    start = clock.monotonic()
    timer = EarliestTimer(
        asyncio.get_running_loop(), lambda: called.append(round(clock.monotonic() - start, 3))
    )
    for seconds in (5, 2, 9, float("inf")):
        timer.set(start + seconds)
    await asyncio.sleep(20)
    assert called == [2]
    timer.set(clock.monotonic() + 1)
    await asyncio.sleep(2)
    assert called == [2, 21]


async def test_a_closed_timer_never_calls(clock: VirtualClock) -> None:
    """After `close` it does not call, neither what it was set to nor what it is set to later."""
    called: list[None] = []
    timer = EarliestTimer(asyncio.get_running_loop(), lambda: called.append(None))
    timer.set(clock.monotonic() + 1)
    timer.close()
    timer.set(clock.monotonic() + 1)
    await asyncio.sleep(5)
    assert called == []
