"""The schedule of renewals: one timer for all, and nothing begun too late."""

from __future__ import annotations

import asyncio

import pytest

from corekit.managers.renewal import RenewalSchedule
from corekit.tasks import TaskOwner


class Due:
    """A renewal that notes when it was begun."""

    def __init__(self, clock, due, ttl):
        self.clock = clock
        self.due = clock.monotonic() + due
        self.ttl = ttl
        self.begun = None

    def begin(self, tasks):
        assert self.begun is None
        self.begun = self.clock.monotonic()


@pytest.fixture
def schedule(clock):
    """Return a function that makes a schedule, in the running loop."""
    return lambda: RenewalSchedule(clock, TaskOwner("test"))


async def test_each_begins_in_time(clock, schedule):
    """In whatever order they come, none begins after it is due, nor long before."""
    renewals = schedule()
    every = [Due(clock, due, 3 * due) for due in (5, 1, 30, 2, 10)]
    for renewal in every:
        renewals.add(renewal)
    await asyncio.sleep(31)
    for renewal in every:
        assert renewal.due - renewal.ttl / 10 <= renewal.begun <= renewal.due + 0.001


async def test_those_that_are_due_soon_begin_together(clock, schedule):
    """Many that are due shortly after each other cost few wake-ups of the loop."""
    renewals = schedule()
    every = [Due(clock, 10 + number / 1000, 30) for number in range(1000)]
    for renewal in every:
        renewals.add(renewal)
    await asyncio.sleep(12)
    assert len({renewal.begun for renewal in every}) == 1


async def test_who_is_discarded_does_not_begin(clock, schedule):
    """A renewal that was stopped before it was due never begins; a second stop is nothing."""
    renewals = schedule()
    stopped, kept = Due(clock, 5, 15), Due(clock, 6, 18)
    renewals.add(stopped)
    renewals.add(kept)
    renewals.discard(stopped)
    renewals.discard(stopped)
    await asyncio.sleep(10)
    assert stopped.begun is None
    assert kept.begun is not None
    assert repr(renewals) == "<RenewalSchedule waiting=0>"


async def test_one_timer_for_all(clock, schedule):
    """However many wait, one timer is set; none is, once nobody waits."""
    renewals = schedule()
    loop = asyncio.get_running_loop()
    every = [Due(clock, 5 + number, 15) for number in range(100)]
    for renewal in every:
        renewals.add(renewal)
    assert len(loop._scheduled) == 1
    await asyncio.sleep(200)
    assert not loop._scheduled


async def test_closing(clock, schedule):
    """After close nothing begins."""
    renewals = schedule()
    renewal = Due(clock, 5, 15)
    renewals.add(renewal)
    renewals.close()
    await asyncio.sleep(10)
    assert renewal.begun is None
